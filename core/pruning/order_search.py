"""Search the removal order of one layer's groups on one rung, and check the search's account.

Everything runs in the rung's dtype on the Gram's device; the weights that a search falls back on
are float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .compensation import best_on
from .damped_problem import CHOICE_LEVELS, MIN_PIVOT, DampedProblem, Rung
from .greedy import order_columns, order_groups
from .groups import columns_of_groups
from .tiled import add_product_, inverse_, mirror_

# sixteen roundings: below this share of its diagonal a pivot is noise
SEARCH_PIVOT = {torch.float64: MIN_PIVOT, torch.float32: 1e-6}
# how far the predicted cost of a float32 search may be from the true cost of its order, as a share
ACCOUNT = 0.01


def search_order(problem: DampedProblem, rung: Rung) -> tuple[Tensor, Tensor] | None:
    """Return the exact greedy order (groups,), dead groups first, and predicted costs.

    None when the numbers do not hold up.
    """
    size = problem.group_size
    dead = problem.dead.view(-1, size).all(1)
    live = (~dead).nonzero()[:, 0]
    columns = None if len(live) == problem.groups else columns_of_groups(live, size)
    n = len(live) * size
    state = torch.empty(2 if size == 1 else 1, n, n, dtype=rung.dtype, device=problem.gram.device)
    rung.lower(columns, state[0])
    floor = 1 / state[0].diagonal()
    if inverse_(state[0], SEARCH_PIVOT[rung.dtype]) is None:
        return None
    if columns is None:
        columns = torch.arange(n, device=state.device)
    # a dead column inside a live group must not count
    w = problem.w.index_select(1, columns).mul_(~problem.dead[columns]).to(rung.dtype)

    def rebuilt(survivors: Tensor) -> Tensor | None:
        best = best_on(problem.w, rung, columns[survivors])
        return (
            None
            if best is None
            else add_product_(best.new_empty(best.shape[1], best.shape[1]), best, best, beta=0)
        )

    if size == 1:
        add_product_(state[1], w, w, beta=0)
        found = order_columns(state, floor, rebuild=rebuilt, picker=problem.picker)
    else:
        found = order_groups(mirror_(state[0]), w, size)
    if found is None:
        return None
    order, costs = found
    return torch.cat([dead.nonzero()[:, 0], live[order]]), torch.cat(
        [costs.new_zeros(problem.groups - len(live)), costs]
    )


def accounted(thought: Tensor, steps: Tensor) -> bool:
    """Say whether the predicted costs add up to those of the order that was found.

    The sums are compared a quarter, half and three quarters of the way.
    """
    thought = thought.double().cumsum(0)
    lost = steps.cumsum(0)
    levels = [round(share * len(lost)) - 1 for share in CHOICE_LEVELS]
    gap, lost, everything = (thought - lost)[levels].abs(), lost[levels], lost[-1]
    return bool((gap <= ACCOUNT * lost + 1e-6 * everything).all())
