"""Time an allocation: a drag takes the Lagrangian, its release dynamic programming.

The curves are made up, of the shape that measured ones have (convex, some layers a hundred times as
sensitive as others), because a time depends on numbers of layers and levels and not on a model.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..allocation.allocate import ALLOCATION_METHODS, Allocation, Budget, allocate
from ..allocation.problem import AllocationProblem, make_problem
from ..allocation.widths import Menu
from ..models.devices import device_text
from ..models.layers import GOLDEN, NEURON_STEP, PrunableLayer
from ..sampling.timing import measure_alternating, spread

BLOCKS, WIDTH, TOKENS = 28, 1152, 256  # DiT-XL/2: 56 layers
STEPS = (5, 22, 23)  # of 50, about what DDIM's fall into on the linear schedule
SPARSITY = 0.33


def synthetic_problem(levels: int) -> AllocationProblem:
    """Return 28 blocks of the width of DiT-XL/2, the same numbers every time.

    Each layer has `levels` levels in each of three stages.
    """
    layers: list[PrunableLayer] = []
    errors: list[list[np.ndarray]] = [[], [], []]
    share = np.linspace(0, 1, levels)
    for block in range(BLOCKS):
        for kind, step, weight in (("heads", 1, 4), ("neurons", NEURON_STEP, 8)):
            groups = step * (levels - 1)
            layers.append(
                PrunableLayer(
                    name=f"block {block + 1} {kind}",
                    block=block,
                    kind=kind,
                    module="",
                    consumer="",
                    groups=groups,
                    group_size=1,
                    weights_per_group=1,
                    macs_per_group=weight * WIDTH * WIDTH * TOKENS // groups,
                )
            )
            for stage, row in enumerate(errors):
                a, b = ((len(layers) * len(errors) + stage) * GOLDEN * k % 1 for k in (1, 7))
                row.append(10 ** (-2 * a) * share ** (1.2 + 2 * b))
    return make_problem(layers, errors, STEPS, Menu(min_heads=0, min_neurons=0))


def allocation_benchmark(rounds: int = 9) -> dict[str, Any]:
    """Return milliseconds of each method for 56 layers x 3 stages, ready for JSON.

    Medians and spreads of `rounds` interleaved runs. 17 levels for all methods; 289 levels (every
    multiple of 16 of 4608 neurons) for the Lagrangian, which has to follow a drag, and for dynamic
    programming. "one budget" runs over layers and stages, "stage by stage" keeps the budget of
    each. Every run pads and checks its curves anew.
    """
    problems = {levels: synthetic_problem(levels) for levels in (17, 289)}
    cases = [(m, 17, scope) for m in ALLOCATION_METHODS for scope in ("run", "stage")] + [
        (m, 289, "run") for m in ("lagrangian", "dynamic")
    ]

    def call(method: str, levels: int, scope: str) -> Callable[[], Allocation]:
        problem = problems[levels]
        budget = Budget.of_sparsity(problems[levels], SPARSITY)
        return lambda: allocate(replace(problem), method, budget, scope)

    calls = [call(*case) for case in cases]
    times = measure_alternating([*calls], torch.device("cpu"), repeats=rounds, warm_up=1)
    results = []
    for (method, levels, scope), run, seconds in zip(cases, calls, times, strict=True):
        found = run()
        results.append(
            {
                "method": method,
                "levels": levels,
                "scope": "one budget" if scope == "run" else "stage by stage",
                "error": found.error,
                "cost": found.cost,
                "median_ms": 1000 * statistics.median(seconds),
                "spread_ms": 1000 * spread(seconds),
            }
        )
    goals = {"lagrangian_ms": 5, "dynamic_ms": 100}
    return {
        "layers": 2 * BLOCKS,
        "stages": len(STEPS),
        "sparsity": SPARSITY,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": device_text(torch.device("cpu")),
        "goals": goals,
        "results": results,
    }
