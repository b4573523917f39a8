"""Networks in another precision than the model was loaded in, beside those that are there: for a
comparison, the model itself stays as it is.
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
    """Copies whose floating-point weights and buffers are of `dtype`; what the models share among
    themselves the copies share too.

    Raises StudioError where the memory that is free will not hold them.
    """
    first = first_parameter(models[0])
    needed, free = (
        unique_bytes(models) * dtype.itemsize // first.dtype.itemsize,
        free_memory(first.device),
    )
    if free is not None and needed > free:
        raise StudioError(
            f"In {str(dtype).removeprefix('torch.')} the networks need {needed / 1e9:.1f} GB beside"
            f" the model and {free / 1e9:.1f} GB are free on {first.device}: compare in the"
            " precision that the model was loaded in, or start the studio with --dtype."
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
    other = tensor.detach().to(dtype, copy=True)
    return (
        nn.Parameter(other, requires_grad=tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else other
    )
