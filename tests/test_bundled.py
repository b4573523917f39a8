"""The model that ships: opens in stock diffusers, is what its card says, and carries what the
studio opens with.
"""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DiTPipeline
from safetensors.torch import load_file

from core.models.bundled import FASHION
from core.models.checkpoints import load_checkpoint
from core.sampling.metrics import Judge
from core.workshop.workshop import Workshop


@pytest.fixture(scope="module")
def pipeline():
    opened = DiTPipeline.from_pretrained(FASHION, low_cpu_mem_usage=False)
    opened.set_progress_bar_config(disable=True)
    return opened


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    return Workshop(load_checkpoint(FASHION, "cpu"), cache=tmp_path_factory.mktemp("cache"))


def test_a_stock_pipeline_opens_it_in_fp32_and_samples_what_was_asked_for(pipeline):
    assert (
        pipeline.transformer.dtype == torch.float32
        and pipeline.scheduler.config.beta_schedule == "linear"
    )
    assert pipeline.get_label_ids(["Trouser", "Ankle boot"]) == [1, 9]
    # trousers, sandals, sneakers, bags, boots: hard to mistake for one another
    labels = [1, 5, 7, 8, 9] * 4
    out = pipeline(
        labels,
        guidance_scale=1.5,
        num_inference_steps=10,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    )
    images = torch.from_numpy(out.images).permute(0, 3, 1, 2) * 2 - 1
    assert images.shape == (20, 1, 32, 32)
    # chance is 0.1
    assert Judge.load(FASHION / "features").class_accuracy(images, torch.tensor(labels)) >= 0.7


def test_it_is_small_and_safe():
    files = [
        f for f in FASHION.rglob("*") if f.is_file() and "work" not in f.relative_to(FASHION).parts
    ]
    assert sum(f.stat().st_size for f in files) < 60e6
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".md", ".py", ".pyc"}
    half = load_file(FASHION / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in half.values()} == {torch.float16}


def test_the_evaluation_meets_its_bars():
    """What the card quotes; `train.py evaluate` measures it again."""
    found = json.loads((FASHION / "evaluation.json").read_text())
    assert found["n"] == 2000 and found["n_reference"] == 10_000
    assert found["feature_network_test_accuracy"] >= 0.91 and found["vae_test_mse"] <= 0.010
    assert found["fid"] <= 5 * found["fid_of_2000_test_images_through_vae"]
    assert found["class_variance_ratio"] >= 0.7


def test_embedders_are_one_and_the_schedule_is_the_check_value(bundled):
    assert bundled.dense.once is not None and bundled.blocks == 8
    assert {x.groups for x in bundled.layers if x.kind == "heads"} == {8}
    assert bundled.beta_schedule == "linear" and bundled.class_names[9] == "Ankle boot"


def test_calibration_latents_have_unit_variance(bundled):
    assert len(bundled.latents) == 4096 and set(bundled.labels.tolist()) == set(range(10))
    assert float(bundled.latents.square().mean()) == pytest.approx(1.0, abs=0.02)
    for channel in bundled.latents.transpose(0, 1):
        assert abs(float(channel.mean())) < 0.05


def test_the_page_opens_on_a_finished_example(bundled):
    example = bundled.example()
    assert (
        example.n == 20
        and example.timed_runs >= 3
        and example.device
        and example.speedup_macs > 1.3
    )
    assert example.psnr is not None and example.a.images.std() > 0.3


def test_estimates_come_with_the_model(bundled):
    from core.curves.plan import StagePlan

    assert not bundled.calibrated and bundled.orders.shipped
    assert bundled.orders.model == bundled.model_key  # of these weights and this schedule
    prediction = bundled.predict(
        StagePlan((93, 550), (0.4, 0.1, 0.55)), [float(t) for t in range(0, 1000, 20)]
    )
    assert all(0 < s.error < 0.3 for s in prediction.stages)
    assert prediction.stages[1].error < prediction.stages[0].error  # gentle in the middle


def test_the_study_that_ships_can_be_read(bundled):
    found = bundled.study()
    assert {f.base_steps for f in found} == {50, 20, 10, 7} and any(
        f.family == "MosaicDiff" for f in found
    )
