"""Hold the error and the cost of every level of every layer in every stage.

Errors are relative (||W'X - WX||^2 / ||WX||^2), because raw errors of different layers are on
different scales. Costs are of the prunable layers alone, for one forward; the cost of the rest of
the model is fixed and is in no number here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral

import numpy as np

from ..curves.plan import STAGES
from ..errors import StudioError
from ..models.layers import PrunableLayer
from .widths import Menu

Costs = Callable[[PrunableLayer, np.ndarray], np.ndarray] | Sequence[np.ndarray] | None


@dataclass(frozen=True, eq=False)
class Curve:
    """One layer in one stage: error and work at each level of removal."""

    levels: np.ndarray  # (levels,) groups removed, ascending from 0
    errors: np.ndarray  # (levels,) relative error, finite, not negative
    # (levels,) MACs or seconds of one forward with the layer at that level, finite, not negative
    costs: np.ndarray


@dataclass(frozen=True, eq=False)
class AllocationProblem:
    """All curves of a model, and how often each stage runs.

    Raises StudioError for curves that cannot be used.
    """

    layers: Sequence[PrunableLayer]  # in forward order; of equals the first are removed least
    curves: Sequence[Sequence[Curve]]  # stages x layers
    steps: Sequence[int]  # sampling steps of each stage
    # per layer: equal ratios round at a place of their own in each block, see Menu.coarse
    coarse: Sequence[bool]
    stages: Sequence[str] = STAGES
    unit: str = "MACs"  # or "s"
    menu: Menu = field(default_factory=Menu)  # what the levels came from, for words
    table: Table = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if (
            not self.layers
            or len(self.curves) != len(self.stages)
            or any(len(row) != len(self.layers) for row in self.curves)
        ):
            raise StudioError("An allocation needs one curve for each layer in each stage.")
        if len(self.steps) != len(self.stages) or any(
            not isinstance(n, Integral) or n < 0 for n in self.steps
        ):
            raise StudioError(
                "An allocation needs the number of sampling steps of each stage, 0 or more."
            )
        if sum(self.steps) == 0:
            raise StudioError("There must be at least one sampling step to share a budget over.")
        object.__setattr__(
            self,
            "table",
            Table.of(
                [
                    self.curves[s][i]
                    for i in range(len(self.layers))
                    for s in range(len(self.stages))
                ]
            ),
        )

    @cached_property
    def dense(self) -> np.ndarray:
        """Return the cost of one dense forward of the prunable layers (stages,)."""
        return self.table.costs[:, 0].reshape(len(self.layers), -1).sum(axis=0)

    def rows(self, stages: Sequence[int]) -> np.ndarray:
        """Return the rows of the table that belong to these stages.

        Layers come first, then stages: this order settles ties.
        """
        count = len(self.stages)
        return np.concatenate(
            [layer * count + np.array(stages) for layer in range(len(self.layers))]
        )


@dataclass(frozen=True, eq=False)
class Table:
    """The curves as padded arrays, one row each."""

    levels: np.ndarray  # (rows, levels) padded with a number beyond all levels
    errors: np.ndarray  # (rows, levels) padded with inf
    costs: np.ndarray  # (rows, levels) padded with 0
    count: np.ndarray  # (rows,) levels of the row

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> Table:
        """Pad and check the curves. Raises StudioError."""
        count = np.array([len(c.levels) for c in curves])
        if count.min() == 0 or any(
            len(c.errors) != n or len(c.costs) != n for c, n in zip(curves, count, strict=True)
        ):
            raise StudioError(
                "Every curve of an allocation needs one error and one cost for each of its levels;"
                " calibrate again."
            )
        shape = (len(curves), int(count.max()))
        levels = np.full(shape, np.iinfo(np.int64).max)
        errors = np.full(shape, np.inf)
        costs = np.zeros(shape)
        real = np.arange(shape[1]) < count[:, None]
        levels[real] = np.concatenate([c.levels for c in curves])
        errors[real] = np.concatenate([c.errors for c in curves])
        costs[real] = np.concatenate([c.costs for c in curves])
        if (levels[:, 0] != 0).any() or not (levels[:, 1:] > levels[:, :-1])[real[:, 1:]].all():
            raise StudioError("The levels of an allocation must ascend from 0, the dense layer.")
        if not (
            np.isfinite(errors[real]).all()
            and np.isfinite(costs).all()
            and errors.min() >= 0
            and costs.min() >= 0
        ):
            raise StudioError(
                "Errors and costs of an allocation must be finite and not negative; calibrate, or"
                " measure this device, again."
            )
        return cls(levels, errors, costs, count)


def make_problem(
    layers: Sequence[PrunableLayer],
    errors: Sequence[Sequence[np.ndarray]],
    steps: Sequence[int],
    menu: Menu | None = None,
    costs: Costs = None,
    stages: Sequence[str] = STAGES,
    unit: str | None = None,
) -> AllocationProblem:
    """Return curves at the levels of a menu, from curves at all multiples of each layer's step.

    errors: stages x layers, each (groups // step + 1,) relative errors at 0, step, 2 step, ...
    groups removed (`relative_errors`). costs: None for MACs, exactly; or the latency table of a
    device, seconds of one forward of one layer at the batch that matters, as a callable (layer,
    kept (levels,)) -> seconds (levels,), or for each layer an array on the same grid of removals as
    its errors. A table need not be monotone: Lagrangian and dynamic programming never choose a
    width that is slower than a wider one. Between two points of a grid the straight line counts;
    for a convex error that is more than the true one. Raises StudioError.
    """
    menu = menu or Menu()
    levels = menu.levels(layers)
    if (
        len(errors) != len(stages)
        or any(len(row) != len(layers) for row in errors)
        or (isinstance(costs, Sequence) and len(costs) != len(layers))
    ):
        raise StudioError(
            "An allocation needs errors for each layer in each stage, and costs for each layer."
        )
    prices = [
        _costs(layer, removed, costs, i)
        for i, (layer, removed) in enumerate(zip(layers, levels, strict=True))
    ]
    curves = [
        [
            Curve(levels[i], _at(layer, levels[i], row[i]), prices[i])
            for i, layer in enumerate(layers)
        ]
        for row in errors
    ]
    unit = unit or ("MACs" if costs is None else "s")
    return AllocationProblem(
        layers=tuple(layers),
        curves=curves,
        steps=tuple(steps),
        coarse=tuple(menu.coarse(layer) for layer in layers),
        stages=tuple(stages),
        unit=unit,
        menu=menu,
    )


def relative_errors(errors: np.ndarray, energy: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the curve (levels,) of a stage from the curves of its timestep bins.

    errors: (bins, levels) ||W'X - WX||^2. energy: (bins,) ||WX||^2. shares: (bins,) share of each
    bin that lies in the stage. `make_problem` takes the result.
    """
    return np.maximum(shares @ errors, 0.0) / max(float(shares @ energy), 1e-30)


def _costs(layer: PrunableLayer, removed: np.ndarray, costs: Costs, i: int) -> np.ndarray:
    """Return the cost of a layer at each number of removed groups (levels,)."""
    if costs is None:
        return (layer.groups - removed) * float(layer.macs_per_group)
    if callable(costs):
        return np.asarray(costs(layer, layer.groups - removed), dtype=np.float64)
    return _at(layer, removed, costs[i])


def _at(layer: PrunableLayer, removed: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return a curve at `removed`, from its values at multiples of the layer's step."""
    grid = np.asarray(grid, dtype=np.float64)
    if grid.ndim != 1 or (len(grid) - 1) * layer.step < removed[-1]:
        raise StudioError(
            f"The curve of {layer.name} ends before its narrowest width"
            f" ({layer.groups - removed[-1]}); calibrate again, or raise the floor."
        )
    return np.interp(removed, np.arange(len(grid)) * layer.step, grid)
