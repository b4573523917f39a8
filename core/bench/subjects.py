"""What the benchmarks run: a DiT of a given configuration with random weights, cuts at a sparsity,
and gathering at every forward.

Time and memory follow from shapes, not from the values of the weights, so the true widths of
DiT-XL/2 can be measured without its checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..curves.plan import StagePlan
from ..models.layers import PrunableLayer, find_layers, removed_groups
from ..mosaic.slimming import graft, shallow
from ..mosaic.transformer import MosaicTransformer, embedders
from ..pruning.cuts import Cut
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
        """Whether its blocks are DiT-XL/2's, however many: then the goals set for DiT-XL/2 are for
        it.
        """
        config = self.model.config
        return all(config.get(name) == DIT_XL_2[name] for name in WIDTH)


def shapes_of_dit(dtype: torch.dtype = torch.float32, **changes: Any) -> nn.Module:
    """DiT-XL/2, or that with `changes` to its configuration, as shapes without memory (device
    "meta").
    """
    from diffusers import DiTTransformer2DModel

    with torch.device("meta"):
        return DiTTransformer2DModel(**DIT_XL_2 | changes).to(dtype).eval().requires_grad_(False)


@torch.no_grad()
def random_dit(
    device: torch.device, dtype: torch.dtype, seed: int = 0, **changes: Any
) -> nn.Module:
    """The same with random weights (normal, 0.02) and equal conditioning embedders, as the
    published checkpoint has.
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
    """A DiT of the width of DiT-XL/2 with two blocks (or what `changes` make of it)."""
    changes = {"num_layers": BLOCKS} | changes
    model = random_dit(device, dtype, **changes)
    name = (
        f"DiT-XL/2, {changes['num_layers']} blocks"
        if changes.keys() == {"num_layers"}
        else f"DiT, {changes['num_layers']} blocks"
    )
    return Subject(name, model, find_layers(model))


def subject_of(workshop: Workshop) -> Subject:
    """The dense model that a workshop holds."""
    return Subject(workshop.name, workshop.transformer, workshop.layers)


def uniform_cuts(subject: Subject, sparsity: float, seed: int = 0) -> list[Cut]:
    """Cuts of every layer at one sparsity: groups at random, so that what is kept lies scattered as
    it does after a real calibration.
    """
    return cuts_of(subject, removed_groups(subject.layers, sparsity), seed)


def cuts_of(subject: Subject, removed: list[int], seed: int = 0) -> list[Cut]:
    """Cuts that take away so many groups of each layer, at random; the dense weights stay on the
    others.
    """
    random, cuts = torch.Generator().manual_seed(seed), []
    for layer, gone in zip(subject.layers, removed, strict=True):
        kept = torch.randperm(layer.groups, generator=random)[gone:].sort().values
        if not gone:
            cuts.append(Cut(kept, None))
            continue
        mask = torch.zeros(layer.groups, dtype=torch.bool)
        mask[kept] = True
        weight = subject.model.get_submodule(layer.consumer).weight
        cuts.append(Cut(kept, weight * mask.repeat_interleave(layer.group_size).to(weight)))
    return cuts


def mosaic_of(subject: Subject, cuts: list[Cut] | None, masked: bool = False) -> MosaicTransformer:
    """One network for all timesteps; None: dense."""
    plan = None if cuts is None else StagePlan((1, 2), (0.0, 0.0, 0.0))
    return MosaicTransformer(subject.model, plan, [cuts] * 3, masked, subject.layers)


class GatheredLinear(nn.Module):
    """A linear layer that picks its rows and columns out of a wide one at every call."""

    def __init__(self, wide: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None):
        super().__init__()
        self.wide = wide
        for name, index in (("rows", rows), ("columns", columns)):
            self.register_buffer(
                name, None if index is None else index.to(wide.weight.device), persistent=False
            )

    def forward(self, x: Tensor) -> Tensor:
        """(..., kept columns) -> (..., kept rows)."""
        weight, bias = self.wide.weight, self.wide.bias
        if self.rows is not None:
            weight, bias = (
                weight.index_select(0, self.rows),
                None if bias is None else bias.index_select(0, self.rows),
            )
        if self.columns is not None:
            weight = weight.index_select(1, self.columns)
        return nn.functional.linear(x, weight, bias)


def gathering(subject: Subject, cuts: list[Cut]) -> MosaicTransformer:
    """What a supernet such as Diff-ES's runs: full-width weights in memory, kept rows and columns
    gathered from them in every forward.
    """
    slim, masked = mosaic_of(subject, cuts), mosaic_of(subject, cuts, masked=True)
    parts: dict[str, nn.Module] = {}
    for layer, cut in zip(subject.layers, cuts, strict=True):
        if cut.weight is None or not len(cut.kept):
            continue
        columns = (cut.kept[:, None] * layer.group_size + torch.arange(layer.group_size)).flatten()
        names = ("to_q", "to_k", "to_v") if layer.kind == "heads" else ("net.0.proj",)
        for name in names:
            wide = subject.model.get_submodule(f"{layer.module}.{name}")
            # two of them with a gate
            rows = torch.cat(
                [columns + layer.width * k for k in range(wide.out_features // layer.width)]
            )
            parts[f"{layer.module}.{name}"] = GatheredLinear(wide, rows=rows)
        parts[layer.consumer] = GatheredLinear(
            masked.stages[0].get_submodule(layer.consumer), columns=columns
        )
    return shallow(slim, stages=nn.ModuleList([graft(slim.stages[0], parts)] * 3))
