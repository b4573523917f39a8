"""Hold what images are conditioned on, in one form for every family of models.

Everything else in `core` handles a denoiser as `network(x, t, **conditions)`: keyword arguments
whose tensors (some nested in a dictionary, as `added_cond_kwargs` is) have one entry per image in
front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..guidance import Half

Arguments = dict[str, Any]  # keyword arguments of a forward; tensors, or dictionaries of tensors


class ImageRequest(Protocol):
    """What a comparison asks a model to paint (`core.workshop.comparison.SampleSettings`)."""

    @property
    def labels(self) -> Sequence[int]:
        """Return the class of every image; empty for a model that paints from text."""

    @property
    def prompts(self) -> Sequence[str]:
        """Return the prompt of every image; empty for a model that paints classes."""

    @property
    def negative(self) -> str:
        """Return the negative prompt of all images; "" without one."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Return (height, width) in pixels; None for the size of the model."""


def each_tensor(arguments: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    """Return the same arguments with every tensor changed."""
    return {
        k: each_tensor(v, change) if isinstance(v, dict) else change(v)
        for k, v in arguments.items()
    }


def concat_arguments(first: Arguments, second: Arguments) -> Arguments:
    """Concatenate two batches of arguments into one, image by image."""
    return {
        k: concat_arguments(v, second[k]) if isinstance(v, dict) else torch.cat([v, second[k]])
        for k, v in first.items()
    }


def leaves(arguments: Arguments) -> list[Tensor]:
    """Return the tensors among arguments, in order."""
    return [t for v in arguments.values() for t in (leaves(v) if isinstance(v, dict) else [v])]


@dataclass(frozen=True)
class Conditions:
    """The conditions of n images, and the unconditional twins that guidance leads away from."""

    positive: Arguments
    negative: Arguments

    def __len__(self) -> int:
        return len(leaves(self.positive)[0])

    def rows(self, which: slice | Tensor) -> Conditions:
        """Return the conditions of some of the images, by slice or indices."""
        return Conditions(
            each_tensor(self.positive, lambda v: v[which]),
            each_tensor(self.negative, lambda v: v[which]),
        )

    def batch(self, half: Half, device: torch.device, dtype: torch.dtype) -> Arguments:
        """Return one batch to run; of both halves the conditional rows come first.

        Floating tensors get `dtype`; labels stay whole numbers.
        """
        rows = self.positive if half == "conditional" else self.negative
        if half == "both":
            rows = concat_arguments(self.positive, self.negative)
        return each_tensor(
            rows, lambda v: v.to(device, dtype) if v.is_floating_point() else v.to(device)
        )

    def pair(self, device: torch.device, dtype: torch.dtype, guided: bool = True) -> Arguments:
        """Return one `batch`: both halves if `guided`, else the conditional rows."""
        return self.batch("both" if guided else "conditional", device, dtype)
