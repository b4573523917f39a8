"""The key of a calibration changes with everything that a Gram depends on, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from conftest import make_pipeline
from safetensors.torch import load_file, save_file
from tiny_sdxl import make_sdxl

from core.calibration.data import DataOptions
from core.calibration.settings import CalibrationSettings
from core.curves.plan import StagePlan
from core.errors import StudioError
from core.models.bundled import FASHION
from core.models.checkpoints import load_checkpoint
from core.workshop.workshop import Workshop

SETTINGS = CalibrationSettings(edges=(0, 500, 1000), images=32, held_out=16)

# Scheduler fields that a calibration on shipped latents cannot feel: they say how sampling goes,
# not how latents
# are noised. Calibration on own samples feels them all.
SAMPLING_ONLY = {
    "set_alpha_to_one",
    "steps_offset",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "timestep_spacing",
}
CHANGED_SCHEDULER = {
    "num_train_timesteps": 500,
    "beta_start": 2e-4,
    "beta_end": 0.03,
    "beta_schedule": "scaled_linear",
    "trained_betas": [0.01 + i * 1e-5 for i in range(1000)],
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": True,
    "clip_sample_range": 2.0,
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.9,
    "sample_max_value": 2.0,
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "prediction_type": "v_prediction",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("key") / "dit")


def changed(folder, tmp_path, part: str, values: dict):
    """Copy a model folder with some entries of one configuration replaced."""
    copy = tmp_path / "changed"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    path = next((copy / part).glob("*config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return copy


def key(folder, cache, **options) -> str:
    return Workshop(load_checkpoint(folder, "cpu"), SETTINGS, cache, **options).key


OWN = {"data": DataOptions(self_calibrate=True, count=8)}


@pytest.fixture(scope="module")
def unchanged(folder, tmp_path_factory):
    """Return the keys of the folder as it is: on shipped latents, and on own samples."""
    cache = tmp_path_factory.mktemp("unchanged")
    return key(folder, cache), key(folder, cache, **OWN)


@pytest.mark.parametrize("field", CHANGED_SCHEDULER)
def test_every_field_of_the_scheduler(folder, unchanged, tmp_path, field):
    other = changed(folder, tmp_path, "scheduler", {field: CHANGED_SCHEDULER[field]})
    if field == "prediction_type":
        with pytest.raises(StudioError, match="predicts v_prediction"):
            key(other, tmp_path)
        return
    differs = key(other, tmp_path) != unchanged[0]
    assert differs == (field not in SAMPLING_ONLY)
    assert key(other, tmp_path, **OWN) != unchanged[1]


def test_the_list_of_scheduler_fields_is_whole(folder):
    shipped = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert {k for k in shipped if not k.startswith("_")} == set(CHANGED_SCHEDULER)


CHANGED_DIT = {
    "norm_eps": 1e-3,
    "activation_fn": "gelu",
    "dropout": 0.1,
    "upcast_attention": True,
    "norm_elementwise_affine": True,
    "attention_bias": False,
    "patch_size": 1,
    "sample_size": 4,
}


@pytest.mark.parametrize("field", CHANGED_DIT)
def test_every_field_of_the_denoiser(folder, unchanged, tmp_path, field):
    """Fields that the weights still fit change the key; the others cannot be opened at all."""
    other = changed(folder, tmp_path, "transformer", {field: CHANGED_DIT[field]})
    try:
        assert key(other, tmp_path) != unchanged[0]
    except StudioError:
        assert field in ("norm_elementwise_affine", "attention_bias", "patch_size", "sample_size")


def test_notes_of_a_configuration_change_nothing(folder, unchanged, tmp_path):
    other = changed(folder, tmp_path, "transformer", {"_name_or_path": "somewhere/else"})
    assert key(other, tmp_path) == unchanged[0] == key(folder, tmp_path)


def test_weights_latents_settings_and_precision(folder, tmp_path):
    first = key(folder, tmp_path)
    shop = Workshop(load_checkpoint(folder, "cpu", dtype=torch.bfloat16), SETTINGS, tmp_path)
    assert shop.key != first
    for field, value in {"images": 40, "held_out": 20, "seed": 3, "token_cap": 6}.items():
        settings = dataclasses.replace(SETTINGS, **{field: value})
        assert Workshop(load_checkpoint(folder, "cpu"), settings, tmp_path).key != first
    damped = dataclasses.replace(SETTINGS, damping=0.1)  # how bins are read afterwards
    assert Workshop(load_checkpoint(folder, "cpu"), damped, tmp_path).key == first
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    path = other / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["proj_out_2.bias"][0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    assert key(other, tmp_path) != first
    shutil.copytree(folder, other, dirs_exist_ok=True)
    path = other / "calibration" / "latents.safetensors"
    latents = load_file(path)
    latents["latents"][0, 0, 0, 0] += 1
    save_file(latents, path)
    assert key(other, tmp_path) != first


def test_the_vae_counts_where_it_makes_the_latents(folder, tmp_path):
    """Shipped latents depend on no VAE; pictures are encoded by the model's own.

    Its whole configuration then counts.
    """
    from PIL import Image

    pictures = tmp_path / "pictures" / "3"
    pictures.mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (32, 32), (20 * i, 90, 50)).save(pictures / f"{i}.png")
    given = {"data": DataOptions(images=str(tmp_path / "pictures"))}
    first, with_pictures = key(folder, tmp_path), key(folder, tmp_path, **given)
    for field, value in {
        "scaling_factor": 0.5,
        "shift_factor": 0.1,
        "act_fn": "relu",
        "latents_mean": [0.1] * 4,
        "latents_std": [2.0] * 4,
        "force_upcast": False,
        "sample_size": 64,
    }.items():
        other = changed(folder, tmp_path, "vae", {field: value})
        assert key(other, tmp_path) == first
        assert key(other, tmp_path, **given) != with_pictures, field


def test_words_count_with_encoders_and_tokenizers(tmp_path):
    folder = make_sdxl(tmp_path / "xl")
    own = {"data": DataOptions(count=8)}
    first = key(folder, tmp_path, **own)
    for part, values in (
        ("text_encoder", {"layer_norm_eps": 1e-3}),
        ("text_encoder_2", {"hidden_act": "quick_gelu"}),
        ("unet", {"norm_eps": 1e-3}),
    ):
        assert key(changed(folder, tmp_path, part, values), tmp_path, **own) != first, part
    copy = changed(folder, tmp_path, "unet", {})
    path = next(p for p in (copy / "tokenizer_2").iterdir() if "config" in p.name)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 60}))
    assert key(copy, tmp_path, **own) != first


def test_a_corrected_slip_in_the_schedule_is_measured_anew(folder, tmp_path):
    """The original fault: an old calibration was used for another schedule.

    Prune, correct the scheduler's configuration, prune again in the same cache.
    """
    slip = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    plan = StagePlan((93, 550), (0.5, 0.25, 0.5))

    def weights(model, cache):
        mosaic = Workshop(load_checkpoint(model, "cpu"), SETTINGS, cache).build(plan)
        return [p.clone() for p in mosaic.stages[0].parameters()]

    weights(changed(folder, tmp_path, "scheduler", slip), tmp_path / "cache")
    again, fresh = weights(folder, tmp_path / "cache"), weights(folder, tmp_path / "fresh")
    assert all(torch.equal(a, b) for a, b in zip(again, fresh, strict=True))


def test_shipped_orders_of_another_schedule_are_not_used(folder, tmp_path):
    """Shipped removal orders are used only with their own weights and schedule."""
    first = Workshop(load_checkpoint(folder, "cpu"), SETTINGS, tmp_path / "cache")
    first.calibrate()
    copy = tmp_path / "ships"
    shutil.copytree(folder, copy)
    shutil.copy(first.folder / "orders.safetensors", copy / "calibration" / "orders.safetensors")
    shop = Workshop(load_checkpoint(copy, "cpu"), SETTINGS, tmp_path / "empty")
    assert shop.orders.shipped and shop.orders.model == shop.model_key
    half = Workshop(load_checkpoint(FASHION, "cpu", dtype=torch.bfloat16), cache=tmp_path / "empty")
    assert half.orders.model == half.model_key  # whatever the weights were loaded as
    other = changed(copy, tmp_path, "scheduler", {"beta_end": 0.03})
    with pytest.raises(StudioError, match="not been calibrated"):
        _ = Workshop(load_checkpoint(other, "cpu"), SETTINGS, tmp_path / "empty").orders
