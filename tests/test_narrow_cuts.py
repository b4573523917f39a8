"""Cuts hold kept columns only: full-width weights never pile up, and networks have the weights
of their cuts.
"""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from conftest import calibrated, make_pipeline
from mosaics import PLAN, cuts_of
from running import KINDS, denoiser, make_pipelines
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.models.layers import find_layers
from core.mosaic.transformer import MosaicTransformer
from core.pruning.cuts import kept_columns


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
    return calibrated(folder, small_settings, tmp_path_factory.mktemp("cache"))


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


@pytest.mark.parametrize("kind", KINDS)
def test_slim_and_masked_networks_have_the_weights_of_the_cuts(pipelines, kind):
    model = denoiser(pipelines[kind])
    layers = find_layers(model)
    cuts = cuts_of(model, share=0.6, nothing=(1,), untouched=(2,))
    slim, masked = (MosaicTransformer(model, PLAN, [cuts] * 3, masked=m) for m in (False, True))
    for i, (layer, cut) in enumerate(zip(layers, cuts, strict=True)):
        wanted = model.get_submodule(layer.consumer).weight.detach().clone()
        if cut.weight is not None:
            mask = torch.zeros(layer.groups, dtype=torch.bool)
            mask[cut.kept] = True
            wanted.zero_()
            wanted[:, mask.repeat_interleave(layer.group_size)] = cut.weight
        for mosaic in (slim, masked):
            assert torch.equal(mosaic.weight(0, i), wanted)


def test_a_network_takes_the_weight_of_a_cut_over(pipelines):
    model = denoiser(pipelines["dit"])
    layers, cuts = find_layers(model), cuts_of(model)
    network = MosaicTransformer(model, PLAN, [cuts] * 3).stages[0]
    for layer, cut in zip(layers, cuts, strict=True):
        weight = network.get_submodule(layer.consumer).weight
        assert weight.data_ptr() == cut.weight.data_ptr()


@pytest.mark.parametrize("masked", [False, True])
def test_a_weight_of_another_width_is_refused(pipelines, masked):
    model = denoiser(pipelines["dit"])
    cuts = [replace(cut, weight=cut.weight[:, 1:]) for cut in cuts_of(model, share=0.5)]
    with pytest.raises(
        StudioError, match="block 1 heads has 31 columns; give it the 32 of the groups"
    ):
        MosaicTransformer(model, PLAN, [cuts] * 3, masked)


@pytest.mark.parametrize("masked", [False, True])
def test_of_a_weight_with_all_columns_the_kept_ones_are_taken(pipelines, masked):
    """Programs that build cuts by themselves give the dense weight."""
    model = denoiser(pipelines["dit"])
    layers, narrow = find_layers(model), cuts_of(model, share=0.5)
    dense = [model.get_submodule(layer.consumer).weight.detach() for layer in layers]
    wide = [replace(cut, weight=weight) for cut, weight in zip(narrow, dense, strict=True)]
    kept = [
        replace(cut, weight=weight[:, kept_columns(layer, cut.kept, weight.device)])
        for layer, cut, weight in zip(layers, narrow, dense, strict=True)
    ]
    from_wide, from_kept = (
        MosaicTransformer(model, PLAN, [cuts] * 3, masked).stages[0] for cuts in (wide, kept)
    )
    for a, b in zip(from_wide.parameters(), from_kept.parameters(), strict=True):
        assert torch.equal(a, b)
