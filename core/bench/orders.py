"""Time the search of removal orders: one layer after another, and layers of a width side by side.

Of neurons, or of heads. On a GPU a search alone is nearly all launches; side by side the launches
are shared.
"""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import torch

from ..errors import Stopped, StudioError
from ..memory import free_memory
from ..models.devices import pick_device
from ..progress import Progress
from ..pruning.damped_problem import DampedProblem, search_dtype
from ..pruning.layer_orders import SEARCH_DAMPING, most_side_by_side
from ..pruning.obs import RemovalPath
from ..sampling.timing import spread, synchronise
from .measure import machine
from .removal_path import synthetic_layer


def orders_benchmark(
    n: int = 4608,
    d: int = 1152,
    layers: int = 28,
    group_size: int = 1,
    rounds: int = 3,
    device: str = "cpu",
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Time order and factor of `layers` layers (d, n), alone and side by side, in turn.

    One layer alone stands for each of them: all take the same. group_size: columns that go
    together, 1 for neurons, else those of a head. Returns rows for the table in seconds per layer,
    and their ratio, round by round. Raises StudioError where the orders differ or for sizes that
    make no sense, Stopped.
    """
    if min(n, d, layers, rounds, group_size) < 1:
        raise StudioError("The benchmark of orders needs at least one column, layer and round.")
    place = pick_device(device)
    free = free_memory(place)
    if free is not None:  # what does not fit is not timed
        dtype = search_dtype("auto", n)
        layers = min(layers, most_side_by_side(n, d, dtype, free, group_size))
    what = f"{n} columns" if group_size == 1 else f"{n // group_size} heads of {group_size}"
    cases = [synthetic_layer(n, d, place, seed) for seed in range(layers)]
    alone: list[float] = []
    together: list[float] = []
    for done in range(rounds + 1):  # the first one warms up
        if stop is not None and stop.is_set():
            raise Stopped("Stopped while timing removal orders; nothing was stored.")
        if progress is not None:
            progress(done, rounds + 1, f"orders of {layers} layers of {what}")
        orders = []
        for part, times in ((cases[:1], alone), (cases, together)):
            synchronise(place)
            start = time.perf_counter()
            problems = [DampedProblem.checked(w, gram, group_size, None) for w, gram in part]
            orders.append(
                [path.order for path in RemovalPath.from_problems(problems, SEARCH_DAMPING)]
            )
            synchronise(place)
            if done:
                times.append((time.perf_counter() - start) / len(part))
        if not torch.equal(orders[0][0], orders[1][0]):
            raise StudioError("A layer's order is another one side by side: this is a fault.")
    ratios = [one / each for one, each in zip(alone, together, strict=True)]
    names = (
        f"{what}: order and factor of one layer",
        f"{what}: the same of {layers} layers side by side, per layer",
    )
    rows = [
        {
            "name": name,
            "median": statistics.median(times),
            "spread": spread(times),
            "unit": "s",
            "rounds": rounds,
        }
        for name, times in zip(names, (alone, together), strict=True)
    ]
    ratio = {
        "name": f"{what}: one layer alone / one of {layers} side by side",
        "ratio": statistics.median(ratios),
        "spread": spread(ratios),
        "rounds": rounds,
    }
    return machine(place) | {"times": rows, "ratios": [ratio]}
