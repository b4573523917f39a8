"""Opening checkpoints as the hub has them, and what is refused.

The older class name of DiT, revisions, pickled weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from conftest import make_pipeline
from make_dit_xl import CONFIG, make_dit_xl
from mosaics import PLAN, outputs
from safetensors import safe_open

from core.calibration.settings import CalibrationSettings
from core.errors import StudioError
from core.models.checkpoints import load_checkpoint
from core.models.layers import find_layers
from core.mosaic.transformer import MosaicTransformer
from core.workshop.workshop import Workshop

TINY = CalibrationSettings(edges=(0, 100, 600, 1000), images=8, held_out=4)


def rewritten(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# ------------------------------------------------------------ the class name that
# facebook/DiT-XL-2-256 has


@pytest.fixture(scope="module")
def older(tmp_path_factory) -> Path:
    """Write a DiT folder as diffusers 0.12 wrote it.

    Transformer2DModel in both files, with the options of that class.
    """
    folder = make_pipeline(tmp_path_factory.mktemp("older") / "older-dit")
    rewritten(
        folder / "model_index.json",
        lambda index: index.update(
            transformer=["diffusers", "Transformer2DModel"],
            _diffusers_version="0.12.0.dev0",
            id2label={str(i): f"thing {i}, object {i}" for i in range(10)},
        ),
    )
    rewritten(
        folder / "transformer" / "config.json",
        lambda config: config.update(
            _class_name="Transformer2DModel",
            _diffusers_version="0.12.0.dev0",
            cross_attention_dim=None,
            num_vector_embeds=None,
            only_cross_attention=False,
            use_linear_projection=False,
        ),
    )
    return folder


def test_a_folder_that_says_transformer2dmodel_opens_as_a_dit(older, model_folder):
    found = load_checkpoint(older, "cpu", dtype=torch.float32)
    assert (
        type(found.denoiser) is diffusers.DiTTransformer2DModel
        and type(found.pipeline) is diffusers.DiTPipeline
    )
    assert list(found.class_names) == list(range(10)) and found.pipeline.labels["object 7"] == 7
    assert find_layers(found.denoiser) == find_layers(
        load_checkpoint(model_folder, "cpu", dtype=torch.float32).denoiser
    )
    with safe_open(older / "transformer" / "diffusion_pytorch_model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    loaded = found.denoiser.state_dict()
    assert (
        all(torch.equal(loaded[name], value) for name, value in weights.items())
        and len(weights) > 40
    )


def test_it_calibrates_prunes_saves_and_comes_back(older, tmp_path):
    shop = Workshop(load_checkpoint(older, "cpu", dtype=torch.float32), TINY, tmp_path / "cache")
    shop.calibrate()
    mosaic = shop.build(PLAN)
    assert [mosaic.kept(stage) for stage in range(3)] == [
        [layer.groups - gone for layer, gone in zip(shop.layers, w, strict=True)]
        for w in shop.widths(PLAN)
    ]
    assert sum(map(sum, shop.widths(PLAN))) > 0 and all(x.isfinite().all() for x in outputs(mosaic))
    mosaic.save_pretrained(tmp_path / "out")
    back = MosaicTransformer.from_pretrained(tmp_path / "out", base=older)
    assert all(torch.equal(a, b) for a, b in zip(outputs(mosaic), outputs(back), strict=True))


# ------------------------------------------------------------ revisions and weights


def test_the_revision_reaches_diffusers(model_folder, monkeypatch):
    seen = []
    for kind in (diffusers.DiTPipeline, diffusers.DiffusionPipeline):
        for name in ("from_pretrained", "load_config"):
            real = getattr(kind, name)
            monkeypatch.setattr(
                kind,
                name,
                lambda *args, _real=real, _name=name, **more: (
                    seen.append((_name, more.get("revision"))),
                    _real(*args, **more),
                )[1],
            )
    load_checkpoint(model_folder, "cpu", "refs/pr/1")
    # what from_pretrained then asks is about the folder it has
    assert seen[:2] == [("load_config", "refs/pr/1"), ("from_pretrained", "refs/pr/1")]


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_pickled_weights_are_refused_with_the_revision_to_try(model_folder, tmp_path, part):
    folder = shutil.copytree(model_folder, tmp_path / "pickled")
    safe = folder / part / "diffusion_pytorch_model.safetensors"
    with safe_open(safe, "pt") as file:
        torch.save({name: file.get_tensor(name) for name in file.keys()}, safe.with_suffix(".bin"))  # noqa: SIM118
    safe.unlink()
    with pytest.raises(StudioError) as caught:
        load_checkpoint(folder, "cpu")
    assert (
        str(caught.value)
        == f"{folder} has no safetensors weights (only those are opened); for facebook/DiT-XL-2-256"
        " try revision refs/pr/1."
    )


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("kind", "said"),
    [("StableDiffusionPipeline", "a StableDiffusionPipeline"), ("", "a folder without a pipeline")],
)
def test_refuses_another_pipeline(model_folder, tmp_path, kind, said):
    folder = shutil.copytree(model_folder, tmp_path / "other")
    rewritten(folder / "model_index.json", lambda index: index.update(_class_name=kind))
    with pytest.raises(
        StudioError,
        match=f"is {said}; MosaicDiff Studio opens DiTPipeline and StableDiffusionXLPipeline",
    ):
        load_checkpoint(folder, "cpu")


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_refuses_a_model_that_does_not_predict_noise(model_folder, tmp_path, kind):
    folder = shutil.copytree(model_folder, tmp_path / "other")
    rewritten(
        folder / "scheduler" / "scheduler_config.json",
        lambda config: config.update(prediction_type=kind),
    )
    with pytest.raises(StudioError, match=f"other predicts {kind}; only epsilon prediction"):
        Workshop(load_checkpoint(folder, "cpu"), TINY, tmp_path / "cache")


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.EDMDPMSolverMultistepScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction"
        ),
        diffusers.EulerDiscreteScheduler(
            timestep_type="continuous", prediction_type="epsilon", use_karras_sigmas=True
        ),
    ],
    ids=lambda s: type(s).__name__,
)
def test_refuses_a_model_that_was_not_trained_with_betas(model_folder, tmp_path, scheduler):
    checkpoint = load_checkpoint(model_folder, "cpu")
    checkpoint.pipeline.scheduler = scheduler
    with pytest.raises(
        StudioError,
        match=f"comes with {type(scheduler).__name__}, for flow-matching or sigma-space models",
    ):
        Workshop(checkpoint, TINY, tmp_path / "cache")


@pytest.mark.parametrize("classes", [10, 1001])
def test_refuses_a_dit_whose_null_label_is_another(model_folder, tmp_path, classes):
    """With 10 classes, label 1000 is past the end of the table.

    With 1001 it is a real class, and guidance would lead away from that.
    """
    folder = shutil.copytree(model_folder, tmp_path / "other")
    given = diffusers.DiTTransformer2DModel.from_pretrained(folder / "transformer")
    diffusers.DiTTransformer2DModel.from_config(
        given.config | {"num_embeds_ada_norm": classes}
    ).save_pretrained(folder / "transformer")
    with pytest.raises(StudioError) as caught:
        load_checkpoint(folder, "cpu")
    assert (
        str(caught.value)
        == f"{folder} has {classes} classes, and diffusers' DiTPipeline asks for label 1000 when it"
        " means none: pad its label tables to 1000 classes and the null one, with"
        " num_embeds_ada_norm 1000 in its config."
    )


# ------------------------------------------------------------ DiT-XL/2


def test_the_dit_xl_that_full_size_proofs_run_on_is_the_true_one(tmp_path):
    """One block of DiT-XL/2 has the published sizes.

    The published configuration, in fp16, embedders equal.
    """
    folder = make_dit_xl(tmp_path / "xl", latents=8, blocks=1)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    published = dict(
        num_attention_heads=16,
        attention_head_dim=72,
        in_channels=4,
        out_channels=8,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        activation_fn="gelu-approximate",
        attention_bias=True,
        norm_elementwise_affine=False,
    )
    assert (
        published.items() <= config.items()
        and config["num_layers"] == 1
        and CONFIG["num_layers"] == 28
    )
    found = load_checkpoint(folder, "cpu", dtype="float16")
    assert {p.dtype for p in found.denoiser.parameters()} == {torch.float16}
    assert (
        found.latents.shape == (8, 4, 32, 32)
        and len(found.class_names) == 1000
        and found.pipeline.vae.config.scaling_factor == 0.18215
    )
    heads, neurons = find_layers(found.denoiser)
    assert (heads.kind, heads.groups, heads.group_size, heads.width) == ("heads", 16, 72, 1152)
    assert (neurons.kind, neurons.groups, neurons.group_size) == ("neurons", 4608, 1)
    # 256 tokens of 1152
    assert (
        heads.macs_per_group * 16 == 4 * 1152**2 * 256
        and neurons.macs_per_group * 4608 == 8 * 1152**2 * 256
    )
    assert found.denoiser.get_submodule(neurons.consumer).weight.shape == (1152, 4608)
