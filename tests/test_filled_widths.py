"""No pruned MLP runs at an odd width in half precision: zero neurons fill it up, exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from mosaics import PLAN, outputs, same
from running import KINDS, answers, denoiser, make_pipelines

from core.models.layers import find_layers
from core.mosaic.slimming import WIDTH
from core.mosaic.transformer import MosaicTransformer
from core.pruning.cuts import Cut, kept_columns


@pytest.fixture(scope="module")
def pipelines(model_folder, tmp_path_factory):
    """Tests must not change them."""
    return make_pipelines(model_folder, tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


def cuts_to(model, odd):
    """All heads, and so many neurons of every MLP: one less than all for an `odd` of -1."""
    cuts, random = [], torch.Generator().manual_seed(odd)
    for layer in find_layers(model):
        weight = model.get_submodule(layer.consumer).weight.detach()
        count = layer.groups if layer.kind == "heads" else odd % layer.groups
        kept = torch.randperm(layer.groups, generator=random)[:count].sort().values
        full = layer.kind == "heads"
        values = None if full else weight[:, kept_columns(layer, kept, weight.device)].clone()
        cuts.append(Cut(kept, values))
    return cuts


def consumers(mosaic):
    layers = [layer for layer in mosaic.layers if layer.kind == "neurons"]
    return [mosaic.stages[0].get_submodule(layer.consumer) for layer in layers]


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("odd", [37, 9, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_filled_network_computes_what_the_masked_one_does(pipelines, kind, odd, dtype):
    model = copy.deepcopy(denoiser(pipelines[kind])).to(dtype)
    cuts = cuts_to(model, odd)
    slim, masked = (MosaicTransformer(model, PLAN, [cuts] * 3, m) for m in (False, True))
    assert {c.in_features % WIDTH for c in consumers(slim)} == {0}
    said = [answers(m, pipelines[kind], dtype) for m in (slim, masked)]
    near = 2e-2 if dtype == torch.bfloat16 else 3e-3
    for a, b in zip(*said, strict=True):
        assert (a - b).float().abs().max() < near * b.float().abs().max()
    for i, layer in enumerate(slim.layers):  # what was kept means what it meant
        assert torch.equal(slim.weight(0, i), masked.weight(0, i)), layer.name
        assert slim.kept(0)[i] == len(cuts[i].kept)


@pytest.mark.parametrize("kind", KINDS)
def test_without_half_precision_widths_are_what_is_kept(pipelines, kind):
    model = denoiser(pipelines[kind])
    found = consumers(MosaicTransformer(model, PLAN, [cuts_to(model, 37)] * 3))
    assert {c.in_features for c in found} == {37}


@torch.inference_mode()
@pytest.mark.parametrize("odd", [37, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_what_fills_a_width_is_not_saved_and_there_again_when_loaded(
    pipelines, kind, odd, tmp_path
):
    model = copy.deepcopy(denoiser(pipelines[kind])).to(torch.bfloat16)
    mosaic = MosaicTransformer(model, PLAN, [cuts_to(model, odd)] * 3)
    mosaic.save_pretrained(tmp_path / "out")
    back = MosaicTransformer.from_pretrained(tmp_path / "out", model)
    assert same(mosaic, back) and back.kept(0) == mosaic.kept(0)
    assert {c.in_features % WIDTH for c in consumers(back)} == {0}
    for a, b in zip(outputs(mosaic), outputs(back), strict=True):
        assert torch.equal(a, b)
    # in full precision nothing is filled
    wide = copy.deepcopy(model).float()
    plain = MosaicTransformer.from_pretrained(tmp_path / "out", wide)
    count = {c.in_features for c in consumers(plain)}
    assert count == {len(c.kept) for c in cuts_to(wide, odd) if c.weight is not None}
