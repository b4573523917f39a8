"""What is read of a model folder beside its weights: class names, the scheduler alone.

Refusals are one sentence and nothing else.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_pipeline
from safetensors.torch import load_file

from core.calibration.picture_folder import known_names
from core.errors import StudioError
from core.models.checkpoints import class_names, load_checkpoint, load_scheduler
from core.workshop.comparison import SampleSettings
from core.workshop.workshop import Workshop
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.studio import build_studio

CRANES = {"0": "tench, Tinca tinca", "134": "crane", "517": "crane"}
SETTINGS = {"images": 3, "seed": 0, "steps": 5, "guidance": 5, "scheduler": "Euler", "repeats": 1}


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    return shutil.copytree(model_folder, tmp_path / "copy")


def index_with(folder: Path, **changes: object) -> Path:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


# ------------------------------------------------------------ classes


def test_diffusers_leaves_the_names_out_and_every_class_is_offered(model_folder):
    """`make_pipeline` gave the names.

    If a diffusers release writes them, `class_names`'s docstring is out of date.
    """
    assert "id2label" not in json.loads((model_folder / "model_index.json").read_text())
    found = load_checkpoint(model_folder, "cpu").class_names
    assert list(found) == list(range(1000)) and found[0] == "class 0" and found[999] == "class 999"


def test_two_classes_of_one_name_both_stay(folder):
    found = load_checkpoint(index_with(folder, id2label=CRANES), "cpu")
    assert found.class_names == {0: "tench, Tinca tinca", 134: "crane (134)", 517: "crane (517)"}
    # the pipeline's own table has lost one: two names of class 0, one crane
    assert len(found.pipeline.labels) == 3
    names = known_names(found.class_names)
    assert names == {
        "tench": 0,
        "Tinca tinca": 0,
        "tench, Tinca tinca": 0,
        "crane (134)": 134,
        "crane (517)": 517,
    }
    assert known_names({638: "maillot", 639: "maillot, tank suit"}) == {
        "maillot": 638,
        "maillot, tank suit": 639,
        "tank suit": 639,
    }


def test_classes_that_the_model_does_not_have_are_refused(folder):
    assert class_names({"id2label": {"10": "b", "9": "a"}}, 11) == {9: "a", 10: "b"}
    for wrong in ("1000", "-1"):
        with pytest.raises(StudioError, match="its classes are 0 to 999"):
            load_checkpoint(index_with(folder, id2label={wrong: "x"}), "cpu")


def test_a_thousand_classes_are_offered_and_sampled(model_folder, folder, small_settings, tmp_path):
    shop = Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path)
    dropdown = next(
        c["props"]
        for c in build_studio(shop).config["components"]
        if c["props"].get("label") == "Classes"
    )
    assert len(dropdown["choices"]) == 1001 and dropdown["value"] == ["Classes 0 to 999"]

    def labels(of: Workshop, asked: list[str]) -> tuple[int, ...]:
        settings = compare_inputs.checked_settings(of, compare_inputs.Wish(asked, **SETTINGS))
        of.check_settings(settings)
        return settings.labels

    assert labels(shop, dropdown["value"]) == (0, 1, 2) and labels(
        shop, ["class 999", "class 7"]
    ) == (999, 7, 999)
    assert shop.some_conditions(1001).positive["class_labels"].tolist() == [*range(1000), 0]
    shop.check_settings(SampleSettings(labels=(999,), steps=5))
    twins = Workshop(
        load_checkpoint(index_with(folder, id2label=CRANES), "cpu"), small_settings, tmp_path
    )
    assert labels(twins, ["crane (134)", "crane (517)"]) == (134, 517, 134) and labels(
        twins, []
    ) == (0, 134, 517)


# ------------------------------------------------------------ schedulers


def test_the_scheduler_alone_is_the_pipelines(folder):
    shutil.rmtree(folder / "transformer")
    scheduler = load_scheduler(folder)
    assert type(scheduler).__name__ == "DDIMScheduler" and scheduler.config.clip_sample is False
    with pytest.raises(StudioError, match="names AutoencoderKL as its scheduler, which is none"):
        load_scheduler(index_with(folder, scheduler=["diffusers", "AutoencoderKL"]))
    with pytest.raises(StudioError, match="has no model_index.json"):
        load_scheduler(folder / "vae")


# ------------------------------------------------------------ refusals


def test_pickled_weights_are_refused_in_one_sentence_and_nothing_else_is_written(tmp_path, capfd):
    folder = make_pipeline(tmp_path / "pickled")
    for part in ("transformer", "vae"):
        weights = folder / part / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
    capfd.readouterr()
    from diffusers.utils import logging

    before = logging.get_verbosity()
    with pytest.raises(StudioError, match="has no safetensors weights") as error:
        load_checkpoint(folder, "cpu")
    out, err = capfd.readouterr()
    assert (
        "\n" not in str(error.value)
        and (out, err) == ("", "")
        and logging.get_verbosity() == before
    )
