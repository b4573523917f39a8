"""Slim = masked at the true widths: a DiT-XL/2 block (16 x 72, 4608 neurons), SDXL blocks at 640
and 1280. Random weights, few tokens, fp32.

Both compute the same sums in another order and over other zeros, so they differ by rounding only.
TOLERANCE is a share of the largest value that a block, or the model, gives out; less than 1e-6 is
what is seen (float32 has 1.2e-7, sums run over up to 5120 inputs).
"""

from __future__ import annotations

import pytest
import torch
from make_dit_xl import CONFIG
from mosaics import cuts_of
from test_sdxl import TRUE_CONFIG

from core.curves.plan import StagePlan
from core.models.families import family_of
from core.models.layers import find_layers
from core.mosaic.transformer import MosaicTransformer
from core.sampling.timing import forward_call

TOLERANCE = 1e-5
PLAN = StagePlan((100, 600), (0.5, 0.5, 0.5))
TWO_LEVELS = TRUE_CONFIG | dict(
    down_block_types=("CrossAttnDownBlock2D",) * 2,
    mid_block_type=None,
    up_block_types=("UpBlock2D",) * 2,
    block_out_channels=(640, 1280),
    # which no transformer block sees
    attention_head_dim=(10, 20),
    transformer_layers_per_block=1,
    layers_per_block=1,
    sample_size=8,
    time_embedding_dim=64,
)


@pytest.fixture(scope="module")
def dit():
    """DiT-XL/2 with one block instead of 28 and 64 tokens instead of 256, and what it gives out."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    return with_outputs(DiTTransformer2DModel(**CONFIG | {"num_layers": 1, "sample_size": 16}))


@pytest.fixture(scope="module")
def sdxl():
    """SDXL's UNet with one transformer block of each of its two widths (0.8 GB): 64 tokens at 640,
    16 at 1280, text of 77 x 2048.
    """
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return with_outputs(UNet2DConditionModel(**TWO_LEVELS))


@torch.inference_mode()
def given_out(mosaic, model) -> list[torch.Tensor]:
    """What every transformer block gives out, in order, and then the model."""
    seen, network = [], mosaic.stages[1]
    blocks = [network.get_submodule(site.path) for site in family_of(model).sites(model)]
    handles = [
        block.register_forward_hook(lambda _, args, out: seen.append(out)) for block in blocks
    ]
    try:
        final = forward_call(mosaic.network(300), model, 1)()
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) == len(blocks)
    return [*seen, final]


def with_outputs(model):
    model = model.eval().requires_grad_(False)
    return model, given_out(MosaicTransformer(model, None, [None] * 3), model)


def check(model, dense, nothing):
    cuts = cuts_of(model, seed=1, share=0.6, nothing=nothing)
    slim, masked = (MosaicTransformer(model, PLAN, [cuts] * 3, masked=m) for m in (False, True))
    layers = find_layers(model)
    assert slim.kept(1) == [
        0 if i in nothing else int(0.6 * layer.groups) for i, layer in enumerate(layers)
    ]
    for i, layer in enumerate(layers):  # the slim one is smaller for real, the masked one is not
        assert masked.stages[1].get_submodule(layer.consumer).in_features == layer.width
        if i not in nothing:
            assert (
                slim.stages[1].get_submodule(layer.consumer).in_features
                == slim.kept(1)[i] * layer.group_size
            )
    for a, b, full in zip(given_out(slim, model), given_out(masked, model), dense, strict=True):
        assert (a - b).abs().max() < TOLERANCE * b.abs().max()
        assert (a - full).abs().max() > 1e-2 * full.abs().max()  # and pruning did something


@pytest.mark.parametrize(
    "nothing",
    [(), (0,), (1,), (0, 1)],
    ids=["some of each", "no heads", "no neurons", "nothing at all"],
)
def test_a_block_of_dit_xl_2(dit, nothing):
    assert [(x.kind, x.groups, x.group_size) for x in find_layers(dit[0])] == [
        ("heads", 16, 72),
        ("neurons", 4608, 1),
    ]
    check(*dit, nothing)


@pytest.mark.parametrize(
    "nothing",
    [(), (0, 3), (1, 4), (2, 5)],
    ids=["some of each", "no self-attention heads", "no cross-attention heads", "no neurons"],
)
def test_blocks_of_sdxl_at_both_widths(sdxl, nothing):
    model = sdxl[0]
    layers = find_layers(model)
    assert [(x.kind, x.groups, x.group_size) for x in layers] == [
        ("heads", 10, 64),
        ("heads", 10, 64),
        ("neurons", 2560, 1),
        ("heads", 20, 64),
        ("heads", 20, 64),
        ("neurons", 5120, 1),
    ]
    assert [
        model.get_submodule(x.module).to_k.in_features for x in layers if "cross" in x.name
    ] == [2048, 2048]
    assert all(
        type(model.get_submodule(x.module).net[0]).__name__ == "GEGLU"
        for x in layers
        if x.kind == "neurons"
    )
    check(*sdxl, nothing)
