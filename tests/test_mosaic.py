"""Slimming and routing on a tiny random DiT: slim = masked, dense bits kept, everything equal
shared, refusals in words.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.models.families import DiT
from core.models.layers import find_layers
from core.mosaic.transformer import MosaicTransformer, OnceEmbedder, embedders_equal
from core.pruning.cuts import Cut, kept_columns
from core.sampling.denoise import Denoiser

PLAN = StagePlan((100, 600), (0.5, 0.25, 0.75))
TIMES = (50, 300, 900)  # one in each stage


@pytest.fixture
def dense(workshop):
    """A private copy that a test may break."""
    return copy.deepcopy(workshop.transformer)


def batch(workshop, t: float, n: int = 3):
    random = torch.Generator().manual_seed(7)
    x = torch.randn(n, 4, 8, 8, generator=random).to(workshop.device, workshop.dtype)
    return (
        x,
        torch.full((n,), t, device=workshop.device),
        torch.tensor([1, 5, 1000][:n], device=workshop.device),
    )


@torch.inference_mode()
def stock(transformer, x, t, y):
    return transformer(x, timestep=t, class_labels=y).sample


def random_cuts(transformer, kinds, seed=0):
    """A third of the groups gone at random, with random weights on what stays."""
    random = torch.Generator().manual_seed(seed)
    cuts = []
    for layer in find_layers(transformer):
        weight = transformer.get_submodule(layer.consumer).weight
        if layer.kind not in kinds:
            cuts.append(Cut(torch.arange(layer.groups), None))
            continue
        kept = torch.randperm(layer.groups, generator=random)[: layer.groups * 2 // 3].sort().values
        values = torch.randn(weight.shape, generator=random) * 0.1
        values = values[:, kept_columns(layer, kept, values.device)]
        cuts.append(Cut(kept, values.to(weight)))
    return cuts


# ------------------------------------------------------------ slim = masked


@pytest.mark.parametrize("kinds", [("heads",), ("neurons",), ("heads", "neurons")])
@torch.inference_mode()
def test_slim_model_equals_masked_model(workshop, kinds):
    cuts = random_cuts(workshop.transformer, kinds)
    slim = MosaicTransformer(workshop.transformer, PLAN, [cuts] * 3)
    masked = MosaicTransformer(workshop.transformer, PLAN, [cuts] * 3, masked=True)
    x, t, y = batch(workshop, 300)
    a, b = slim(x, t, y).sample, masked(x, t, y).sample
    assert (a - b).abs().max() < 1e-5
    # and pruning did something
    assert (a - stock(workshop.transformer, x, t, y)).abs().max() > 1e-3


@torch.inference_mode()
def test_built_plan_equals_its_masked_twin_in_every_stage(workshop):
    slim, masked = workshop.build(PLAN), workshop.build(PLAN, masked=True)
    for time in TIMES:
        x, t, y = batch(workshop, time)
        assert (slim(x, t, y).sample - masked(x, t, y).sample).abs().max() < 1e-5


def test_slim_modules_are_physically_smaller(workshop):
    for stage, sparsity in enumerate(PLAN.sparsity):
        removed = workshop.removed(sparsity)
        for i, block in enumerate(workshop.build(PLAN).stages[stage].transformer_blocks):
            heads, neurons = 4 - removed[2 * i], 256 - removed[2 * i + 1]
            assert block.attn1.heads == heads
            assert block.attn1.to_q.weight.shape == (16 * heads, 64)
            assert block.attn1.to_out[0].weight.shape == (64, 16 * heads)
            assert block.ff.net[0].proj.weight.shape == (neurons, 64)
            assert block.ff.net[2].weight.shape == (64, neurons)


# ------------------------------------------------------------ the dense bits


def test_sparsity_zero_gives_the_stock_bits(workshop):
    mosaic = workshop.build(StagePlan((100, 600), (0.0, 0.0, 0.0)))
    for time in TIMES:
        inputs = batch(workshop, time)
        with torch.inference_mode():
            assert torch.equal(mosaic(*inputs).sample, stock(workshop.transformer, *inputs))
            assert torch.equal(
                mosaic(*inputs, return_dict=False)[0], stock(workshop.transformer, *inputs)
            )


def sample_stock(pipeline, transformer, steps=4, seed=3):
    """Latents that DiTPipeline ends on (its last use of the decoder is where they can be seen)."""
    seen = []
    pipeline = type(pipeline)(transformer, pipeline.vae, copy.deepcopy(pipeline.scheduler))
    pipeline.set_progress_bar_config(disable=True)
    handle = pipeline.vae.post_quant_conv.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].clone())
    )
    try:
        images = pipeline(
            [1, 5],
            guidance_scale=1.5,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images
    finally:
        handle.remove()
    return seen[0], images


def test_sparsity_zero_gives_the_stock_pipelines_pictures(workshop):
    pipeline = workshop.checkpoint.pipeline
    mosaic = workshop.build(StagePlan((100, 600), (0.0, 0.0, 0.0)))
    latents, images = sample_stock(pipeline, workshop.transformer)
    other_latents, other_images = sample_stock(pipeline, mosaic)
    assert torch.equal(latents, other_latents) and (images == other_images).all()


def test_stock_pipeline_with_a_mosaic_equals_our_loop(workshop):
    mosaic = workshop.build(PLAN)
    pipeline = copy.copy(workshop.checkpoint.pipeline)
    pipeline.transformer = mosaic  # the documented way in
    latents, _ = sample_stock(pipeline, pipeline.transformer, steps=6)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    ours, _ = Denoiser(mosaic, workshop.checkpoint.pipeline.scheduler, workshop.schedule, 6).run(
        noise, DiT.conditions(torch.tensor([1, 5])), 1.5
    )
    assert torch.equal(ours, latents)
    assert not torch.equal(latents, sample_stock(pipeline, workshop.transformer, steps=6)[0])


def test_disable_gives_the_dense_bits_back(workshop):
    mosaic = MosaicTransformer(
        workshop.transformer, PLAN, [random_cuts(workshop.transformer, ("heads", "neurons"))] * 3
    )
    inputs = batch(workshop, 300)
    with torch.inference_mode():
        expected, pruned = stock(workshop.transformer, *inputs), mosaic(*inputs).sample
        assert not torch.equal(expected, pruned)
        mosaic.disable()
        assert torch.equal(mosaic(*inputs).sample, expected)
        assert mosaic.stage_of(300) == -1
        with pytest.raises(StudioError, match="already disabled"):
            mosaic.disable()
        mosaic.enable()
        assert torch.equal(mosaic(*inputs).sample, pruned)
        with pytest.raises(StudioError, match="already enabled"):
            mosaic.enable()


def test_building_leaves_the_dense_model_as_it_was(workshop):
    before = {k: v.clone() for k, v in workshop.transformer.state_dict().items()}
    blocks = list(workshop.transformer.transformer_blocks)
    workshop.build(StagePlan((120, 480), (0.6, 0.3, 0.5), name="a new one"))
    after = workshop.transformer.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert all(a is b for a, b in zip(blocks, workshop.transformer.transformer_blocks, strict=True))


@torch.inference_mode()
def test_a_hook_on_one_subnetwork_stays_there(workshop):
    mosaic, calls = workshop.build(PLAN), []
    handle = mosaic.stages[1].register_forward_hook(lambda *_: calls.append(1))
    try:
        for time in TIMES:
            mosaic(*batch(workshop, time))
        stock(workshop.transformer, *batch(workshop, 300))
    finally:
        handle.remove()
    assert calls == [1]


# ------------------------------------------------------------ what is shared


def test_what_is_not_pruned_exists_once(workshop):
    mosaic = workshop.build(PLAN)
    dense = {v.data_ptr() for v in workshop.transformer.state_dict().values()}
    pruned = (
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "ff.net.0.proj",
        "ff.net.2",
    )
    for network in mosaic.stages:
        for name, value in network.state_dict().items():
            assert (value.data_ptr() in dense) != any(part in name for part in pruned), name


def test_stages_with_equal_cuts_are_one_network(workshop):
    pooled = workshop.build(StagePlan((100, 600), (0.5, 0.25, 0.5), calibration="pooled"))
    assert pooled.stages[0] is pooled.stages[2] and pooled.stages[0] is not pooled.stages[1]
    idle = workshop.build(StagePlan((100, 600), (0.0, 0.25, 0.0)))
    assert idle.stages[0] is idle.full and idle.stages[2] is idle.full


def test_equal_embedders_run_once(workshop):
    mosaic = workshop.build(PLAN)
    assert isinstance(mosaic.once, OnceEmbedder)
    calls = []
    handle = mosaic.once.timestep_embedder.register_forward_hook(lambda *_: calls.append(1))
    try:
        with torch.inference_mode():
            mosaic(*batch(workshop, 300))
            x, t, y = batch(workshop, 300)
            # called by name, and without the router
            mosaic.stages[1](hidden_states=x, timestep=t, class_labels=y)
    finally:
        handle.remove()
    assert len(calls) == 2


def test_unequal_embedders_are_not_merged(workshop, dense):
    with torch.no_grad():
        dense.transformer_blocks[1].norm1.emb.timestep_embedder.linear_1.weight[0, 0] += 0.1
    assert not embedders_equal(dense)
    mosaic = MosaicTransformer(dense, PLAN, [None] * 3)
    assert mosaic.once is None
    inputs = batch(workshop, 300)
    with torch.inference_mode():
        assert torch.equal(mosaic(*inputs).sample, stock(dense, *inputs))


# ------------------------------------------------------------ routing


def test_rows_of_different_stages_are_refused(workshop):
    mosaic = workshop.build(PLAN)
    x, _, y = batch(workshop, 0)
    with torch.inference_mode(), pytest.raises(StudioError, match="one stage"):
        mosaic(x, torch.tensor([50, 300, 300], device=workshop.device), y)
    with torch.inference_mode():
        # one stage, different timesteps: fine
        mosaic(x, torch.tensor([100, 300, 599], device=workshop.device), y)


@torch.inference_mode()
def test_boundaries_route_half_open(workshop):
    mosaic = workshop.build(PLAN)
    assert [mosaic.stage_of(t) for t in (0, 99, 99.5, 100, 599, 600, 999)] == [0, 0, 0, 1, 1, 2, 2]
    x, t, y = batch(workshop, 100)
    assert torch.equal(mosaic(x, t, y).sample, mosaic.network(100.0)(x, t, y))
    assert torch.equal(mosaic(x, t, y).sample, stock(mosaic.stages[1], x, t, y))


# ------------------------------------------------------------ refusals


def broken(dense, change):
    change(dense.transformer_blocks[1])
    return dense


def test_the_model_itself_is_accepted(workshop):
    layers = workshop.layers
    expected = [
        (kind, block, groups, size)
        for block in (0, 1)
        for kind, groups, size in (("heads", 4, 16), ("neurons", 256, 1))
    ]
    assert [(x.kind, x.block, x.groups, x.group_size) for x in layers] == expected
    assert (
        workshop.transformer.get_submodule(layers[3].consumer)
        is workshop.transformer.transformer_blocks[1].ff.net[2]
    )


def test_refuses_what_is_not_a_dit():
    with pytest.raises(StudioError, match="neither a DiT"):
        find_layers(nn.Linear(2, 2))


def test_refuses_a_block_with_cross_attention(dense):
    with pytest.raises(StudioError, match="Block 2 is not an adaLN-Zero block"):
        find_layers(broken(dense, lambda b: setattr(b, "attn2", copy.deepcopy(b.attn1))))


def test_refuses_another_norm(dense):
    with pytest.raises(StudioError, match="Block 2 is not an adaLN-Zero block"):
        find_layers(broken(dense, lambda b: setattr(b, "norm_type", "layer_norm")))


def test_refuses_lora(dense):
    class LoraLinear(nn.Linear):
        lora_A = None

    with pytest.raises(StudioError, match="LoRA"):
        find_layers(broken(dense, lambda b: setattr(b.attn1, "to_q", LoraLinear(64, 64))))


def test_refuses_fused_projections(dense):
    with pytest.raises(StudioError, match="unfuse_qkv_projections"):
        find_layers(broken(dense, lambda b: b.attn1.fuse_projections()))


def test_refuses_what_is_not_a_plain_linear(dense):
    class Quantised(nn.Linear):
        pass

    with pytest.raises(StudioError, match="not a plain linear"):
        find_layers(broken(dense, lambda b: b.ff.net.__setitem__(2, Quantised(256, 64))))


def test_refuses_integer_weights(dense):
    def change(block):
        block.attn1.to_v.weight = nn.Parameter(
            torch.zeros(64, 64, dtype=torch.int8), requires_grad=False
        )

    with pytest.raises(StudioError, match="integer weights"):
        find_layers(broken(dense, change))


def test_refuses_grouped_keys(dense):
    def change(block):
        block.attn1.to_k, block.attn1.to_v = nn.Linear(64, 32), nn.Linear(64, 32)

    with pytest.raises(StudioError, match="grouped-query"):
        find_layers(broken(dense, change))


def test_refuses_norms_across_heads_but_not_within_a_head(dense):
    find_layers(
        broken(copy.deepcopy(dense), lambda b: setattr(b.attn1, "norm_q", nn.LayerNorm(16)))
    )
    with pytest.raises(StudioError, match="across heads"):
        find_layers(broken(dense, lambda b: setattr(b.attn1, "norm_q", nn.LayerNorm(64))))


def test_refuses_an_unknown_mlp(dense):
    from diffusers.models.activations import SwiGLU

    with pytest.raises(StudioError, match="MLP other than"):
        find_layers(broken(dense, lambda b: b.ff.net.__setitem__(0, SwiGLU(64, 256))))


def test_refuses_an_mlp_whose_layers_do_not_fit(dense):
    from diffusers.models.activations import GEGLU

    with pytest.raises(StudioError, match="do not fit together"):
        find_layers(broken(dense, lambda b: b.ff.net.__setitem__(0, GEGLU(64, 128))))


def test_refuses_added_keys_and_joint_attention(dense):
    from diffusers.models.attention_processor import Attention

    with pytest.raises(StudioError, match="joint attention"):
        find_layers(
            broken(
                dense,
                lambda b: setattr(
                    b, "attn1", Attention(64, heads=4, dim_head=16, bias=True, added_kv_proj_dim=32)
                ),
            )
        )


def test_refuses_an_ip_adapter(dense):
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    processor = IPAdapterAttnProcessor2_0(64, 64)
    with pytest.raises(StudioError, match="unload_ip_adapter"):
        find_layers(broken(dense, lambda b: b.attn1.set_processor(processor)))


def test_refuses_a_processor_it_does_not_know(dense):
    class Odd:
        def __call__(self, attn, hidden_states, **kwargs):
            return hidden_states

    with pytest.raises(StudioError, match="set_default_attn_processor"):
        find_layers(broken(dense, lambda b: b.attn1.set_processor(Odd())))


def test_refuses_a_gated_fuser(dense):
    with pytest.raises(StudioError, match="fuser"):
        find_layers(broken(dense, lambda b: setattr(b, "fuser", nn.Linear(2, 2))))


def test_refuses_offload_hooks(dense):
    from accelerate.hooks import ModelHook, add_hook_to_module

    add_hook_to_module(dense.transformer_blocks[1], ModelHook())
    with pytest.raises(StudioError, match="remove_all_hooks"):
        find_layers(dense)
