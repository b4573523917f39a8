"""Share a budget over layers and stages: uniform (the paper), log ramp (SlimGPT), Lagrangian
(live), dynamic programming (on release).

    problem = make_problem(layers, errors, steps)                                 # curves of errors
        and costs, per stage and layer
    paper = uniform(problem, plan.sparsity)
    same_work = allocate(problem, "dynamic", budget_of(paper), scope="run")       # equal MACs,
        shared out better

Errors of layers are added up as if they did not meet again downstream: the sum ranks allocations of
one model, it predicts no image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import StudioError
from ..models.layers import TINY, scattered_offsets
from .problem import Problem, Table
from .solvers import BUCKETS, CLOSE, cheapest, solve_dynamic, solve_lagrangian, total

METHODS = ("uniform", "log_ramp", "lagrangian", "dynamic")
SCOPES = ("stage", "run")
NAMES = {
    "uniform": "Equal ratios",
    "log_ramp": "Log ramp over the blocks",
    "lagrangian": "Lagrangian",
    "dynamic": "Dynamic programming",
}


@dataclass(frozen=True)
class Budget:
    """What the prunable layers may cost. Get one from `of_sparsity`, `of_cost`, or `budget_of` an
    allocation for a comparison at equal cost.
    """

    total: float  # over the run: sum over stages of steps x cost of one forward
    # one forward of each stage; None when only the run counts
    forward: tuple[float, ...] | None = None

    @classmethod
    def of_sparsity(cls, problem: Problem, sparsity: float | Sequence[float]) -> Budget:
        """Share of the prunable cost to remove: one number, or one for each stage; the run's is
        then their mean, weighted by steps.
        """
        shares = np.array(
            np.broadcast_to(_shares(sparsity, problem), len(problem.stages)), dtype=float
        )
        forward = (1 - shares) * problem.dense
        return cls(float(np.dot(problem.steps, forward)), tuple(forward.tolist()))

    @classmethod
    def of_cost(cls, total: float) -> Budget:
        """A cost over the whole run, in the unit of the problem's costs."""
        if not np.isfinite(total) or total < 0:
            raise StudioError("A budget must be a finite cost of at least 0.")
        return cls(float(total))


@dataclass(frozen=True)
class Allocation:
    """Who loses how much, and what that costs. Costs and errors count prunable layers only."""

    method: str
    scope: str  # "stage": every stage has a budget of its own; "run": one budget for all stages
    removed: tuple[tuple[int, ...], ...]  # stages x layers, groups
    forward: tuple[float, ...]  # (stages,) cost of one forward
    cost: float  # over the run, steps x forward
    errors: tuple[float, ...]  # (stages,) sum of relative errors over the layers
    error: float  # steps x errors, summed
    sparsity: tuple[float, ...]  # (stages,) share of the prunable cost that goes
    saved: float  # the same of the run, stages weighted by their steps
    # "dynamic": no choice cheaper by this share of the dense cost has less error; 0: none at all
    # has. 0 for the other methods
    fineness: float
    text: str  # one sentence: what was done


def budget_of(allocation: Allocation) -> Budget:
    """The budget that this allocation uses up, for another one at equal cost."""
    return Budget(allocation.cost, allocation.forward)


def uniform(problem: Problem, sparsity: float | Sequence[float]) -> Allocation:
    """The paper's rule: the same ratio in every layer of a stage, whatever it costs (rounding may
    go a little over or under the ratio).

    On the free menu with its default floors this is `core.models.layers.removed_groups`, stage by
    stage. Protected layers give what they may and the others do not make up for it. Raises
    StudioError for a ratio outside 0 to 1.
    """
    shares = np.broadcast_to(_shares(sparsity, problem), len(problem.stages))
    ratios = np.tile(shares, len(problem.layers))
    choice = _at_ratios(problem.table, _groups(problem), _places(problem), ratios)
    what = ", ".join(
        f"{100 * s:.3g} % {name}" for s, name in zip(shares, problem.stages, strict=True)
    )
    return _result(problem, choice, "uniform", "stage", ratios=f" ({what})")


def allocate(
    problem: Problem,
    method: str,
    budget: Budget,
    scope: str = "stage",
    r0: float = 0.0,
    buckets: int = BUCKETS,
) -> Allocation:
    """Share a budget that is never exceeded.

    method: "uniform": the smallest equal ratio that fits. "log_ramp": r_l = r0 + (r_L - r0) ln(l +
    1) / ln(L) over the L blocks counted from 0, the smallest r_L that fits (SlimGPT, Ling et al.
    2024); when r_L = 1 is not enough r0 rises, when less than r0 everywhere is enough all ratios
    are equal. "lagrangian": least sum of errors on the convex hulls of the curves, the rest filled
    greedily. "dynamic": least sum of errors, exact up to `buckets` (see
    `core.allocation.solvers.solve_dynamic`). scope "stage": every stage keeps its own budget.
    "run": one budget for all, errors and costs weighted by the sampling steps of the stages, whose
    sparsities become outcomes. There a stage without steps stays dense: it costs nothing, it saves
    nothing, and if a step ever falls into it the model's own weights are the safe answer; under
    "stage" it gets its own budget like the others. Of equal choices the one wins that removes less
    in early layers. More budget never raises the error of "lagrangian", nor of "dynamic" beyond its
    buckets. Raises StudioError for a budget that cannot be met, with what can.
    """
    if method not in METHODS or scope not in SCOPES:
        raise StudioError(
            f"An allocation is {', '.join(METHODS)} over a stage or run, not {method!r} over"
            f" {scope!r}."
        )
    if not 0 <= r0 <= 1:
        raise StudioError("The first ratio of a log ramp must lie between 0 and 1.")
    stages = len(problem.stages)
    if scope == "stage":
        if budget.forward is None or len(budget.forward) != stages:
            raise StudioError(
                "A budget for the whole run cannot be kept stage by stage: give a sparsity for each"
                " stage, or share it over the run."
            )
        parts = [([s], float(budget.forward[s]), np.ones(stages)) for s in range(stages)]
    else:
        parts = [
            (
                [s for s in range(stages) if problem.steps[s]],
                budget.total,
                np.array(problem.steps, dtype=float),
            )
        ]
    choice, fineness = np.zeros(len(problem.table.count), dtype=np.int64), 0.0
    for members, limit, weights in parts:
        rows = problem.rows(members)
        weight = np.tile(weights[members], len(problem.layers))[:, None]
        table = problem.table
        errors, costs = weight * table.errors[rows], weight * table.costs[rows]
        limit = _reachable(problem, errors, costs, limit, members, scope)
        if method == "lagrangian":
            choice[rows] = solve_lagrangian(errors, costs, limit).choice
        elif method == "dynamic":
            solved = solve_dynamic(errors, costs, limit, buckets)
            choice[rows], fineness = (
                solved.choice,
                max(fineness, solved.width / max(float(costs[:, 0].mean()), 1e-300)),
            )
        else:
            choice[rows] = _family(problem, rows, costs, limit, method, r0)
    return _result(problem, choice, method, scope, fineness)


def widths_of(problem: Problem, allocation: Allocation) -> dict[tuple[str, int], list[int]]:
    """Distinct kept widths over all stages, by kind and dense size, ascending: what a compiler that
    works region by region has to see.
    """
    found: dict[tuple[str, int], set[int]] = {}
    for row in allocation.removed:
        for layer, gone in zip(problem.layers, row, strict=True):
            found.setdefault((layer.kind, layer.groups), set()).add(layer.groups - gone)
    return {key: sorted(widths) for key, widths in found.items()}


def shapes_of(problem: Problem, allocation: Allocation) -> int:
    """Distinct shapes of whole blocks over all stages (heads and neurons together), when a compiled
    region is a block.
    """
    shapes = set()
    for row in allocation.removed:
        blocks: dict[int, list] = {}
        for layer, gone in zip(problem.layers, row, strict=True):
            blocks.setdefault(layer.block, []).append((layer.kind, layer.groups, gone))
        shapes |= {tuple(shape) for shape in blocks.values()}
    return len(shapes)


# --- families of ratios


def _family(
    problem: Problem, rows: np.ndarray, costs: np.ndarray, limit: float, method: str, r0: float
) -> np.ndarray:
    """The member of a one-parameter family of ratios that removes least and fits. Ratios never fall
    as t grows.
    """
    stages, table = len(problem.stages), problem.table
    part = Table(table.levels[rows], table.errors[rows], table.costs[rows], table.count[rows])
    groups = _groups(problem)[rows]
    if method == "uniform":
        places, ratios, low, high = (
            _places(problem)[rows],
            (lambda t: np.full(len(rows), t)),
            0.0,
            1.0,
        )
    else:
        blocks = sorted({layer.block for layer in problem.layers})
        rank = np.array([blocks.index(layer.block) for layer in problem.layers])[rows // stages]
        ramp = np.log(rank + 1) / np.log(len(blocks)) if len(blocks) > 1 else np.ones(len(rows))
        # ratios differ by block already: nearest rounding is even enough, and keeps the ramp
        places, low, high = np.full(len(rows), 0.5), -1.0, 2.0

        def ratios(t: float) -> np.ndarray:
            first = r0 * (1 + t) if t < 0 else r0 if t < 1 else r0 + (1 - r0) * (t - 1)
            last = r0 * (1 + t) if t < 0 else r0 + (1 - r0) * t if t < 1 else 1.0
            return first + (last - first) * ramp

    def at(t: float) -> np.ndarray:
        return _at_ratios(part, groups, places, ratios(t))

    if total(costs, at(low)) <= limit:
        return at(low)
    if total(costs, at(high)) > limit:
        most, name = 1 - total(costs, at(high)) / float(costs[:, 0].sum()), NAMES[method]
        raise StudioError(
            f"{name}: by this device's measured times at most {100 * most:.3g} % of the time can"
            " go; choose Lagrangian, or lower the sparsities."
        )
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if total(costs, at(middle)) <= limit else (middle, high)
    return at(high)


def _at_ratios(
    table: Table, groups: np.ndarray, places: np.ndarray, ratios: np.ndarray
) -> np.ndarray:
    """(rows,) index of the level for ratio x groups removed: the last level plus the way to the
    next one plus place, rounded down.
    """
    rows, target = np.arange(len(groups)), ratios * groups
    at = (table.levels <= target[:, None]).sum(axis=1) - 1
    above = np.minimum(at + 1, table.count - 1)
    span = table.levels[rows, above] - table.levels[rows, at]
    way = np.where(span > 0, (target - table.levels[rows, at]) / np.maximum(span, 1), 0.0)
    return np.minimum((at + way + places + TINY).astype(np.int64), table.count - 1)


def _groups(problem: Problem) -> np.ndarray:
    return np.repeat([layer.groups for layer in problem.layers], len(problem.stages))


def _places(problem: Problem) -> np.ndarray:
    """(rows,) where each layer rounds: at the half, or scattered over the blocks where levels are
    coarse, so that the mean comes out right.
    """
    places = np.full(len(problem.layers), 0.5)
    for kind in {layer.kind for layer in problem.layers}:
        mine = [
            i for i, layer in enumerate(problem.layers) if layer.kind == kind and problem.coarse[i]
        ]
        places[mine] = scattered_offsets(len(mine))
    return np.repeat(places, len(problem.stages))


# --- checks and words


def _shares(sparsity: float | Sequence[float], problem: Problem) -> np.ndarray:
    shares = np.asarray(sparsity, dtype=float)
    if (
        shares.shape not in ((), (len(problem.stages),))
        or not ((shares >= 0) & (shares <= 1)).all()
    ):
        raise StudioError("A sparsity must be one number from 0 to 1, or one for each stage.")
    return shares


def _reachable(
    problem: Problem,
    errors: np.ndarray,
    costs: np.ndarray,
    limit: float,
    members: list[int],
    scope: str,
) -> float:
    """The limit with the room that rounding of sums needs. Raises StudioError when even the
    cheapest choice is over it.
    """
    least, dense = total(costs, cheapest(errors, costs)), float(costs[:, 0].sum())
    room = limit + CLOSE * dense
    if np.isnan(limit) or least > room:
        raise StudioError(
            _too_much(
                problem,
                1 - least / dense if dense else 0.0,
                1 - limit / dense if dense else 1.0,
                "" if scope == "run" else problem.stages[members[0]],
            )
        )
    return room


def _too_much(problem: Problem, possible: float, asked: float, stage: str) -> str:
    """At most `possible` (a share of the prunable cost) can go, and `asked` should; `stage` is
    empty for the whole run.
    """
    menu = problem.menu
    limits, ways = [], [f"lower {'the sparsity of that stage' if stage else 'the sparsities'}"]
    if menu.protect:
        limits.append(
            "the first and the last block are spared"
            if menu.protect == 1
            else f"the first and the last block keep {100 * menu.protect:.3g} %"
        )
        ways.append("spare no block")
    if menu.multiple:
        limits.append(f"neurons stay in multiples of {menu.multiple}")
        ways.append("allow finer widths")
    if menu.min_heads > 1:
        limits.append(f"every layer keeps {menu.min_heads} heads")
        ways.append("let layers keep fewer heads")
    held = (
        f" while {' and '.join(limits)}"
        if limits
        else ", as every layer keeps a head or some neurons"
    )
    # rounded apart, so that they never look equal
    most, wish = np.floor(1000 * possible + TINY) / 10, np.ceil(1000 * asked - TINY) / 10
    what = (
        f"{'work' if problem.unit == 'MACs' else 'time'} of the"
        f" {f'{stage} stage' if stage else 'whole run'}'s prunable layers"
    )
    return (
        f"At most {most:.3g} % of the {what} can go{held}, and {wish:.3g} % are asked for:"
        f" {', or '.join(ways)}."
    )


def _result(
    problem: Problem,
    choice: np.ndarray,
    method: str,
    scope: str,
    fineness: float = 0.0,
    ratios: str = "",
) -> Allocation:
    """Add up and phrase. choice: (rows,)"""
    rows, stages, table = np.arange(len(choice)), len(problem.stages), problem.table
    removed, errors, costs = (
        x[rows, choice].reshape(-1, stages) for x in (table.levels, table.errors, table.costs)
    )
    forward, loss, steps = costs.sum(axis=0), errors.sum(axis=0), np.array(problem.steps)
    cost, dense = float(steps @ forward), float(steps @ problem.dense)
    saved = 1 - cost / dense if dense else 0.0
    sparsity = 1 - forward / np.where(problem.dense > 0, problem.dense, np.inf)
    sparsity[problem.dense == 0] = 0.0
    text = (
        f"{_what(problem, method, scope, fineness, ratios)}: {100 * saved:.1f} % of the prunable"
        f" layers' {_unit(problem)} goes."
    )
    return Allocation(
        method,
        scope,
        tuple(tuple(map(int, row)) for row in removed.T),
        tuple(forward.tolist()),
        cost,
        tuple(loss.tolist()),
        float(steps @ loss),
        tuple(sparsity.tolist()),
        saved,
        fineness,
        text,
    )


def _what(problem: Problem, method: str, scope: str, fineness: float, ratios: str) -> str:
    count = len(problem.layers)
    where = (
        f"{count} layer{'' if count == 1 else 's'},"
        f" {'one budget for all stages' if scope == 'run' else 'each stage within its own budget'}"
    )
    if method == "dynamic":
        where += (
            f", the optimum up to {100 * fineness:.2g} % of the {_unit(problem)}"
            if fineness
            else ", the exact optimum"
        )
    idle = [
        name
        for name, n in zip(problem.stages, problem.steps, strict=True)
        if not n and scope == "run"
    ]
    left = (
        f" (no step falls into the {' and '.join(idle)} stage, which stays dense)" if idle else ""
    )
    return f"{NAMES[method]}{ratios}, {where}{left}"


def _unit(problem: Problem) -> str:
    return "MACs" if problem.unit == "MACs" else "time"
