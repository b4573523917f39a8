"""Read the sizes of a denoiser: its latents and the tokens of its blocks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import StudioError


@dataclass(frozen=True)
class BlockSite:
    """The place of one transformer block in a denoiser."""

    path: str  # "transformer_blocks.3"
    name: str  # "block 4", "down 1.0 block 2"
    tokens: int  # of one image at the model's nominal size
    context: int  # tokens that a second attention looks at; 0 without one


def config_of(model: nn.Module) -> Any:
    """Return the configuration of a diffusers model, whose entries are attributes too."""
    return model.config


def whole_size(size: object) -> int:
    """Return a denoiser's `sample_size`.

    Raises StudioError for what is not one positive whole number.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        given = json.dumps(size, default=str)
        raise StudioError(
            f"The denoiser's sample_size is {given[:40]}; only one whole number, the same for"
            " height and width, is supported: correct its config.json."
        )
    return size


def nominal_shape(model: nn.Module) -> tuple[int, int, int]:
    """Return the shape (c, h, w) of latents of the size that a denoiser is configured for."""
    config = config_of(model)
    size = whole_size(config.sample_size)
    return config.in_channels, size, size
