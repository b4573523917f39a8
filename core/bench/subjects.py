"""Make what the benchmarks run: random DiTs, cuts at a sparsity, gathering networks.

Time and memory follow from shapes, not from the values of the weights, so the true widths of
DiT-XL/2 can be measured without its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..curves.plan import StagePlan
from ..models.layers import PrunableLayer, find_layers, removed_groups
from ..mosaic.slimming import graft, shallow
from ..mosaic.transformer import MosaicTransformer, embedders
from ..pruning.cuts import Cut, consumer_of, kept_columns
from ..workshop.workshop import Workshop

DIT_XL_2 = {  # facebook/DiT-XL-2-256, transformer/config.json
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "in_channels": 4,
    "out_channels": 8,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
# what the cost of one block follows from
WIDTH = ("norm_type", "num_attention_heads", "attention_head_dim", "sample_size", "patch_size")
BLOCKS = 2  # of the true width: enough to time, a fourteenth of the whole


@dataclass(frozen=True)
class Subject:
    """A dense denoiser that benchmarks are run on."""

    name: str
    model: nn.Module
    layers: list[PrunableLayer]

    @property
    def xl(self) -> bool:
        """Say whether the blocks are DiT-XL/2's, however many: its goals hold for them then."""
        config = cast(Mapping[str, object], self.model.config)
        return all(config.get(name) == DIT_XL_2[name] for name in WIDTH)

    @property
    def whole_xl(self) -> bool:
        """Say whether this is all of DiT-XL/2."""
        config = cast(Mapping[str, object], self.model.config)
        return self.xl and config.get("num_layers") == DIT_XL_2["num_layers"]


def shapes_of_dit(dtype: torch.dtype = torch.float32, **changes: Any) -> nn.Module:
    """Return DiT-XL/2 as shapes without memory (device "meta").

    changes: to its configuration.
    """
    from diffusers import DiTTransformer2DModel

    with torch.device("meta"):
        model = cast(nn.Module, DiTTransformer2DModel(**DIT_XL_2 | changes))
    return model.to(dtype).eval().requires_grad_(False)


@torch.no_grad()
def random_dit(
    device: torch.device, dtype: torch.dtype, seed: int = 0, **changes: Any
) -> nn.Module:
    """Return a DiT with random weights (normal, 0.02) and equal conditioning embedders.

    The published checkpoint has equal embedders too.
    """
    model = shapes_of_dit(dtype, **changes).to_empty(device=device)
    random = torch.Generator(device).manual_seed(seed)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.normal_(0.0, 0.02, generator=random)
    first, *others = embedders(model).values()
    for other in others:
        other.load_state_dict(first.state_dict())
    return model


def blocks_of_xl(device: torch.device, dtype: torch.dtype, **changes: Any) -> Subject:
    """Return a DiT of the width of DiT-XL/2 with two blocks, or with `changes` to that."""
    changes = {"num_layers": BLOCKS} | changes
    model = random_dit(device, dtype, **changes)
    name = (
        f"DiT-XL/2, {changes['num_layers']} blocks"
        if changes.keys() == {"num_layers"}
        else f"DiT, {changes['num_layers']} blocks"
    )
    return Subject(name, model, find_layers(model))


def subject_of(workshop: Workshop) -> Subject:
    """Return the dense model that a workshop holds."""
    return Subject(workshop.name, workshop.transformer, workshop.layers)


def uniform_cuts(subject: Subject, sparsity: float, seed: int = 0) -> list[Cut]:
    """Return cuts of every layer at one sparsity.

    Groups go at random, so that what is kept lies scattered as it does after a real calibration.
    """
    return cuts_of(subject, removed_groups(subject.layers, sparsity), seed)


def cuts_of(subject: Subject, removed: list[int], seed: int = 0) -> list[Cut]:
    """Return cuts that remove so many groups of each layer, at random.

    The dense weights stay on the other groups.
    """
    random = torch.Generator().manual_seed(seed)
    cuts: list[Cut] = []
    for layer, gone in zip(subject.layers, removed, strict=True):
        kept = torch.randperm(layer.groups, generator=random)[gone:].sort().values
        if not gone:
            cuts.append(Cut(kept, None))
            continue
        weight = consumer_of(subject.model, layer).weight
        cuts.append(Cut(kept, weight[:, kept_columns(layer, kept, weight.device)]))
    return cuts


def mosaic_of(subject: Subject, cuts: list[Cut] | None, masked: bool = False) -> MosaicTransformer:
    """Return one network for all timesteps; None: dense."""
    plan = None if cuts is None else StagePlan((1, 2), (0.0, 0.0, 0.0))
    return MosaicTransformer(subject.model, plan, [cuts] * 3, masked, subject.layers)


class GatheredLinear(nn.Module):
    """A linear layer that picks its rows and columns out of a wide one at every call."""

    rows: Tensor | None
    columns: Tensor | None

    def __init__(self, wide: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None):
        super().__init__()
        self.wide = wide
        for name, index in (("rows", rows), ("columns", columns)):
            self.register_buffer(
                name, None if index is None else index.to(wide.weight.device), persistent=False
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the picked weight: (..., kept columns) -> (..., kept rows)."""
        weight: Tensor = self.wide.weight
        bias: Tensor | None = self.wide.bias
        if self.rows is not None:
            weight = weight.index_select(0, self.rows)
            bias = None if bias is None else bias.index_select(0, self.rows)
        if self.columns is not None:
            weight = weight.index_select(1, self.columns)
        return nn.functional.linear(x, weight, bias)


def gathering(subject: Subject, cuts: list[Cut]) -> MosaicTransformer:
    """Return the network that a supernet such as Diff-ES's runs.

    Full-width weights lie in memory; kept rows and columns are gathered from them in every forward.
    """
    slim, masked = mosaic_of(subject, cuts), mosaic_of(subject, cuts, masked=True)
    parts: dict[str, nn.Module] = {}
    for layer, cut in zip(subject.layers, cuts, strict=True):
        if cut.weight is None or not len(cut.kept):
            continue
        columns = kept_columns(layer, cut.kept, torch.device("cpu"))
        names = ("to_q", "to_k", "to_v") if layer.kind == "heads" else ("net.0.proj",)
        for name in names:
            wide = cast(nn.Linear, subject.model.get_submodule(f"{layer.module}.{name}"))
            # two of them with a gate
            rows = torch.cat(
                [columns + layer.width * k for k in range(wide.out_features // layer.width)]
            )
            parts[f"{layer.module}.{name}"] = GatheredLinear(wide, rows=rows)
        parts[layer.consumer] = GatheredLinear(
            consumer_of(masked.stages[0], layer), columns=columns
        )
    return shallow(slim, stages=nn.ModuleList([graft(slim.stages[0], parts)] * 3))
