"""Work on large symmetric matrices in place, one half only, in tiles.

A *lower* matrix here is an (n, n) tensor of which the tiles on and below the diagonal hold a
symmetric (or lower triangular) matrix and the tiles above hold nothing that is ever read. This
takes half the multiplications of a plain matrix product, and no second n x n tensor: at n = 4608 in
float64 one is 170 MB, and on a CPU its first touch alone costs as much as a fifth of its Cholesky
factorisation.

All work is matrix products on views with a leading dimension, so the same code runs on a CPU and on
CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# rows of a tile: the diagonal tiles are worked out whole, so TILE / n of the saving is lost;
# smaller ones slow the products
TILE = 384
PIVOTS = 128  # columns swept at once: their share of the work is not a matrix product


def tiles(n: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of each row of tiles."""
    for first in range(0, n, TILE):
        yield first, min(first + TILE, n)


def tile_ends(n: int, device: torch.device) -> Tensor:
    """Return (n,) int64 numbers: in row i the columns below number i are to be read.

    The other entries of row i stand in column i.
    """
    return (torch.arange(n, device=device) // TILE + 1) * TILE


def symmetrised(matrix: Tensor, scale: float = 1.0) -> tuple[Tensor, float]:
    """Return (A + A^T) / 2 / scale in float64, all of it, and max |A - A^T|.

    There is never a second n x n tensor beside the result.
    """
    n = len(matrix)
    whole = torch.empty(n, n, dtype=torch.float64, device=matrix.device)
    gaps = []
    for first, end in tiles(n):
        below, above = matrix[first:end, :end].double(), matrix[:end, first:end].mT.double()
        gaps.append((below - above).abs_().max())
        half = torch.add(below, above).div_(2 * scale)
        whole[first:end, :end] = half
        whole[:first, first:end] = half[:, :first].mT
    return whole, torch.stack(gaps).max().item()


def gathered(matrix: Tensor, columns: Tensor | None, diagonal: Tensor, out: Tensor) -> Tensor:
    """Write the lower matrix (A + diag(diagonal))[columns][:, columns] into `out`.

    matrix: (n, n), all of it. diagonal: (n,), added to A's own. columns: (k,) int64; None for all
    columns as they come. out: (k, k) of any float type, returned.
    """
    for first, end in tiles(len(out)):
        if columns is None:
            out[first:end, :end] = matrix[first:end, :end]
        else:
            out[first:end, :end] = matrix.index_select(0, columns[first:end]).index_select(
                1, columns[:end]
            )
    added = diagonal if columns is None else diagonal[columns]
    out.diagonal().copy_(
        (matrix.diagonal() if columns is None else matrix.diagonal()[columns]) + added
    )
    return out


def add_product_(
    lower: Tensor, left: Tensor, right: Tensor, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """Set lower to beta lower + alpha left^T right, for a product that is symmetric.

    left, right: (k, n). In place.
    """
    for first, end in tiles(len(lower)):
        lower[first:end, :end].addmm_(left[:, first:end].mT, right[:, :end], alpha=alpha, beta=beta)
    return lower


def mirror_(lower: Tensor) -> Tensor:
    """Fill the tiles above the diagonal from those below. In place."""
    for first, end in tiles(len(lower)):
        lower[:first, first:end] = lower[first:end, :first].mT
    return lower


def cholesky_(lower: Tensor, least_pivot: float) -> Tensor | None:
    """Return the Cholesky factor of a positive definite lower matrix, in place, or None.

    least_pivot: share of its diagonal below which a squared pivot is rounding noise, not
    information (dependent columns pass by luck). None: the matrix has no factor.
    """
    n = len(lower)
    diagonal = lower.diagonal().clone()
    # asked for once, at the end: no wait for a GPU on the way
    sound = torch.ones((), dtype=torch.bool, device=lower.device)
    for first, end in tiles(n):
        panel = lower[first:, first:end]
        if first:
            panel.addmm_(lower[first:, :first], lower[first:end, :first].mT, alpha=-1)
        corner, failed = torch.linalg.cholesky_ex(panel[: end - first])
        sound &= (
            (failed == 0)
            & (corner.diagonal().square() >= least_pivot * diagonal[first:end]).all()
            & corner.isfinite().all()
        )
        panel[: end - first] = corner
        if end < n:
            panel[end - first :] = torch.linalg.solve_triangular(
                corner.mT, panel[end - first :], upper=True, left=False
            )
    return lower if sound.item() else None


def inverse_(lower: Tensor, least_pivot: float) -> Tensor | None:
    """Return the inverse of a positive definite lower matrix, in place, or None.

    The result is a lower matrix; None: there is no inverse. `least_pivot` as in `cholesky_`.
    Symmetric sweep (Beaton 1964), one tile at a time: the pivots are those of the Cholesky
    factorisation, the n^3 multiplications are matrix products throughout, where factorising and
    then inverting runs at little more than half their speed.
    """
    n = len(lower)
    diagonal = lower.diagonal().clone()
    eye = torch.eye(PIVOTS, dtype=lower.dtype, device=lower.device)
    sound = torch.ones((), dtype=torch.bool, device=lower.device)
    for top, bottom in tiles(n):
        for first in range(top, bottom, PIVOTS):
            end = min(first + PIVOTS, bottom)
            corner, failed = torch.linalg.cholesky_ex(lower[first:end, first:end])
            sound &= (
                (failed == 0)
                & (corner.diagonal().square() >= least_pivot * diagonal[first:end]).all()
                & corner.isfinite().all()
            )
            # (pivots, n)
            strip = torch.cat([lower[first:end, :bottom], lower[bottom:, first:end].mT], 1)
            inverse = torch.linalg.solve_triangular(
                corner, eye[: end - first, : end - first], upper=False
            )
            half = inverse @ strip
            whole = inverse.mT @ half
            half[:, first:end] = 0
            add_product_(lower, half, half, alpha=-1)
            lower[top:, first:end] = whole[:, top:].mT
            lower[first:end, :bottom] = whole[:, :bottom]
            lower[first:end, first:end] = inverse.mT @ -inverse
    if not sound.item():
        return None
    for first, end in tiles(n):
        lower[first:end, :end].neg_()
    return lower


def times_factor(rows: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows L (d, n) for a Cholesky factor L, and the squared norms of its columns (n,)."""
    product, norms = torch.empty_like(rows), rows.new_empty(rows.shape[1])
    for first, end in tiles(rows.shape[1]):
        part = product[:, first:end].addmm_(rows[:, first:], factor[first:, first:end], beta=0)
        norms[first:end] = part.square().sum(0)
    return product, norms


def solved_by_factor(rows: Tensor, factor: Tensor) -> Tensor:
    """Return rows L^-1 (d, k) for a Cholesky factor L, tile by tile from the last.

    L may be the leading part of a larger factor.
    """
    solved = rows.clone(memory_format=torch.contiguous_format)
    k = rows.shape[1]
    for first, end in reversed(list(tiles(k))):
        part = solved[:, first:end]
        if end < k:
            part.addmm_(solved[:, end:], factor[end:, first:end], alpha=-1)
        part.copy_(
            torch.linalg.solve_triangular(
                factor[first:end, first:end], part, upper=False, left=False
            )
        )
    return solved


def quadratic(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return tr(rows A rows^T), a scalar, for a symmetric A (n, n).

    All tiles of A are there, or the lower ones.
    """
    total = rows.new_zeros(())
    for first, end in tiles(rows.shape[1]):
        mine = rows[:, first:end]
        total += (mine @ matrix[first:end, first:end] * mine).sum()
        if first:
            total += 2 * (mine @ matrix[first:end, :first] * rows[:, :first]).sum()
    return total
