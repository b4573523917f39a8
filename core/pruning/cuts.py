"""What one layer keeps in one stage, its compensated weight, and the damping of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..models.layers import PrunableLayer
from .damped_problem import PLAIN
from .groups import columns_of_groups


@dataclass(frozen=True)
class Damping:
    """The damping of one compensated layer, as shares of mean(diag H)."""

    asked: float  # one for all layers, or the layer's own choice on held-out tokens
    # on the eigenvalue floor: the floor, to which all smaller eigenvalues were raised
    in_force: float
    rung: str = PLAIN  # of the ladder in `core.pruning.damped_problem`

    @property
    def plain(self) -> bool:
        """Say whether the layer was compensated at the damping that was asked for."""
        return self.rung == PLAIN


@dataclass(frozen=True)
class Cut:
    """What one layer keeps in one stage.

    The weight has the kept columns only. A network takes the weight over as it is, so that no
    weight is in memory twice.
    """

    kept: Tensor  # (kept groups,) ascending
    # (d, kept columns) compensated consumer weight; None: the layer stays as it is
    weight: Tensor | None
    bias: Tensor | None = None  # (d,) a new bias; only where no group is kept, b + W mean(x)
    damping: Damping | None = None  # of the compensation; None where there was none


def kept_columns(layer: PrunableLayer, kept: Tensor, device: torch.device) -> Tensor:
    """Return the columns (kept columns,) of the consumer's weight that the groups `kept` feed."""
    return columns_of_groups(kept.cpu(), layer.group_size).to(device)


def consumer_of(model: nn.Module, layer: PrunableLayer) -> nn.Linear:
    """Return the linear layer of `model` that loses the columns of `layer`."""
    return cast(nn.Linear, model.get_submodule(layer.consumer))
