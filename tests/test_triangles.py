"""Sums of outer products by their upper half: against fp64, in every type and width.

Chunks, triangles there and back, exact products.
"""

from __future__ import annotations

import threading

import pytest
import torch
from layers import upper

from core.calibration import packed_gram as triangles
from core.calibration.packed_gram import (
    GramSum,
    full_precision,
    stripe_starts,
    sum_bytes,
    unpack,
)


def tokens(count: int, n: int, seed: int = 0) -> torch.Tensor:
    """Correlated, with a mean, of very different scales: like the inputs of a layer."""
    random = torch.Generator().manual_seed(seed)
    mixed = (
        torch.randn(count, n, generator=random)
        + 0.5 * torch.randn(count, 1, generator=random)
        + 0.3
    )
    return mixed * torch.logspace(-2, 2, n)[torch.randperm(n, generator=random)]


def close(total: GramSum, x: torch.Tensor) -> bool:
    """Say whether sums equal those of the tokens x in fp64.

    Each entry to the rounding that fp32 has at its size.
    """
    x = x.double()
    norms = x.norm(dim=0)
    gram = (unpack(total.triangle()) - x.T @ x).abs() <= 2e-6 * torch.outer(norms, norms)
    return bool(
        gram.all()
        and ((total.vector.cpu() - x.sum(0)).abs() <= 2e-6 * x.abs().sum(0)).all()
        and total.tokens == len(x)
    )


@pytest.mark.parametrize("n", [1, 7, 300, 1024, 1025, 1100, 1536, 2305])
def test_the_sum_in_stripes_is_x_transposed_x(n):
    total, x = GramSum(n), tokens(90, n)
    assert all(total.add(part) for part in x.split([50, 1, 39]))
    assert close(total, x)
    total.zero()
    assert (
        total.tokens == 0
        and total.triangle().count_nonzero() == 0
        and total.vector.count_nonzero() == 0
    )
    total.add(x[:20])
    assert close(total, x[:20])


@pytest.mark.parametrize("chunk", [1, 3, 89, 90])
def test_chunks_of_tokens_change_nothing(monkeypatch, chunk):
    monkeypatch.setattr(triangles, "CHUNK_BYTES", 4 * 40 * chunk)
    total, x = GramSum(40), tokens(90, 40)
    total.add(x)
    assert close(total, x)
    picked = torch.arange(0, 90, 7)
    total.zero()
    total.add(x, picked)
    assert close(total, x[picked])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_raised_before_the_product(dtype):
    x = tokens(60, 1100).mul(5).to(dtype)  # up to a thousand: squares leave the range of fp16
    total = GramSum(1100)
    total.add(x)
    assert x.abs().max() > 300 and close(total, x)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_noticed(bad):
    x = tokens(30, 20)
    x[17, 3] = bad
    assert not GramSum(20).add(x)
    x[17, 3] = 1e30  # finite itself, its square is not
    total = GramSum(20)
    assert total.finite and total.add(x) and not total.finite


def test_stripes_cover_everything_at_about_half_the_cost():
    for n in (1, 1024, 1025, 1152, 1280, 1536, 2560, 4608, 5120, 9999):
        starts = stripe_starts(n)
        total = GramSum(n)
        assert starts[0] == 0 and starts[-1] == n and starts == sorted(set(starts))
        assert sum_bytes(n) == sum(
            t.numel() * t.element_size() for t in (*total.stripes, total.vector)
        )
        assert n <= 1024 or sum_bytes(n) < (0.64 if n < 2048 else 0.59) * 4 * n * n


@pytest.mark.parametrize("n", [1, 2, 7, 256, 257, 700])
def test_triangles_there_and_back(n):
    square = torch.randn(n, n, generator=torch.Generator().manual_seed(n))
    square = square + square.T
    packed = upper(square)
    for by_block in (False, True):
        assert torch.equal(unpack(packed, by_block=by_block), square.double())
        assert torch.equal(unpack(packed, torch.float32, by_block), square)


def test_exact_products_whatever_the_switches_say_and_back_again():
    switch = torch.backends.cuda.matmul
    before, inside, leave = switch.fp32_precision, threading.Event(), threading.Event()

    def other() -> None:
        with full_precision:
            inside.set()
            leave.wait(10)

    try:
        switch.fp32_precision = "tf32"
        thread = threading.Thread(target=other)
        with full_precision:
            assert switch.fp32_precision == "ieee"
            thread.start()
            assert inside.wait(10)
        assert switch.fp32_precision == "ieee"  # the other one is still inside
        leave.set()
        thread.join()
        assert switch.fp32_precision == "tf32"
        with pytest.raises(KeyError), full_precision:
            raise KeyError
        assert switch.fp32_precision == "tf32"
    finally:
        leave.set()
        switch.fp32_precision = before


@pytest.mark.cuda
def test_tf32_stays_out_of_the_sums():
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        total, x = GramSum(1100, "cuda"), tokens(500, 1100)
        total.add(x.cuda())
        assert close(total, x)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
