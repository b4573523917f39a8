"""Time sampling runs in every mode that this device has, dense and pruned alike.

A mode is never counted as pruning: a pruned network stands against the dense one in its own mode.
"""

from __future__ import annotations

import threading
from typing import Any

from ..mosaic.modes import MODES, PLAIN, WORDS, why_not
from ..progress import Progress
from ..workshop.workshop import Workshop
from .measure import Effort, Shares, machine, medians, ratio
from .realised import STEPS, plan_to_time, run_macs, sampling_seconds, timesteps_of

BATCHES = (1, 16)
EFFORT = Effort(120)
TARGET = 0.5
PRUNED = f"{TARGET:g} removed"


def modes_benchmark(
    workshop: Workshop,
    batches: tuple[int, ...] = BATCHES,
    steps: int = STEPS,
    effort: Effort = EFFORT,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Return plain over mode, and dense over pruned in each mode, by batch. Raises Stopped.

    Capturing and compiling come before the timed rounds; their seconds are in `preparation`.
    """
    timesteps = timesteps_of(workshop, steps)
    plan = plan_to_time(workshop, TARGET, steps)
    networks = {"dense": workshop.dense, PRUNED: workshop.build(plan)}
    modes = [mode for mode in MODES if not why_not(mode, workshop.device)]
    models = {(name, mode): networks[name].in_mode(mode) for mode in modes for name in networks}
    shares = Shares(effort.seconds, len(batches))
    rows: list[dict[str, Any]] = []
    for i, batch in enumerate(batches):
        if progress is not None:
            progress(i, len(batches), f"{workshop.name}, sampling {batch} images")
        times = sampling_seconds(
            workshop,
            {f"{name}, {mode}": model for (name, mode), model in models.items()},
            batch=batch,
            steps=steps,
            seconds=shares.next(),
            effort=effort,
            stop=stop,
        )
        macs = {n: run_macs(workshop, m, timesteps, batch)[0] for n, m in networks.items()}
        rows += _rows(workshop.name, times, batch, modes, macs["dense"] / macs[PRUNED])
    preparation = {
        f"{name}, {mode}": {"seconds": round(p.seconds, 1), "count": p.count, "bytes": p.bytes}
        for (name, mode), model in models.items()
        if mode != PLAIN
        for p in [model.preparation]
    }
    return machine(workshop.device) | {
        "ratios": rows,
        "preparation": preparation,
        "note": (
            f"{steps} DDIM steps with guidance, whole runs; preparation (compiling, capturing)"
            " is not timed: "
            + (
                ", ".join(f"{name} {p['seconds']} s" for name, p in preparation.items())
                or "there is none"
            )
            + "."
        ),
    }


def _rows(
    model: str, times: dict[str, list[float]], batch: int, modes: list[str], predicted: float
) -> list[dict[str, Any]]:
    """Return the rows of one batch. predicted: MACs of the dense network over the pruned one's."""
    seconds = medians(times)
    rows = []
    for mode in modes:
        dense, pruned = (f"{name}, {mode}" for name in ("dense", PRUNED))
        facts: dict[str, Any] = {"batch": batch, "mode": mode, "macs_ratio": predicted}
        facts |= {"dense_seconds": seconds[dense], "seconds": seconds[pruned]}
        where = f"{model}, batch {batch}, {WORDS[mode]}"
        rows.append(ratio(f"{where}: dense / {PRUNED}", times[dense], times[pruned], **facts))
        if mode != PLAIN:
            title = f"{model}, batch {batch}, dense: plain / {WORDS[mode]}"
            rows.append(ratio(title, times[f"dense, {PLAIN}"], times[dense], **facts))
    return rows
