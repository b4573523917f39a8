"""Read the shipped study: rows averaged over seeds, and where pruning beats fewer steps.

`python -m core.bench quality` makes a study.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StudioError
from ..sampling.timing import spread

# a relative difference below this, or below the spread over seeds, is called no clear difference
CLEAR = 0.02
# of the work saved, by which a comparison may differ from a row of the study that speaks of it
NEAR = 0.08


@dataclass(frozen=True)
class Finding:
    """One method at one step count, averaged over seeds."""

    method: str
    base_steps: int  # steps of the dense run it is held against
    steps: int
    work: float  # MACs per image over those of dense at 50 steps
    saved: float  # 1 - MACs over those of dense at base_steps
    fid: float
    fid_spread: float
    latent_mse: float  # to dense at base_steps
    latent_mse_spread: float
    class_accuracy: float
    n: int  # images per seed
    seeds: int
    guidance: float = 1.5

    @property
    def target(self) -> float | None:
        """Return the mean sparsity (or the work of that sparsity) in the method's name."""
        found = re.search(r"(0\.\d+)\)?$", self.method)
        return float(found[1]) if found else None

    @property
    def family(self) -> str:
        """Return the method's name without its target."""
        return "dense" if self.method.startswith("dense") else re.sub(r" 0\.\d+$", "", self.method)


def load_study(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a study file. Raises StudioError."""
    try:
        rows = json.loads(Path(path).read_text())
        if not isinstance(rows, list) or not all(
            {"method", "base_steps", "steps", "macs", "fid", "n", "seed"} <= set(r) for r in rows
        ):
            raise ValueError("rows are missing")
        return rows
    except (OSError, ValueError, TypeError) as err:
        raise StudioError(
            f"The study {Path(path).name} cannot be read ({err}); make it again with `python -m"
            " core.bench quality`."
        ) from err


def findings(rows: list[dict[str, Any]]) -> list[Finding]:
    """Return averages over seeds, many steps first, in the order of the study's runs."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["fid"] is not None:
            groups.setdefault((row["base_steps"], row["method"]), []).append(row)
    dense = {
        base: _mean(g, "macs", per="n") for (base, method), g in groups.items() if method == "dense"
    }
    full = dense[max(dense)] if dense else 0.0  # of the dense run with most steps
    found = []
    for (base, method), group in groups.items():
        if base not in dense:
            continue
        macs = _mean(group, "macs", per="n")
        found.append(
            Finding(
                method=method,
                base_steps=base,
                steps=group[0]["steps"],
                work=macs / full,
                saved=1 - macs / dense[base],
                fid=_mean(group, "fid"),
                fid_spread=spread([r["fid"] for r in group]),
                latent_mse=_mean(group, "latent_mse"),
                latent_mse_spread=spread([r["latent_mse"] for r in group]),
                class_accuracy=_mean(group, "class_accuracy"),
                n=group[0]["n"],
                seeds=len(group),
                guidance=float(group[0].get("guidance", 1.5)),
            )
        )
    return sorted(found, key=lambda f: -f.base_steps)


def _mean(group: list[dict[str, Any]], name: str, per: str | None = None) -> float:
    return statistics.fmean(r[name] / (r[per] if per else 1) for r in group)


def verdicts(found: list[Finding]) -> list[str]:
    """Return one sentence per step count and target.

    Each compares MosaicDiff with the dense model at as few steps as the same work pays for.
    """
    return [_sentence(pruned, fewer) for pruned, fewer in _rivals(found)]


def nearest_verdict(found: Sequence[Finding], steps: int, saved: float) -> str | None:
    """Return the sentence of `verdicts` for so many steps and nearest to the share of work saved.

    With the images and seeds that it rests on. None where nothing near was measured: the steps must
    be the same, and the share may differ by NEAR.
    """
    rivals = [
        (abs(pruned.saved - saved), pruned, fewer)
        for pruned, fewer in _rivals(found)
        if pruned.base_steps == steps and abs(pruned.saved - saved) <= NEAR
    ]
    if not rivals:
        return None
    _, pruned, fewer = min(rivals, key=lambda one: one[0])
    of = f"n = {pruned.n}, {pruned.seeds} seed{'' if pruned.seeds == 1 else 's'}"
    return f"{_sentence(pruned, fewer).removesuffix('.')}; {of}."


def _rivals(found: Sequence[Finding]) -> list[tuple[Finding, Finding]]:
    """Return the pairs of MosaicDiff and dense in fewer steps, per step count and target."""
    pairs = []
    for base in sorted({f.base_steps for f in found}, reverse=True):
        here = [f for f in found if f.base_steps == base]
        for target in sorted({f.target for f in here if f.target is not None}):
            pruned = _one(here, "MosaicDiff", target)
            fewer = _one(here, "dense", target)
            if pruned is not None and fewer is not None:
                pairs.append((pruned, fewer))
    return pairs


def _one(found: list[Finding], family: str, target: float) -> Finding | None:
    return next((f for f in found if f.family == family and f.target == target), None)


def _sentence(pruned: Finding, fewer: Finding) -> str:
    quality = _winner(pruned.fid, fewer.fid, pruned.fid_spread + fewer.fid_spread)
    closeness = _winner(
        pruned.latent_mse, fewer.latent_mse, pruned.latent_mse_spread + fewer.latent_mse_spread
    )
    words = {-1: "pruning is better", 0: "no clear difference", 1: "fewer steps are better"}
    return (
        f"At {pruned.base_steps} steps with {pruned.saved:.0%} less work: FID {pruned.fid:.1f}"
        f" pruned, {fewer.fid:.1f} with {fewer.steps} dense steps ({words[quality]}); distance to"
        f" the dense picture {pruned.latent_mse:.4f} against {fewer.latent_mse:.4f}"
        f" ({words[closeness]})."
    )


def _winner(pruned: float, fewer: float, noise: float) -> int:
    """Return -1 for pruning, 1 for fewer steps, 0 for neither; smaller numbers are better."""
    if abs(pruned - fewer) <= max(noise, CLEAR * max(pruned, fewer)):
        return 0
    return -1 if pruned < fewer else 1


def markdown(found: list[Finding]) -> str:
    """Return the findings as the table of the documentation."""
    lines = [
        "| steps | method | MACs saved | FID | latent MSE to dense | class accuracy | n × seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for f in found:
        pm = f" ± {f.fid_spread:.2f}" if f.seeds > 1 else ""
        mse = "0" if f.method == "dense" else f"{f.latent_mse:.4f}"
        name = f"**{f.method}**" if f.family == "MosaicDiff" else f.method
        lines.append(
            f"| {f.base_steps} | {name} | {f.saved:.0%} | {f.fid:.2f}{pm} | {mse} |"
            f" {f.class_accuracy:.3f} | {f.n} × {f.seeds} |"
        )
    return "\n".join(lines)
