"""Cuts hold kept columns only: full-width weights never pile up, and networks are those of
full-width cuts, bit for bit.
"""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from conftest import make_pipeline
from mosaics import PLAN, cuts_of
from running import KINDS, denoiser, make_pipelines
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.models.checkpoints import load_checkpoint
from core.models.layers import find_layers
from core.mosaic.transformer import MosaicTransformer
from core.workshop.workshop import Workshop


class FullWidth(TorchDispatchMode):
    """How many weights of this shape, apart from the dense model's own, were alive at once among
    the results of all operators.
    """

    def __init__(self, shape: tuple[int, int], dense: torch.nn.Module):
        super().__init__()
        self.shape, self.most = shape, 0
        self.own = {p.untyped_storage().data_ptr() for p in dense.parameters()}
        self.seen: list[weakref.ref] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.seen += [
            weakref.ref(t)
            for t in tree_leaves(found)
            if isinstance(t, torch.Tensor) and t.shape == self.shape
        ]
        alive = [t for ref in self.seen if (t := ref()) is not None]
        self.most = max(self.most, len({t.untyped_storage().data_ptr() for t in alive} - self.own))
        return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory, small_settings):
    """Five blocks, so that one layer's worth and all layers' are far apart."""
    folder = make_pipeline(tmp_path_factory.mktemp("five") / "tiny-dit", blocks=5)
    shop = Workshop(
        load_checkpoint(folder, "cpu", dtype=torch.float32),
        small_settings,
        tmp_path_factory.mktemp("cache"),
    )
    shop.calibrate()
    return shop


def mlp(shop):
    """Index and consumer shape of an MLP, which no other matrix shares."""
    i = next(i for i, layer in enumerate(shop.layers) if layer.kind == "neurons")
    return i, shop.pruner.weight(i).shape


@pytest.mark.parametrize("method", ["obs", "magnitude"])
def test_building_holds_the_full_width_of_one_layer_at_a_time(shop, method, tmp_path):
    i, shape = mlp(shop)
    with FullWidth(shape, shop.transformer) as one:
        shop.pruner.cut(i, 0, 100, shop.layers[i].groups // 2, method)
    with FullWidth(shape, shop.transformer) as three_stages:
        mosaic = shop.build(StagePlan((100, 600), (0.5, 0.25, 0.75), method=method))
    assert three_stages.most <= one.most
    mosaic.save_pretrained(tmp_path / "saved")
    with FullWidth(shape, shop.transformer) as loading:
        loaded = MosaicTransformer.from_pretrained(tmp_path / "saved", shop.transformer)
    assert loading.most == 0
    for a, b in zip(mosaic.stages, loaded.stages, strict=True):
        assert all(
            torch.equal(x, y)
            for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        )


@pytest.fixture(scope="module")
def pipelines(model_folder, tmp_path_factory):
    return make_pipelines(model_folder, tmp_path_factory.mktemp("narrow") / "tiny-sdxl")


def only_kept(layer, cut):
    """The same cut with the columns of its groups alone, picked by a mask."""
    if cut.weight is None:
        return cut
    mask = torch.zeros(layer.groups, dtype=torch.bool)
    mask[cut.kept] = True
    return replace(cut, weight=cut.weight[:, mask.repeat_interleave(layer.group_size)])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_narrow_and_full_cuts_give_the_same_network(pipelines, kind, masked):
    model = denoiser(pipelines[kind])
    full = cuts_of(model, share=0.6, nothing=(1,), untouched=(2,))
    slim = [only_kept(layer, cut) for layer, cut in zip(find_layers(model), full, strict=True)]
    a, b = (MosaicTransformer(model, PLAN, [cuts] * 3, masked) for cuts in (full, slim))
    x, y = a.stages[0].state_dict(), b.stages[0].state_dict()
    assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
    assert all(
        torch.equal(a.weight(0, i), b.weight(0, i)) and a.weight(0, i).shape[1] == layer.width
        for i, layer in enumerate(a.layers)
    )


def test_a_network_takes_narrow_weights_over_and_leaves_full_ones_alone(pipelines):
    model = denoiser(pipelines["dit"])
    layers, full = find_layers(model), cuts_of(model)
    slim = [only_kept(layer, cut) for layer, cut in zip(layers, full, strict=True)]
    for cuts, taken in ((full, False), (slim, True)):
        network = MosaicTransformer(model, PLAN, [cuts] * 3).stages[0]
        for layer, cut in zip(layers, cuts, strict=True):
            weight = network.get_submodule(layer.consumer).weight
            assert (
                weight.untyped_storage().data_ptr() == cut.weight.untyped_storage().data_ptr()
            ) is taken


@pytest.mark.parametrize("masked", [False, True])
def test_a_weight_of_another_width_is_refused(pipelines, masked):
    model = denoiser(pipelines["dit"])
    cuts = [replace(cut, weight=cut.weight[:, 1:]) for cut in cuts_of(model)]
    with pytest.raises(
        StudioError, match=r"block 1 heads has 63 columns; give it all 64 or the 32"
    ):
        MosaicTransformer(model, PLAN, [cuts] * 3, masked)
