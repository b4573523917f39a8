"""The tour and the present view without a browser: what is answered, and what is not."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from html import unescape
from urllib.parse import urlencode

import pytest
import torch

from core.curves.plan import StagePlan
from core.curves.proposals import propose_plan
from core.errors import Stopped
from core.models.bundled import BUNDLED
from core.models.checkpoints import load_checkpoint
from core.runs.store import RunStore
from core.workshop.compare import compare, visited
from core.workshop.comparison import SampleSettings
from core.workshop.study import findings, load_study
from core.workshop.workshop import Workshop
from mosaic_ui import background, model_facts
from mosaic_ui.runs.record import store
from mosaic_ui.studio import Studio
from mosaic_ui.text import percent
from mosaic_ui.tour import answers, calibrating, drawings, experiments, scenes, words
from mosaic_ui.tour.turns import BUSY, Turns

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55), name="mine")
STAGES = ((0, 200), (200, 600), (600, 1000))  # timesteps of the stages that the tests cut


@pytest.fixture(scope="module")
def page(workshop) -> Studio:
    return Studio(workshop, PLAN)


@pytest.fixture(scope="module")
def tour(page) -> answers.TourAnswers:
    return answers.TourAnswers(page.shared)


@pytest.fixture(scope="module")
def comparison(workshop):
    *_, found = compare(workshop, None, PLAN, SampleSettings(labels=(0, 1), steps=4, repeats=3))
    return found


def ask(tour, kind, *what, visitor="me"):
    return tour.functions()[2]([visitor, kind, list(what)])


def test_nothing_of_both_views_is_in_the_page_before_they_are_opened(page):
    sent = json.dumps(page.page.get_config_file(), default=str)
    assert "data-open=" in sent
    for part in ("tour-dialog", "keepInside", "present-scene", words.STEPS[0].title):
        assert part not in sent
    found = answers.parts()
    assert "keepInside" in found["script"] and "tour-dialog" in found["style"]


def test_seven_steps_whose_marked_words_all_have_a_meaning(tour):
    found = tour.functions()[1](None)
    assert [step["kind"] for step in found["steps"]] == [s.kind for s in words.STEPS]
    assert 5 <= len(found["steps"]) <= 7 and "[[" not in json.dumps(found)
    used = set(re.findall(r'data-meaning="([^"]+)"', json.dumps(found).replace('\\"', '"')))
    assert set(map(unescape, used)) == set(words.MEANINGS.values())
    assert len(found["timesteps"]) == 16 and found["total"] == 1000
    with pytest.raises(KeyError):
        words.marked("an [[unknown]] word")
    assert "&lt;b&gt;" in words.marked("<b>")


def test_the_film_is_the_models_own_and_another_seed_is_another_picture(tour, workshop):
    found = ask(tour, "film", 0)
    assert len(found["frames"]) == 16 and len(found["images"]) == 2
    assert found["frames"][-1]["guess"] != found["frames"][0]["guess"]
    assert ask(tour, "film", 1)["images"] != found["images"]
    assert ask(tour, "film", 0) == found


def test_a_head_that_goes_changes_the_picture_and_comes_back(tour):
    whole = ask(tour, "film", 0)["images"]
    none, one = ask(tour, "head", 0, 0, []), ask(tour, "head", 0, 0, [1])
    assert none["images"] == whole and none["far"] == "the same pictures"
    assert one["images"] != whole and "PSNR" in one["far"] and one["whole"] == whole
    assert "has to stay" in ask(tour, "head", 0, 0, [0, 1, 2, 3])["said"]


def test_pruning_takes_about_a_third_of_the_work_and_pushing_breaks_the_picture(tour, workshop):
    found = ask(tour, "prune", 0, [200, 600])
    assert [stage["stage"] for stage in found["stages"]] == ["late", "middle", "early"]
    counts = [sum(low <= t < high for t in tour.experiments.timesteps) for low, high in STAGES]
    assert [stage["steps"] for stage in found["stages"]] == counts
    opened = visited(workshop, *model_facts.default_sampler(workshop))
    plan = replace(tour.experiments.proposal.with_boundaries(200, 600), name="")
    plan = plan.scaled_to(experiments.TARGET, opened)
    predicted = workshop.predict(plan, tour.experiments.timesteps)
    assert found["saved"] == percent(1 - predicted.macs / predicted.macs_dense)
    own = propose_plan(workshop.schedule, experiments.TARGET, opened).plan  # of the page
    shown = ask(tour, "prune", 0, list(own.boundaries))["stages"]
    assert [stage["removed"] for stage in shown] == list(map(percent, own.sparsity))
    nothing, much = ask(tour, "push", 0, [200, 600], 0), ask(tour, "push", 0, [200, 600], 0.9)
    assert nothing["far"] == "the same pictures" and nothing["images"] == nothing["whole"]
    decibel = [float(re.search(r"([\d.]+) dB", one["far"])[1]) for one in (found, much)]
    assert decibel[1] < decibel[0]


JUNK = [None, [], ["me", "film"], [1, "film", [0]], ["me", "film", [-1]], ["me", "film", ["0"]]]
JUNK += [["me", "nothing", []], ["me", "__init__", [1]], ["me", "head", [0, 99, []]]]
JUNK += [["me", "head", [0, 0, [True]]], ["me", "prune", [0, [600, 200]]], ["me", [], [0]]]
JUNK += [["me", "push", [0, [200, 600], 2]], ["me", "push", [0, [200, 600], None]]]


@pytest.mark.parametrize("junk", JUNK, ids=map(str, range(len(JUNK))))
def test_what_is_no_question_has_one_sentence(tour, junk):
    found = tour.functions()[2](junk)
    assert set(found) == {"said"} and "\n" not in found["said"] and found["said"].endswith(".")


@pytest.fixture
def fresh(model_folder, small_settings, tmp_path) -> answers.TourAnswers:
    """A tour of a model that nobody has calibrated."""
    shop = Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path)
    return answers.TourAnswers(Studio(shop).shared)


def ended(tour):
    """Follow the calibration to its end; the number that is shown only rises."""
    state, seen = ask(tour, "calibrating"), 0.0
    while state["going"]:
        assert seen <= state["share"] <= 1
        seen = state["share"]
        time.sleep(0.02)
        state = ask(tour, "calibrating")
    return state


def test_a_model_that_is_not_calibrated_is_calibrated_for_the_tour_and_then_prunes(fresh):
    assert "frames" in ask(fresh, "film", 0)  # the steps before need none
    assert fresh.functions()[1](None)["calibrates"]
    refused = ask(fresh, "prune", 0, [200, 600])
    assert refused == {"said": experiments.NOT_CALIBRATED, "calibrate": True}
    begun = ask(fresh, "calibrate")
    assert begun["going"] and not begun["done"]
    ask(fresh, "leave")  # does not stop what serves the whole page
    state = ended(fresh)
    assert "said" not in state and state["done"] and fresh.workshop.calibrated
    assert ask(fresh, "prune", 0, [200, 600])["images"]
    assert not fresh.functions()[1](None)["calibrates"]
    assert not ask(fresh, "calibrate")["going"]


def test_a_calibration_of_the_tour_makes_jobs_wait_and_stops_when_asked(fresh, monkeypatch):
    begun = threading.Event()

    def forever(progress, stop):
        progress(1, 4, "measuring")
        begun.set()
        assert stop.wait(20)
        raise Stopped

    monkeypatch.setattr(fresh.workshop, "calibrate", forever)
    assert ask(fresh, "calibrate")["going"] and begun.wait(20)
    assert ask(fresh, "calibrating")["share"] == pytest.approx(0.25 * calibrating.BINS_SHARE)
    assert next(background.others_first()) == "calibration"
    assert background.ongoing() == []  # but no visitor's own run, and the tour goes on
    assert ask(fresh, "film", 0)["frames"]
    ask(fresh, "stop")
    assert "stopped" in ended(fresh)["said"] and not list(background.others_first())


def test_no_calibration_begins_beside_what_is_timed_or_for_a_large_model(fresh, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(background, "ongoing", lambda: [object()])
        assert ask(fresh, "calibrate") == {"said": BUSY}
    monkeypatch.setattr(model_facts, "SMALL_MACS", 1.0)
    assert not fresh.functions()[1](None)["calibrates"]
    assert not ask(fresh, "calibrate")["going"]
    assert ask(fresh, "prune", 0, [200, 600])["calibrate"] is False


def test_a_model_too_slow_to_show_says_so_at_every_step_and_the_words_stay(tour, monkeypatch):
    monkeypatch.setitem(experiments.check_small.__globals__["MOST_MACS"], "cpu", 1.0)
    for kind, what in (("film", [9]), ("head", [9, 0, [1]]), ("prune", [9, [200, 600]])):
        assert "needs minutes" in ask(tour, kind, *what)["said"]
    assert len(tour.functions()[1](None)["steps"]) == 7


def test_a_newer_question_or_leaving_stops_the_one_before():
    turns, order = Turns(), []

    def older():
        with turns.turn("me") as stop:
            order.append("begun")
            assert stop.wait(20)
        order.append("stopped")

    thread = threading.Thread(target=older)
    thread.start()
    while not order:
        time.sleep(0.01)
    with turns.turn("me") as stop:
        assert order == ["begun", "stopped"] or thread.join(20) is None
        assert not stop.is_set()
        turns.leave("another")
        assert not stop.is_set()
        turns.leave("me")
        assert stop.is_set()


def test_the_tour_does_not_spoil_the_times_of_a_comparison(tour, monkeypatch):
    monkeypatch.setattr(background, "ongoing", lambda: [object()])
    assert ask(tour, "film", 0) == {"said": BUSY}


# ---------------------------------------------------------------- the present view


def told(tour, query="", id=""):
    return tour.functions()[3]([query, id])["scenes"]


def test_the_scenes_tell_the_plan_in_hand_and_the_comparison_of_the_page(
    tour, page, workshop, comparison, tmp_path, monkeypatch
):
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path))
    kept: RunStore = store()
    run = kept.add(comparison, workshop.model_key)
    other = PLAN.with_sparsity(0.6, 0.3, 0.6)
    query = urlencode({"plan": other.dumps_short(), "scheduler": "DDIM", "steps": 10})
    found = {scene["kind"]: scene["html"] for scene in told(tour, query, run.id)}
    assert list(found) == ["idea", "plan", "pictures", "number", "cost"]
    predicted = page.shared.predictions.predict(other, "DDIM", 10)
    saved = 1 - predicted.prediction.macs / predicted.prediction.macs_dense
    assert f"<b>{percent(saved)}</b>" in found["plan"] and "counted, not timed" in found["plan"]
    blocks = workshop.kept_share(other).shape[1]
    assert found["plan"].count("<rect") == 10 * blocks
    assert found["pictures"].count("<img") == 4
    for kind in ("pictures", "number"):  # in large type
        assert 'class="present-other">Another plan (early 55 %' in found[kind]
    assert "with the plan in hand" in found["number"]
    assert len(re.findall("[0-9]%", "".join(found.values()))) == 0
    mine = {
        scene["kind"]: scene["html"]
        for scene in told(tour, urlencode({"plan": PLAN.dumps_short(), "steps": 4}), run.id)
    }
    assert "present-other" not in mine["pictures"] + mine["number"]
    words = " ".join(
        re.sub("<p class=.tour-note.*?</p>|<[^>]+>", " ", "".join(mine.values())).split()
    )
    assert "whole network" in words and "pruned by stages" in words.lower()
    for hard in ("Dense", "Formula", "PSNR", " dB", "DDIM", "n =", "seed", "multiply-acc"):
        assert hard not in words
    assert "3 Compare" in found["cost"]  # no study comes with this model


def test_only_a_measured_gain_that_can_be_believed_is_shown_as_one(tour, workshop, comparison):
    def number(one):
        return scenes._number(one, "", scenes.in_hand(tour.shared, ""))["html"]

    slow = [[1.0], [1.02], [1.01]]
    sure = replace(
        comparison,
        a=replace(comparison.a, step_seconds=slow),
        b=replace(comparison.b, step_seconds=[[s / 1.3 for s in run] for run in slow]),
    )
    untimed = replace(sure, a=replace(sure.a, step_seconds=[]), b=replace(sure.b, step_seconds=[]))
    same = replace(sure, b=replace(sure.b, step_seconds=slow))
    assert "<b>×1.30</b><span>as fast, measured" in number(sure)
    for doubtful in (untimed, same):
        html = number(doubtful)
        assert "measured</span>" not in html and "counted</span>" in html


def test_without_pictures_and_with_a_bad_id_or_query_there_is_a_sentence(tour):
    found = {scene["kind"]: scene["html"] for scene in told(tour)}
    assert "press Compare" in found["pictures"] and "press Compare" in found["number"]
    for bad in ([None, ""], ["", "../x"], ["plan=%7B%7D", ""], ["", 5], "x", ["x" * 70_000, ""]):
        answer = tour.functions()[3](bad)
        assert set(answer) == {"said"} and "\n" not in answer["said"]


def test_the_rival_is_told_with_the_numbers_of_the_study():
    study = findings(load_study(BUNDLED / "study.json"))
    rows = scenes.rival_rows(study, 50, 0.32)
    assert [row.family for row in rows] == ["dense", "dense", "MosaicDiff", "uniform OBS"]
    assert {row.base_steps for row in rows} == {50} and rows[0].saved == 0
    assert all(abs(row.saved - 0.32) < 0.03 for row in rows[1:])
    assert scenes.rival_rows(study, 50, 0.9) == [] and scenes.rival_rows([], 50, 0.3) == []
    assert {row.base_steps for row in scenes.rival_rows(study, 12, 0.32)} == {10}


def test_the_curve_is_drawn_from_noise_to_picture_with_the_widths_of_the_stages():
    score = torch.linspace(-1, 1, 1000).numpy()
    html = drawings.curve_html(score, (100, 400))
    points = [
        tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)', html)[1].split()
    ]
    assert points[0][0] == 0 and points[-1][0] == 1000
    assert points[0][1] == 8 and points[-1][1] == 97  # t = 999 stands left
    assert len({y for _, y in points}) == len(points)  # nothing of the line is cut off
    assert re.findall(r'stage="(\w+)" style="flex-grow:(\d+)', html) == [
        ("early", "600"),
        ("middle", "300"),
        ("late", "100"),
    ]
