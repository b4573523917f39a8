"""Read what is stored of a subnetwork, and restore a subnetwork's cuts from it.

Of a layer that changed, its consumer weight on the kept columns is stored, (d, kept columns), or,
where nothing was kept, its bias (d,), under the model's own names. The rows that feed the layer
follow from the base and the kept groups. Everything is read from the networks, not from
`mosaic.cuts`: what is saved is what runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..curves.plan import STAGES
from ..errors import StudioError
from ..models.layers import PrunableLayer
from ..pruning.cuts import Cut, consumer_of, kept_columns
from .manifest import ranges
from .slimming import Constant, cut_module
from .subnetworks import Subnetworks

ALL = "all"  # stands for the kept groups of a layer that is the dense one


def stage_contents(
    mosaic: Subnetworks, stage: int, masked: bool
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return kept groups by layer name and tensors by name of what runs in a stage.

    Names of tensors are the model's own. There are no copies where the network is slim. Raises
    StudioError for NaN and infinity.
    """
    kept, tensors = {}, {}
    for layer, groups in _changed(mosaic, stage):
        kept[layer.name] = ALL if groups is None else ranges(groups.tolist())
        if groups is None:
            continue
        network = mosaic.stages[stage]
        name = stored_name(layer, groups)
        if len(groups):
            value = consumer_of(network, layer).weight.detach()
            if masked:
                value = value[:, kept_columns(layer, groups, value.device)]
            else:  # without the zero neurons that fill a width up
                value = value[:, : len(groups) * layer.group_size].contiguous()
        else:
            value = _constant(network, layer)
        if not torch.isfinite(value).all():
            raise StudioError(
                f"The {STAGES[stage]} stage has NaN or infinity in the weights of {layer.name};"
                " prune again, with more damping or in float32."
            )
        tensors[name] = value
    return kept, tensors


def stored_name(layer: PrunableLayer, groups: Tensor) -> str:
    """Return the name of a layer's stored tensor: its weight, or its bias without any group."""
    return f"{layer.consumer}.{'weight' if len(groups) else 'bias'}"


def _constant(network: nn.Module, layer: PrunableLayer) -> Tensor:
    """Return the bias (d,) of a layer that keeps no group."""
    module = network.get_submodule(layer.module)
    if isinstance(module, Constant):
        return module.bias.detach()
    consumer = consumer_of(network, layer)
    if consumer.bias is None:
        return torch.zeros(len(consumer.weight))
    return consumer.bias.detach()


def _changed(mosaic: Subnetworks, stage: int) -> Iterator[tuple[PrunableLayer, Tensor | None]]:
    """Yield every layer with the groups that it keeps in a stage.

    None instead of groups where the dense module itself runs.
    """
    cuts = mosaic.cuts[stage]
    network = mosaic.stages[stage]
    for j, layer in enumerate(mosaic.layers):
        dense = mosaic.full.get_submodule(layer.module)
        if cuts is None or network.get_submodule(layer.module) is dense:
            yield layer, None
        else:
            yield layer, cuts[j].kept


def is_masked(mosaic: Subnetworks) -> bool:
    """Say whether the subnetworks have their full width and zeroes."""
    for i, network in enumerate(mosaic.stages):
        for layer, groups in _changed(mosaic, i):
            if groups is not None and len(groups) < layer.groups:
                if isinstance(network.get_submodule(layer.module), Constant):
                    return False
                return mosaic.masked
    return False


def check_rebuilt(
    mosaic: Subnetworks, stage: int, tensors: dict[str, Tensor], masked: bool
) -> None:
    """Raise StudioError where stored data would not give back, bit for bit, what runs.

    Stored data are base, kept indices and tensors; anything trained since the cut would be lost.
    """
    for layer, groups in _changed(mosaic, stage):
        if groups is None:
            continue
        stored = tensors[stored_name(layer, groups)]
        cut = restored_cut(mosaic.full, layer, groups, stored)
        width = None
        if layer.kind == "neurons" and len(groups) and not masked:
            # it may have been moved to another precision since
            width = consumer_of(mosaic.stages[stage], layer).in_features
        rebuilt = cut_module(mosaic.full, layer, cut, masked, width).state_dict()
        if not same_tensors(rebuilt, mosaic.stages[stage].get_submodule(layer.module).state_dict()):
            raise StudioError(
                f"{layer.name} of the {STAGES[stage]} stage was changed after it was cut from the"
                " dense model (trained, perhaps); not saved."
            )


def same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Say whether names, shapes and values are the same."""
    return a.keys() == b.keys() and all(
        a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a
    )


def restored_cut(model: nn.Module, layer: PrunableLayer, groups: Tensor, stored: Tensor) -> Cut:
    """Return the cut of a layer from its stored tensor.

    Raises ValueError when the tensor does not fit or is not finite.
    """
    consumer = consumer_of(model, layer).weight.detach()
    shape = (len(consumer), len(groups) * layer.group_size) if len(groups) else (len(consumer),)
    if tuple(stored.shape) != shape or not stored.is_floating_point():
        raise ValueError(
            f"{layer.consumer} is {stored.dtype} {list(stored.shape)} and should be floating"
            f" {list(shape)}"
        )
    if not torch.isfinite(stored).all():
        raise ValueError(f"{layer.consumer} has NaN or infinity")
    stored = stored.to(consumer, copy=True)  # a copy, as the file may go while the model lives
    if len(groups):
        return Cut(groups, stored)
    return Cut(groups, consumer.new_zeros(len(consumer), 0), stored)


def layer_rows(layers: list[PrunableLayer]) -> list[dict[str, Any]]:
    """Return a model's layers as a manifest describes them.

    The rows must be the same for kept groups to mean the same.
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
