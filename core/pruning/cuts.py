"""What one layer keeps in one stage, its compensated weight, and the damping that this took."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.layers import PrunableLayer
from .damped_problem import PLAIN


@dataclass(frozen=True)
class Damping:
    """Of one compensated layer, both as shares of mean(diag H)."""

    asked: float  # one for all layers, or the layer's own choice on held-out tokens
    # on the eigenvalue floor: the floor, to which all smaller eigenvalues were raised
    in_force: float
    rung: str = PLAIN  # of the ladder in `core.pruning.damped_problem`

    @property
    def plain(self) -> bool:
        return self.rung == PLAIN


@dataclass(frozen=True)
class Cut:
    """What one layer keeps in one stage.

    A network takes a weight of the kept columns over as it is, so that nothing is in memory twice;
    of one with all columns it copies the kept ones.
    """

    kept: Tensor  # (kept groups,) ascending
    # (d, kept columns) or (d, all columns) compensated consumer weight; None: untouched
    weight: Tensor | None
    bias: Tensor | None = None  # (d,) a new bias; only where no group is kept, b + W mean(x)
    damping: Damping | None = None  # of the compensation; None where there was none


def kept_columns(layer: PrunableLayer, kept: Tensor, device: torch.device) -> Tensor:
    """(kept columns,) of the consumer's weight that these groups (kept groups,) feed."""
    return (
        (kept[:, None].cpu() * layer.group_size + torch.arange(layer.group_size))
        .flatten()
        .to(device)
    )
