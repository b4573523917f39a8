"""core.symmetric: halves of matrices, tile by tile, against whole ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.pruning import greedy
from core.pruning import tiled as symmetric


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that a small layer has many, the last of them ragged."""
    monkeypatch.setattr(symmetric, "TILE", 10)
    monkeypatch.setattr(symmetric, "PIVOTS", 4)


def positive(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2 * n, n, generator=generator, dtype=torch.float64)
    return (rows.T @ rows / n).to(dtype)


def lower_of(matrix: Tensor) -> Tensor:
    """A lower matrix: NaN stands where nothing may be read."""
    columns, ends = torch.arange(len(matrix)), symmetric.tile_ends(len(matrix), matrix.device)
    return matrix.masked_fill(columns >= ends[:, None], torch.nan)


@pytest.mark.parametrize("n", [7, 10, 33])
def test_halves_do_what_whole_matrices_do(n: int, small_tiles: None) -> None:
    h, inverse = positive(n), torch.linalg.inv(positive(n))
    rows = torch.randn(5, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(
        symmetric.mirror_(symmetric.inverse_(lower_of(h), 1e-11)), inverse, atol=1e-12
    )
    factor = symmetric.cholesky_(lower_of(h), 1e-11)
    exact = torch.linalg.cholesky(h)
    assert torch.allclose(factor.nan_to_num(0).tril(), exact, atol=1e-12)
    product, norms = symmetric.times_factor(rows, factor)
    assert torch.allclose(product, rows @ exact) and torch.allclose(
        norms, (rows @ exact).square().sum(0)
    )
    assert torch.allclose(
        symmetric.solved_by_factor(rows[:, :-2], factor[:-2, :-2]) @ exact[:-2, :-2], rows[:, :-2]
    )
    assert symmetric.quadratic(rows, lower_of(h)).item() == pytest.approx(
        (rows @ h @ rows.T).trace().item()
    )
    assert torch.allclose(
        symmetric.mirror_(symmetric.add_product_(lower_of(h), rows, rows, alpha=-2)),
        h - 2 * rows.T @ rows,
    )
    columns, added = (
        torch.randperm(n, generator=torch.Generator().manual_seed(2))[1:],
        torch.arange(n, dtype=torch.float64),
    )
    found = symmetric.mirror_(
        symmetric.gathered(
            h, columns, added, torch.full((n - 1, n - 1), torch.nan, dtype=torch.float64)
        )
    )
    assert torch.allclose(found, (h + added.diag())[columns][:, columns], rtol=1e-14)
    skewed = h + torch.triu(torch.full_like(h, 0.5), 1)
    whole, gap = symmetric.symmetrised(skewed.float(), 4.0)
    assert (
        whole.dtype == torch.float64
        and torch.equal(whole, whole.T)
        and gap == pytest.approx(0.5, rel=1e-6)
    )
    assert torch.allclose(whole, (skewed + skewed.T) / 8, atol=1e-6)


@pytest.mark.parametrize("invert", [symmetric.inverse_, symmetric.cholesky_])
def test_dependent_columns_have_no_factor(invert, small_tiles: None) -> None:
    h = positive(25)
    h[23], h[:, 23] = h[4], h[:, 4]
    h[23, 23] = h[4, 4]
    assert invert(lower_of(h), 1e-11) is None
    assert invert(lower_of(-positive(25)), 1e-11) is None
    assert invert(lower_of(positive(25).fill_diagonal_(torch.nan)), 1e-11) is None


@pytest.mark.cuda
def test_no_pick_waits_for_the_gpu() -> None:
    state = torch.stack([positive(96), positive(96, 1)]).cuda()
    rows, picked, costs = (
        state.new_empty(2, 32, 96),
        torch.empty(32, dtype=torch.int64, device="cuda"),
        state.new_empty(32),
    )
    floor, ends = state.new_zeros(96), symmetric.tile_ends(96, state.device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        greedy.pick_columns(state, floor, ends, rows, picked, costs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(picked.unique()) == 32
