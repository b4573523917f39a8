"""Subnetworks at work: memory, moves, copies, offloading, stock pipelines. Tiny random DiT and
SDXL; DiT-XL/2 at its true size for memory.
"""

from __future__ import annotations

import copy
import gc
import weakref
from itertools import product

import accelerate
import pytest
import torch
from mosaics import PLAN, cuts_of, mosaic_of
from running import KINDS, answers, denoiser, held, make_pipelines, same, storages

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.models.layers import find_layers, removed_groups
from core.mosaic.adaln import embedders
from core.mosaic.transformer import MosaicTransformer
from core.pruning.cuts import Cut, kept_columns


@pytest.fixture(scope="module")
def pipelines(model_folder, tmp_path_factory):
    """Tests must not change them."""
    return make_pipelines(model_folder, tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


# ------------------------------------------------------------ memory


def test_three_subnetworks_of_dit_xl_2_in_fp16_hold_at_most_2_1_gigabytes():
    """DiT-XL/2 as diffusers configures it, counted from the storages: dense 1.50 GB, 1.35 merged,
    three subnetworks 2.06.
    """
    from diffusers import DiTTransformer2DModel

    with torch.device("meta"):
        model = DiTTransformer2DModel(
            num_attention_heads=16,
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            num_layers=28,
            sample_size=32,
            patch_size=2,
            num_embeds_ada_norm=1000,
        )
    # values do not matter, but equal embedders do
    model = model.half().to_empty(device="cpu").eval().requires_grad_(False)
    first, *others = embedders(model).values()
    for parameter in first.parameters():
        parameter.normal_(generator=torch.Generator().manual_seed(0))
    for other in others:
        other.load_state_dict(first.state_dict())
    assert 1.49e9 < held(model) < 1.51e9
    layers = find_layers(model)
    cuts = []
    for sparsity in (0.5, 0.2, 0.5):
        gone = zip(layers, removed_groups(layers, sparsity), strict=True)
        cuts.append(
            [
                Cut(
                    torch.arange(n, layer.groups),
                    model.get_submodule(layer.consumer).weight[:, n * layer.group_size :],
                )
                for layer, n in gone
            ]
        )
    mosaic = MosaicTransformer(model, StagePlan((100, 600), (0.5, 0.2, 0.5)), cuts, layers=layers)
    assert 1.34e9 < held(mosaic.full) < 1.36e9
    assert held(mosaic) < held(mosaic.full) + 1.65e9  # with the dense model to disable to
    mosaic.release_dense()
    assert 2.0e9 < held(mosaic) <= 2.1e9
    assert set(storages(*mosaic.stages)) == set(storages(mosaic))


def test_weights_of_cuts_are_not_kept(pipelines):
    model = pipelines["dit"].transformer
    cuts = cuts_of(model, share=0.5)
    groups, weights = [c.kept for c in cuts], [weakref.ref(c.weight) for c in cuts]
    mosaic = MosaicTransformer(model, PLAN, [cuts, None, cuts])
    del cuts
    gc.collect()
    assert all(w() is None for w in weights)
    assert mosaic.kept(0) == [len(g) for g in groups] == mosaic.kept(2) and mosaic.kept(1) == [
        layer.groups for layer in mosaic.layers
    ]
    assert (
        same([c.kept for c in mosaic.cuts[0]], groups)
        and mosaic.cuts[0] is mosaic.cuts[2]
        and mosaic.cuts[1] is None
    )


@pytest.mark.parametrize("masked", [False, True])
def test_weights_can_be_asked_for(pipelines, masked):
    """Early stage: layers 0 and 3 lose everything, layer 1 is the dense one."""
    model, early = (
        pipelines["dit"].transformer,
        cuts_of(pipelines["dit"].transformer, 3, 0.3, nothing=(0, 3), untouched=(1,)),
    )
    mosaic = mosaic_of(model, masked)
    for i, (layer, cut) in enumerate(zip(mosaic.layers, early, strict=True)):
        dense = model.get_submodule(layer.consumer).weight
        wanted = dense
        if cut.weight is not None:
            columns = kept_columns(layer, cut.kept, dense.device)
            wanted = torch.zeros_like(dense).index_copy_(1, columns, cut.weight)
        assert torch.equal(mosaic.weight(2, i), wanted) and (i == 1) == (cut.weight is None)
        assert mosaic.weight(2, i).data_ptr() != dense.data_ptr()


@pytest.mark.parametrize("kind", KINDS)
def test_a_released_dense_model_is_gone(pipelines, kind):
    model = copy.deepcopy(denoiser(pipelines[kind]))
    mosaic = mosaic_of(model)
    expected, before = answers(mosaic, pipelines[kind]), held(mosaic)
    # pruned in every stage
    whole = weakref.ref(model.get_submodule(mosaic.layers[-1].consumer).weight)
    mosaic.release_dense()
    assert held(mosaic) < before and whole() is not None  # it is still the caller's
    del model
    gc.collect()
    assert whole() is None
    assert same(answers(mosaic, pipelines[kind]), expected)
    for call in (mosaic.disable, lambda: mosaic.full, lambda: mosaic.dense):
        with pytest.raises(StudioError, match="was released"):
            call()
    assert mosaic.enabled
    with pytest.raises(StudioError, match="with a plan"):
        MosaicTransformer(denoiser(pipelines[kind]), None, [None] * 3).release_dense()


# ------------------------------------------------------------ moves and copies


@pytest.mark.parametrize("kind", KINDS)
def test_a_move_keeps_the_sharing_and_leaves_the_dense_model_alone(pipelines, kind):
    pipeline = pipelines[kind]
    model = denoiser(pipeline)
    mosaic, before = mosaic_of(model), copy.deepcopy(model.state_dict())
    addresses, counted, shared = (
        set(storages(model)),
        len(storages(mosaic)),
        len(set(storages(model)) & set(storages(mosaic))),
    )
    assert shared > 10
    mosaic.to(torch.bfloat16)
    assert mosaic.dtype == torch.bfloat16 and len(storages(mosaic)) == counted
    assert not set(storages(mosaic)) & addresses
    after = model.state_dict()
    assert set(storages(model)) == addresses and all(
        torch.equal(before[k], v) and v.dtype == before[k].dtype for k, v in after.items()
    )
    # cut from the model in bf16: the same weights, rounded once
    low = mosaic_of(copy.deepcopy(model).to(torch.bfloat16))
    for stage, layer in product(range(3), range(len(mosaic.layers))):
        assert torch.equal(mosaic.weight(stage, layer), low.weight(stage, layer))
    found, wanted = (answers(m, pipeline, torch.bfloat16) for m in (mosaic, low))
    if torch.backends.cpu.get_cpu_capability() == "AVX2":  # bf16 is summed up by width there
        for a, b in zip(found, wanted, strict=True):
            assert torch.allclose(a.float(), b.float(), atol=0.02)
    else:
        assert same(found, wanted)
    mosaic.to("meta")
    assert mosaic.device.type == "meta" and model.device.type == "cpu"
    assert (
        len({id(p) for p in mosaic.parameters()}) + len({id(b) for b in mosaic.buffers()})
        == counted
    )


def test_a_move_to_where_it_is_copies_nothing(pipelines):
    mosaic = mosaic_of(pipelines["dit"].transformer)
    before = storages(mosaic)
    mosaic.to("cpu").float()
    assert storages(mosaic) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_copy_shares_nothing_with_the_original(pipelines, kind):
    mosaic = mosaic_of(denoiser(pipelines[kind]))
    mosaic.compile_stages(backend="eager")
    twin = copy.deepcopy(mosaic)
    assert not set(storages(twin)) & set(storages(mosaic)) and held(twin) == held(mosaic)
    expected = answers(twin, pipelines[kind])
    with torch.no_grad():
        for parameter in mosaic.parameters():
            parameter.zero_()  # a copy of the compiled forward would run these
    assert same(answers(twin, pipelines[kind]), expected) and expected[0].abs().max() > 0
    twin.disable()
    assert mosaic.enabled


def test_its_state_comes_back(pipelines):
    pipeline = pipelines["dit"]
    mosaic = mosaic_of(copy.deepcopy(pipeline.transformer))
    expected, state = answers(mosaic, pipeline), copy.deepcopy(mosaic.state_dict())
    with torch.no_grad():
        for parameter in mosaic.parameters():
            parameter.zero_()
    mosaic.load_state_dict(state)
    assert same(answers(mosaic, pipeline), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_the_dense_network_are_the_models_own(pipelines, kind):
    model = denoiser(pipelines[kind])
    state = mosaic_of(model).full.state_dict()
    assert state.keys() == model.state_dict().keys() and all(
        torch.equal(v, state[k]) for k, v in model.state_dict().items()
    )


def test_what_is_asked_of_it_beside_the_forward(pipelines):
    model = copy.deepcopy(pipelines["sdxl"].unet)
    mosaic = mosaic_of(model)
    assert (
        mosaic.add_embedding.linear_1.in_features == model.add_embedding.linear_1.in_features
        and mosaic.config is model.config
    )
    assert not any(
        hasattr(mosaic, name)
        for name in (
            "nothing_of_the_kind",
            "_hf_hook",
            "__wrapped__",
            "load_lora_adapter",
            "fuse_lora",
        )
    )
    model._hf_hook = object()  # the dense model is offloaded later: not the mosaic's affair
    assert not hasattr(mosaic, "_hf_hook")
    # half made, as copying and unpickling see it
    assert not hasattr(MosaicTransformer.__new__(MosaicTransformer), "config")


def test_a_compiled_dense_model_is_cut_like_any_other(pipelines):
    model = copy.deepcopy(pipelines["dit"].transformer)
    expected = answers(mosaic_of(model), pipelines["dit"])
    model.compile(backend="eager")  # in place: the twins must not run what belongs to the model
    assert same(answers(mosaic_of(model), pipelines["dit"]), expected)
    mosaic = MosaicTransformer(torch.compile(model, backend="eager"), None, [None] * 3)
    assert type(mosaic.full) is type(model)


# ------------------------------------------------------------ in a stock pipeline


def run(pipeline, model, steps=4):
    setattr(pipeline, "unet" if hasattr(pipeline, "unet") else "transformer", model)
    pipeline.set_progress_bar_config(disable=True)
    random = torch.Generator().manual_seed(3)
    if hasattr(pipeline, "unet"):
        return pipeline(
            "a fox",
            num_inference_steps=steps,
            height=32,
            width=32,
            generator=random,
            output_type="latent",
        ).images
    return pipeline([1, 5], num_inference_steps=steps, generator=random, output_type="pt").images


@pytest.fixture
def own(pipelines):
    """Pipelines that a test may move."""
    return {
        kind: type(p)(**{k: copy.deepcopy(v) for k, v in p.components.items()})
        for kind, p in pipelines.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipelines_move_takes_the_mosaic_along(own, kind):
    pipeline, model = own[kind], denoiser(own[kind])
    mosaic = mosaic_of(model)
    first = run(pipeline, mosaic)
    pipeline.to(torch.bfloat16)
    assert (
        mosaic.dtype == torch.bfloat16 == denoiser(pipeline).dtype and model.dtype == torch.float32
    )
    low = run(pipeline, mosaic)
    assert (
        low.isfinite().all() and (low.float() - first.float()).abs().max() < 0.3 * first.abs().max()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_offloading_takes_the_mosaic_along(own, kind):
    """As enable_model_cpu_offload hooks it;
    here the device it comes and goes to is the CPU itself.
    """
    pipeline = own[kind]
    mosaic = mosaic_of(denoiser(pipeline))
    expected, counted = run(pipeline, mosaic), len(storages(mosaic))
    hooked, hook = accelerate.cpu_offload_with_hook(mosaic, torch.device("cpu"))
    assert hooked is mosaic and torch.equal(run(pipeline, mosaic), expected)
    hook.offload()
    assert torch.equal(run(pipeline, mosaic), expected) and len(storages(mosaic)) == counted
    hook.remove()
    assert not hasattr(mosaic, "_hf_hook") and torch.equal(run(pipeline, mosaic), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
def test_offloading_to_the_gpu_and_back(own, kind):
    pipeline, model = own[kind], denoiser(own[kind])
    mosaic = mosaic_of(model)
    expected, counted = run(pipeline, mosaic), len(storages(mosaic))
    pipeline.enable_model_cpu_offload()
    found = run(pipeline, mosaic)
    assert (found.cpu() - expected).abs().max() < 1e-3 * expected.abs().max()
    assert mosaic.device.type == "cpu" == model.device.type and len(storages(mosaic)) == counted
    pipeline.remove_all_hooks()
    pipeline.to("cuda")
    assert mosaic.device.type == "cuda" and len(storages(mosaic)) == counted
    assert (run(pipeline, mosaic).cpu() - expected).abs().max() < 1e-3 * expected.abs().max()


def test_errors_across_calibrations_are_read_from_the_networks(workshop):
    from core.bench.sources import cross_error

    found = cross_error(workshop, workshop.build(PLAN), workshop)
    assert (
        list(found.values())
        == pytest.approx([workshop.exact_error(PLAN, stage)[1] for stage in range(3)], rel=1e-3)
        and min(found.values()) > 1e-4
    )
