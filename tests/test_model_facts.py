"""Test what the page promises and asks of a model, DiT or SDXL: work, disk, sizes, prompts."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_sdxl import make_sdxl

from core.calibration.data import DataOptions
from core.calibration.preflight import calibration_disk
from core.calibration.settings import CalibrationSettings
from core.curves.plan import StagePlan
from core.errors import StudioError
from core.models.checkpoints import load_checkpoint
from core.workshop.comparison import SampleSettings
from core.workshop.workshop import Workshop
from mosaic_ui import model_facts, tables
from mosaic_ui.compare import figures as compare_figures
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare.pictures import shrunk
from mosaic_ui.predictions import Predictions
from mosaic_ui.prune import views as prune_views
from mosaic_ui.prune.mosaic_figure import mosaic_figure
from mosaic_ui.studio import build_studio
from mosaic_ui.text import bytes_text

PLAN = StagePlan((90, 831), (0.5, 0.25, 0.5))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Make a text model of which nothing is measured."""
    folder = make_sdxl(tmp_path_factory.mktemp("text") / "tiny-sdxl")
    settings = CalibrationSettings(edges=(0, 300, 1000), images=8, held_out=4)
    return Workshop(
        load_checkpoint(folder, "cpu", dtype=torch.float32),
        settings,
        tmp_path_factory.mktemp("cache"),
        DataOptions(steps=3),
    )


def test_the_two_families_are_asked_differently(workshop, words):
    assert (model_facts.asks_words(workshop), model_facts.asks_words(words)) == (False, True)
    assert (model_facts.images_offered(workshop), model_facts.images_offered(words)) == (
        (16, 512),
        (2, 16),
    )
    assert (model_facts.default_guidance(workshop), model_facts.default_guidance(words)) == (
        1.5,
        5.0,
    )
    assert (model_facts.default_sampler(workshop), model_facts.default_sampler(words)) == (
        ("DDIM", 50),
        ("Euler", 30),
    )
    assert (model_facts.precision(workshop), model_facts.precision(words)) == ("float32", "float32")
    for shop in (workshop, words):
        assert (
            model_facts.batch(shop) == 16
            and "float32" in tables.status_line(shop)
            and "--dtype" in tables.status_line(shop)
        )


def with_work(workshop, macs, device="cpu"):
    """Return the workshop as if one forward of its model took `macs` on `device`."""
    other = copy.copy(workshop)
    other.macs = SimpleNamespace(forward=lambda: (int(macs), 0))
    other.device = torch.device(device)
    return other


def test_a_large_model_is_asked_for_little(workshop):
    xl = with_work(workshop, 114_375_000_000)
    assert model_facts.batch(xl) == 2 and model_facts.large(xl)
    assert model_facts.images_offered(xl) == (2, 16)
    assert model_facts.batch(with_work(workshop, 3e12, "cuda")) == 5
    assert model_facts.batch(with_work(workshop, 3e12)) == 1


def test_exact_errors_only_where_they_come_in_time(workshop, words):
    # words: not calibrated
    assert model_facts.exact_in_time(workshop) and not model_facts.exact_in_time(words)
    wide = copy.copy(workshop)
    wide.layers = [
        replace(workshop.layers[0], groups=4608, group_size=1)
    ] * 28  # the MLPs of a DiT-XL/2
    assert wide.calibrated and not model_facts.exact_in_time(wide)


def test_what_calibrate_promises_is_what_it_does(words):
    told = " ".join(model_facts.calibration_sentences(words))
    assert words.source.text in told and f"{len(words.layers)} layers in 2 timestep bins" in told
    assert bytes_text(calibration_disk(words.layers, words.settings)) in told
    made, measured = (
        int(n) for n in re.search(r"(\d+) times to make the samples and (\d+) times", told).groups()
    )
    totals, rows = [], 0
    words.data(lambda _, total, text: totals.append(total) if "sampling" in text else None)
    assert set(totals) == {made} == {12 * 3 * 2}

    def count(_, args, kwargs):
        nonlocal rows
        rows += len(args[0] if args else kwargs["sample"])

    hook = words.transformer.register_forward_pre_hook(count, with_kwargs=True)
    words.calibrate()
    hook.remove()
    assert rows == measured == 2 * 12 * 2
    assert not model_facts.unmeasured(words)


def test_nothing_measured_is_said_and_shipped_curves_count(
    model_folder, small_settings, workshop, tmp_path
):
    fresh = Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path)
    assert model_facts.unmeasured(fresh) and not model_facts.unmeasured(workshop)
    # shipped latents: nothing to make
    said = " ".join(model_facts.calibration_sentences(fresh))
    assert "times to measure (a picture with and" in said
    predictions = Predictions(fresh)
    assert tables.UNKNOWN in predictions.table(predictions.predict(PLAN, "DDIM", 50))
    page = build_studio(fresh)
    shown = {
        c["props"].get("elem_id"): c["props"].get("visible") for c in page.config["components"]
    }
    assert shown["first-step"] is True
    shared = StagePlan((90, 831), (0.5, 0.25, 0.5), allocation="lagrangian")
    with pytest.raises(StudioError, match="press Calibrate, then upload the plan"):
        build_studio(fresh, shared)


def test_sizes_are_multiples_of_64_and_none_is_the_models_own(words):
    assert model_facts.sizes(words) == {"32 × 32 (the model's own)": None, "64 × 64": (64, 64)}
    sizes = model_facts.sizes_beside(1024)
    assert list(sizes.values()) == [None, (768, 768), (512, 512), (768, 1024), (1024, 768)]
    assert list(sizes)[3] == "1024 wide × 768 high"


def test_prompts_are_painted_in_turn_or_refused_in_one_sentence(words):
    values = {
        "images": 3,
        "seed": 0,
        "steps": 5,
        "guidance": 5,
        "scheduler": "Euler",
        "repeats": 1,
        "negative": "fog",
        "size": "64 × 64",
    }
    settings = compare_inputs.checked_settings(
        words, compare_inputs.Wish(" a fox \n\n a boat", **values)
    )
    assert (
        settings.prompts == ("a fox", "a boat", "a fox")
        and settings.size == (64, 64)
        and settings.negative == "fog"
        and not settings.labels
    )
    words.check_settings(settings)
    refused = [
        ("", {}),
        (" \n ", {}),
        (None, {}),
        (["a"], {}),
        ("a\nb\nc\nd", {}),
        ("x" * 1001, {}),
        ("a", {"negative": "x" * 1001}),
    ]
    refused += [("a", {"size": "1024 × 1024"}), ("a", {"size": None}), ("a", {"images": 17})]
    for asked, change in refused:
        with pytest.raises(StudioError) as error:
            compare_inputs.checked_settings(words, compare_inputs.Wish(asked, **values | change))
        assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_steps_are_those_of_the_models_own_sampler(words):
    from core.sampling.denoise import Denoiser
    from core.workshop.compare import sampler

    for name in ("Euler", "DDIM"):
        walked = Denoiser(words.dense, sampler(words, name), words.schedule, 7).timesteps
        assert Predictions(words).visited(name, 7) == walked


def test_seventy_blocks_keep_a_row_each_and_a_label_for_each_group(words):
    names = [
        f"{place} block {k + 1}"
        for place, n in (("down 2.1", 2), ("down 3.1", 10), ("mid", 10))
        for k in range(n)
    ]
    figure = mosaic_figure(np.ones((3, len(names))), [2, 1, 0], [900.0, 500.0, 5.0], names)
    axis = figure["layout"]["yaxis"]
    assert axis["ticktext"] == ["down 2.1", "down 3.1", "mid"] and axis["tickvals"] == [
        1.5,
        7.5,
        17.5,
    ]
    assert [line["y0"] for line in figure["layout"]["shapes"]] == [2.5, 12.5]
    assert figure["data"][0]["text"][2][0].endswith("down 3.1 block 1")
    tiny = prune_views.picture(words, PLAN, Predictions(words).visited("Euler", 30))
    assert tiny["layout"]["yaxis"]["ticktext"] == ["down 2.1", "mid", "up 1.1", "up 1.2"]


def test_pictures_too_large_for_the_page_become_means_of_whole_blocks():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), dtype=np.uint8)
    assert shrunk(pictures, 128) is pictures
    half = shrunk(pictures, 64)
    assert half.shape == (2, 32, 64, 3) and half[1, 3, 5, 2] == np.rint(
        pictures[1, 6:8, 10:12, 2].mean()
    )
    assert shrunk(pictures, 1).shape == (2, 8, 16, 3) and shrunk(pictures[..., 0], 33).shape == (
        2,
        16,
        32,
    )


def test_words_of_a_visitor_are_text():
    from hostile import HOSTILE, harmless

    comparison = SimpleNamespace(
        n=2,
        device="CPU",
        settings=SampleSettings(prompts=(HOSTILE,) * 2, negative=HOSTILE, size=(64, 128)),
    )
    line = compare_figures.settings_line(comparison)
    # escaped by whoever shows it
    assert (
        "2 images of 128 × 64 pixels" in line
        and f"“{HOSTILE}”, not “{HOSTILE}”" in line
        and not harmless(line)
    )
