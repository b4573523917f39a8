"""What is done to a stock denoiser, done to a pruned one: every stage, or a sentence why not."""

from __future__ import annotations

import copy
import os

import diffusers.hooks as reuse
import pytest
import torch
from mosaics import PLAN, TIMES, cuts_of, mosaic_of
from running import KINDS, answers, denoiser, inputs, make_pipelines, same
from torch import nn

from core.errors import StudioError
from core.models.layers import find_layers
from core.mosaic.slimming import Constant
from core.mosaic.stock_methods import EVERYWHERE, HOOKS, REFUSED
from core.mosaic.transformer import MosaicTransformer

BLOCKS = {"dit": "transformer_blocks", "sdxl": "up_blocks"}


@pytest.fixture(scope="module")
def pipelines(model_folder, tmp_path_factory):
    """Tests must not change them."""
    return make_pipelines(model_folder, tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


@pytest.fixture
def sdxl(pipelines):
    """A pipeline of its own with a pruned UNet; two layers of the early stage lost everything."""
    return pruned(pipelines["sdxl"])


def pruned(pipeline, own=None):
    twin = type(pipeline)(**{k: copy.deepcopy(v) for k, v in pipeline.components.items()})
    twin.set_progress_bar_config(disable=True)
    twin.unet = mosaic_of(twin.unet) if own is None else own
    return twin


def run(pipeline, steps=6):
    random = torch.Generator().manual_seed(1)
    return pipeline(
        "a cat", num_inference_steps=steps, output_type="latent", generator=random
    ).images


def part_of(network, kind):
    return network.transformer_blocks[1] if kind == "dit" else network.up_blocks[0].attentions[0]


# ------------------------------------------------------------ hooks and patches


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_on_a_block_sees_every_stage(pipelines, kind):
    mosaic, calls = mosaic_of(denoiser(pipelines[kind])), []
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        with getattr(part_of(mosaic, kind), register)(lambda *_: calls.append(1)):
            answers(mosaic, pipelines[kind])
            mosaic.disable()
            answers(mosaic, pipelines[kind])
            mosaic.enable()
        assert len(calls) == 2 * len(TIMES)
        answers(mosaic, pipelines[kind])
        assert len(calls) == 2 * len(TIMES)  # removed everywhere
        calls.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_stage_shares_is_given_out_itself(pipelines, kind):
    mosaic = mosaic_of(denoiser(pipelines[kind]))
    name = {"dit": "pos_embed", "sdxl": "conv_in"}[kind]
    assert all(getattr(mosaic, name) is getattr(network, name) for network in mosaic.networks())
    whole = MosaicTransformer(denoiser(pipelines[kind]), None, [None] * 3)
    assert getattr(whole, BLOCKS[kind]) is getattr(whole.full, BLOCKS[kind])


def free_u(block):
    """As published: a forward that stands in the block's place and goes through its parts."""

    def forward(hidden_states, res_hidden_states_tuple, temb=None, encoder_hidden_states=None, **_):
        for resnet, attention in zip(block.resnets, block.attentions, strict=True):
            *res_hidden_states_tuple, skip = res_hidden_states_tuple
            hidden_states = resnet(torch.cat([hidden_states * block.b1, skip], dim=1), temb)
            hidden_states = attention(
                hidden_states, encoder_hidden_states=encoder_hidden_states, return_dict=False
            )[0]
        for upsampler in block.upsamplers or []:
            hidden_states = upsampler(hidden_states, None)
        return hidden_states

    return forward


def patch_up_blocks(unet):
    patched = 0
    for block in unet.up_blocks:
        if (
            type(block).__name__ == "CrossAttnUpBlock2D"
            or block.__class__.__name__ == "CrossAttnUpBlock2D"
        ):
            block.b1, block.forward = 1.3, free_u(block)
            patched += 1
    return patched


def test_a_forward_in_a_blocks_place_runs_the_parts_of_the_stage(sdxl, pipelines):
    before = run(sdxl)
    assert patch_up_blocks(sdxl.unet) == 1
    each = pruned(pipelines["sdxl"])
    for network in each.unet.networks():
        patch_up_blocks(network)
    with pytest.raises(StudioError, match="put in their place by hand"):
        sdxl.unet.compile_stages(backend="eager")
    found = run(sdxl)
    assert torch.equal(found, run(each)) and not torch.equal(found, before)
    del sdxl.unet.up_blocks[0].forward
    assert torch.equal(run(sdxl), before)


def reuse_attentions(pipeline, interval):
    """As DeepCache's helper: blocks run at one of `interval` steps and repeat it at the others."""
    unet, step, kept, calls = pipeline.unet, [-1], {}, []
    forward = unet.forward

    def count(*args, **kwargs):
        step[0] += 1
        return forward(*args, **kwargs)

    def wrapped(key, old):
        def run_or_keep(*args, **kwargs):
            if step[0] % interval == 0:
                calls.append(key)
                kept[key] = old(*args, **kwargs)
            return kept[key]

        return run_or_keep

    unet.forward = count
    unet.mid_block.forward = wrapped("mid", unet.mid_block.forward)
    for side in ("down_blocks", "up_blocks"):
        for i, block in enumerate(getattr(unet, side)):
            for j, attention in enumerate(getattr(block, "attentions", None) or []):
                attention.forward = wrapped((side, i, j), attention.forward)
    return calls


@pytest.mark.parametrize("steps", [6, 10])
def test_a_reuse_helper_saves_what_it_saves_on_the_dense_model(pipelines, steps):
    dense = pruned(pipelines["sdxl"], copy.deepcopy(pipelines["sdxl"].unet))
    counts = []
    for pipeline in (dense, pruned(pipelines["sdxl"])):
        calls = reuse_attentions(pipeline, 2)
        assert run(pipeline, steps).isfinite().all()
        counts.append(calls)
    assert counts[0] == counts[1] and len(counts[0]) == 4 * steps // 2


def test_a_wrapper_that_passes_everything_on_changes_no_bit(sdxl):
    before = run(sdxl)
    reuse_attentions(sdxl, 1)
    assert torch.equal(run(sdxl), before)


def test_parts_together_are_like_the_part(pipelines):
    mosaic, model = mosaic_of(pipelines["dit"].transformer), pipelines["dit"].transformer
    blocks = mosaic.transformer_blocks
    assert len(blocks) == 2 and len(list(blocks)) == 2 and len(blocks[:1]) == 1 and blocks
    assert blocks[-1].attn1.to_q.in_features == model.transformer_blocks[1].attn1.to_q.in_features
    assert isinstance(blocks[1], type(model.transformer_blocks[1])) and isinstance(
        blocks, nn.ModuleList
    )
    assert {id(p) for p in blocks.parameters()} == {
        id(p) for n in mosaic.networks() for p in n.transformer_blocks.parameters()
    }
    assert [name for name, _ in blocks.named_children()] == ["0", "1"]
    assert mosaic.get_submodule("transformer_blocks.1.ff").net[0].proj.in_features == 64
    blocks[0].attn1.marked = True
    assert all(
        n.transformer_blocks[0].attn1.marked
        for n in mosaic.networks()
        if not isinstance(n.transformer_blocks[0].attn1, Constant)
    )
    with pytest.raises(IndexError):
        blocks[2]
    for ask in (lambda: blocks[1].attn1.heads, lambda: blocks[1].attn1.to_q.weight):
        with pytest.raises(AttributeError, match="of its own"):
            ask()
    with pytest.raises(AttributeError, match="of its own"):
        blocks[1].ff = nn.Identity()
    with pytest.raises(AttributeError, match="of its own"):
        mosaic.transformer_blocks = nn.ModuleList()
    for call in (
        lambda: blocks[1](torch.zeros(1)),
        lambda: blocks.state_dict(),
        lambda: copy.deepcopy(blocks),
    ):
        with pytest.raises(StudioError, match="of its own"):
            call()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "apply",
    [
        lambda m: reuse.apply_layerwise_casting(m, torch.float16, torch.float32),
        lambda m: reuse.apply_layerwise_casting(m, torch.float16, torch.float32, None),
        lambda m: reuse.apply_group_offloading(m, torch.device("cpu"), offload_type="leaf_level"),
        lambda m: reuse.apply_group_offloading(m, torch.device("cpu"), num_blocks_per_group=1),
        lambda m: reuse.apply_pyramid_attention_broadcast(
            m,
            reuse.PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
            ),
        ),
    ],
)
def test_hooks_of_diffusers_are_refused_before_they_change_anything(pipelines, kind, apply):
    mosaic = mosaic_of(denoiser(pipelines[kind]))
    before = answers(mosaic, pipelines[kind])
    with pytest.raises(StudioError, match="do not fit a pruned model"):
        apply(mosaic)
    assert same(answers(mosaic, pipelines[kind]), before)
    assert {p.dtype for p in denoiser(pipelines[kind]).parameters()} == {torch.float32}


def test_what_is_pruned_or_hooked_already_is_not_pruned(pipelines):
    model = copy.deepcopy(pipelines["dit"].transformer)
    with pytest.raises(StudioError, match="pruned already"):
        find_layers(mosaic_of(model))
    reuse.apply_layerwise_casting(model, torch.float16, torch.float32)
    with pytest.raises(StudioError, match="carries hooks of diffusers"):
        find_layers(model)


# ------------------------------------------------------------ methods


def public(model):
    """Names of the stock class beside those of every module, properties and methods alike."""
    return [
        n
        for n in dir(type(model))
        if not n.startswith("_") and getattr(type(model), n) is not getattr(nn.Module, n, None)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_public_name_of_the_stock_class_answers_or_says_why_not(pipelines, kind):
    model = denoiser(pipelines[kind])
    mosaic, refused = mosaic_of(model), {}
    for name in public(model):
        try:
            getattr(mosaic, name)
        except AttributeError as err:
            refused[name] = str(err)
    assert all(
        text.endswith(".") and " has no attribute " not in text for text in refused.values()
    ), refused
    assert {n for n in EVERYWHERE if hasattr(model, n)} | {
        "config",
        "dtype",
        "device",
        "save_config",
    } <= set(public(model)) - refused.keys()
    assert {n for n in REFUSED if n in public(model)} <= refused.keys()
    assert refused["enable_layerwise_casting"] == refused["enable_group_offload"] == HOOKS


CALLS = {  # on a stock model first: its error must be the mosaic's too
    "enable_freeu": (0.9, 0.2, 1.3, 1.4),
    "disable_freeu": (),
    "set_default_attn_processor": (),
    "enable_gradient_checkpointing": (),
    "disable_gradient_checkpointing": (),
    "set_attention_backend": ("native",),
    "reset_attention_backend": (),
    "enable_xformers_memory_efficient_attention": (),
    "disable_xformers_memory_efficient_attention": (),
    "set_use_memory_efficient_attention_xformers": (True,),
    "enable_npu_flash_attention": (),
    "disable_npu_flash_attention": (),
    "set_use_npu_flash_attention": (False,),
    "enable_xla_flash_attention": (),
    "disable_xla_flash_attention": (),
    "set_use_xla_flash_attention": (False,),
    "set_attention_slice": ("max",),
    "to_json_string": (),
    "half": (),
    "float": (),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", [*EVERYWHERE, "set_attention_slice", "to_json_string", "half", "float"]
)
def test_a_method_does_what_it_does_to_a_stock_model(pipelines, kind, name):
    model = copy.deepcopy(denoiser(pipelines[kind]))
    mosaic, expected = mosaic_of(model), None
    try:
        getattr(copy.deepcopy(model), name)(*CALLS[name])
    except Exception as err:
        expected = type(err)
    if expected is None:
        getattr(mosaic, name)(*CALLS[name])
        dtype = torch.float16 if name == "half" else torch.float32
        assert mosaic.dtype == dtype and all(
            x.isfinite().all() for x in answers(mosaic, pipelines[kind], dtype)
        )
    else:
        with pytest.raises(expected):
            getattr(mosaic, name)(*CALLS[name])


def test_freeu_is_what_it_is_before_pruning(sdxl, pipelines):
    plain, early = run(sdxl), copy.deepcopy(pipelines["sdxl"].unet)
    early.enable_freeu(0.9, 0.2, 1.3, 1.4)
    sdxl.enable_freeu(0.9, 0.2, 1.3, 1.4)
    found = run(sdxl)
    assert torch.equal(found, run(pruned(pipelines["sdxl"], mosaic_of(early)))) and not torch.equal(
        found, plain
    )
    sdxl.disable_freeu()
    assert torch.equal(run(sdxl), plain)


@pytest.mark.parametrize("size", ["auto", "max", 1, 3])
def test_attention_is_sliced_in_every_stage(sdxl, size):
    plain, sliced = run(sdxl), [m for m in sdxl.unet.modules() if hasattr(m, "sliceable_head_dim")]
    sdxl.enable_attention_slicing(size if size != 3 else [3] * 16)
    assert {type(m.processor).__name__ for m in sliced} == {"SlicedAttnProcessor"}
    wanted = {"auto": lambda m: max(1, m.heads // 2), 3: lambda m: min(3, m.heads)}.get(
        size, lambda m: 1
    )
    assert all(m.processor.slice_size == wanted(m) for m in sliced)
    assert (run(sdxl) - plain).abs().max() < 1e-4 * plain.abs().max()
    sdxl.disable_attention_slicing()
    assert torch.equal(run(sdxl), plain)


@pytest.mark.parametrize("size", ["most", 0, 99, 1.5, True, [1]])
def test_slices_that_do_not_fit_are_refused(pipelines, size):
    mosaic = mosaic_of(pipelines["sdxl"].unet)
    with pytest.raises(StudioError, match="slice size"):
        mosaic.set_attention_slice(size)
    assert "SlicedAttnProcessor" not in {type(p).__name__ for p in mosaic.attn_processors.values()}


def test_processors_come_and_go_as_a_dictionary(sdxl, pipelines):
    """Also where an attention of one stage lost everything, by the paths of the dense model."""
    from diffusers.models.attention_processor import AttnProcessor

    unet, plain = sdxl.unet, run(sdxl)
    dense = pipelines["sdxl"].unet.attn_processors
    assert unet.attn_processors.keys() == dense.keys()
    new = {path: AttnProcessor() for path in dense}
    unet.set_attn_processor(new)
    assert len(new) == len(dense) and unet.attn_processors == new
    for network in unet.networks():
        assert all(new[path] is processor for path, processor in network.attn_processors.items())
    assert (run(sdxl) - plain).abs().max() < 1e-4 * plain.abs().max()
    unet.set_attn_processor(dict(dense))
    assert torch.equal(run(sdxl), plain)
    for wrong in (
        {},
        {**dense, "nowhere.processor": AttnProcessor()},
        dict(list(dense.items())[1:]),
    ):
        with pytest.raises(StudioError, match="attention processors does not fit"):
            unet.set_attn_processor(wrong)
    lost = [path for path in dense if path not in unet.stages[2].attn_processors]
    assert lost  # or the above would try nothing


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_come_back_the_same_with_checkpointing(pipelines, kind):
    mosaic = mosaic_of(copy.deepcopy(denoiser(pipelines[kind]))).train().requires_grad_(True)
    args, conditions = inputs(pipelines[kind], TIMES[0])

    def gradient():
        mosaic.zero_grad()
        mosaic(*args, **conditions).sample.square().sum().backward()
        return [p.grad.clone() for p in mosaic.stages[0].parameters() if p.grad is not None]

    plain = gradient()
    mosaic.enable_gradient_checkpointing()
    assert mosaic.is_gradient_checkpointing and all(
        n.is_gradient_checkpointing for n in mosaic.networks()
    )
    again = gradient()
    assert len(plain) == len(again) > 10 and all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, again, strict=True)
    )
    mosaic.disable_gradient_checkpointing()
    assert not mosaic.is_gradient_checkpointing


def test_sizes_count_every_tensor_once(pipelines):
    mosaic = mosaic_of(pipelines["sdxl"].unet)
    assert mosaic.num_parameters() == sum(p.numel() for p in mosaic.parameters())
    assert mosaic.get_memory_footprint() == sum(
        t.nbytes for t in [*mosaic.parameters(), *mosaic.buffers()]
    )
    assert mosaic.to_json_string() == pipelines["sdxl"].unet.to_json_string()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("load_lora_adapter", "fuse it there"),
        ("_load_ip_adapter_weights", "IP-Adapter"),
        ("enable_lora", "fuse it there"),
        ("compile_repeated_blocks", "compile_stages"),
        ("push_to_hub", "upload_folder"),
        ("from_config", "a stock model"),
        ("register_to_config", "one stage"),
    ],
)
def test_what_cannot_be_is_said(pipelines, name, match):
    mosaic = mosaic_of(pipelines["sdxl"].unet)
    with pytest.raises(AttributeError, match=match):
        getattr(mosaic, name)
    assert not hasattr(mosaic, name)


def test_pag_runs_and_takes_its_processors_back(sdxl):
    from diffusers import StableDiffusionXLPAGPipeline

    pipeline = StableDiffusionXLPAGPipeline(**sdxl.components, pag_applied_layers=["mid"])
    pipeline.set_progress_bar_config(disable=True)
    plain = run(pipeline)
    before = pipeline.unet.attn_processors
    found = pipeline(
        "a cat",
        num_inference_steps=6,
        output_type="latent",
        pag_scale=5.0,
        generator=torch.Generator().manual_seed(1),
    ).images
    assert found.isfinite().all() and pipeline.unet.attn_processors == before
    assert pipeline.unet.enabled and plain.isfinite().all()


# ------------------------------------------------------------ saving


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pipeline_with_a_pruned_model_is_not_written(pipelines, kind, wrapped, tmp_path):
    stock = pipelines[kind]
    pipeline = type(stock)(**stock.components)
    name = "unet" if kind == "sdxl" else "transformer"
    mosaic = MosaicTransformer(denoiser(stock), PLAN, [cuts_of(denoiser(stock)), None, None])
    setattr(pipeline, name, torch.compile(mosaic, backend="eager") if wrapped else mosaic)
    for save in (
        lambda: pipeline.save_pretrained(tmp_path / "out"),
        lambda: pipeline.push_to_hub("somebody/something"),
    ):
        with pytest.raises(StudioError, match=f"pipeline.{name}.save_pretrained"):
            save()
    assert not os.listdir(tmp_path)
    mosaic.save_pretrained(tmp_path / "subnetworks")
    setattr(
        pipeline,
        name,
        MosaicTransformer.from_pretrained(tmp_path / "subnetworks", base=denoiser(stock)),
    )
    assert same(answers(getattr(pipeline, name), stock), answers(mosaic, stock))


def test_other_pipelines_are_saved_as_ever(pipelines, tmp_path):
    mosaic_of(denoiser(pipelines["dit"]))
    pipelines["dit"].save_pretrained(tmp_path / "out")
    back = type(pipelines["dit"]).from_pretrained(tmp_path / "out")
    assert back.transformer.state_dict().keys() == denoiser(pipelines["dit"]).state_dict().keys()


@pytest.mark.parametrize(
    "options",
    [{"safe_serialization": True}, {"push_to_hub": True}, {"variant": "fp16"}, {"facts": True}],
)
def test_options_of_diffusers_saving_are_refused(pipelines, tmp_path, options):
    with pytest.raises(StudioError, match="always safetensors"):
        mosaic_of(denoiser(pipelines["dit"])).save_pretrained(tmp_path / "out", **options)
    assert not os.listdir(tmp_path)
