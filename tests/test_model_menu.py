"""The menu of models: the plan comes along, and what does not fit is said in a sentence."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import gradio as gr
import pytest
import torch
from conftest import make_pipeline

import app
from core.cli_options import parser
from core.curves.plan import StagePlan
from core.curves.proposals import presets
from core.models import bundled
from core.models.checkpoints import load_checkpoint, load_scheduler, local_folder
from core.workshop import workshop as workshops
from core.workshop.workshop import Workshop, get_workshop
from mosaic_ui.model_menu import menu_of
from mosaic_ui.studio import Studio, build_studio

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5), name="mine", multiple=16)


@pytest.fixture(scope="module")
def short(small_settings, tmp_path_factory):
    """A model of 500 timesteps, not calibrated."""
    folder = make_pipeline(tmp_path_factory.mktemp("short") / "short-dit")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": 500}))
    return Workshop(load_checkpoint(folder, "cpu", dtype=torch.float32), small_settings, folder)


@pytest.fixture(scope="module")
def pages(workshop, short):
    """The two models' pages in one application: (first, second)."""
    menu = menu_of([workshop, short], ["Grey DiT could not be opened: it is damaged."])
    first = Studio(workshop, PLAN, menu)
    from dataclasses import replace

    return first, Studio(short, None, replace(menu, place=1), first.page)


def visit(address: str) -> SimpleNamespace:
    """Return the request of a page opened at an address."""
    return SimpleNamespace(
        session_hash="menu", query_params=dict(parse_qsl(urlsplit(address).query))
    )


def go(studio, path, plan=PLAN, steps=20) -> str:
    return studio.models.on_choose(path, plan.to_json(), "DDIM", steps, 9)[studio.models.address]


def test_a_choice_leads_to_that_models_page_with_the_plan(pages):
    first, second = pages
    address = go(first, "model-1")
    assert address.startswith("./model-1?") and urlsplit(address).path == "./model-1"
    query = visit(address).query_params
    assert StagePlan.from_json(query["plan"]) == PLAN and query["steps"] == "20"
    assert query["seed"] == "9"
    assert urlsplit(go(second, "")).path == "./"


def test_a_plan_arrives_whole_where_it_fits(pages):
    first, _ = pages
    found = first.models.on_open("", visit(go(first, "")))
    shared = first.shared
    assert found[shared.plan] == PLAN.to_json()
    assert (found[shared.scheduler], found[shared.steps], found[shared.steps_box]) == (
        "DDIM",
        20,
        20,
    )
    said = found[first.models.said]
    assert "boundaries 93 and 550" in said and "Grey DiT could not be opened" in said
    assert said.count("<p") == 2  # nothing changed, so nothing more is said


def test_boundaries_keep_their_place_on_other_timesteps(pages):
    first, second = pages
    found = second.models.on_open("", visit(go(first, "model-1")))
    plan = StagePlan.from_json(found[second.shared.plan])
    assert plan.num_train_timesteps == 500 and plan.sparsity == PLAN.sparsity
    assert plan.boundaries == (46, 275)
    said = found[second.models.said]
    assert "Boundaries 93 and 550 of 1000 timesteps are 46 and 275 of 500 here." in said


def test_a_way_of_sharing_that_needs_a_calibration_is_left_behind_and_said(pages):
    first, second = pages
    shared_out = StagePlan((93, 550), (0.5, 0.25, 0.5), allocation="lagrangian")
    found = second.models.on_open("", visit(go(first, "model-1", shared_out)))
    plan = StagePlan.from_json(found[second.shared.plan])
    assert plan.plain and plan.sparsity == shared_out.sparsity
    assert "Every layer of a stage loses the same share now" in found[second.models.said]


def test_steps_that_the_model_does_not_have_are_its_own(pages):
    first, second = pages
    found = second.models.on_open("", visit(go(first, "model-1", steps=800)))
    assert found[second.shared.steps] == second.shared.opening_sampler[1]
    assert "Sampling steps must be a whole number" in found[second.models.said]


@pytest.mark.parametrize("steps", ["9" * 5000, "²", "-3", "2.5", ""])
def test_steps_of_an_address_that_are_no_number_are_the_pages_own(pages, steps):
    first, _ = pages
    query = visit(go(first, "")).query_params | {"steps": steps}
    found = first.models.on_open("", SimpleNamespace(session_hash="menu", query_params=query))
    assert found[first.shared.steps] == first.shared.opening_sampler[1]
    assert "Sampling steps must be a whole number" in found[first.models.said]


def test_a_preset_of_another_schedule_loses_its_name(pages):
    first, _ = pages
    shared = first.shared
    timesteps = shared.predictions.visited("DDIM", 50)
    preset = next(iter(presets(shared.workshop.schedule, 0.33, timesteps).values()))
    moved = preset.with_boundaries(preset.boundaries[0] + 7, preset.boundaries[1])
    for plan, name in ((preset, preset.name), (moved, "")):
        found = first.models.on_open("", visit(go(first, "", plan, steps=50)))
        assert StagePlan.from_json(found[shared.plan]).name == name


def test_a_plan_that_removes_more_than_a_preset_can_comes_along(pages):
    first, _ = pages
    much = PLAN.with_sparsity(0.9, 0.9, 0.9)
    found = first.models.on_open("", visit(go(first, "", much, steps=50)))
    assert StagePlan.from_json(found[first.shared.plan]).sparsity == (0.9, 0.9, 0.9)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boundaries":[5,5]}', "x" * 70_000, "\0"])
def test_a_broken_plan_in_the_address_is_a_sentence(pages, text):
    first, _ = pages
    request = SimpleNamespace(session_hash="menu", query_params={"plan": text})
    found = first.models.on_open("", request)
    assert set(found) == {first.models.said}
    assert "The plan in the address was not taken over: " in found[first.models.said]


@pytest.mark.parametrize("path", [None, "model-2", "../x", 3, ["model-1"], "/etc/passwd"])
def test_only_listed_models_can_be_chosen(pages, path):
    with pytest.raises(gr.Error, match="does not list this model"):
        go(pages[0], path)


def test_a_model_whose_folder_is_gone_stays_closed(pages, short):
    first, _ = pages
    folder = short.checkpoint.folder
    shutil.move(folder / "model_index.json", folder / "elsewhere.json")
    try:
        found = first.models.on_choose("model-1", PLAN.to_json(), "DDIM", 20, 0)
    finally:
        shutil.move(folder / "elsewhere.json", folder / "model_index.json")
    assert found[first.models.address] == "" and found[first.models.menu] == ""
    assert "is gone" in found[first.models.said]


def test_without_a_choice_there_is_no_menu(workshop):
    studio = Studio(workshop, PLAN)
    assert not studio.models.menu.visible
    page = build_studio(workshop, PLAN)
    assert [path for path, *_ in page.pages] == [""]


# ------------------------------------------------------------ names


def test_a_bundled_name_comes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "fashion-dit").mkdir()
    monkeypatch.chdir(tmp_path)
    assert local_folder("fashion-dit") == bundled.FASHION
    assert local_folder(tmp_path / "fashion-dit") == tmp_path / "fashion-dit"
    assert load_scheduler("fashion-dit").config.beta_schedule == "linear"


def test_a_name_and_its_folder_are_one_workshop():
    by_name = get_workshop("fashion-dit", "cpu")
    assert by_name is get_workshop(bundled.FASHION, "cpu")
    assert by_name is get_workshop(str(bundled.FASHION), "cpu")
    assert by_name.name == "Fashion DiT (bundled)"


# ------------------------------------------------------------ damaged folders


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    """Assets with two small bundled models, so that one can be damaged."""
    for name in bundled.BUNDLED_MODELS:
        make_pipeline(tmp_path / name)
    monkeypatch.setattr(bundled, "ASSETS", tmp_path)
    monkeypatch.setattr(workshops, "_WORKSHOPS", {})
    return tmp_path


def opened(*arguments: str):
    return app.open_models(parser().parse_args(["--device", "cpu", *arguments]))


def test_the_studio_opens_on_the_first_bundled_model_and_lists_all(two_models):
    first, others, unavailable = opened()
    assert first.name == "Character DiT (bundled)" and not unavailable
    assert [w.name for w in others] == ["Fashion DiT (bundled)"]
    first, others, _ = opened("--model", "fashion-dit")
    assert first.name == "Fashion DiT (bundled)" and len(others) == 1
    first, others, _ = opened("--model", str(two_models / "fashion-dit"))
    assert first.name == "Fashion DiT (bundled)" and len(others) == 1


@pytest.mark.parametrize("damage", ["missing", "weights", "features", "study.json"])
def test_the_other_model_opens_where_one_is_damaged(two_models, damage, capsys):
    folder = two_models / "character-dit"
    if damage == "missing":
        shutil.rmtree(folder)
    elif damage == "features":
        (folder / damage).mkdir()
        (folder / damage / "config.json").write_text("{")
    elif damage == "study.json":
        (folder / damage).write_text("[{}]")
    else:
        weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    first, others, unavailable = opened()
    assert first.name == "Fashion DiT (bundled)" and not others
    (said,) = unavailable
    assert said.startswith("Character DiT could not be opened: ") and said.count("\n") == 0
    assert said in capsys.readouterr().err
    page = build_studio(first, None, others, unavailable)
    assert any(
        "Character DiT could not be" in str(b.value)
        for b in page.blocks.values()
        if hasattr(b, "value")
    )


def test_no_model_at_all_is_one_refusal(two_models, capsys):
    for name in bundled.BUNDLED_MODELS:
        shutil.rmtree(two_models / name)
    assert app.main(["--device", "cpu"]) == 2
    assert "Fashion DiT could not be opened" in capsys.readouterr().err
