"""What is stored of a subnetwork, and a subnetwork's cuts from what was stored.

Of a layer that changed: its consumer weight on the kept columns, (d, kept columns), or, where
nothing was kept, its bias (d,), under the model's own names. The rows that feed it follow from the
base and the kept groups. Read from the networks, not from `mosaic.cuts`: what is saved is what
runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..curves.plan import STAGES
from ..errors import StudioError
from ..models.layers import PrunableLayer
from ..pruning.cuts import Cut, kept_columns
from .manifest import ranges
from .slimming import Constant, cut_module
from .subnetworks import Subnetworks

ALL = "all"  # said of a layer that is the dense one


def contents(
    mosaic: Subnetworks, stage: int, masked: bool
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """(kept groups by layer name, tensors by the model's own names) of what runs in a stage; no
    copies where the network is slim.
    """
    kept, tensors = {}, {}
    for layer, groups in _changed(mosaic, stage):
        kept[layer.name] = ALL if groups is None else ranges(groups.tolist())
        if groups is None:
            continue
        module = mosaic.stages[stage].get_submodule(layer.module)
        consumer = (
            module
            if isinstance(module, Constant)
            else mosaic.stages[stage].get_submodule(layer.consumer)
        )
        if len(groups):
            weight = consumer.weight.detach()
            name, value = (
                f"{layer.consumer}.weight",
                weight[:, kept_columns(layer, groups, weight.device)] if masked else weight,
            )
        else:
            name, value = (
                f"{layer.consumer}.bias",
                (
                    torch.zeros(len(consumer.weight))
                    if consumer.bias is None
                    else consumer.bias.detach()
                ),
            )
        if not torch.isfinite(value).all():
            raise StudioError(
                f"The {STAGES[stage]} stage has NaN or infinity in the weights of {layer.name};"
                " prune again, with more damping or in float32."
            )
        tensors[name] = value
    return kept, tensors


def _changed(mosaic: Subnetworks, stage: int) -> Iterator[tuple[PrunableLayer, Tensor | None]]:
    """Every layer with the groups it keeps in a stage; None where the dense module itself runs."""
    for j, layer in enumerate(mosaic.layers):
        same = mosaic.stages[stage].get_submodule(layer.module) is mosaic.full.get_submodule(
            layer.module
        )
        yield layer, None if same else mosaic.cuts[stage][j].kept


def is_masked(mosaic: Subnetworks) -> bool:
    """Whether the subnetworks have their full width and zeroes."""
    for i, network in enumerate(mosaic.stages):
        for layer, groups in _changed(mosaic, i):
            if groups is not None and len(groups) < layer.groups:
                return (
                    not isinstance(network.get_submodule(layer.module), Constant)
                    and network.get_submodule(layer.consumer).in_features == layer.width
                )
    return False


def check_rebuilt(
    mosaic: Subnetworks, stage: int, tensors: dict[str, Tensor], masked: bool
) -> None:
    """Raise StudioError where base, kept indices and stored tensors would not give back, bit for
    bit, what runs: training it would be lost.
    """
    for layer, groups in _changed(mosaic, stage):
        if groups is None:
            continue
        stored = tensors[f"{layer.consumer}.{'weight' if len(groups) else 'bias'}"]
        rebuilt = cut_module(
            mosaic.dense, layer, restored_cut(mosaic.dense, layer, groups, stored), masked
        ).state_dict()
        if not equal(rebuilt, mosaic.stages[stage].get_submodule(layer.module).state_dict()):
            raise StudioError(
                f"{layer.name} of the {STAGES[stage]} stage was changed after it was cut from the"
                " dense model (trained, perhaps); not saved."
            )


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Same names, shapes and values."""
    return a.keys() == b.keys() and all(
        a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a
    )


def restored_cut(model: nn.Module, layer: PrunableLayer, groups: Tensor, stored: Tensor) -> Cut:
    """The cut of a layer from its stored tensor. Raises ValueError when that does not fit or is not
    finite.
    """
    consumer = model.get_submodule(layer.consumer).weight.detach()
    shape = (len(consumer), len(groups) * layer.group_size) if len(groups) else (len(consumer),)
    if tuple(stored.shape) != shape or not stored.is_floating_point():
        raise ValueError(
            f"{layer.consumer} is {stored.dtype} {list(stored.shape)} and should be floating"
            f" {list(shape)}"
        )
    if not torch.isfinite(stored).all():
        raise ValueError(f"{layer.consumer} has NaN or infinity")
    stored = stored.to(consumer, copy=True)  # a copy, as the file may go while the model lives
    return (
        Cut(groups, stored)
        if len(groups)
        else Cut(groups, consumer.new_zeros(len(consumer), 0), stored)
    )


def layer_rows(layers: list[PrunableLayer]) -> list[dict[str, Any]]:
    """How a manifest describes a model's layers: what must be the same for kept groups to mean the
    same.
    """
    return [
        {
            "name": x.name,
            "kind": x.kind,
            "consumer": x.consumer,
            "groups": x.groups,
            "group_size": x.group_size,
        }
        for x in layers
    ]
