"""The models that ship: each opens in stock diffusers, is what its card says, and carries what the
studio opens with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline
from safetensors.torch import load_file

from core.curves.plan import StagePlan
from core.models.bundled import ASSETS, BUNDLED, BUNDLED_MODELS, FASHION
from core.models.checkpoints import load_checkpoint
from core.sampling.metrics import Judge
from core.workshop.workshop import Workshop


@dataclass(frozen=True)
class Facts:
    """What a test has to know of one bundled model."""

    folder: Path
    names: tuple[str, str]  # two classes by name
    labels: tuple[int, int]  # their numbers
    plain: tuple[int, ...]  # classes that are hard to mistake for one another
    shape: tuple[int, int, int]  # of a picture
    accuracy: float  # that ten steps reach at least on the plain classes; chance is 0.1


MODELS = [
    Facts(FASHION, ("Trouser", "Ankle boot"), (1, 9), (1, 5, 7, 8, 9), (1, 32, 32), 0.7),
    Facts(BUNDLED, ("Critter", "Peep"), (0, 9), (1, 2, 4, 5, 8), (3, 64, 64), 0.9),
]


@pytest.fixture(scope="module", params=MODELS, ids=lambda facts: facts.folder.name)
def facts(request) -> Facts:
    return request.param


@pytest.fixture(scope="module")
def pipeline(facts):
    opened = DiTPipeline.from_pretrained(facts.folder, low_cpu_mem_usage=False)
    opened.set_progress_bar_config(disable=True)
    return opened


@pytest.fixture(scope="module")
def workshop(facts, tmp_path_factory):
    return Workshop(load_checkpoint(facts.folder, "cpu"), cache=tmp_path_factory.mktemp("cache"))


def test_the_studio_opens_on_the_colour_model():
    assert BUNDLED == ASSETS / "character-dit" and list(BUNDLED_MODELS)[1] == FASHION.name
    assert {facts.folder.name for facts in MODELS} == set(BUNDLED_MODELS)


def test_a_stock_pipeline_opens_it_in_fp32_and_samples_what_was_asked_for(pipeline, facts):
    assert pipeline.transformer.dtype == torch.float32
    assert pipeline.scheduler.config.beta_schedule == "linear"
    assert pipeline.get_label_ids(list(facts.names)) == list(facts.labels)
    labels = list(facts.plain) * 4
    out = pipeline(
        labels,
        guidance_scale=1.5,
        num_inference_steps=10,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    )
    images = torch.from_numpy(out.images).permute(0, 3, 1, 2) * 2 - 1
    assert images.shape == (20, *facts.shape)
    judge = Judge.load(facts.folder / "features")
    assert judge.knows(images)
    assert judge.class_accuracy(images, torch.tensor(labels)) >= facts.accuracy


def test_it_is_small_and_safe(facts):
    files = [
        f
        for f in facts.folder.rglob("*")
        if f.is_file() and "work" not in f.relative_to(facts.folder).parts
    ]
    assert sum(f.stat().st_size for f in files) < 60e6
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".md", ".py", ".pyc", ".png"}
    half = load_file(facts.folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in half.values()} == {torch.float16}


def test_the_evaluation_of_the_grey_model_meets_its_bars():
    """What the card quotes; `train.py evaluate` measures it again."""
    found = json.loads((FASHION / "evaluation.json").read_text())
    assert found["n"] == 2000 and found["n_reference"] == 10_000
    assert found["feature_network_test_accuracy"] >= 0.91 and found["vae_test_mse"] <= 0.010
    assert found["fid"] <= 5 * found["fid_of_2000_test_images_through_vae"]
    assert found["class_variance_ratio"] >= 0.7


def test_the_feature_network_of_the_colour_model_sees_details():
    """It answers what the maker knows of a picture, far above the commonest answer."""
    sees = json.loads((BUNDLED / "features" / "sees.json").read_text())
    assert sees["n"] == 10_000 and sees["class_accuracy"] > 0.99
    assert sees["attribute_accuracy"] > sees["attribute_accuracy_of_the_most_common_value"] + 0.5


def test_embedders_are_one_and_the_schedule_is_the_check_value(workshop, facts):
    assert workshop.dense.once is not None and workshop.blocks == 8
    assert {x.groups for x in workshop.layers if x.kind == "heads"} == {8}
    assert workshop.beta_schedule == "linear"
    assert tuple(workshop.class_names[i] for i in facts.labels) == facts.names


def test_calibration_latents_have_unit_variance(workshop):
    assert len(workshop.latents) == 4096 and set(workshop.labels.tolist()) == set(range(10))
    assert float(workshop.latents.square().mean()) == pytest.approx(1.0, abs=0.02)
    for channel in workshop.latents.transpose(0, 1):
        assert abs(float(channel.mean())) < 0.05


def test_the_page_opens_on_a_finished_example(workshop, facts):
    example = workshop.example()
    assert example.n == 20 and example.timed_runs >= 3
    assert example.device and example.speedup_macs > 1.3
    assert example.psnr is not None and example.a.images.std() > 0.3
    assert example.a.images.shape[1:] == facts.shape and example.model == workshop.name


def test_estimates_come_with_the_model(workshop):
    assert not workshop.calibrated and workshop.orders.shipped
    assert workshop.orders.model == workshop.model_key  # of these weights and this schedule
    prediction = workshop.predict(
        StagePlan((93, 550), (0.4, 0.1, 0.55)), [float(t) for t in range(0, 1000, 20)]
    )
    assert all(0 < s.error < 0.3 for s in prediction.stages)
    assert prediction.stages[1].error < prediction.stages[0].error  # gentle in the middle


@pytest.mark.parametrize(("model", "steps"), [(FASHION, {50, 20, 10, 7}), (BUNDLED, {50, 10})])
def test_the_study_that_ships_can_be_read(model, steps):
    found = Workshop(load_checkpoint(model, "cpu")).study()
    assert {f.base_steps for f in found} == steps
    assert {"MosaicDiff", "uniform OBS", "dense"} <= {f.family for f in found}


def test_the_evaluation_of_the_colour_model_meets_its_bars():
    """What the card quotes; `train.py evaluate` measures it again."""
    found = json.loads((BUNDLED / "evaluation.json").read_text())
    assert found["n"] == 2000 and found["n_reference"] == 10_000
    assert found["vae_test_mse"] <= 0.005 and found["class_variance_ratio"] >= 0.75
    assert found["fid_unipc_10"] <= 1.3 * found["fid"]
    draws = found["fid_of_2000"]
    assert found["fid"] <= 4 * max(draws["test_through_vae"][0], draws["real"][0])


def test_the_colour_models_fid_puts_pictures_in_their_order():
    """Real pictures are nearer than the VAE's, those than blurred ones, those than half-trained."""
    found = json.loads((BUNDLED / "evaluation.json").read_text())
    draws = found["fid_of_2000"]
    assert {len(values) for values in draws.values()} == {5}
    spread = {kind: max(values) - min(values) for kind, values in draws.items()}
    for near, far in (("real", "vae"), ("vae", "blur")):
        between = min(draws[far]) - max(draws[near])
        assert between > max(spread[near], spread[far])
    assert max(draws["vae"]) + spread["vae"] < found["fid_at_half_the_training"]
    assert found["fid"] + spread["vae"] < found["fid_at_half_the_training"]
