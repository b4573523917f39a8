"""Find the best weights of one layer on a given set of columns, by one Cholesky.

The objective is that of `core.pruning.obs`; there is no order and no path.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .damped_problem import (
    DEFAULT_DAMPING,
    MIN_PIVOT,
    PLAIN,
    DampedProblem,
    Rung,
    checked_damping,
)
from .groups import distinct_indices
from .tiled import cholesky_


def compensated_weights(
    weight: Tensor,
    gram: Tensor,
    kept_columns: Tensor | Sequence[int],
    damping: float = DEFAULT_DAMPING,
) -> Tensor:
    """Return the weight of `compensation`, without its damping."""
    return compensation(weight, gram, kept_columns, damping)[0]


def compensation(
    weight: Tensor,
    gram: Tensor,
    kept_columns: Tensor | Sequence[int],
    damping: float = DEFAULT_DAMPING,
) -> tuple[Tensor, float, str]:
    """Return the best weight (d, n) with only `kept_columns` non-zero, without the whole path.

    The weight is W'_K = (W H)_:,K (H_KK)^-1. The damping in force and the rung come with it, as
    `RemovalPath` has them; the rung is that of the kept columns alone, so it may be a safer one in
    the path of all columns. Same objective, types and errors as `RemovalPath`; costs one Cholesky
    of the kept columns only.
    """
    problem = DampedProblem.checked(weight, gram, 1, None)
    kept = distinct_indices(kept_columns, problem.groups, "kept_columns").to(problem.gram.device)
    if len(kept) == problem.groups:
        return problem.weight.clone(), checked_damping(damping), PLAIN
    best = torch.zeros_like(problem.weight)
    if not len(kept):
        return best, checked_damping(damping), PLAIN
    solved, rung = problem.climb(
        checked_damping(damping), lambda rung: best_on(problem.w, rung, kept)
    )
    best[:, kept.to(best.device)] = solved.to(best)
    return best, rung.damping, rung.name


def best_on(w: Tensor, rung: Rung, kept: Tensor) -> Tensor | None:
    """Return W_K + W_R M_RK (M_KK)^-1 (d, k) in float64; None if M_KK has no factor.

    The system is solved for the fewer of d outputs and m removed columns.
    """
    factor = cholesky_(rung.lower(kept, rung.matrix.new_empty(len(kept), len(kept))), MIN_PIVOT)
    if factor is None:
        return None
    gone = (
        torch.ones(w.shape[1], dtype=torch.bool, device=w.device)
        .index_fill_(0, kept, False)
        .nonzero()[:, 0]
    )
    cross = rung.matrix.index_select(0, gone).index_select(1, kept)
    removed = w.index_select(1, gone)
    if len(gone) > len(w):
        return w.index_select(1, kept).add_(torch.cholesky_solve((removed @ cross).mT, factor).mT)
    return w.index_select(1, kept).addmm_(removed, torch.cholesky_solve(cross.mT, factor).mT)
