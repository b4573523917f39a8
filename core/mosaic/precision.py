"""Copy networks to another precision than the model was loaded in, for a comparison.

The model itself stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StudioError
from ..memory import free_memory
from ..models.families import first_parameter
from .slimming import unique_bytes
from .transformer import MosaicTransformer


def in_precision(
    models: Sequence[MosaicTransformer], dtype: torch.dtype
) -> list[MosaicTransformer]:
    """Return copies whose floating-point weights and buffers are of `dtype`.

    Tensors that the models share among themselves the copies share too. Raises StudioError where
    the free memory will not hold the copies.
    """
    first = first_parameter(models[0])
    needed = unique_bytes(models) * dtype.itemsize // first.dtype.itemsize
    free = free_memory(first.device)
    if free is not None and needed > free:
        raise StudioError(
            f"In {str(dtype).removeprefix('torch.')} the networks need {needed / 1e9:.1f} GB beside"
            f" the model and {free / 1e9:.1f} GB are free on {first.device}: compare in the"
            " precision that the model was loaded in, or load the model in the other one."
        )
    # deepcopy takes what stands here for the copy, so that no weight is there in two precisions at
    # once
    cast: dict[int, Any] = {}
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and id(tensor) not in cast:
                cast[id(tensor)] = _cast(tensor, dtype)
    return list(copy.deepcopy(tuple(models), cast))


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy of a tensor in another precision; of a parameter, a parameter."""
    other = tensor.detach().to(dtype, copy=True)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(other, requires_grad=tensor.requires_grad)
    return other
