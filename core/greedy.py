"""Exact greedy removal orders (Optimal Brain Surgeon, rescored after every removal), for single columns and for groups.

Both start from the inverse Gram and remove what costs least, s_P = tr(W'_P (inverse_PP)^-1 W'_P^T), with W' and the inverse kept up
to date. The textbook loop (ZipLM, Kurtic et al. 2023, algorithm 1) rewrites both in full at every removal; here columns are lazy.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # removals between two flushes: large enough for GEMMs, small enough that the lazy rows stay in cache


def order_columns(inverse: Tensor, products: Tensor, floor: Tensor, block: int = BLOCK) -> Tensor:
    """Greedy order of single columns by s_j = ||W'_j||^2 / inverse_jj, equal step by step to the textbook loop.

    inverse: (n, n) H^-1. products: (n, n) W^T W. floor: (n,) 1 / H_jj, which no inverse diagonal can fall below.
    Removing column j sends W' to W' - c v^T and the inverse to inverse - v v^T, with pivot p = inverse_jj, v = inverse_j / sqrt(p) and
    c = W'_j / sqrt(p). Only v and c^T W are ever formed, from at most `block` stored rows; a flush is a few GEMMs. No step costs d.
    """
    ids = torch.arange(len(inverse), device=inverse.device)
    order = []
    while len(ids):
        n = len(ids)
        steps = min(block, n)
        diagonal, norms = inverse.diagonal().maximum(floor), products.diagonal().clamp_min(0)
        taken = torch.zeros(n, dtype=torch.bool, device=ids.device)
        v = inverse.new_zeros(steps, n)  # row k: v_k
        gamma = inverse.new_zeros(steps, n)  # row k: c_k^T W, W as it was at the block's start
        m = inverse.new_zeros(steps, steps)  # c_k^T c_l
        for k in range(steps):
            j = int((norms / diagonal).masked_fill(taken, torch.inf).argmin())
            taken[j] = True
            past = v[:k, j].clone()  # (k,)
            root = diagonal[j].sqrt()
            v[k] = (inverse[j] - past @ v[:k]) / root
            gamma[k] = (products[j] - past @ gamma[:k]) / root
            m[k, :k] = (gamma[:k, j] - past @ m[:k, :k]) / root
            m[:k, k] = m[k, :k]
            m[k, k] = norms[j] / diagonal[j]
            now = gamma[k] - m[k, :k] @ v[:k]  # c_k^T W'
            norms = (norms - 2 * v[k] * now + m[k, k] * v[k].square()).clamp_min(0)
            diagonal = (diagonal - v[k].square()).maximum(floor)
            order.append(ids[j])
        rest = (~taken).nonzero()[:, 0]
        ids, floor = ids[rest], floor[rest]
        v, gamma = v[:, rest], gamma[:, rest]
        cross = v.mT @ (gamma - m @ v / 2)
        inverse = inverse[rest][:, rest].addmm_(v.mT, v, alpha=-1)
        products = products[rest][:, rest].sub_(cross).sub_(cross.mT)
    return torch.stack(order) if order else ids


def order_groups(inverse: Tensor, w: Tensor, size: int) -> Tensor | None:
    """Greedy order of groups by s_g = tr(W'_g (inverse_gg)^-1 W'_g^T), from batched Cholesky factors of the diagonal blocks.

    inverse: (n, n) H^-1. w: (d, n). Returns (n / size,), or None if a diagonal block is no longer positive definite.
    """
    inverse, w = inverse.clone(), w.clone()
    groups = len(inverse) // size
    taken = torch.zeros(groups, dtype=torch.bool, device=w.device)
    eye = torch.eye(size, dtype=w.dtype, device=w.device)
    order = []
    for _ in range(groups):
        blocks = inverse.view(groups, size, groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (groups, size, size)
        factors, failed = torch.linalg.cholesky_ex(torch.where(taken[:, None, None], eye, blocks))
        if failed.any():
            return None
        parts = w.view(-1, groups, size).permute(1, 2, 0)  # (groups, size, d)
        whitened = torch.linalg.solve_triangular(factors, parts, upper=False)
        g = int(whitened.square().sum((1, 2)).masked_fill(taken, torch.inf).argmin())
        mine = slice(g * size, (g + 1) * size)
        v = torch.linalg.solve_triangular(factors[g], inverse[mine], upper=False)  # (size, n): v^T v is what the inverse loses
        w -= whitened[g].mT @ v
        inverse -= v.mT @ v
        inverse[mine], inverse[:, mine], w[:, mine] = 0, 0, 0
        taken[g] = True
        order.append(g)
    return torch.tensor(order, dtype=torch.int64)
