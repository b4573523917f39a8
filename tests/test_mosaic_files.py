"""Saved subnetworks: the same bits back, in a fresh process too, over the base they were cut from
and no other.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline, StableDiffusionXLPipeline
from mosaics import FACTS, PLAN, cuts_of, mosaic_of, outputs, same
from safetensors.torch import load_file
from tiny_sdxl import make_sdxl

from core.errors import StudioError
from core.models.bundled import BUNDLED
from core.models.checkpoints import load_checkpoint
from core.models.layers import find_layers
from core.mosaic.manifest import coarser, indices, model_hash, ranges
from core.mosaic.slimming import Constant
from core.mosaic.transformer import MosaicTransformer
from core.pruning.cuts import Cut

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def dense(model_folder):
    return load_checkpoint(model_folder, "cpu", dtype=torch.float32).denoiser


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory):
    return make_sdxl(tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


@pytest.fixture(scope="module")
def saved(dense, tmp_path_factory):
    """Must not be changed: copy it."""
    folder = tmp_path_factory.mktemp("saved") / "pruned"
    mosaic_of(dense).save_pretrained(folder, FACTS)
    return folder


# ------------------------------------------------------------ there and back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_same_bits_in_every_precision(dense, tmp_path, dtype):
    mosaic = mosaic_of(copy.deepcopy(dense).to(dtype))
    names = mosaic.save_pretrained(tmp_path / "out", FACTS)
    assert names == [
        "late.safetensors",
        "middle.safetensors",
        "early.safetensors",
        "manifest.json",
    ] and sorted(names) == sorted(os.listdir(tmp_path / "out"))
    back = MosaicTransformer.from_pretrained(tmp_path / "out", mosaic.full)
    assert same(mosaic, back) and back.kept(2)[0] == back.kept(2)[3] == 0 and back.facts == FACTS
    assert {t.dtype for t in load_file(tmp_path / "out" / "early.safetensors").values()} == {dtype}
    assert isinstance(back.stages[2].get_submodule(back.layers[0].module), Constant)


def test_facts_are_given_to_the_mosaic_and_saved_with_it(dense, tmp_path):
    mosaic = MosaicTransformer(dense, PLAN, [cuts_of(dense)] * 3, facts=FACTS)
    assert MosaicTransformer(dense, None, [None] * 3).facts == {}
    mosaic.save_pretrained(tmp_path / "out")
    assert MosaicTransformer.from_pretrained(tmp_path / "out", dense).facts == FACTS


def test_masked_disabled_dense_and_planless_come_back(dense, tmp_path):
    masked, some = mosaic_of(dense, masked=True), cuts_of(dense)
    disabled = MosaicTransformer(
        dense, PLAN, [some, None, [Cut(torch.arange(x.groups), None) for x in find_layers(dense)]]
    )
    disabled.disable()
    planless = MosaicTransformer(dense, None, [None] * 3)
    for name, mosaic in (("masked", masked), ("disabled", disabled), ("planless", planless)):
        mosaic.save_pretrained(tmp_path / name)
        assert same(mosaic, MosaicTransformer.from_pretrained(tmp_path / name, dense)), name
    back = MosaicTransformer.from_pretrained(tmp_path / "disabled", dense)
    back.enable()
    disabled.enable()
    assert same(back, disabled) and back.stages[1] is back.full
    assert sorted(os.listdir(tmp_path / "disabled")) == [
        "late.safetensors",
        "manifest.json",
    ] and os.listdir(tmp_path / "planless") == ["manifest.json"]


def test_equal_stages_are_stored_once_and_are_one_network(dense, tmp_path):
    mosaic = MosaicTransformer(
        dense, PLAN, [cuts_of(dense, 1), cuts_of(dense, 2), cuts_of(dense, 1)]
    )
    assert mosaic.stages[0] is not mosaic.stages[2]
    assert mosaic.save_pretrained(tmp_path / "out") == [
        "late.safetensors",
        "middle.safetensors",
        "manifest.json",
    ]
    back = MosaicTransformer.from_pretrained(tmp_path / "out", dense)
    assert (
        same(mosaic, back)
        and back.stages[0] is back.stages[2]
        and back.stages[0] is not back.stages[1]
    )


def test_stored_is_what_the_base_lacks_and_the_manifest_says_what_is_kept(dense, saved):
    manifest, mosaic = json.loads((saved / "manifest.json").read_text()), mosaic_of(dense)
    assert (
        manifest["plan"] == PLAN.to_json()
        and manifest["family"] == "DiT"
        and manifest["dtype"] == "float32"
        and FACTS.items() <= manifest.items()
    )
    assert [manifest["stages"][s]["timesteps"] for s in ("late", "middle", "early")] == [
        [0, 100],
        [100, 600],
        [600, 1000],
    ]
    for i, stage in enumerate(("late", "middle", "early")):
        tensors = load_file(saved / f"{stage}.safetensors")
        numbers = sum(
            64 * len(cut.kept) * x.group_size or 64
            for x, cut in zip(mosaic.layers, mosaic.cuts[i], strict=True)
            if len(cut.kept) < x.groups
        )
        assert sum(t.numel() for t in tensors.values()) == numbers
        for layer, cut in zip(mosaic.layers, mosaic.cuts[i], strict=True):
            text = manifest["stages"][stage]["kept"][layer.name]
            assert (
                (text == "all")
                if len(cut.kept) == layer.groups
                else (indices(text, layer.groups) == cut.kept.tolist())
            )
    assert manifest["stages"]["early"]["kept"]["block 1 heads"] == "none"


def test_names_that_manifests_go_by_are_unique_in_the_true_sdxl():
    from diffusers import UNet2DConditionModel
    from test_sdxl import TRUE_CONFIG

    with torch.device("meta"):
        layers = find_layers(UNet2DConditionModel(**TRUE_CONFIG))
    assert len({layer.name for layer in layers}) == len(layers) == 210


def test_saved_again_after_loading_it_is_the_same_folder(dense, saved, tmp_path):
    MosaicTransformer.from_pretrained(saved, dense).save_pretrained(tmp_path / "again")
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()
    }


def test_moved_to_another_precision_it_is_saved_as_it_then_runs(dense, tmp_path):
    mosaic = mosaic_of(copy.deepcopy(dense)).to(torch.bfloat16)
    mosaic.save_pretrained(tmp_path / "out")
    back = MosaicTransformer.from_pretrained(tmp_path / "out", mosaic.full)
    for stage in range(3):  # loaded in half precision, odd widths are filled up with zeros
        assert back.kept(stage) == mosaic.kept(stage)
        for i, layer in enumerate(mosaic.layers):
            if len(mosaic.cuts[stage][i].kept):
                assert torch.equal(back.weight(stage, i), mosaic.weight(stage, i)), layer.name
    for a, b in zip(outputs(back), outputs(mosaic), strict=True):
        assert (a - b).float().abs().max() < 2e-2 * b.float().abs().max()


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_devices_may_differ(dense, tmp_path, dtype):
    """Saved on a GPU, loaded there: the same bits; loaded on the CPU: the same weights, the base's
    hash being that of its values.
    """
    mosaic = mosaic_of(copy.deepcopy(dense).to("cuda", dtype))
    mosaic.save_pretrained(tmp_path / "out")
    back = MosaicTransformer.from_pretrained(tmp_path / "out", mosaic.full)
    assert back.device.type == "cuda" and same(mosaic, back)
    there = MosaicTransformer.from_pretrained(tmp_path / "out", copy.deepcopy(dense).to(dtype))
    assert there.device.type == "cpu" and same(mosaic.to("cpu"), there)


@pytest.mark.parametrize("text", ["none", "0", "3", "0-9", "0, 2, 4-5, 9"])
def test_ranges_are_read_back(text):
    assert ranges(indices(text, 10)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "0-10",
        "3-1",
        "1, 1",
        "2, 1",
        "0-3, 2",
        "-1",
        "0-",
        "0,1",
        " 0",
        "0\n",
        "0-99999999999",
        "٣",
    ],
)
def test_what_are_no_indices(text):
    with pytest.raises(ValueError):
        indices(text, 10)


# ------------------------------------------------------------ another process


def fresh(code: str, folder: Path) -> np.ndarray:
    """Run `code`, which ends with a picture in `image`, by an interpreter of its own with `folder`
    as its place -> the picture.
    """
    code += (
        "\nimport sys, numpy\n"
        "assert not [x for x in ('gradio', 'plotly', 'pandas', 'optuna') if sys.modules.get(x)]\n"
        "numpy.save('image.npy', image)\n"
    )
    # sums depend on the threads
    environment = os.environ | {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / "image.npy")


def test_the_readmes_five_lines_in_a_fresh_process(tmp_path):
    """Word for word, in a folder where only what they name is to be found; the same picture as
    here, where the subnetworks were cut.
    """
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
        if "MosaicTransformer.from_pretrained" in block
    )
    pipeline = DiTPipeline.from_pretrained(BUNDLED)
    dense = pipeline.transformer
    pipeline.transformer = mosaic_of(dense)
    pipeline.transformer.save_pretrained(tmp_path / "subnetworks")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    torch.manual_seed(3)
    here = np.asarray(pipeline([1], num_inference_steps=6).images[0])
    fewer = (
        "import functools, diffusers\nsample = functools.partialmethod("
        "diffusers.DiTPipeline.__call__, num_inference_steps=6)\n"
        "diffusers.DiTPipeline.__call__ = sample"
    )
    there = fresh(f"import torch\ntorch.manual_seed(3)\n{fewer}\n{code}", tmp_path)
    assert here.shape == (64, 64, 3) and here.std() > 0 and (here == there).all()


def test_the_same_for_sdxl_without_scipy_and_pandas(sdxl_folder, tmp_path):
    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl_folder)
    call = (
        "pipeline('a fox', num_inference_steps=4, height=32, width=32,"
        " generator=torch.Generator().manual_seed(3), output_type='np').images[0]"
    )
    without = eval(call, {"pipeline": pipeline, "torch": torch})
    pipeline.unet = mosaic_of(pipeline.unet)
    pipeline.unet.save_pretrained(tmp_path / "pruned")
    here = eval(call, {"pipeline": pipeline, "torch": torch})
    there = fresh(
        f"""
import sys, torch
sys.modules |= dict.fromkeys(('scipy', 'pandas'))  # as if they were not installed
from diffusers import StableDiffusionXLPipeline
from core.mosaic.transformer import MosaicTransformer
pipeline = StableDiffusionXLPipeline.from_pretrained({str(sdxl_folder)!r})
pipeline.unet = MosaicTransformer.from_pretrained("pruned", base=pipeline)
image = {call}
""",
        tmp_path,
    )
    assert here.shape == there.shape and (here == there).all() and not np.array_equal(here, without)


# ------------------------------------------------------------ the base


def test_a_base_may_be_a_pipeline_a_denoiser_a_folder_or_a_mosaic(dense, saved, model_folder):
    pipeline = load_checkpoint(model_folder, "cpu", dtype=torch.float32).pipeline
    expected = mosaic_of(dense)
    for base in (pipeline, dense, model_folder, str(model_folder), expected):
        assert same(expected, MosaicTransformer.from_pretrained(saved, base=base))
    for nothing in (None, 3, torch.zeros(2), object()):
        with pytest.raises(StudioError, match="The base must be"):
            MosaicTransformer.from_pretrained(saved, base=nothing)
    with pytest.raises(StudioError, match="neither a folder"):
        MosaicTransformer.from_pretrained(saved, base="nowhere")


def test_a_folder_is_loaded_in_the_saved_precision(model_folder, tmp_path):
    mosaic = mosaic_of(load_checkpoint(model_folder, "cpu", dtype=torch.bfloat16).denoiser)
    mosaic.save_pretrained(tmp_path / "out")
    assert same(mosaic, MosaicTransformer.from_pretrained(tmp_path / "out", base=model_folder))


@pytest.mark.parametrize(
    ("saved_in", "loaded_in"),
    [
        ("float32", "float16"),
        ("float32", "bfloat16"),
        ("float16", "float32"),
        ("bfloat16", "float32"),
    ],
)
def test_the_same_checkpoint_in_another_precision_is_taken(dense, tmp_path, saved_in, loaded_in):
    a, b = (copy.deepcopy(dense).to(getattr(torch, d)) for d in (saved_in, loaded_in))
    mosaic = mosaic_of(a)
    mosaic.save_pretrained(tmp_path / "out")
    back = MosaicTransformer.from_pretrained(tmp_path / "out", b)
    assert back.dtype == b.proj_out_1.weight.dtype and {p.dtype for p in back.parameters()} == {
        back.dtype
    }
    assert [back.kept(i) for i in range(3)] == [mosaic.kept(i) for i in range(3)]
    for x, y in zip(outputs(mosaic), outputs(back), strict=True):
        assert (x.float() - y.float()).abs().max() < 0.05 * x.float().abs().max()


def test_half_precisions_agree_only_where_one_was_rounded_from_the_other(dense, tmp_path):
    half = copy.deepcopy(dense).half()
    mosaic_of(half).save_pretrained(tmp_path / "out")
    MosaicTransformer.from_pretrained(tmp_path / "out", copy.deepcopy(half).bfloat16())
    with pytest.raises(StudioError, match="the same checkpoint in float16"):
        MosaicTransformer.from_pretrained(tmp_path / "out", copy.deepcopy(dense).bfloat16())


def test_any_other_weight_is_another_base(dense, saved, model_folder):
    other = copy.deepcopy(dense)
    with torch.no_grad():
        weight = other.transformer_blocks[1].norm1.linear.weight  # a layer that is not pruned
        weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))
    with pytest.raises(StudioError, match="other weights than the model"):
        MosaicTransformer.from_pretrained(saved, other)
    assert model_hash(other, "float32") != model_hash(dense, "float32") and model_hash(
        dense, "float32"
    ) == model_hash(copy.deepcopy(dense), "float32")
    assert (
        coarser("float32", "float16") == coarser("float16", "float32") == "float16"
        and coarser("bfloat16", "float16") == "bfloat16"
    )


def test_other_layers_and_other_families_are_other_bases(dense, saved, sdxl_folder):
    from diffusers import UNet2DConditionModel

    fewer_heads = type(dense).from_config(
        dense.config | {"num_attention_heads": 2, "attention_head_dim": 32}
    )
    fewer_heads.load_state_dict(dense.state_dict())  # so only its layers tell
    unet = UNet2DConditionModel.from_pretrained(sdxl_folder / "unet")
    with pytest.raises(StudioError, match="of the kind DiT, the base is of the kind SDXL"):
        MosaicTransformer.from_pretrained(saved, unet)
    with pytest.raises(StudioError, match="other layers than the base"):
        MosaicTransformer.from_pretrained(saved, fewer_heads)


def test_offloaded_weights_are_refused(dense, saved):
    with pytest.raises(StudioError, match="offloaded"):
        MosaicTransformer.from_pretrained(saved, copy.deepcopy(dense).to("meta"))
