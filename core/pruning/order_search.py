"""Search the removal orders of layers' groups, each on one rung, and check a search's account.

Everything runs in the rung's dtype on the Gram's device; the weights that a search falls back on
are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .compensation import best_on
from .damped_problem import CHOICE_LEVELS, MIN_PIVOT, DampedProblem, Rung
from .greedy import Found, order_columns, order_groups, order_stack, still_
from .groups import columns_of_groups
from .tiled import add_product_, inverse_, mirror_

# sixteen roundings: below this share of its diagonal a pivot is noise
SEARCH_PIVOT = {torch.float64: MIN_PIVOT, torch.float32: 1e-6}
# how far the predicted cost of a float32 search may be from the true cost of its order, as a share
ACCOUNT = 0.01


def search_order(problem: DampedProblem, rung: Rung) -> Found | None:
    """Return the exact greedy order (groups,), dead groups first, and predicted costs.

    None when the numbers do not hold up.
    """
    return search_orders([problem], [rung])[0]


def search_orders(
    problems: Sequence[DampedProblem],
    rungs: Sequence[Rung],
    tick: Callable[[], None] | None = None,
) -> list[Found | None]:
    """Return what `search_order` does for several layers of one device, each on its own rung.

    Layers whose searches are alike (as many columns that are not dead, in groups of one size, one
    dtype, and for groups as many outputs) walk side by side, with the same order as alone. Costs of
    single columns are the same too, bit for bit; those of groups up to rounding on a GPU. tick:
    called now and then; what it raises ends the search.
    """
    starts = [_Start.of(problem, rung) for problem, rung in zip(problems, rungs, strict=True)]
    found: list[Found | None] = [None] * len(starts)
    alike: dict[object, list[int]] = {}
    for i, start in enumerate(starts):
        d, size = len(start.problem.w), start.problem.group_size
        # the search of single columns never sees an output
        key = (start.n, start.rung.dtype, size, d if size > 1 else None)
        alike.setdefault(key, []).append(i)
    for places in alike.values():
        if tick is not None:
            tick()
        stack = [starts[i] for i in places]
        search = _search_columns if stack[0].problem.group_size == 1 else _search_groups
        results = search(stack, tick)
        for i, result in zip(places, results, strict=True):
            found[i] = starts[i].completed(result)
    return found


@dataclass(frozen=True, eq=False)
class _Start:
    """One layer's search before it begins: what is searched, without the dead groups."""

    problem: DampedProblem
    rung: Rung
    dead: Tensor  # (groups,) bool
    live: Tensor  # (live groups,)
    columns: Tensor | None  # (n,) of the live groups; None: all, as they come

    @classmethod
    def of(cls, problem: DampedProblem, rung: Rung) -> _Start:
        """Return the start of a layer's search."""
        dead = problem.dead.view(-1, problem.group_size).all(1)
        live = (~dead).nonzero()[:, 0]
        every = len(live) == problem.groups
        columns = None if every else columns_of_groups(live, problem.group_size)
        return cls(problem, rung, dead, live, columns)

    @property
    def n(self) -> int:
        """Return the number of columns to search."""
        return len(self.live) * self.problem.group_size

    def inverse(self, out: Tensor) -> Tensor | None:
        """Write the lower H^-1 into `out` (n, n) and return 1 / H_jj (n,); None: no inverse."""
        self.rung.lower(self.columns, out)
        floor = 1 / out.diagonal()
        return None if inverse_(out, SEARCH_PIVOT[self.rung.dtype]) is None else floor

    @property
    def all_columns(self) -> Tensor:
        """Return the columns (n,) to search."""
        if self.columns is not None:
            return self.columns
        return torch.arange(self.n, device=self.problem.gram.device)

    @property
    def w(self) -> Tensor:
        """Return a copy of the weight (d, n) in the type of the search.

        A dead column inside a live group is zero: it must not count.
        """
        w, columns = self.problem.w, self.all_columns
        return w.index_select(1, columns).mul_(~self.problem.dead[columns]).to(self.rung.dtype)

    def rebuilt(self, survivors: Tensor) -> Tensor | None:
        """Return W'^T W' (k, k) of surviving columns (k,) from scratch; None: no inverse."""
        best = best_on(self.problem.w, self.rung, self.all_columns[survivors])
        if best is None:
            return None
        return add_product_(best.new_empty(best.shape[1], best.shape[1]), best, best, beta=0)

    def completed(self, found: Found | None) -> Found | None:
        """Return an order of the live groups as one of all groups, dead ones first."""
        if found is None:
            return None
        order, costs = found
        none = costs.new_zeros(self.problem.groups - len(self.live))
        return torch.cat([self.dead.nonzero()[:, 0], self.live[order]]), torch.cat([none, costs])


def _search_groups(stack: Sequence[_Start], tick: Callable[[], None] | None) -> list[Found | None]:
    """Search the orders of groups of layers that are alike, side by side."""
    n, first = stack[0].n, stack[0].problem
    inverse = first.gram.new_empty(len(stack), n, n, dtype=stack[0].rung.dtype)
    w = inverse.new_zeros(len(stack), len(first.w), n)
    sound = [True] * len(stack)
    for i, start in enumerate(stack):
        if start.inverse(inverse[i]) is None:
            sound[i] = False
            inverse[i].zero_().diagonal().fill_(1)  # harmless beside the others
            continue
        mirror_(inverse[i])
        w[i] = start.w
    if not any(sound):
        return [None] * len(stack)
    found = order_groups(inverse, w, first.group_size, tick=tick)
    return [pair if ok else None for pair, ok in zip(found, sound, strict=True)]


def _search_columns(stack: Sequence[_Start], tick: Callable[[], None] | None) -> list[Found | None]:
    """Search the orders of single columns of layers that are alike, side by side."""
    n, first = stack[0].n, stack[0].problem
    # (layers, 2, n, n)
    state = first.gram.new_empty(len(stack), 2, n, n, dtype=stack[0].rung.dtype)
    floor = state.new_zeros(len(stack), n)
    sound = [True] * len(stack)
    for i, start in enumerate(stack):
        own = start.inverse(state[i, 0])
        if own is None:
            sound[i] = False
            still_(state[i], floor[i])
            continue
        floor[i] = own
        w = start.w
        add_product_(state[i, 1], w, w, beta=0)
    if not any(sound):
        return [None] * len(stack)
    rebuilds = [start.rebuilt for start in stack]
    if len(stack) == 1:
        return [
            order_columns(state[0], floor[0], rebuild=rebuilds[0], picker=first.picker, tick=tick)
        ]
    found = order_stack(state, floor, rebuilds=rebuilds, picker=first.picker, tick=tick)
    return [pair if ok else None for pair, ok in zip(found, sound, strict=True)]


def accounted(thought: Tensor, steps: Tensor) -> bool:
    """Say whether the predicted costs add up to those of the order that was found.

    The sums are compared a quarter, half and three quarters of the way.
    """
    thought = thought.double().cumsum(0)
    lost = steps.cumsum(0)
    levels = [round(share * len(lost)) - 1 for share in CHOICE_LEVELS]
    gap, lost, everything = (thought - lost)[levels].abs(), lost[levels], lost[-1]
    return bool((gap <= ACCOUNT * lost + 1e-6 * everything).all())
