"""Relative error of a layer whose weight has changed, on the tokens of a Gram."""

from __future__ import annotations

from torch import Tensor

LEAST_ENERGY = 1e-30  # a layer without output must not divide by zero


def output_energy(weight: Tensor, gram: Tensor) -> Tensor:
    """Return tr(W H W^T) = ||W X||^2, a scalar, of a weight (d, n) and a Gram (n, n)."""
    return ((weight @ gram) * weight).sum()


def relative_error(difference: Tensor, weight: Tensor, gram: Tensor) -> float:
    """Return tr(D H D^T) / tr(W H W^T) = ||W'X - WX||^2 / ||WX||^2, with D = W' - W."""
    energy = output_energy(weight, gram).clamp_min(LEAST_ENERGY)
    return float(output_energy(difference, gram) / energy)
