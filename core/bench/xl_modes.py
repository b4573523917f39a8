"""Time forwards of DiT-XL/2 in every mode of this device, pruned and dense, against diffusers' own.

The configuration is the true one with random weights. "Rows" are rows of the denoiser's batch: two
per image with guidance.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from ..models.families import first_parameter
from ..mosaic.modes import MODES, WORDS, why_not
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..sampling.timing import forward_call, model_macs, module_forward
from .measure import Effort, Shares, in_turn, machine, medians, ratio
from .subjects import Subject, mosaic_of, uniform_cuts

SPARSITIES = (0.33, 0.5)
ROWS = (2, 32)
EFFORT = Effort(60)
# (rows, sparsity) -> least ratio of dense to pruned in the best mode, and of stock to pruned
GOALS = {(2, 0.5): (1.3, 13.0), (32, 0.5): (1.8, None), (32, 0.33): (1.35, None)}


def xl_benchmark(
    subject: Subject,
    rows: tuple[int, ...] = ROWS,
    effort: Effort = EFFORT,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Return stock over pruned and dense over pruned, by mode and rows. Raises Stopped.

    Goals stand where the subject is all of DiT-XL/2 on CUDA, in the last of the modes.
    """
    device = first_parameter(subject.model).device
    modes = [mode for mode in MODES if not why_not(mode, device)]
    networks: dict[str, MosaicTransformer] = {"dense": mosaic_of(subject, None)}
    networks |= {f"{s:g} removed": mosaic_of(subject, uniform_cuts(subject, s)) for s in SPARSITIES}
    once = model_macs(networks["dense"].stages[0])[0]
    macs = {name: once / model_macs(network.stages[0])[0] for name, network in networks.items()}
    shares = Shares(effort.seconds, len(rows))
    found: list[dict[str, Any]] = []
    for i, count in enumerate(rows):
        if progress is not None:
            progress(i, len(rows), f"{subject.name}, {count} rows")
        calls: dict[str, Callable[[], object]] = {
            "stock": forward_call(module_forward(subject.model), subject.model, count)
        }
        for mode in modes:
            for name, network in networks.items():
                run = network.in_mode(mode).network(500.0)
                calls[f"{name}, {mode}"] = forward_call(run, subject.model, count)
        times = in_turn(calls, device, shares.next(), effort, stop)
        goals = GOALS if subject.whole_xl and device.type == "cuda" else {}
        found += _rows(subject.name, times, count, modes, macs, goals)
    prepared = [
        f"{name}, {mode} {network.in_mode(mode).preparation.seconds:.1f} s"
        for mode in modes[1:]
        for name, network in networks.items()
    ]
    dtype = str(first_parameter(subject.model).dtype).removeprefix("torch.")
    return machine(device) | {
        "dtype": dtype,
        "ratios": found,
        "note": f"one forward; preparation is not timed: {', '.join(prepared) or 'there is none'}."
        + _memory(device),
    }


def _rows(
    model: str,
    times: dict[str, list[float]],
    count: int,
    modes: list[str],
    macs: dict[str, float],
    goals: dict[tuple[int, float], tuple[float, float | None]],
) -> list[dict[str, Any]]:
    """Return the ratios for one number of rows. macs: of dense over those of each network."""
    seconds, found = medians(times), []
    for mode in modes:
        for sparsity in SPARSITIES:
            name = f"{sparsity:g} removed"
            own, dense = f"{name}, {mode}", f"dense, {mode}"
            facts: dict[str, Any] = {
                "rows": count,
                "mode": mode,
                "sparsity": sparsity,
                "seconds": seconds[own],
            }
            goal, against_stock = goals.get((count, sparsity), (None, None))
            if mode != modes[-1]:
                goal = against_stock = None
            where = f"{model}, {count} rows, {WORDS[mode]}"
            beside: dict[str, Any] = {"macs_ratio": macs[name], "dense_seconds": seconds[dense]}
            title = f"{where}: dense / {name} (MACs ×{macs[name]:.2f})"
            found.append(ratio(title, times[dense], times[own], at_least=goal, **facts, **beside))
            title = f"{where}: diffusers' own / {name}"
            beside = {"stock_seconds": seconds["stock"]}
            found.append(
                ratio(title, times["stock"], times[own], at_least=against_stock, **facts, **beside)
            )
    return found


def _memory(device: torch.device) -> str:
    """Return the most memory that was held on a GPU, in words; empty on a CPU."""
    if device.type != "cuda":
        return ""
    return f" At most {torch.cuda.max_memory_reserved(device) / 1e9:.1f} GB were reserved."
