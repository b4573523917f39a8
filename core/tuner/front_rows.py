"""Read the rows of a study of the front: each contender once, and which way is ahead at what work.

`python -m core.bench front` makes them.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..curves.guidance_words import own_guidance
from ..curves.plan import StagePlan
from ..errors import StudioError
from ..sampling.timing import spread
from .record import TOLERANCE, unbeaten

Row = dict[str, Any]
FILE = "front.json"  # beside the model
BUDGETS = (0.7, 0.6, 0.5, 0.4, 0.3)  # of dense UniPC in 10 steps with full guidance
ANCHOR = ("dense", "UniPC", 10)
USUAL = ("dense", "DDIM", 50)  # how the papers sample


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a study's file; none where there is no file. Raises StudioError."""
    try:
        rows = json.loads(path.read_text()) if path.exists() else []
        needed = {"stage", "configuration", "macs", "fid", "seed"}
        if isinstance(rows, list) and all(needed <= set(row) for row in rows):
            return rows
    except (OSError, ValueError, TypeError):
        pass
    raise StudioError(f"{path} is damaged: remove it, or restore it.")


def kind_of(row: Row) -> tuple[str, str, int]:
    """Return contender, solver and steps of a row."""
    what = row["configuration"]
    return what["label"], what["scheduler"], what["steps"]


def at_best_guidance(rows: Sequence[Row]) -> list[Row]:
    """Return of every contender, solver and steps the row with the lowest FID, cheapest first."""
    best: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        if row["fid"] is not None:
            known = best.get(kind_of(row))
            best[kind_of(row)] = row if known is None or row["fid"] < known["fid"] else known
    return sorted(best.values(), key=lambda r: r["macs"])


def chosen_from(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the choice, each contender at its best guidance."""
    return at_best_guidance([r for r in rows if r["stage"] == "choose"])


def prunes(row: Row) -> bool:
    """Say whether a row's plan takes anything away."""
    plan = row["configuration"]["plan"]
    return bool(plan) and any(plan["sparsity"].values())


def reuses(row: Row) -> bool:
    """Say whether a row's plan reuses what some of its steps gave."""
    plan = row["configuration"]["plan"]
    return bool(plan) and bool(plan.get("reuse"))


def guidance_of(row: Row) -> str:
    """Return a run's guidance, or what its plan sets where that is more than off in a stage."""
    what = row["configuration"]
    plan = StagePlan.from_json(what["plan"]) if what["plan"] else None
    if plan is not None and any(scale not in (None, 1) for scale in plan.guidance):
        return own_guidance(plan)
    return f"{what['guidance']:g}"


def whole_and_pruned(rows: Sequence[Row], budget: float) -> tuple[list[Row], list[Row]]:
    """Return the rows within a budget of work that run the whole network, and those that prune.

    The whole network may leave out guidance and reuse what earlier steps gave, as a pruned one may.
    """
    own = [row for row in rows if row["macs"] <= TOLERANCE * budget]
    return [r for r in own if not prunes(r)], [r for r in own if prunes(r)]


def judged(rows: Sequence[Row]) -> list[Row]:
    """Return one row for every configuration that was judged: mean FID and spread over seeds."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["stage"] == "judge":
            groups.setdefault(json.dumps(row["configuration"]), []).append(row)
    times = {json.dumps(r["configuration"]): r for r in rows if r["stage"] == "time"}
    found = []
    for key, group in groups.items():
        fids = [r["fid"] for r in group]
        timed = times.get(key, {})
        found.append(
            group[0]
            | {"fid": statistics.fmean(fids), "fid_spread": spread(fids), "seeds": len(fids)}
            | {"fids": {str(r["seed"]): r["fid"] for r in group}}
            | {"seconds": timed.get("seconds"), "seconds_spread": timed.get("seconds_spread")}
        )
    return sorted(found, key=lambda r: r["macs"])


def shown(rows: Sequence[Row]) -> list[Row]:
    """Return one row per contender: what was judged, where that holds the anchor, else the choice.

    Each at its best guidance. The rows of the choice are of one seed and few pictures.
    """
    found = at_best_guidance(judged(rows))
    return found if any(kind_of(r) == ANCHOR for r in found) else chosen_from(rows)


def unbeaten_rows(rows: Sequence[Row], cost: str = "macs") -> list[Row]:
    """Return the rows that no other one beats in cost ("macs" or "seconds") and FID."""
    priced = [r for r in rows if r.get(cost) is not None and r["fid"] is not None]
    return unbeaten(priced, lambda r: r[cost], lambda r: r["fid"])


@dataclass(frozen=True)
class Duel:
    """The best way with the whole network and the best pruned one within one budget of work."""

    share: float  # of the anchor's work
    dense: Row
    pruned: Row
    difference: (
        float  # mean FID of dense minus pruned, over common seeds; above 0: pruned is better
    )
    around: float | None  # standard deviation of that difference over seeds; None for one seed

    @property
    def ahead(self) -> str | None:
        """Return "pruned", "dense", or None.

        None where the deviation is as large as the difference, or where no seed is common.
        """
        if math.isnan(self.difference):
            return None
        if self.around is not None and abs(self.difference) <= self.around:
            return None
        return "pruned" if self.difference > 0 else "dense"


def paired(a: Row, b: Row) -> tuple[float, float | None]:
    """Return the mean of FID a minus FID b over common seeds, and its standard deviation.

    The deviation is None for one seed; without a common seed the mean is nan.
    """
    of_a, of_b = (r["fids"] if "fids" in r else {str(r["seed"]): r["fid"]} for r in (a, b))
    differences = [of_a[seed] - of_b[seed] for seed in sorted(of_a.keys() & of_b.keys())]
    if not differences:
        return float("nan"), None
    around = statistics.stdev(differences) if len(differences) > 1 else None
    return statistics.fmean(differences), around


def as_good(rows: Sequence[Row], kind: tuple[str, str, int]) -> tuple[Row, Row] | None:
    """Return a way, and the cheapest one whose pictures are at least as good as that one's.

    At least as good: a mean FID not higher by more than the deviation of the paired difference.
    None where the way is not among the rows.
    """
    whole = next((r for r in rows if kind_of(r) == kind), None)
    if whole is None:
        return None

    def good(row: Row) -> bool:
        more, around = paired(row, whole)
        return row is whole or more <= (around or 0.0)

    return whole, min((r for r in rows if good(r)), key=lambda r: r["macs"])


def duels(rows: Sequence[Row]) -> list[Duel]:
    """Return a duel for every budget that has both sides, the largest budget first.

    rows: one per contender, as `shown` returns them.
    """
    whole = next((r["macs"] for r in rows if kind_of(r) == ANCHOR), None)
    if whole is None:
        return []
    found = []
    for share in BUDGETS:
        dense, pruned = whole_and_pruned(rows, share * whole)
        if not dense or not pruned:
            continue
        a, b = (min(own, key=lambda r: r["fid"]) for own in (dense, pruned))
        found.append(Duel(share, a, b, *paired(a, b)))
    return found
