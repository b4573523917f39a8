"""SDXL's UNet on a tiny random pipeline and on the true configuration (shapes only).

Slicing, routing, the stock pipeline.
"""

from __future__ import annotations

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from tiny_sdxl import make_sdxl

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.models.families import SDXL, Conditions
from core.models.layers import find_layers
from core.mosaic.transformer import MosaicTransformer
from core.pruning.cuts import Cut, kept_columns
from core.sampling.denoise import Denoiser, start_noise
from core.sampling.timing import count_macs, forward_call, model_macs
from core.workshop.comparison import SampleSettings

PLAN = StagePlan((100, 600), (0.5, 0.25, 0.75))
TRUE_CONFIG = dict(
    sample_size=128,
    in_channels=4,
    out_channels=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(320, 640, 1280),
    layers_per_block=2,
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    from core.models.checkpoints import load_checkpoint
    from core.workshop.workshop import Workshop

    folder = make_sdxl(tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")
    return Workshop(
        load_checkpoint(folder, dtype=torch.float32), cache=tmp_path_factory.mktemp("cache")
    )


def random_cuts(shop, kept, kinds=("heads", "neurons"), seed=0):
    """`kept(groups)` groups at random, with random weights on what stays."""
    random = torch.Generator().manual_seed(seed)
    cuts = []
    for layer in shop.layers:
        weight = shop.transformer.get_submodule(layer.consumer).weight
        if not any(k in layer.name for k in kinds):
            cuts.append(Cut(torch.arange(layer.groups), None))
            continue
        chosen = torch.randperm(layer.groups, generator=random)[: kept(layer.groups)].sort().values
        values = torch.randn(weight.shape, generator=random) * 0.1
        values = values[:, kept_columns(layer, chosen, values.device)]
        bias = torch.randn(len(weight), generator=random) if not len(chosen) else None
        cuts.append(Cut(chosen, values.to(weight), bias))
    return cuts


def both(shop, cuts):
    slim, masked = (
        MosaicTransformer(shop.transformer, PLAN, [cuts] * 3, masked=m) for m in (False, True)
    )
    with torch.inference_mode():
        return [forward_call(m.network(300), shop.transformer, 2)() for m in (slim, masked)], slim


@pytest.mark.parametrize(
    "kinds", [("self-attention",), ("cross-attention",), ("neurons",), ("heads", "neurons")]
)
def test_slim_equals_masked(shop, kinds):
    (a, b), _ = both(shop, random_cuts(shop, lambda groups: max(1, groups * 2 // 3), kinds))
    assert (a - b).abs().max() < 1e-4 * b.abs().max()
    dense = forward_call(shop.dense.network(300), shop.transformer, 2)
    with torch.inference_mode():
        assert (a - dense()).abs().max() > 1e-2 * b.abs().max()  # and pruning did something


@pytest.mark.parametrize(
    "kinds", [("self-attention",), ("cross-attention",), ("neurons",), ("heads", "neurons")]
)
def test_a_layer_may_lose_everything_and_keeps_its_bias(shop, kinds):
    (a, b), slim = both(shop, random_cuts(shop, lambda groups: 0, kinds))
    assert a.isfinite().all() and (a - b).abs().max() < 1e-4 * b.abs().max()
    assert min(slim.kept(0)) == 0


def test_bfloat16_slim_is_near_masked(shop):
    import copy

    cuts = random_cuts(shop, lambda groups: groups // 2)
    model = copy.deepcopy(shop.transformer).to(torch.bfloat16)
    cuts = [Cut(c.kept, c.weight.bfloat16()) for c in cuts]
    with torch.inference_mode():
        a, b = (
            forward_call(
                MosaicTransformer(model, PLAN, [cuts] * 3, masked=m).network(5), model, 2
            )()
            for m in (False, True)
        )
    assert a.dtype == torch.bfloat16 and (a - b).float().abs().max() < 0.05 * b.float().abs().max()


def test_dense_is_never_touched_and_sparsity_zero_is_the_dense_bits(shop):
    before = {k: v.clone() for k, v in shop.transformer.state_dict().items()}
    call = forward_call(
        lambda *a, **k: shop.transformer(*a, **k, return_dict=False)[0], shop.transformer, 2
    )
    with torch.inference_mode():
        dense = call()
        both(shop, random_cuts(shop, lambda groups: 1))
        assert torch.equal(dense, forward_call(shop.dense.network(3), shop.transformer, 2)())
        assert torch.equal(dense, call())
    assert all(torch.equal(before[k], v) for k, v in shop.transformer.state_dict().items())


def test_macs_come_from_shapes_and_fit_the_built_network(shop):
    assert (
        model_macs(shop.transformer)[0]
        == count_macs(forward_call(shop.dense.network(0), shop.transformer, 1))[0]
        == shop.forward_macs[0]
    )
    mosaic = MosaicTransformer(
        shop.transformer, PLAN, [random_cuts(shop, lambda groups: groups // 2)] * 3
    )
    gone = sum(
        layer.macs_per_group * (layer.groups - kept)
        for layer, kept in zip(shop.layers, mosaic.kept(0), strict=True)
    )
    assert (
        count_macs(forward_call(mosaic.network(0), shop.transformer, 1))[0]
        == shop.forward_macs[0] - gone
    )
    weights = sum(p.numel() for p in mosaic.stages[0].parameters())
    removed = sum(
        layer.weights_per_group * (layer.groups - kept)
        for layer, kept in zip(shop.layers, mosaic.kept(0), strict=True)
    )
    assert weights == sum(p.numel() for p in shop.transformer.parameters()) - removed


def test_tokens_of_every_block_are_those_that_arrive(shop):
    seen = {}
    sites = SDXL.sites(shop.transformer)
    handles = []
    for site in sites:
        block = shop.dense.full.get_submodule(site.path)
        handles.append(
            block.register_forward_pre_hook(
                lambda _, args, path=site.path: seen.__setitem__(path, args[0].shape[1])
            )
        )
    with torch.inference_mode():
        forward_call(shop.dense.network(0), shop.transformer, 1)()
    for handle in handles:
        handle.remove()
    assert seen == {site.path: site.tokens for site in sites}


@torch.inference_mode()
@pytest.mark.parametrize("negative", ["", "blur"])
@pytest.mark.parametrize("pruned", [False, True])
def test_stock_pipeline_equals_our_loop(shop, pruned, negative):
    """StableDiffusionXLPipeline with the mosaic as `unet` equals our own loop.

    Same prompts, noise and guidance; no negative prompt, which is the pipeline's default.
    """
    pipeline, dense = shop.checkpoint.pipeline, shop.checkpoint.pipeline.unet
    cuts = random_cuts(shop, lambda groups: groups // 2)
    mosaic = MosaicTransformer(shop.transformer, PLAN, [cuts, None, cuts]) if pruned else shop.dense
    settings = SampleSettings(
        steps=4, guidance=5.0, prompts=("a fox", "a boat at sea"), negative=negative
    )
    noise = start_noise(2, shop.shape_for(settings), 3)
    ours, _ = Denoiser(mosaic, pipeline.scheduler, shop.schedule, 4).run(
        noise, shop.conditions(settings), 5.0
    )
    pipeline.unet = mosaic
    try:
        words = {"prompt": list(settings.prompts)} | (
            {"negative_prompt": [negative] * 2} if negative else {}
        )
        stock = pipeline(
            **words,
            guidance_scale=5.0,
            num_inference_steps=4,
            latents=noise.clone(),
            height=32,
            width=32,
            output_type="latent",
        ).images
    finally:
        pipeline.unet = dense
    assert (ours - stock).abs().max() < 1e-4 * stock.abs().max()


@pytest.mark.parametrize("zeros", [True, False])
def test_without_a_negative_prompt_the_pipelines_configuration_decides(shop, zeros):
    """force_zeros_for_empty_prompt, as published, gives zeros.

    A pipeline that does not want it encodes the empty prompt.
    """
    pipeline = shop.checkpoint.pipeline
    before = pipeline.config
    pipeline._internal_dict = FrozenDict(before | {"force_zeros_for_empty_prompt": zeros})
    try:
        found = shop.conditions(SampleSettings(prompts=("a fox",))).negative
        _, stock, _, pooled = pipeline.encode_prompt(["a fox"], device=torch.device("cpu"))
    finally:
        pipeline._internal_dict = before
    assert torch.equal(found["encoder_hidden_states"], stock) and torch.equal(
        found["added_cond_kwargs"]["text_embeds"], pooled
    )
    assert bool(stock.any()) is bool(pooled.any()) is not zeros


def test_another_size_reaches_the_micro_conditioning_and_the_latents(shop):
    settings = SampleSettings(prompts=("a",), size=(64, 128))
    shop.check_settings(settings)
    assert shop.shape_for(settings) == (4, 32, 64)
    assert shop.conditions(settings).positive["added_cond_kwargs"]["time_ids"].tolist() == [
        [64, 128, 0, 0, 64, 128]
    ]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (dict(labels=(1,)), "give a prompt"),
        (dict(prompts=("a",), size=(100, 64)), "multiples of 64"),
    ],
)
def test_what_it_cannot_sample(shop, settings, match):
    with pytest.raises(StudioError, match=match):
        shop.check_settings(SampleSettings(**settings))


def test_prompts_are_refused_by_a_model_of_classes(workshop):
    with pytest.raises(StudioError, match="not prompts"):
        workshop.check_settings(SampleSettings(prompts=("a fox",)))


def test_conditions_choose_rows_and_pair_up(shop):
    c = shop.some_conditions(3)
    assert isinstance(c, Conditions) and len(c) == 3
    two = c.rows(torch.tensor([2, 0]))
    assert torch.equal(
        two.positive["encoder_hidden_states"][0], c.positive["encoder_hidden_states"][2]
    )
    pair = two.pair(torch.device("cpu"), torch.float32)
    assert pair["encoder_hidden_states"].shape[0] == 4
    assert torch.equal(
        pair["added_cond_kwargs"]["text_embeds"][2],
        c.negative["added_cond_kwargs"]["text_embeds"][2],
    )


def test_true_configuration_has_seventy_blocks():
    """SDXL-base-1.0's own UNet, shapes only.

    2.57 B parameters, 2.18 B of them in what may shrink.
    """
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**TRUE_CONFIG)
    layers = find_layers(unet)
    assert len({layer.block for layer in layers}) == 70 and len(layers) == 210
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684
    prunable = sum(layer.weights_per_group * layer.groups for layer in layers)
    assert 2.1e9 < prunable < 2.2e9
    assert {layer.groups for layer in layers if "self" in layer.name} == {10, 20}
    assert {layer.width for layer in layers if layer.kind == "neurons"} == {2560, 5120}
    assert {layer.group_size for layer in layers if layer.kind == "heads"} == {64}


def test_an_attached_lora_is_refused(shop):
    import copy

    unet = copy.deepcopy(shop.transformer)
    unet._hf_peft_config_loaded = True
    with pytest.raises(StudioError, match="fuse_lora"):
        find_layers(unet)
