"""Test what Explore shows beside and below the chart: held work, the best place, thumbnails."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from core.curves.dynamics import curves
from core.curves.plan import StagePlan
from core.curves.proposals import propose_plan
from core.errors import StudioError
from mosaic_ui.explore.best_place import find_places, places_html
from mosaic_ui.explore.held_work import anchor_of, held_sentence, run_macs, with_same_work
from mosaic_ui.explore.outcome import outcome
from mosaic_ui.explore.suggestion import rule_html
from mosaic_ui.explore.thumbnails import COUNT, levels, noised, thumbnails_html
from mosaic_ui.figures import VIEWS
from mosaic_ui.jobs import visit
from mosaic_ui.predictions import Asked, Predictions
from mosaic_ui.studio import Studio

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5))
PLAIN = PLAN.to_json()
COARSE = 0.03  # a head of this tiny model, one of four, is that much of the work
VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture(scope="module")
def predictions(workshop):
    return Predictions(workshop)


@pytest.fixture(scope="module")
def steps(predictions):
    return predictions.visited("DDIM", 50)


@pytest.fixture(scope="module")
def studio(workshop):
    return Studio(workshop, PLAN)


def drop(studio, pair, hold, anchor=PLAIN, plan=PLAIN):
    return studio.explore.on_drop(pair, plan, "DDIM", 50, False, hold, anchor, VISITOR)


def drawn_places(studio, plan):
    """Return the answer of the curve for the plan that was asked for last."""
    visit(VISITOR.session_hash).mark_latest(Asked(plan, "DDIM", 50))
    return studio.explore.places.on_places(1, plan.to_json(), "DDIM", 50, VISITOR)


# ------------------------------------------------------------------ held work


@pytest.mark.parametrize("low, high", [(93, 700), (20, 550), (300, 400), (93, 999)])
def test_work_is_held_as_nearly_as_whole_heads_and_neurons_allow(workshop, steps, low, high):
    held = with_same_work(workshop, PLAN, low, high, steps)
    assert held.boundaries == (low, high) and held.sparsity != PLAN.sparsity
    goal, moved = run_macs(workshop, PLAN, steps), PLAN.with_boundaries(low, high)
    off, free = (abs(run_macs(workshop, plan, steps) - goal) for plan in (held, moved))
    assert off <= min(free, COARSE * goal)
    late, middle, early = held.sparsity
    assert late == early and middle == pytest.approx(late / 2, abs=1e-3)  # in their proportions


def test_moving_on_holds_the_first_plan_and_back_is_back(workshop, steps):
    first = with_same_work(workshop, PLAN, 93, 700, steps)
    assert anchor_of(workshop, PLAN, first, steps) == PLAN
    assert with_same_work(workshop, PLAN, 93, 550, steps) == PLAN
    edited = first.with_sparsity(0.1, 0.2, 0.3)
    assert anchor_of(workshop, PLAN, edited, steps) == edited
    said = held_sentence(workshop, PLAN, first, steps)
    assert re.match(r"Work held at .*MACs an image, (exactly|within \d)", said)


def test_work_that_cannot_be_held_is_refused(workshop, steps):
    with pytest.raises(StudioError, match="No sampling step falls"):
        with_same_work(workshop, StagePlan((93, 550), (0.0, 0.9, 0.0)), 93, 94, steps)
    nothing = PLAN.with_sparsity(0, 0, 0)
    assert with_same_work(workshop, nothing, 93, 700, steps).sparsity == (0, 0, 0)


def test_the_lock_holds_in_a_drag_and_in_a_drop(studio):
    explore, shared = studio.explore, studio.shared
    live = explore.on_drag([93, 700], PLAIN, "DDIM", 50, False, True, PLAIN)
    assert "Work held at" in live[explore.strip]
    found = drop(studio, [93, 700], hold=True)
    after = StagePlan.from_json(found[shared.plan])
    assert after.boundaries == (93, 700) and after.sparsity != PLAN.sparsity
    assert found[explore.boundaries.anchor] == PLAIN and "Work held" in found[explore.strip]
    back = drop(studio, [93, 550], hold=True, plan=after.to_json())
    assert back[shared.plan] == PLAIN
    free = drop(studio, [93, 700], hold=False)
    assert free[shared.plan]["sparsity"] == PLAIN["sparsity"]
    assert free[explore.boundaries.anchor] == free[shared.plan]


def test_a_drag_to_where_the_work_cannot_be_held_says_so_and_the_drop_goes_back(studio):
    plain = StagePlan((93, 550), (0.0, 0.9, 0.0)).to_json()
    explore = studio.explore
    live = explore.on_drag([93, 120], plain, "DDIM", 50, False, True, plain)
    assert set(live) == {explore.strip} and 'role="alert"' in live[explore.strip]
    found = drop(studio, [93, 120], hold=True, anchor=plain, plan=plain)
    assert found[studio.shared.plan] == plain
    assert "The boundaries stay as they were." in found[explore.boxes_said]


# ------------------------------------------------------------------ the best place


@pytest.mark.parametrize("boundary", [0, 1])
def test_the_curve_has_the_errors_of_plans_of_the_same_work(workshop, predictions, steps, boundary):
    places = find_places(predictions, PLAN, boundary, steps)
    assert 30 < len(places.at) <= 41 and places.here in places.at
    assert places.error == predictions.predict(PLAN, "DDIM", 50).prediction.error
    i = 7
    pair = (places.at[i], 550) if boundary == 0 else (93, places.at[i])
    held = with_same_work(workshop, PLAN, *pair, steps)
    assert places.errors[i] == predictions.predict(held, "DDIM", 50).prediction.error
    assert places.errors[places.at.index(places.best)] == min(places.errors)
    drawn = places_html(places)
    assert f'data-best="{places.best}"' in drawn and "about 12 % low" in drawn
    assert f"boundary {boundary + 1} moves" in drawn


def test_the_curve_is_of_the_boundary_moved_last_and_going_there_holds_the_work(
    studio, workshop, steps
):
    explore, shared = studio.explore, studio.shared
    assert drop(studio, [200, 550], hold=False)[explore.places.moved] == 0
    assert explore.places.moved not in drop(studio, [93, 550], hold=False)
    plan = StagePlan((93, 950), (0.6, 0.1, 0.3))
    found = drawn_places(studio, plan)
    assert found[explore.places.go]["visible"] and "at t = " in found[explore.places.drawn]
    best = int(re.search(r'data-best="(\d+)"', found[explore.places.drawn]).group(1))
    gone = explore.on_best(1, plan.to_json(), "DDIM", 50, False, False, PLAIN, VISITOR)
    after = StagePlan.from_json(gone[shared.plan])
    assert after.boundaries == (93, best) and gone[explore.curves.chart] == [93, best]
    work = run_macs(workshop, plan, steps)
    assert run_macs(workshop, after, steps) == pytest.approx(work, rel=COARSE)


def test_no_curve_where_no_errors_are_known(studio, predictions, steps):
    shared_by_error = StagePlan((93, 550), (0.5, 0.25, 0.5), allocation="lagrangian")
    magnitude = StagePlan((93, 550), (0.5, 0.25, 0.5), method="magnitude")
    for plan in (shared_by_error, magnitude, PLAN.with_sparsity(0, 0, 0)):
        assert find_places(predictions, plan, 1, steps) is None
    places = studio.explore.places
    found = drawn_places(studio, magnitude)
    assert found == {places.drawn: "", places.go: gr.update(visible=False)}
    assert studio.explore.on_best(
        1, magnitude.to_json(), "DDIM", 50, False, False, PLAIN, VISITOR
    ) == (gr.skip())


def test_the_curve_is_drawn_beside_the_exact_prediction_and_never_in_a_drag(studio):
    handlers = {f._id: f for f in studio.page.fns.values()}
    drawn, exact = (
        [handlers.get(f.trigger_after) for f in handlers.values() if f.name == name]
        for name in ("on_places", "refine")
    )
    assert {f and f.name for f in drawn} == {"follow", "on_sampler", None}  # None: as it opens
    assert drawn == exact  # neither waits for the other


def test_a_late_curve_of_an_old_plan_is_dropped_and_equal_answers_are_drawn_anew(studio):
    places = studio.explore.places
    first, again = drawn_places(studio, PLAN), drawn_places(studio, PLAN)
    assert 'data-boundaries="93,550"' in first[places.drawn]
    assert first[places.drawn] != again[places.drawn]  # else the page would leave it marked as old
    drop(studio, [93, 700], hold=False)
    assert places.on_places(1, PLAIN, "DDIM", 50, VISITOR) == gr.skip()


def test_an_estimate_and_an_exact_error_on_one_page_say_what_they_are(predictions, steps):
    exact, quick = (predictions.predict(PLAN, "DDIM", 50, exact=exact) for exact in (True, False))
    estimate = f"{100 * quick.prediction.error:.2f} %"
    assert f"exact; estimate {estimate}" in outcome(exact)
    assert "quick estimate" in outcome(quick) and "exact" not in outcome(quick)
    strip = places_html(find_places(predictions, PLAN, 1, steps))
    assert "estimate, about 12 % low" in strip and f"{estimate} here" in strip


# ------------------------------------------------------------------ below the axis


def test_thumbnails_go_from_clean_to_noise_in_the_direction_of_the_axis(workshop):
    made = noised(workshop)
    assert [t for t, _ in made] == levels(1000) == sorted(levels(1000)) and len(made) == COUNT
    pictures = []
    for _, address in made:
        kind, data = address.split(",")
        assert kind == "data:image/png;base64" and len(address) < 20_000
        pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=float))
    clean = pictures[0]
    far = [np.abs(picture - clean).mean() for picture in pictures]
    assert far[0] == 0 and far[1] < far[4] < far[-1] * 1.5 and far[-1] > 0
    row = thumbnails_html(workshop)
    assert row.index("clean picture") < row.index("pure noise") and row.count("<img") == COUNT
    assert "sampling runs this way" in row and noised(workshop) == made


def test_a_model_without_latents_has_the_words_alone(workshop):
    bare = copy.copy(workshop)
    bare.latents = None
    assert noised(bare) == []
    row = thumbnails_html(bare)
    assert "<img" not in row and "clean picture" in row and "pure noise" in row


def test_a_vae_that_fails_leaves_the_page_whole(workshop, monkeypatch):
    def broken(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr("mosaic_ui.explore.thumbnails.decode", broken)
    assert noised(workshop) == []


def test_the_chart_knows_the_steps_of_the_sampler_and_the_suggested_lines(studio):
    curves_panel = studio.explore.curves

    def figure(m, steps, beta="linear"):
        found = curves_panel.on_curve("MSE", "linear", beta, m, 0.026, False, "DDIM", steps)
        return json.loads(found[curves_panel.chart]["figure"])

    usual = figure(0.55, 20)
    assert usual["steps"] == studio.shared.predictions.visited("DDIM", 20)
    assert usual["suggested"] == [93, 550]
    low, high = figure(0.9, 20)["suggested"]
    assert 93 < low < high < 550
    assert figure(0.55, 20, "sigmoid")["suggested"] is None  # a plan for this model has none there


# ------------------------------------------------------------------ the rule


@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_another_threshold_moves_the_dashed_lines_in_every_view(predictions, view, scale):
    lines = [predictions.figure(view, scale, "linear", m, 0.026)["data"][0] for m in (0.55, 0.9)]
    assert [line["line"]["dash"] for line in lines] == ["dash", "dash"]
    assert lines[0]["name"] == "suggested: 93 and 550" != lines[1]["name"]
    assert lines[0]["x"] != lines[1]["x"]


def test_the_page_opens_on_the_score_with_its_threshold_and_both_crossings(studio, workshop):
    panel = studio.explore.curves
    assert panel.view.value == "Score" and not panel.scale.interactive
    figure = json.loads(panel.chart.props["figure"])
    assert figure["layout"]["shapes"][0]["line"]["dash"] == "dot"
    (marks,) = [trace for trace in figure["data"] if trace["name"] == "crossings"]
    score = curves(workshop.schedule).score
    assert marks["x"] == [93, 550]
    assert marks["y"] == pytest.approx([0.55 * score.max()] * 2, rel=0.02)


def test_constants_that_propose_nothing_leave_the_curve(predictions):
    names = [t["name"] for t in predictions.figure("Score", "linear", "linear", 0.5, 9.0)["data"]]
    assert "theory" in names


def test_the_rule_is_a_plain_sentence_with_the_formula_behind_one_click(workshop, steps):
    proposal = propose_plan(workshop.schedule, 0.33, steps)
    words = rule_html(proposal, steps, ["Then <b>."])
    plain, formula = words.split("<details>")
    assert "where the score comes up to 55 % of its peak" in plain
    assert "33 % on average of 50 steps" in plain and "lambda" not in words
    assert "score ≥ M · max score" in formula.replace("&gt;", ">") and "λ = 0.026" in formula
    assert "Then &lt;b&gt;." in words
