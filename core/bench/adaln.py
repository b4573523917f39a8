"""Time what a table of a DiT's adaLN outputs saves in whole sampling runs.

The table holds the outputs per timestep and label, for the dense model and for a pruned one.
"""

from __future__ import annotations

import threading
from typing import Any

from ..errors import StudioError
from ..progress import Progress
from ..workshop.workshop import Workshop
from .measure import Effort, Shares, machine, medians, ratio
from .realised import BATCHES, STEPS, plan_to_time, sampling_seconds

EFFORT = Effort(60)
TARGET = 0.5
TABLE = ", tabulated"


def tabulation_benchmark(
    workshop: Workshop,
    batches: tuple[int, ...] = BATCHES,
    steps: int = STEPS,
    effort: Effort = EFFORT,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Return seconds without the table / seconds with it, by batch.

    Making the table is part of the run. Raises Stopped, and StudioError without adaLN.
    """
    if not workshop.family.has_adaln:
        raise StudioError(f"{workshop.name} has no adaLN layers to tabulate.")
    plan = plan_to_time(workshop, TARGET, steps)
    networks = {"dense": workshop.dense, f"{TARGET:g} removed": workshop.build(plan)}
    models = {name + kind: model for name, model in networks.items() for kind in ("", TABLE)}
    shares = Shares(effort.seconds, len(batches))
    rows = []
    for i, batch in enumerate(batches):
        if progress is not None:
            progress(i, len(batches), f"{workshop.name}, sampling {batch} images")
        times = sampling_seconds(
            workshop,
            models,
            batch=batch,
            steps=steps,
            seconds=shares.next(),
            effort=effort,
            stop=stop,
            tabulated={name for name in models if name.endswith(TABLE)},
        )
        seconds = medians(times)
        for name in networks:
            title = (
                f"{workshop.name}, batch {batch}, {name}: adaLN worked out at every step /"
                " tabulated"
            )
            rows.append(
                ratio(
                    title,
                    times[name],
                    times[name + TABLE],
                    batch=batch,
                    seconds=seconds[name],
                    seconds_tabulated=seconds[name + TABLE],
                )
            )
    return machine(workshop.device) | {
        "ratios": rows,
        "note": (
            f"{steps} DDIM steps with guidance; pictures differ in rounding only. The table is what"
            " our own loop uses wherever it fits."
        ),
    }
