"""Runs without a picture worth a verdict: NaN and infinite latents, a VAE that overflows, flat
pictures.
"""

from __future__ import annotations

import json

import pytest
import torch
from conftest import make_pipeline
from diffusers import UNet2DConditionModel
from tiny_sdxl import TINY_UNET, make_sdxl

import app
from core.curves.plan import StagePlan
from core.errors import StudioError
from core.models.checkpoints import load_checkpoint
from core.workshop.compare import compare
from core.workshop.comparison import Comparison, SampleSettings
from core.workshop.workshop import Workshop

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55), method="magnitude")


@pytest.fixture
def shop(tmp_path):
    return Workshop(load_checkpoint(make_pipeline(tmp_path / "m"), "cpu"), cache=tmp_path / "cache")


def run(shop, plan=PLAN, n: int = 2, **options) -> Comparison:
    settings = SampleSettings(tuple(range(n)), steps=4, repeats=1, **options)
    return list(compare(shop, None, plan, settings))[-1]


@pytest.mark.parametrize("n", [2, 70])
def test_infinite_latents_are_refused_for_small_and_large_sets(shop, n):
    with torch.no_grad():
        shop.transformer.proj_out_2.weight.mul_(1e38)
    with pytest.raises(StudioError, match=f"Dense: {n} of {n} final latents are NaN or infinite"):
        run(shop, n=n)


def test_a_pruned_side_alone_is_named(shop):
    mosaic = shop.build(PLAN)
    with torch.no_grad():
        first = mosaic.stages[0].transformer_blocks[0].ff.net[2]
        first.weight.copy_(torch.full_like(first.weight, float("nan")))
    with pytest.raises(StudioError, match="MosaicDiff: 2 of 2 final latents are NaN or infinite"):
        run(shop)


def test_a_vae_that_gives_nan_is_named(shop):
    with torch.no_grad():
        shop.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(
        StudioError, match="the VAE turned 2 of 2 finite latents into NaN .*float32"
    ):
        run(shop)


def test_flat_pictures_are_said_beside_the_verdict(shop):
    with torch.no_grad():
        shop.vae.decoder.conv_out.bias.fill_(-1e6)
    found = run(shop)
    assert "2 of 2 pictures of Dense are one flat colour" in found.notes
    assert float(found.a.images.std()) == 0


def test_good_pictures_have_no_such_note(shop):
    assert "flat colour" not in run(shop).notes


def test_the_command_line_refuses_before_it_runs(tmp_path, capsys, monkeypatch):
    """Zero terminal SNR from the noisiest timestep on: DDIM divides by zero there."""
    monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path / "cache"))
    folder = make_pipeline(tmp_path / "m")
    path = folder / "scheduler" / "scheduler_config.json"
    values = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN.to_json()))
    given = ["compare", "--model", str(folder), "--plan", str(plan), "--images", "2"]
    assert app.main([*given, "--steps", "5"]) == 2
    assert "cannot sample in 5 steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, said",
    [
        ({"time_cond_proj_dim": 32}, "embedding of the guidance scale"),
        ({"class_embed_type": "timestep"}, "more than prompts and sizes"),
        ({"num_class_embeds": 10}, "more than prompts and sizes"),
        ({"projection_class_embeddings_input_dim": 5 * 8 + 32}, "refiner or another variant"),
        ({"out_channels": 8}, "takes 4 channels and gives 8"),
        ({"in_channels": 9}, "takes 9 channels"),
    ],
)
def test_unets_that_want_other_inputs_are_refused(tmp_path, more, said):
    folder = make_sdxl(tmp_path / "xl")
    UNet2DConditionModel(**TINY_UNET | more).save_pretrained(folder / "unet")
    with pytest.raises(StudioError, match=said):
        Workshop(load_checkpoint(folder, "cpu"))
