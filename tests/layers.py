"""Give small layers, and slow, plain references for `core.pruning.obs`.

The references are the textbook loop, and least squares on the tokens themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor


def layer(
    seed: int, d: int = 7, n: int = 24, tokens: int = 200, steep: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return a weight (d, n) and correlated inputs (n, tokens), float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5 + 0.3 * torch.eye(
        n, dtype=torch.float64
    )
    scales = torch.logspace(0, -steep, n, dtype=torch.float64)[:, None]
    inputs = scales * (mix @ torch.randn(n, tokens, generator=generator, dtype=torch.float64))
    return torch.randn(d, n, generator=generator, dtype=torch.float64), inputs


def columns_of(groups: Tensor, size: int) -> Tensor:
    return (groups[:, None] * size + torch.arange(size)).flatten()


def with_ridge(inputs: Tensor, damping: float) -> Tensor:
    """Return inputs with extra tokens whose Gram is the ridge.

    Damping is then augmented least squares.
    """
    ridge = (damping * inputs.square().sum(1).mean()).sqrt()
    return torch.cat([inputs, ridge * torch.eye(len(inputs), dtype=inputs.dtype)], dim=1)


def least_squares(weight: Tensor, inputs: Tensor, kept: Tensor) -> Tensor:
    """Full-width weight that is best on `kept` columns, straight from the tokens (no Gram)."""
    best = torch.zeros_like(weight)
    if len(kept):
        best[:, kept] = torch.linalg.lstsq(
            inputs[kept].T, (weight @ inputs).T, driver="gelsd"
        ).solution.T
    return best


def error(new: Tensor, weight: Tensor, inputs: Tensor) -> float:
    return ((new - weight) @ inputs).square().sum().item()


def brute_force(weight: Tensor, inputs: Tensor, size: int) -> list[int]:
    """Remove, one at a time, the group whose removal leaves the smallest least-squares error."""
    left, order = list(range(weight.shape[1] // size)), []
    while left:
        costs = {}
        for group in left:
            kept = columns_of(
                torch.tensor([g for g in left if g != group], dtype=torch.int64), size
            )
            costs[group] = error(least_squares(weight, inputs, kept), weight, inputs)
        order.append(min(costs, key=costs.get))
        left.remove(order[-1])
    return order


def naive_order(weight: Tensor, gram: Tensor) -> list[int]:
    """Run the published loop: full inverse and full weight updated at every removal."""
    w, inverse, order = weight.clone(), torch.linalg.inv(gram), []
    for _ in range(len(gram)):
        scores = w.square().sum(0) / inverse.diagonal()
        scores[order] = torch.inf
        j = int(scores.argmin())
        order.append(j)
        w = w - torch.outer(w[:, j], inverse[j]) / inverse[j, j]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[order, :], inverse[:, order] = 0, 0
        inverse.diagonal()[order] = 1
    return order


def upper(gram: torch.Tensor) -> torch.Tensor:
    """Return the upper triangle (n (n + 1) / 2,) of an (n, n) matrix, row by row."""
    i, j = torch.triu_indices(*gram.shape)
    return gram[i, j]
