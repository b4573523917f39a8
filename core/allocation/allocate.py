"""Share a budget over layers and stages.

Methods: uniform (the paper), log ramp (SlimGPT), Lagrangian (live), dynamic programming (on
release).

    problem = make_problem(layers, errors, steps)    # curves per stage and layer
    paper = uniform(problem, plan.sparsity)
    same_work = allocate(problem, "dynamic", budget_of(paper), scope="run")    # equal MACs

Errors of layers are added up as if they did not meet again downstream: the sum ranks allocations of
one model, it predicts no image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..curves.plan import ALLOCATIONS as ALLOCATION_METHODS
from ..curves.plan import SCOPES
from ..errors import StudioError
from ..models.layers import TINY, scattered_offsets
from .problem import AllocationProblem, Table
from .sentences import METHOD_TITLES, too_much, unit_word, what_was_done
from .solvers import BUCKETS, CLOSE, cheapest, solve_dynamic, solve_lagrangian, total


@dataclass(frozen=True)
class Budget:
    """What the prunable layers may cost.

    Make a budget with `of_sparsity`, with `budget_of` an allocation for a comparison at equal cost,
    or from a total cost in the unit of the problem's costs. Raises StudioError for a total that is
    negative or not finite.
    """

    total: float  # over the run: sum over stages of steps x cost of one forward
    # one forward of each stage; None when only the run counts
    forward: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.total) or self.total < 0:
            raise StudioError("A budget must be a finite cost of at least 0.")

    @classmethod
    def of_sparsity(cls, problem: AllocationProblem, sparsity: float | Sequence[float]) -> Budget:
        """Return the budget that removes a share of the prunable cost.

        sparsity: one number, or one per stage; the run's is then their mean, weighted by steps.
        """
        shares = np.array(
            np.broadcast_to(_shares(sparsity, problem), len(problem.stages)), dtype=float
        )
        forward = (1 - shares) * problem.dense
        return cls(float(np.dot(problem.steps, forward)), tuple(forward.tolist()))


@dataclass(frozen=True)
class Allocation:
    """How many groups each layer loses in each stage, and the cost of that.

    Costs and errors count prunable layers only.
    """

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
    """Return the budget that an allocation uses up, for another one at equal cost."""
    return Budget(allocation.cost, allocation.forward)


def uniform(problem: AllocationProblem, sparsity: float | Sequence[float]) -> Allocation:
    """Remove the same ratio from every layer of a stage, whatever it costs (the paper's rule).

    Rounding may go a little over or under the ratio. On the free menu with its default floors this
    is `core.models.layers.removed_groups`, stage by stage. Protected layers give what they may and
    the others do not make up for it. Raises StudioError for a ratio outside 0 to 1.
    """
    shares = np.broadcast_to(_shares(sparsity, problem), len(problem.stages))
    ratios = np.tile(shares, len(problem.layers))
    choice = _at_ratios(problem.table, _groups(problem), _places(problem), ratios)
    what = ", ".join(
        f"{100 * s:.3g} % {name}" for s, name in zip(shares, problem.stages, strict=True)
    )
    return _result(problem, choice, "uniform", "stage", ratios=f" ({what})")


def allocate(
    problem: AllocationProblem,
    method: str,
    budget: Budget,
    scope: str = "stage",
    buckets: int = BUCKETS,
) -> Allocation:
    """Share a budget that is never exceeded.

    method: "uniform": the smallest equal ratio that fits. "log_ramp": r_l = r_L ln(l + 1) / ln(L)
    over the L blocks counted from 0, the smallest r_L that fits (SlimGPT, Ling et al. 2024); when
    r_L = 1 is not enough, the first ratio rises from 0. "lagrangian": least sum of errors on the
    convex hulls of the curves, the rest filled greedily. "dynamic": least sum of errors, exact up
    to `buckets` (see `core.allocation.solvers.solve_dynamic`).

    scope: "stage": every stage keeps its own budget. "run": one budget for all, errors and costs
    weighted by the sampling steps of the stages; their sparsities become outcomes. With "run" a
    stage without steps stays dense: it costs nothing, it saves nothing, and if a step ever falls
    into it the model's own weights are the safe answer. With "stage" it gets its own budget like
    the others.

    Of equal choices the one is taken that removes less in early layers. More budget never raises
    the error of "lagrangian", nor of "dynamic" beyond its buckets. Raises StudioError for a budget
    that cannot be met; the sentence names the largest possible share.
    """
    if method not in ALLOCATION_METHODS or scope not in SCOPES:
        raise StudioError(
            f"An allocation is {', '.join(ALLOCATION_METHODS)} over a stage or run, not {method!r}"
            f" over {scope!r}."
        )
    choice = np.zeros(len(problem.table.count), dtype=np.int64)
    fineness = 0.0
    for part in _parts(problem, budget, scope):
        rows = part.rows
        errors = part.errors
        costs = part.costs
        limit = _reachable(problem, part)
        if method == "lagrangian":
            choice[rows] = solve_lagrangian(errors, costs, limit).choice
        elif method == "dynamic":
            solved = solve_dynamic(errors, costs, limit, buckets)
            choice[rows] = solved.choice
            fineness = max(fineness, solved.width / max(float(costs[:, 0].mean()), 1e-300))
        else:
            choice[rows] = _least_ratio(problem, rows, costs, limit, method)
    return _result(problem, choice, method, scope, fineness)


@dataclass(frozen=True, eq=False)
class _Part:
    """The rows that share one budget."""

    stage: str  # its name; empty for the whole run
    rows: np.ndarray  # of the problem's table
    errors: np.ndarray  # (rows, levels) weighted by steps where one budget is for all
    costs: np.ndarray  # (rows, levels) weighted in the same way
    limit: float


def _parts(problem: AllocationProblem, budget: Budget, scope: str) -> list[_Part]:
    """Return the rows and limits of each budget: one for the run, or one per stage."""
    stages = len(problem.stages)
    if scope == "run":
        members = [s for s in range(stages) if problem.steps[s]]
        steps = np.array(problem.steps, dtype=float)
        return [_part(problem, "", members, steps, budget.total)]
    if budget.forward is None or len(budget.forward) != stages:
        raise StudioError(
            "A budget for the whole run cannot be kept stage by stage: give a sparsity for each"
            " stage, or share it over the run."
        )
    return [
        _part(problem, name, [s], np.ones(stages), float(budget.forward[s]))
        for s, name in enumerate(problem.stages)
    ]


def _part(
    problem: AllocationProblem, stage: str, members: list[int], weights: np.ndarray, limit: float
) -> _Part:
    """Return the rows of some stages, errors and costs weighted per stage."""
    rows = problem.rows(members)
    table = problem.table
    weight = np.tile(weights[members], len(problem.layers))[:, None]
    return _Part(stage, rows, weight * table.errors[rows], weight * table.costs[rows], limit)


# --- families of ratios


def _least_ratio(
    problem: AllocationProblem, rows: np.ndarray, costs: np.ndarray, limit: float, method: str
) -> np.ndarray:
    """Return the member of a family of ratios that removes least and fits.

    Ratios never fall as the parameter t grows, so bisection finds t.
    """
    table = problem.table
    part = Table(table.levels[rows], table.errors[rows], table.costs[rows], table.count[rows])
    groups = _groups(problem)[rows]
    ramp, places, most = _family(problem, rows, method)

    def at(t: float) -> np.ndarray:
        return _at_ratios(part, groups, places, _ratios(ramp, t))

    low, high = 0.0, most
    if total(costs, at(low)) <= limit:
        return at(low)
    if total(costs, at(high)) > limit:
        share = 1 - total(costs, at(high)) / float(costs[:, 0].sum())
        raise StudioError(
            f"{METHOD_TITLES[method]} can save at most {100 * share:.3g} % of the time measured on"
            " this device: choose Lagrangian, or lower the sparsities."
        )
    for _ in range(50):
        middle = (low + high) / 2
        if total(costs, at(middle)) <= limit:
            high = middle
        else:
            low = middle
    return at(high)


def _family(
    problem: AllocationProblem, rows: np.ndarray, method: str
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the ramp (rows,), the rounding places (rows,) and the largest t of a method."""
    if method == "uniform":
        return np.ones(len(rows)), _places(problem)[rows], 1.0
    blocks = sorted({layer.block for layer in problem.layers})
    ranks = np.array([blocks.index(layer.block) for layer in problem.layers])
    rank = ranks[rows // len(problem.stages)]
    ramp = np.log(rank + 1) / np.log(len(blocks)) if len(blocks) > 1 else np.ones(len(rows))
    # ratios differ by block already: nearest rounding is even enough, and keeps the ramp
    return ramp, np.full(len(rows), 0.5), 2.0


def _ratios(ramp: np.ndarray, t: float) -> np.ndarray:
    """Return the ratios (rows,) at t: 0 to 1 raises the end of the ramp, 1 to 2 its start."""
    first, last = max(0.0, t - 1), min(t, 1.0)
    return first + (last - first) * ramp


def _at_ratios(
    table: Table, groups: np.ndarray, places: np.ndarray, ratios: np.ndarray
) -> np.ndarray:
    """Return the index of the level (rows,) for ratio x groups removed.

    The index is that of the last level plus the way to the next one plus place, rounded down.
    """
    rows = np.arange(len(groups))
    target = ratios * groups
    at = (table.levels <= target[:, None]).sum(axis=1) - 1
    above = np.minimum(at + 1, table.count - 1)
    span = table.levels[rows, above] - table.levels[rows, at]
    way = np.where(span > 0, (target - table.levels[rows, at]) / np.maximum(span, 1), 0.0)
    return np.minimum((at + way + places + TINY).astype(np.int64), table.count - 1)


def _groups(problem: AllocationProblem) -> np.ndarray:
    """Return the groups of the layer of each row (rows,)."""
    return np.repeat([layer.groups for layer in problem.layers], len(problem.stages))


def _places(problem: AllocationProblem) -> np.ndarray:
    """Return where each layer rounds (rows,).

    A layer rounds at the half. Where levels are coarse the places are scattered over the blocks, so
    that the mean comes out right.
    """
    places = np.full(len(problem.layers), 0.5)
    for kind in {layer.kind for layer in problem.layers}:
        mine = [
            i for i, layer in enumerate(problem.layers) if layer.kind == kind and problem.coarse[i]
        ]
        places[mine] = scattered_offsets(len(mine))
    return np.repeat(places, len(problem.stages))


# --- checks and sums


def _shares(sparsity: float | Sequence[float], problem: AllocationProblem) -> np.ndarray:
    """Return the sparsity as an array. Raises StudioError for numbers outside 0 to 1."""
    shares = np.asarray(sparsity, dtype=float)
    if (
        shares.shape not in ((), (len(problem.stages),))
        or not ((shares >= 0) & (shares <= 1)).all()
    ):
        raise StudioError("A sparsity must be one number from 0 to 1, or one for each stage.")
    return shares


def _reachable(problem: AllocationProblem, part: _Part) -> float:
    """Return the limit with the room that rounding of sums needs.

    Raises StudioError when even the cheapest choice is over the limit.
    """
    least = total(part.costs, cheapest(part.errors, part.costs))
    dense = float(part.costs[:, 0].sum())
    room = part.limit + CLOSE * dense
    if np.isnan(part.limit) or least > room:
        possible = 1 - least / dense if dense else 0.0
        asked = 1 - part.limit / dense if dense else 1.0
        raise StudioError(too_much(problem, possible, asked, part.stage))
    return room


def _result(
    problem: AllocationProblem,
    choice: np.ndarray,
    method: str,
    scope: str,
    fineness: float = 0.0,
    ratios: str = "",
) -> Allocation:
    """Add up the chosen levels (rows,) and describe them."""
    rows = np.arange(len(choice))
    stages = len(problem.stages)
    table = problem.table
    removed, errors, costs = (
        x[rows, choice].reshape(-1, stages) for x in (table.levels, table.errors, table.costs)
    )
    forward = costs.sum(axis=0)
    loss = errors.sum(axis=0)
    steps = np.array(problem.steps)
    cost, dense = float(steps @ forward), float(steps @ problem.dense)
    saved = 1 - cost / dense if dense else 0.0
    sparsity = 1 - forward / np.where(problem.dense > 0, problem.dense, np.inf)
    sparsity[problem.dense == 0] = 0.0
    what = what_was_done(problem, method, scope, fineness, ratios)
    text = f"{what}: {100 * saved:.1f} % of the prunable layers' {unit_word(problem)} goes."
    return Allocation(
        method=method,
        scope=scope,
        removed=tuple(tuple(map(int, row)) for row in removed.T),
        forward=tuple(forward.tolist()),
        cost=cost,
        errors=tuple(loss.tolist()),
        error=float(steps @ loss),
        sparsity=tuple(sparsity.tolist()),
        saved=saved,
        fineness=fineness,
        text=text,
    )
