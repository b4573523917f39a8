"""Say which widths a layer may have: a menu of levels, with floors and protected blocks.

Widths matter to the device, not to the method: a GPU multiplies in tiles and wants the kept neurons
in multiples of 64 or 128, a compiler that works region by region wants few distinct shapes, a CPU
takes every width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from ..errors import StudioError
from ..models.alignment import COLUMNS
from ..models.layers import TINY, PrunableLayer


@dataclass(frozen=True)
class Menu:
    """The widths that an allocation may choose from. Dense is always one of them.

    The menu depends on nothing that is measured, so it stays the same while a boundary is dragged,
    and compiled regions stay valid. Raises StudioError for an impossible menu.
    """

    # kept neurons are multiples of this (16, 64, 128), and kept heads have a multiple of 8 columns
    # together; None: the layer's own step
    multiple: int | None = None
    min_heads: int = 1  # heads that every layer keeps; 0 lets a whole attention go
    # neurons that every layer keeps; None: one multiple; 0 lets a whole MLP go
    min_neurons: int | None = None
    # share of its groups that each layer of the first and of the last block keeps; 1: they are not
    # pruned
    protect: float = 0.0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("multiple", self.multiple, 1),
            ("min_neurons", self.min_neurons, 0),
        ):
            if value is not None and not _whole(value, least):
                raise StudioError(
                    f"{name} of a width menu must be a whole number of at least {least}, or left"
                    " out."
                )
        if not _whole(self.min_heads, 0):
            raise StudioError("min_heads of a width menu must be a whole number of at least 0.")
        if (
            isinstance(self.protect, bool)
            or not isinstance(self.protect, Real)
            or not 0 <= self.protect <= 1
        ):
            raise StudioError(
                "protect of a width menu must be a share from 0 (no protection) to 1 (first and"
                " last block not pruned)."
            )

    def levels(self, layers: Sequence[PrunableLayer]) -> list[np.ndarray]:
        """Return the groups that may be removed, (levels,) ascending from 0, for each layer."""
        ends = (
            {min(layer.block for layer in layers), max(layer.block for layer in layers)}
            if layers
            else set()
        )
        found = []
        for layer in layers:
            removed = layer.groups - self._kept(layer)
            if layer.block in ends:
                removed = removed[layer.groups - removed >= self.protect * layer.groups - TINY]
            found.append(removed)
        return found

    def coarse(self, layer: PrunableLayer) -> bool:
        """Say whether the widths of a layer lie far apart.

        Equal ratios then round at a place of their own in each block to give the right mean.
        """
        return layer.kind == "heads" or (self.multiple or 0) > layer.step

    def _kept(self, layer: PrunableLayer) -> np.ndarray:
        """Return the kept groups of a layer, descending from dense."""
        if self.multiple is None:
            unit = layer.step
            kept = layer.groups - np.arange(0, layer.groups + 1, unit)
        else:
            unit = self.multiple
            if layer.kind == "heads":
                unit = COLUMNS // math.gcd(COLUMNS, layer.group_size)
            kept = np.arange((layer.groups - 1) // unit, -1, -1) * unit
        least = self.min_heads
        if layer.kind != "heads":
            least = unit if self.min_neurons is None else self.min_neurons
        widths = {layer.groups, *kept[kept >= least].tolist()}
        if least == 0:
            widths.add(0)
        return np.array(sorted(widths, reverse=True))


def _whole(value: object, least: int) -> bool:
    """Say whether a value is a whole number of at least `least`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
