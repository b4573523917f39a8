"""Groups of input columns: the columns of a group, and checked lists of indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import StudioError


def columns_of_groups(groups: Tensor, size: int) -> Tensor:
    """Return the column indices (g * size,) of group indices (g,), group by group.

    The indices stay on the device of `groups`.
    """
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def distinct_indices(values: Tensor | Sequence[int], count: int, name: str) -> Tensor:
    """Return distinct int64 indices below `count`, on the CPU.

    Raises StudioError for anything else.
    """
    indices = torch.as_tensor(values).detach().cpu()
    if indices.numel() == 0:
        return torch.zeros(0, dtype=torch.int64)
    if (
        indices.ndim != 1
        or indices.dtype == torch.bool
        or indices.is_floating_point()
        or indices.is_complex()
    ):
        raise StudioError(
            f"{name} must be a list of whole numbers, not {indices.dtype} of shape"
            f" {tuple(indices.shape)}."
        )
    indices = indices.to(torch.int64)
    if indices.min() < 0 or indices.max() >= count or len(indices.unique()) != len(indices):
        raise StudioError(f"{name} must hold different numbers from 0 to {count - 1}.")
    return indices
