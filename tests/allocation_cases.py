"""Small allocation problems, the measured curves of the bundled model, and exhaustive search."""

from pathlib import Path

import numpy as np

from core.allocation.problem import AllocationProblem, Curve, make_problem, relative_errors
from core.models.layers import PrunableLayer
from core.pruning.orders import RemovalOrders

BUNDLED = Path(__file__).parent.parent / "assets" / "fashion-dit" / "calibration"


def model(blocks=8, heads=8, neurons=1024, width=256, tokens=64):
    """The prunable layers of a DiT."""
    layers = []
    for b in range(blocks):
        layers.append(
            PrunableLayer(
                f"block {b + 1} heads",
                b,
                "heads",
                "",
                "",
                heads,
                width // heads,
                1,
                4 * width * width // heads * tokens,
            )
        )
        layers.append(
            PrunableLayer(
                f"block {b + 1} neurons", b, "neurons", "", "", neurons, 1, 1, 2 * width * tokens
            )
        )
    return layers


def smooth_errors(layers, stages=3, power=2.0):
    """Convex curves, every layer and stage with a sensitivity of its own."""
    return [
        [
            (1 + (7 * i + 3 * s) % 5) * np.linspace(0, 1, x.groups // x.step + 1) ** power
            for i, x in enumerate(layers)
        ]
        for s in range(stages)
    ]


def bundled(menu=None, steps=(5, 22, 23)):
    """The measured curves of the bundled model; three stages of whole bins."""
    layers = model()
    orders = RemovalOrders.load(BUNDLED, layers)
    bins = len(orders.energy[0])
    shares = np.array(
        [
            [k == 0 for k in range(bins)],
            [1 <= k < 6 for k in range(bins)],
            [k >= 6 for k in range(bins)],
        ],
        dtype=float,
    )
    errors = [
        [
            relative_errors(e.numpy(), n.numpy(), s)
            for e, n in zip(orders.errors, orders.energy, strict=True)
        ]
        for s in shares
    ]
    return make_problem(layers, errors, steps, menu)


def tiny(errors, costs, steps=(3, 2)):
    """A problem of 1 block a layer from (stages, layers, levels) arrays."""
    stages, count, levels = errors.shape
    layers = [
        PrunableLayer(f"block {b + 1} heads", b, "heads", "", "", levels, 1, 1, 1)
        for b in range(count)
    ]
    curves = [
        [Curve(np.arange(levels), errors[s, i], costs[s, i]) for i in range(count)]
        for s in range(stages)
    ]
    return AllocationProblem(layers, curves, steps, (True,) * count, tuple("ab"[:stages]))


def exhaustive(problem, budget, weights=None):
    """Least weighted error of all choices within the budget over the run;
    inf when there is none.
    """
    weights = problem.steps if weights is None else weights
    errors = costs = np.zeros(1)
    for weight, row in zip(weights, problem.curves, strict=True):
        for curve in row:
            errors, costs = (
                (x[:, None] + weight * y).ravel()
                for x, y in ((errors, curve.errors), (costs, curve.costs))
            )
    fits = costs <= budget
    return errors[fits].min() if fits.any() else np.inf


def random_problem(seed, convex=False, whole=True, equal_costs=False):
    rng = np.random.default_rng(seed)
    steps = rng.exponential(1, (2, 3, 3))
    if convex:
        steps = np.sort(steps, axis=2)
    errors = np.concatenate([np.zeros((2, 3, 1)), np.cumsum(steps, axis=2)], axis=2)
    drops = (
        np.ones((2, 3, 3))
        if equal_costs
        else rng.integers(1, 9, (2, 3, 3))
        if whole
        else rng.uniform(1, 9, (2, 3, 3))
    )
    costs = 30.0 - np.concatenate([np.zeros((2, 3, 1)), np.cumsum(drops, axis=2)], axis=2)
    return tiny(errors, costs, (1, 1) if equal_costs else (3, 2))
