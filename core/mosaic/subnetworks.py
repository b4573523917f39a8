"""Several networks over one dense denoiser: what each stage keeps and runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..curves.plan import STAGES, StagePlan
from ..errors import StudioError
from ..models.families import first_parameter
from ..models.layers import PrunableLayer
from ..pruning.cuts import Cut
from .adaln import OnceEmbedder
from .slimming import Constant, widened


class Subnetworks(nn.Module):
    """The networks of a plan's stages beside their dense model. `MosaicTransformer` makes them and
    routes by timestep.
    """

    plan: StagePlan | None  # None: dense
    enabled: bool
    layers: list[PrunableLayer]
    once: OnceEmbedder | None  # the embedder that all blocks share, where they do
    cuts: list[list[Cut] | None]  # which groups each layer keeps, without weights; None: all
    stages: nn.ModuleList  # in STAGES order; stages with the same cuts are one network
    config: Any  # the dense model's
    facts: dict[str, Any] | None = None  # what was said beside saved subnetworks
    _full: nn.Module | None

    @property
    def full(self) -> nn.Module:
        """The dense model as it runs here. Raises StudioError after `release_dense()`."""
        if self._full is None:
            raise StudioError(
                "The dense model was released from this MosaicTransformer; prune anew to have it"
                " back."
            )
        return self._full

    dense = full  # the same network under the name that says what it computes

    def networks(self) -> list[nn.Module]:
        """The different networks: those of the stages and the dense one unless it was released."""
        return list({id(n): n for n in [*self.stages, self._full] if n is not None}.values())

    @property
    def dtype(self) -> torch.dtype:
        return first_parameter(self.stages[0]).dtype

    @property
    def device(self) -> torch.device:
        return first_parameter(self.stages[0]).device

    def stage_of(self, timestep: float) -> int:
        """Index into STAGES of the subnetwork that runs at this timestep;
        -1 for the dense model.
        """
        return self.plan.stage_of(timestep) if self.enabled and self.plan is not None else -1

    def kept(self, stage: int) -> list[int]:
        """Groups that each layer keeps in a stage, in `layers` order."""
        cuts = self.cuts[stage]
        return [
            layer.groups if cuts is None else len(cut.kept)
            for layer, cut in zip(self.layers, cuts or [None] * len(self.layers), strict=True)
        ]

    def weight(self, stage: int, layer: int) -> Tensor:
        """The consumer weight (d, all columns) of a layer in a stage, zero in the columns of groups
        that went; a copy.
        """
        x, network, cuts = self.layers[layer], self.stages[stage], self.cuts[stage]
        if isinstance(constant := network.get_submodule(x.module), Constant):
            return constant.bias.new_zeros(len(constant.bias), x.width)
        weight = network.get_submodule(x.consumer).weight.detach()
        return weight.clone() if cuts is None else widened(x, replace(cuts[layer], weight=weight))

    def summary(self) -> str:
        """One line a stage: what runs there."""
        lines, blocks = [], len({layer.block for layer in self.layers})
        for stage, name in enumerate(STAGES):
            kept = self.kept(stage)
            heads, neurons = (
                sum(k for k, layer in zip(kept, self.layers, strict=True) if layer.kind == kind)
                for kind in ("heads", "neurons")
            )
            lines.append(f"{name}: {heads} heads, {neurons} neurons in {blocks} blocks")
        return "\n".join(lines)
