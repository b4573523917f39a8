"""A model of another number of timesteps in the page: names, ranges and sentences are its own."""

from __future__ import annotations

import json
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import make_pipeline

from core.curves.plan import StagePlan
from core.curves.proposals import INTERVAL, preset_names, presets
from core.errors import StudioError
from core.models.checkpoints import load_checkpoint
from core.workshop.workshop import Workshop
from mosaic_ui import schedules
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare import sides
from mosaic_ui.figures import VIEWS
from mosaic_ui.predictions import Asked, Predictions
from mosaic_ui.studio import Studio, build_studio

VISITOR = SimpleNamespace(session_hash="visitor")


def workshop_of(total: int, folder, settings) -> Workshop:
    """Make a workshop of the tiny model with `total` timesteps; not calibrated."""
    path = make_pipeline(folder / f"model{total}") / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": total}))
    return Workshop(load_checkpoint(path.parent.parent, "cpu"), settings, folder / "cache")


@pytest.fixture(scope="module", params=[100, 500, 2000])
def other(request, small_settings, tmp_path_factory):
    return workshop_of(request.param, tmp_path_factory.mktemp("other"), small_settings)


@pytest.fixture(scope="module")
def studio(other):
    return Studio(other)


@pytest.fixture(scope="module")
def page(studio):
    return studio.page


def noted(studio, choice, plan):
    """Return what Compare writes below the picker of side A."""
    pair = studio.compare.pair
    return pair.describe(choice, None, "Dense", None, plan, "DDIM", 20, 1.5)[pair.a.note]


def labelled(page, label: str):
    return [c for c in page.blocks.values() if getattr(c, "label", None) == label]


def test_presets_go_by_one_name_everywhere(other, studio, page):
    total = len(other.schedule)
    eye = f"Paper's eye [{total // 5}, {3 * total // 5}]"
    names = list(presets(other.schedule))
    without = [] if total > 100 else [INTERVAL]  # the noise of the shortest ends below it
    assert [*names, *without] == list(preset_names(total)) and eye in names
    offered = [
        [value for _, value in labelled(page, label)[0].choices]
        for label in ("Preset", "A runs", "B runs")
    ]
    assert all(eye in choices and "Paper's eye [200, 600]" not in choices for choices in offered)
    plan = StagePlan((total // 10, total // 2), (0.4, 0.1, 0.5), num_train_timesteps=total)
    plain = plan.to_json()
    found = studio.explore.on_preset(eye, 0.3, plain, "DDIM", 20, False, VISITOR)
    taken = found[studio.shared.plan]
    assert taken["boundaries"] == [total // 5, 3 * total // 5]
    assert taken.get("num_train_timesteps") == total
    for name in (eye, "Uniform"):
        asked = Asked(plan, "DDIM", 20)
        side = sides.resolve_side(name, None, asked, studio.shared.predictions).plan
        assert side.num_train_timesteps == total
        assert "Removed" in noted(studio, name, plain)


def test_handles_axes_and_steps_end_where_the_model_ends(other, studio, page):
    total = len(other.schedule)
    charts = [
        c for c in page.blocks.values() if isinstance(c, gr.HTML) and c.elem_id == "stage-chart"
    ]
    assert len(charts) == 1 and f'"upper": {total},' in charts[0].js_on_load
    for beta in schedules.LABELS:
        for view in VIEWS:
            drawn = studio.shared.predictions.figure(view, "linear", beta, 0.55, 0.02)
            assert len(drawn["data"][-1]["x"]) == total
        plan = StagePlan((1, total - 1), (0.4, 0.1, 0.5), num_train_timesteps=total).to_json()
        curves = studio.explore.curves
        assert f"t = {total - 1}" in curves.on_numbers(plan, beta, 0.02)[curves.numbers]
    found = studio.explore.on_boxes(total, None, plan, "DDIM", 20, False, False, plan, VISITOR)
    assert f"both between 0 and {total}" in found[studio.explore.boxes_said]


def test_more_steps_than_the_model_has_timesteps_are_refused_alike(other, studio):
    most = min(1000, len(other.schedule))
    said = f"Sampling steps must be a whole number from 1 to {most}."
    assert said in studio.steps.on_steps(most + 1, 20, "DDIM")[studio.shared.steps_said]
    with pytest.raises(StudioError, match=said):
        compare_inputs.checked_settings(
            other, compare_inputs.Wish([], 2, 0, most + 1, 1.5, "DDIM", 1)
        )
    assert (
        compare_inputs.checked_settings(
            other, compare_inputs.Wish([], 2, 0, most, 1.5, "DDIM", 1)
        ).steps
        == most
    )


def test_a_plan_for_another_number_of_timesteps_is_refused_in_a_sentence(other, studio):
    plan = StagePlan((93, 550), (0.4, 0.1, 0.5))
    with pytest.raises(gr.Error, match="make a plan for this model"):
        studio.prune.on_upload(plan.dumps().encode(), "DDIM", 20)
    side = studio.compare.pair.a
    found = side.upload(plan.dumps().encode(), "DDIM", 20)
    assert "make a plan for this model" in found[side.note] and set(found) == {side.note}
    with pytest.raises(StudioError, match="make a plan for this model"):
        build_studio(other, plan)


def test_a_model_of_few_timesteps_opens(small_settings, tmp_path):
    few = workshop_of(30, tmp_path, small_settings)
    predictions = Predictions(few)
    found = predictions.predict(presets(few.schedule)["Uniform"], "DDIM", 30)
    assert "Over 30 sampling steps" in predictions.headline(found)
    build_studio(few)
