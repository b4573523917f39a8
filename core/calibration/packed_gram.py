"""Sum outer products by their upper half: summed in stripes, stored as triangles.

X^T X is symmetric, so only the stripes on and right of the diagonal are computed: (1 + 1/k) / 2
of the products and of the memory for k stripes, 0.56 of both for the 4608 columns of a DiT-XL/2
MLP. On disk the triangle is exact, row by row.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 64_000_000  # fp32 copy of tokens made at a time
PLAIN = 1024  # columns up to which one product of everything is as fast as stripes
# narrowest and widest stripe: wide enough for a fast product, narrow enough to save half
STRIPES = (256, 512)


def stripe_starts(n: int) -> list[int]:
    """Return the first row of every stripe of an (n, n) matrix, with n at the end.

    About eight stripes, of whole multiples of 64 rows.
    """
    step = n if n <= PLAIN else min(max(-(-n // 512) * 64, STRIPES[0]), STRIPES[1])
    return [*range(0, n, step), n]


def sum_bytes(n: int) -> int:
    """Return the bytes of a `GramSum` of n columns."""
    starts = stripe_starts(n)
    numbers = sum((high - low) * (n - low) for low, high in itertools.pairwise(starts))
    return 4 * numbers + 8 * n


class GramSum:
    """The sum of x x^T and of x over tokens for one layer.

    Products are in fp32 with TF32 off, whatever type the tokens come in.
    """

    def __init__(self, n: int, device: torch.device | str = "cpu"):
        self.n = n  # columns
        self.tokens = 0
        self.weight = 0.0  # sum of all token weights; stays 0 without weights
        starts = stripe_starts(n)
        self.stripes = [
            torch.zeros(high - low, n - low, device=device)
            for low, high in itertools.pairwise(starts)
        ]
        self.vector = torch.zeros(n, dtype=torch.float64, device=device)

    def zero(self) -> None:
        """Start again in the same memory."""
        for tensor in (*self.stripes, self.vector):
            tensor.zero_()
        self.tokens, self.weight = 0, 0.0

    def add(self, x: Tensor, picked: Tensor | None = None, weights: Tensor | None = None) -> bool:
        """Add tokens x (tokens, n), or only those at the indices `picked`.

        weights: (tokens,) of x, how much each counts, 0 or more; the sums are as if their mean were
        1. Give them always or never. Return False when a number among the tokens is not finite:
        then start again.
        """
        count = len(x) if picked is None else len(picked)
        step = max(1, CHUNK_BYTES // (4 * self.n))
        for start in range(0, count, step):
            rows: slice | Tensor = slice(start, start + step)
            if picked is not None:
                rows = picked[start : start + step]
            # before the product: fp16 squares overflow, bf16 products lose five digits
            part = x[rows].float()
            own = None if weights is None else weights[rows][:, None].to(part)
            if not self._add_part(part, own):
                return False
        self.tokens += count
        return True

    def _add_part(self, part: Tensor, own: Tensor | None) -> bool:
        """Add fp32 tokens (m, n) with their weights (m, 1); False when one is not finite."""
        vector = part.sum(0) if own is None else (part * own).sum(0)
        if not vector.isfinite().all():
            return False
        self.vector += vector
        if own is not None:
            self.weight += float(own.double().sum())
            part = part * own.sqrt()
        low = 0
        with full_precision:
            for stripe in self.stripes:
                stripe.addmm_(part[:, low : low + len(stripe)].T, part[:, low:])
                low += len(stripe)
        return True

    @property
    def finite(self) -> bool:
        """Say whether the squares stayed within fp32.

        No other product of two columns is larger than both of their squares.
        """
        return all(bool(stripe.diagonal().isfinite().all()) for stripe in self.stripes)

    def triangle(self) -> Tensor:
        """Return the upper triangle (n (n + 1) / 2,) of the sum, row by row, fp32 on the CPU."""
        return _scaled_triangle(self.stripes, self.n, self.scale)

    def triangle_later(self) -> Callable[[], Tensor]:
        """Return a call that gives the `triangle` of the sum as it is now.

        A copy of the sum stays on its device until then, so that the sum is free for other tokens.
        """
        stripes = [stripe.clone() for stripe in self.stripes]
        return partial(_scaled_triangle, stripes, self.n, self.scale)

    @property
    def mean_sum(self) -> Tensor:
        """Return the sum of x, (n,), weighted as the products are."""
        return self.vector * self.scale

    @property
    def scale(self) -> float:
        """Return the factor that makes the mean weight 1."""
        return self.tokens / self.weight if self.weight > 0 else 1.0


def _scaled_triangle(stripes: list[Tensor], n: int, scale: float) -> Tensor:
    """Return the upper triangle (n (n + 1) / 2,) of stripes times a number, on the CPU."""
    triangle = _pack(stripes, n)
    return triangle if scale == 1 else triangle.mul_(scale)


def _pack(stripes: list[Tensor], n: int) -> Tensor:
    """Return the upper triangle (n (n + 1) / 2,) of stripes, row by row, on the CPU."""
    triangle = torch.empty(n * (n + 1) // 2, dtype=stripes[0].dtype)
    into = triangle.numpy()  # NumPy slices rows ten times as fast as torch
    start = 0
    for stripe in stripes:
        for i, row in enumerate(stripe.detach().cpu().numpy()):
            into[start : start + len(row) - i] = row[i:]
            start += len(row) - i
    return triangle


def add_share_(total: Tensor, triangle: Tensor, share: float) -> Tensor:
    """Add `share` times a triangle to a total of any float type, on the total's device. In place.

    Every number is rounded after the product and after the sum. Done at once, one device would
    round twice and another one once.
    """
    part = triangle.to(total.device)
    return total.add_(part if share == 1 else part.to(total.dtype, copy=True).mul_(share))


def unpack(
    triangle: Tensor, dtype: torch.dtype = torch.float64, by_block: bool | None = None
) -> Tensor:
    """Return the symmetric (n, n) matrix of an upper triangle, on the triangle's device.

    by_block: copy rows in blocks, in few launches, by a table of a block's indices; else row by
    row, which is fastest on a CPU. None: in blocks everywhere but on a CPU. The bits are the same.
    There is never a table of all indices, which would take more memory than the matrix.
    """
    n = math.isqrt(2 * len(triangle))
    full = torch.zeros(n, n, dtype=dtype, device=triangle.device)
    if triangle.device.type != "cpu" if by_block is None else by_block:
        _fill_by_block(full, triangle)
    else:
        _fill_by_row(full, triangle)
    # mirrored block by block: column by column would touch every line of memory n times
    for low in range(0, n, STRIPES[0]):
        high = min(low + STRIPES[0], n)
        full[high:, low:high] = full[low:high, high:].T
        corner = full[low:high, low:high]
        corner += corner.triu(1).T
    return full


def _fill_by_row(full: Tensor, triangle: Tensor) -> None:
    """Fill the upper triangle of a matrix of zeros on the CPU."""
    into, values, n, start = full.numpy(), triangle.numpy(), len(full), 0
    for i in range(n):
        into[i, i:] = values[start : start + n - i]
        start += n - i


def _fill_by_block(full: Tensor, triangle: Tensor) -> None:
    """Fill the upper triangle of a matrix of zeros on any device."""
    n = len(full)
    rows = torch.arange(n, device=full.device)
    starts = rows * n - rows * (rows + 1) // 2  # number j of row i stands at starts[i] + j
    for low in range(0, n, STRIPES[0]):
        high = min(low + STRIPES[0], n)
        # below the diagonal stand numbers of the row before
        part = triangle.take(starts[low:high, None] + rows[low:]).to(full.dtype)
        part[:, : high - low].triu_()
        full[low:high, low:] = part


class _FullPrecision:
    """A context manager in which fp32 products are computed in fp32.

    TF32 on CUDA and bf16 on the CPU are off inside, and as before afterwards. The switches belong
    to the process. The first thread that enters turns them off, the last one that leaves turns them
    on again, so threads that overlap cannot leave them wrong; products of other threads are
    meanwhile more exact than asked for, never less.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0  # threads inside
        self._switched: list[tuple[Any, str]] = []  # a switch of torch, its value before

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                switches: list[Any] = [
                    torch.backends.cuda.matmul,
                    # torch's stubs do not know it
                    getattr(torch.backends.mkldnn, "matmul"),  # noqa: B009
                ]
                for switch in switches:
                    # in the usual case it is exact already and nothing is touched
                    if switch.fp32_precision not in ("none", "ieee"):
                        self._switched.append((switch, switch.fp32_precision))
                        switch.fp32_precision = "ieee"

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            while self._depth == 0 and self._switched:
                switch, precision = self._switched.pop()
                switch.fp32_precision = precision


full_precision = _FullPrecision()  # one for the process, as the switches are
