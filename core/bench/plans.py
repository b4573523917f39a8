"""Time a new plan to finished subnetworks, after one calibration.

That is the cost of a moved boundary or slider.
"""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

from ..curves.plan import StagePlan
from ..errors import Stopped
from ..progress import Progress
from ..sampling.timing import spread, synchronise
from ..workshop.workshop import Workshop
from .measure import machine, verdict

GOAL = 1.0  # seconds, for the bundled model
SMALL = 20_000_000  # parameters: a model of which the goal is meant


def plans_benchmark(
    workshop: Workshop,
    count: int = 9,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Return the seconds of `Workshop.build` for `count` plans, after one untimed plan.

    The plans differ in both boundaries and all sparsities. The model is calibrated first where that
    was never done on this machine; the time of that stands in the note. Nothing is kept from plan
    to plan: each has Grams of its own to sum up and layers of its own to solve. Raises Stopped and
    StudioError.
    """
    workshop.calibrate(progress, stop)
    last = len(workshop.schedule)
    taken = []
    for i in range(count + 1):
        if stop is not None and stop.is_set():
            raise Stopped("Stopped while timing plans; nothing was stored.")
        if progress is not None:
            progress(i, count + 1, "building a new plan")
        part = (i + 1) / (count + 2)
        plan = StagePlan(
            (round(last * (0.05 + 0.25 * part)), round(last * (0.5 + 0.4 * part))),
            (0.2 + 0.4 * part, 0.05 + 0.3 * part, 0.7 - 0.4 * part),
            num_train_timesteps=last,
        )
        synchronise(workshop.device)
        start = time.perf_counter()
        workshop.build(plan, stop=stop)
        synchronise(workshop.device)
        taken.append(time.perf_counter() - start)
    taken = taken[1:]
    middle = statistics.median(taken)
    wide = spread(taken)
    goal = GOAL if sum(p.numel() for p in workshop.transformer.parameters()) <= SMALL else None
    row = {
        "name": f"{workshop.name}: a new plan to finished subnetworks",
        "median": middle,
        "spread": wide,
        "most": max(taken),
        "unit": "s",
        "rounds": count,
    }
    note = f"Calibrated once before, in {workshop.orders.seconds:.0f} s ({workshop.orders.when})."
    return machine(workshop.device) | {
        "times": [row | verdict(middle, wide, at_most=goal)],
        "note": note,
    }
