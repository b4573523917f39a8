"""Subnetworks in other forms: half precision, fused projections, adaLN in a table, torch.compile.
Tiny random DiT and SDXL.
"""

from __future__ import annotations

import copy

import pytest
import torch
from mosaics import PLAN, cuts_of, mosaic_of
from running import KINDS, SCHEDULE, answers, denoiser, inputs, make_pipelines, same
from tiny_sdxl import TINY_UNET
from torch import nn

from core.curves.samplers import make_scheduler
from core.models.families import SDXL, DiT
from core.models.layers import find_layers
from core.mosaic.adaln import Modulation, embedders_equal
from core.mosaic.transformer import MosaicTransformer
from core.sampling.denoise import Denoiser


@pytest.fixture(scope="module")
def pipelines(model_folder, tmp_path_factory):
    """Tests must not change them."""
    return make_pipelines(model_folder, tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


@pytest.fixture
def unet_pipeline(pipelines):
    """One that a test may change."""
    return type(pipelines["sdxl"])(
        **{name: copy.deepcopy(part) for name, part in pipelines["sdxl"].components.items()}
    )


# ------------------------------------------------------------ precision and fused projections


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("kind", KINDS)
def test_slim_equals_masked_in_half_precision(pipelines, kind, dtype, near):
    model = copy.deepcopy(denoiser(pipelines[kind])).to(dtype)
    slim, masked = (answers(mosaic_of(model, m), pipelines[kind], dtype) for m in (False, True))
    for a, b in zip(slim, masked, strict=True):
        assert a.dtype == dtype and (a - b).float().abs().max() < near * b.float().abs().max()


@torch.no_grad()
def test_projections_fuse_after_pruning(pipelines):
    from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0

    model = pipelines["dit"].transformer
    mosaic = mosaic_of(model)
    expected = answers(mosaic, pipelines["dit"])
    for network in mosaic.stages:
        for attention in (m for m in network.modules() if isinstance(m, Attention)):
            attention.fuse_projections()
            attention.set_processor(FusedAttnProcessor2_0())
            assert attention.to_qkv.out_features == 3 * attention.heads * 16
            # not looked at any more
            attention.to_q = attention.to_k = attention.to_v = nn.Identity()
    for a, b in zip(answers(mosaic, pipelines["dit"]), expected, strict=True):
        assert (a - b).abs().max() < 1e-5
    assert not any(getattr(m, "fused_projections", False) for m in model.modules())


@torch.no_grad()
def test_a_pipeline_fuses_every_network_and_not_the_dense_model(unet_pipeline):
    pipeline, model = unet_pipeline, unet_pipeline.unet
    # half of the modules are shared with the dense network
    some = cuts_of(model, untouched=range(0, len(find_layers(model)), 2))
    mosaic = MosaicTransformer(model, PLAN, [some, None, cuts_of(model, share=0.5)])
    expected, pipeline.unet = answers(mosaic, pipeline), mosaic
    pipeline.fuse_qkv_projections(vae=False)
    assert all(
        "Fused" in type(p).__name__
        for network in mosaic.networks()
        for p in network.attn_processors.values()
    )
    assert not any("Fused" in type(p).__name__ for p in model.attn_processors.values())
    for a, b in zip(answers(mosaic, pipeline), expected, strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max() + 1e-6
    pipeline.unfuse_qkv_projections(vae=False)
    assert not any(
        "Fused" in type(p).__name__
        for network in mosaic.networks()
        for p in network.attn_processors.values()
    )
    assert same(answers(mosaic, pipeline), expected)


# ------------------------------------------------------------ adaLN in a table


@pytest.mark.parametrize("name", ["DDIM", "Heun"])
def test_tabulated_runs_differ_in_rounding_only(pipelines, name):
    model = pipelines["dit"].transformer
    conditions, noise = DiT.conditions(torch.tensor([1, 5, 1])), torch.randn(3, 4, 8, 8)
    # the dense baseline too
    for mosaic in (mosaic_of(model), MosaicTransformer(model, None, [None] * 3)):
        plain, table = (
            Denoiser(mosaic, make_scheduler(name), SCHEDULE, 6, tabulate=t).run(
                noise, conditions, 1.5
            )[0]
            for t in (False, True)
        )
        assert (plain - table).abs().max() < 1e-5 * plain.abs().max()


@torch.inference_mode()
def test_a_table_is_what_the_blocks_work_out(pipelines):
    mosaic, calls = mosaic_of(pipelines["dit"].transformer), []
    timesteps, labels = torch.tensor([900.0, 300.5, 50.0]), torch.tensor([4, 1000, 4, 7])
    table = mosaic.tabulate(timesteps, labels)
    for t, row in zip(timesteps, table, strict=True):
        network, x = mosaic.network(float(t)), torch.randn(4, 4, 8, 8)
        assert (
            isinstance(row, Modulation)
            and (network(x, t.expand(4), labels) - network(x, t.expand(4), row)).abs().max() < 1e-5
        )
    linear = mosaic.stages[0].transformer_blocks[0].norm1.linear
    handle = linear.register_forward_hook(lambda *_: calls.append(1))
    mosaic.network(50.0)(x, t.expand(4), class_labels=table[2])
    handle.remove()
    assert not calls
    assert mosaic_of(pipelines["sdxl"].unet).tabulate(timesteps, labels) is None
    # too large to pay
    assert mosaic.tabulate(torch.zeros(10_000), torch.arange(100)) is None


def test_blocks_with_embedders_of_their_own_are_not_tabulated(pipelines):
    model = copy.deepcopy(pipelines["dit"].transformer)
    with torch.no_grad():
        model.transformer_blocks[1].norm1.emb.timestep_embedder.linear_1.weight[0, 0] += 0.1
    assert not embedders_equal(model)
    conditions, noise = DiT.conditions(torch.tensor([1, 5])), torch.randn(2, 4, 8, 8)
    plain, table = (
        Denoiser(mosaic_of(model), make_scheduler("DDIM"), SCHEDULE, 4, tabulate=t).run(
            noise, conditions, 1.5
        )[0]
        for t in (False, True)
    )
    assert torch.equal(plain, table)


# ------------------------------------------------------------ torch.compile


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_stage_is_one_graph(pipelines, fresh_dynamo, kind):
    """No graph break, and as many graphs as stages, however many steps and runs there are; then one
    more for the dense model.
    """
    from torch._dynamo.testing import CompileCounterWithBackend

    pipeline, model = pipelines[kind], denoiser(pipelines[kind])
    if kind == "sdxl":  # every kind of block, once where it repeats itself: tracing takes long
        model = type(model)(**{**TINY_UNET, "transformer_layers_per_block": 1}).eval()
    # the backend that traces twice once: on the smaller network
    backend = CompileCounterWithBackend("aot_eager" if kind == "dit" else "eager")
    mosaic = mosaic_of(model)
    conditions = (
        SDXL.conditions(pipeline, ["a fox"])
        if kind == "sdxl"
        else DiT.conditions(torch.tensor([1]))
    )
    noise, sides = torch.randn(1, 4, *(model.config.sample_size,) * 2), {}
    expected = Denoiser(mosaic, make_scheduler("DDIM"), SCHEDULE, 6).run(noise, conditions, 1.5)[0]
    mosaic.compile_stages(backend=backend)
    for name, steps in (("DDIM", 6), ("DDIM", 9), ("PNDM", 7)):
        sides[name, steps] = Denoiser(mosaic, make_scheduler(name), SCHEDULE, steps).run(
            noise, conditions, 1.5
        )[0]
    assert backend.frame_count == 3 and not fresh_dynamo["graph_break"]
    assert (sides["DDIM", 6] - expected).abs().max() < 1e-5 * expected.abs().max()
    mosaic.disable()
    ended = Denoiser(mosaic, make_scheduler("DDIM"), SCHEDULE, 3).run(noise, conditions, 1.5)[0]
    assert backend.frame_count == 4 and not torch.equal(ended, sides["DDIM", 6])
    mosaic.enable()
    again = Denoiser(mosaic, make_scheduler("DDIM"), SCHEDULE, 6).run(noise, conditions, 1.5)[0]
    assert torch.equal(again, sides["DDIM", 6]) and backend.frame_count == 4


def test_compiled_stages_take_tables_and_stock_calls(pipelines, fresh_dynamo):
    """A table is another kind of input, so another graph a stage; so are the tensors of
    torch.no_grad, as a pipeline runs under.
    """
    from torch._dynamo.testing import CompileCounterWithBackend

    pipeline, backend = pipelines["dit"], CompileCounterWithBackend("eager")
    mosaic, noise = mosaic_of(pipeline.transformer), torch.randn(2, 4, 8, 8)
    side = Denoiser(mosaic, make_scheduler("DDIM"), SCHEDULE, 6, tabulate=True)
    expected = side.run(noise, DiT.conditions(torch.tensor([1, 5])), 1.5)[0]
    answered = answers(mosaic, pipeline)
    mosaic.compile_stages(backend=backend)
    for _ in range(2):
        assert torch.allclose(
            side.run(noise, DiT.conditions(torch.tensor([1, 5])), 1.5)[0], expected, atol=1e-5
        )
    assert backend.frame_count == 3
    for a, b in zip(answers(mosaic, pipeline), answered, strict=True):
        assert (a - b).abs().max() < 1e-5
    assert backend.frame_count == 6 and not fresh_dynamo["graph_break"]


def test_stages_do_not_use_up_each_others_recompilations(pipelines, fresh_dynamo):
    """Dynamo allows so many graphs a code object: with one of their own, several mosaics compile in
    one process.
    """
    from torch._dynamo.testing import CompileCounterWithBackend

    backend, model = CompileCounterWithBackend("eager"), pipelines["dit"].transformer
    with torch._dynamo.config.patch(recompile_limit=1):
        for _ in range(2):
            mosaic = mosaic_of(model)
            mosaic.compile_stages(backend=backend)
            answers(mosaic, pipelines["dit"])
        assert backend.frame_count == 6
        # modules of one class share their forward's
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            for network in mosaic.stages:
                args, conditions = inputs(pipelines["dit"], 300)
                torch.compile(network, backend=backend, fullgraph=True, dynamic=False)(
                    *args, **conditions
                )
