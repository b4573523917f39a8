"""Find the best weights of layers on given sets of columns, by one Cholesky each.

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


def compensations(
    weights: Sequence[Tensor],
    grams: Sequence[Tensor],
    kept_columns: Sequence[Tensor],
    dampings: Sequence[float],
) -> list[tuple[Tensor, float, str]]:
    """Return what `compensation` does for several layers of one device and equal shapes.

    The weights (d, n) have one shape, and as many columns are kept in each, some but not all. The
    systems are factorised and solved in one batch; the result is that of `compensation` up to
    rounding in float64 times the condition of the system. A layer whose system has no factor is
    compensated alone, on the ladder. Raises StudioError as `compensation` does.
    """
    problems = [
        DampedProblem.checked(w, gram, 1, None) for w, gram in zip(weights, grams, strict=True)
    ]
    rungs = [
        problem.first_rung(checked_damping(damping))
        for problem, damping in zip(problems, dampings, strict=True)
    ]
    kept = [
        distinct_indices(columns, problem.groups, "kept_columns").to(problem.gram.device)
        for columns, problem in zip(kept_columns, problems, strict=True)
    ]
    found = _best_together([problem.w for problem in problems], rungs, kept)
    results = []
    for i, solved in enumerate(found):
        if solved is None:
            results.append(compensation(weights[i], grams[i], kept_columns[i], dampings[i]))
            continue
        best = torch.zeros_like(problems[i].weight)
        best[:, kept[i].to(best.device)] = solved.to(best)
        results.append((best, rungs[i].damping, rungs[i].name))
    return results


def _best_together(
    w: Sequence[Tensor], rungs: Sequence[Rung], kept: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return what `best_on` does for several layers, from one batch of factors."""
    k = len(kept[0])
    lower = rungs[0].matrix.new_zeros(len(w), k, k)
    for rung, columns, own in zip(rungs, kept, lower, strict=True):
        rung.lower(columns, own)
    diagonal = lower.diagonal(dim1=1, dim2=2).clone()
    factors, failed = torch.linalg.cholesky_ex(lower)
    pivots = factors.diagonal(dim1=1, dim2=2).square()
    sound = (failed == 0) & (pivots >= MIN_PIVOT * diagonal).all(1) & pivots.isfinite().all(1)
    sides = [_sides(*layer) for layer in zip(w, rungs, kept, strict=True)]
    few = sides[0][0].shape[1] > w[0].shape[0]  # outputs than removed columns
    right = torch.stack([(r @ c).mT if few else c.mT for r, c in sides])  # (layers, k, d or m)
    half = torch.linalg.solve_triangular(factors, right, upper=False)
    solved = torch.linalg.solve_triangular(factors.mT, half, upper=True).mT
    found: list[Tensor | None] = []
    for i, ok in enumerate(sound.tolist()):
        mine = w[i].index_select(1, kept[i])
        added = mine.add_(solved[i]) if few else mine.addmm_(sides[i][0], solved[i])
        found.append(added if ok else None)
    return found


def _sides(w: Tensor, rung: Rung, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the removed columns of W (d, m), and M_RK (m, k)."""
    gone = (
        torch.ones(w.shape[1], dtype=torch.bool, device=w.device)
        .index_fill_(0, kept, False)
        .nonzero()[:, 0]
    )
    return w.index_select(1, gone), rung.matrix.index_select(0, gone).index_select(1, kept)


def best_on(w: Tensor, rung: Rung, kept: Tensor) -> Tensor | None:
    """Return W_K + W_R M_RK (M_KK)^-1 (d, k) in float64; None if M_KK has no factor.

    The system is solved for the fewer of d outputs and m removed columns.
    """
    factor = cholesky_(rung.lower(kept, rung.matrix.new_empty(len(kept), len(kept))), MIN_PIVOT)
    if factor is None:
        return None
    removed, cross = _sides(w, rung, kept)
    if removed.shape[1] > len(w):
        return w.index_select(1, kept).add_(torch.cholesky_solve((removed @ cross).mT, factor).mT)
    return w.index_select(1, kept).addmm_(removed, torch.cholesky_solve(cross.mT, factor).mT)
