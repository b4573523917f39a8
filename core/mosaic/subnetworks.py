"""Hold several networks over one dense denoiser: what each stage keeps and runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..curves.plan import STAGES, StagePlan
from ..errors import StudioError
from ..guidance import scales_of
from ..models.alignment import width_warnings
from ..models.families import first_parameter
from ..models.layers import PrunableLayer
from ..pruning.cuts import Cut, consumer_of
from .adaln import OnceEmbedder
from .adaln_table import KeptTable
from .slimming import Constant, full_width


class Subnetworks(nn.Module):
    """The networks of a plan's stages beside their dense model.

    `MosaicTransformer` makes them and routes by timestep.
    """

    plan: StagePlan | None  # None: dense
    enabled: bool
    masked: bool  # whether cut layers keep their full width and only zeroes
    layers: list[PrunableLayer]
    once: OnceEmbedder | None  # the embedder that all blocks share, where they do
    # the adaLN vectors of an exported model, which has no weights for them; else None
    table: KeptTable | None
    cuts: list[list[Cut] | None]  # which groups each layer keeps, without weights; None: all
    stages: nn.ModuleList  # in STAGES order; stages with the same cuts are one network
    config: Any  # the dense model's
    facts: dict[str, Any]  # plain JSON that is saved beside the subnetworks; {} unless loaded
    _full: nn.Module | None

    @property
    def full(self) -> nn.Module:
        """Return the dense model as it runs here. Raises StudioError after `release_dense()`."""
        if self._full is None:
            raise StudioError(
                "The dense model was released from this MosaicTransformer; prune anew to have it"
                " back."
            )
        return self._full

    dense = full  # the name of version 0.1; `Workshop.dense` is a mosaic, this is a network

    def networks(self) -> list[nn.Module]:
        """Return the different networks: those of the stages, and the dense one unless released."""
        return list({id(n): n for n in [*self.stages, self._full] if n is not None}.values())

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the first weight."""
        return first_parameter(self.stages[0]).dtype

    @property
    def device(self) -> torch.device:
        """Return the device of the first weight."""
        return first_parameter(self.stages[0]).device

    def stage_of(self, timestep: float) -> int:
        """Return the index into STAGES of the subnetwork for this timestep; -1: the dense model."""
        return self.plan.stage_of(timestep) if self.enabled and self.plan is not None else -1

    def scales(self, guidance: float) -> tuple[float, ...]:
        """Return the guidance scale of each stage, and of the dense model last.

        guidance: of the run; a plan may set another one for a stage. `stage_of` gives the index.
        """
        own = self.plan.guidance if self.enabled and self.plan is not None else None
        return scales_of(own, guidance)

    def full_steps(self, stages: Sequence[int]) -> list[bool]:
        """Return which model calls of a run compute every layer; the others reuse what they gave.

        stages: of every call in turn, as `stage_of` gives them.
        """
        if self.plan is None:
            return [True] * len(stages)
        return self.plan.full_steps(stages)

    def kept(self, stage: int) -> list[int]:
        """Return the number of groups that each layer keeps in a stage, in `layers` order."""
        cuts = self.cuts[stage]
        if cuts is None:
            return [layer.groups for layer in self.layers]
        return [len(cut.kept) for cut in cuts]

    def width_warnings(self, device: str | None = None) -> list[str]:
        """Return sentences on widths that a kind of device minds, by layer.

        device: "cuda", say; None: the one that the networks are on.
        """
        kept = [self.kept(stage) for stage in range(len(STAGES))]
        return width_warnings(self.layers, kept, self.device.type if device is None else device)

    def weight(self, stage: int, layer: int) -> Tensor:
        """Return a copy of the consumer weight (d, all columns) of a layer in a stage.

        Columns of removed groups are zero.
        """
        x = self.layers[layer]
        network = self.stages[stage]
        cuts = self.cuts[stage]
        part = network.get_submodule(x.module)
        if isinstance(part, Constant):
            return part.bias.new_zeros(len(part.bias), x.width)
        weight = consumer_of(network, x).weight.detach()
        if cuts is None or self.masked or len(cuts[layer].kept) == x.groups:
            return weight.clone()
        kept = cuts[layer].kept
        return full_width(x, kept, weight[:, : len(kept) * x.group_size])

    def summary(self) -> str:
        """Return one line per stage: the heads and neurons that run there."""
        lines = []
        blocks = len({layer.block for layer in self.layers})
        for stage, name in enumerate(STAGES):
            kept = self.kept(stage)
            counts = {"heads": 0, "neurons": 0}
            for count, layer in zip(kept, self.layers, strict=True):
                counts[layer.kind] += count
            what = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            lines.append(f"{name}: {what} in {blocks} blocks")
        return "\n".join(lines)
