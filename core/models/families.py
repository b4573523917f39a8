"""Find the family of a denoiser, which answers for all that differs between models.

Latents, conditions, blocks, and what cannot be sampled or pruned: a new kind of model is one more
class like `DiT` and `SDXL`, listed in `FAMILIES`.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, nn

from ..errors import StudioError
from .conditions import Arguments, Conditions, concat_arguments, each_tensor, leaves
from .dit import NULL_CLASS, DiT
from .sdxl import SDXL, TEXT_TOKENS
from .shapes import BlockSite, whole_size

__all__ = [
    "FAMILIES",
    "NULL_CLASS",
    "SDXL",
    "TEXT_TOKENS",
    "Arguments",
    "BlockSite",
    "Conditions",
    "DiT",
    "Family",
    "concat_arguments",
    "each_tensor",
    "family_of",
    "first_parameter",
    "leaves",
    "whole_size",
]

Family: TypeAlias = type[DiT] | type[SDXL]
FAMILIES: tuple[Family, ...] = (DiT, SDXL)


def family_of(model: nn.Module) -> Family:
    """Return the family of a denoiser, DiT or SDXL. Raises StudioError for anything else."""
    if hasattr(model, "release_dense"):  # a MosaicTransformer, which this module cannot import
        raise StudioError("This model is pruned already: take its dense model (.full) instead.")
    for family in FAMILIES:
        if family.fits(model):
            return family
    raise StudioError(
        f"{type(model).__name__} is neither a DiT (DiTTransformer2DModel) nor SDXL's UNet as"
        " diffusers builds them; only these are pruned."
    )


def first_parameter(model: nn.Module) -> Tensor:
    """Return the first floating parameter, which stands for the model's device and dtype.

    Raises StudioError for a model without floating weights.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter
    raise StudioError(
        f"{type(model).__name__} has no floating-point weights (quantised, perhaps): load it in"
        " fp32, fp16 or bf16."
    )
