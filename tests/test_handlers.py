"""Call the page's handlers as a browser would, on a tiny model: what an edit sets and refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
from hostile import HOSTILE, harmless

from core.curves.dynamics import default_lambda
from core.curves.plan import StagePlan
from core.curves.proposals import presets
from core.errors import StudioError
from core.models.checkpoints import load_checkpoint
from core.workshop.device_times import DeviceTimes
from core.workshop.workshop import Workshop
from mosaic_ui import jobs, schedules
from mosaic_ui.compare import live as compare_live
from mosaic_ui.compare import sides
from mosaic_ui.explore import curve_panel, outcome
from mosaic_ui.figures import VIEWS
from mosaic_ui.predictions import OWN, Asked
from mosaic_ui.prune.jobs import calibrated_sentence
from mosaic_ui.studio import Studio, build_studio
from mosaic_ui.text import percent

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5))
PLAIN = PLAN.to_json()
NAN, INF = float("nan"), float("inf")
VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture(scope="module")
def studio(workshop):
    return Studio(workshop, PLAN)


@pytest.fixture(scope="module")
def page(studio):
    return studio.page


@pytest.fixture(scope="module")
def predictions(studio):
    return studio.shared.predictions


def drop(studio, pair, plan=PLAIN):
    return studio.explore.on_drop(pair, plan, "DDIM", 50, False, False, PLAIN, VISITOR)


def suggest(studio, target=0.33, m=0.55, lam=0.026, beta="linear"):
    return studio.explore.on_suggest(target, m, lam, beta, PLAIN, "DDIM", 50, False, VISITOR)


def slide(studio, value, plan=PLAIN, stage=2):
    return studio.prune.stage_controls[stage].on_slide(value, plan, "DDIM", 50, VISITOR)


def refine(studio, plan, scheduler="DDIM", steps=50, layers=False):
    return studio.following.refine(plan, scheduler, steps, layers, 0, VISITOR)


@pytest.mark.parametrize("pair", [None, [1, 2, 3], [None, 5], ["93", 550], [NAN, 550], [INF, 550]])
def test_the_chart_handlers_refuse_what_are_no_boundaries(studio, pair):
    with pytest.raises(gr.Error):
        studio.explore.on_drag(pair, PLAIN, "DDIM", 50, False, False, PLAIN)
    if not isinstance(pair, list) or len(pair) != 2:
        with pytest.raises(gr.Error):
            drop(studio, pair)
    else:  # two values, but no boundaries: the lines go back
        found = drop(studio, pair)
        assert found[studio.shared.plan] == PLAIN
        assert found[studio.explore.curves.chart] == PLAIN["boundaries"]
        assert "The boundaries stay as they were." in found[studio.explore.boxes_said]


def test_a_drag_is_answered_with_every_number_in_sight(studio):
    explore = studio.explore
    found = explore.on_drag([93, 700], PLAIN, "DDIM", 50, False, False, PLAIN)
    assert set(found) == {explore.table, explore.strip, explore.headline}
    assert all('data-boundaries="93,700"' in found[v] for v in (explore.table, explore.strip))
    live = next(f for f in studio.page.fns.values() if f.name == "on_drag")
    assert set(live.outputs) == set(found) and not live.queue


@pytest.fixture
def untimed(monkeypatch):
    """A device whose speed nobody measured; other tests may have measured the shared model's."""
    monkeypatch.setattr(DeviceTimes, "latency", lambda *_, **__: None)


@pytest.mark.usefixtures("untimed")
def test_the_strip_has_time_work_error_and_the_stages_in_the_order_of_sampling(predictions):
    found = predictions.predict(PLAN, "DDIM", 50)
    strip = outcome.outcome(found, "A <b> is held.")
    assert re.findall('<tr data-stage="([a-z]+)"', strip) == ["early", "middle", "late"]
    shares = [int(share) for share in re.findall(r"(\d+) %</span></td>", strip)]
    assert len(shares) == 3 and sum(shares) == pytest.approx(100, abs=1)
    assert percent(found.prediction.error, 2) in strip and "quick estimate" in strip
    assert "not measured yet" in strip and "A &lt;b&gt; is held." in strip
    exact = outcome.outcome(predictions.predict(PLAN, "DDIM", 50, exact=True))
    assert "exact; estimate" in exact and 'class="held"' not in exact
    assert outcome.outcome(predictions.predict(PLAN.with_sparsity(0, 0, 0), "DDIM", 50))


@pytest.mark.usefixtures("untimed")
def test_what_an_edit_did_is_said_for_people_who_hear_the_page(studio):
    said = drop(studio, [93, 700])[studio.explore.said]
    assert said.startswith("Boundary 2 is at timestep 700. Steps: early 15, middle 30, late 5.")
    assert "fewer multiply-accumulates, layer error" in said and "Boundary 1" not in said


@pytest.mark.parametrize("value", ["0.5", None, NAN, True, 0.96, -0.1])
def test_a_refused_slider_goes_back_and_says_why(studio, value):
    prune = studio.prune
    answers = {
        "Early stage sparsity": slide(studio, value),
        "Target mean sparsity": prune.on_master(value, PLAIN, PLAIN, "DDIM", 50, VISITOR),
    }
    mean = pytest.approx(PLAN.mean_sparsity(range(0, 1000, 20)), abs=1e-3)
    for name, found in answers.items():
        assert set(found) == {*prune.sliders, prune.master, prune.effect}
        assert [found[slider] for slider in prune.sliders] == [0.5, 0.25, 0.5]
        assert found[prune.master] == mean
        said = f"{name} must be a number from 0 to 0.95. The plan stays as it was."
        assert said in found[prune.effect]


def test_a_late_answer_to_an_old_plan_or_sampler_is_dropped(studio):
    table, cost = studio.explore.table, studio.prune.cost
    estimate = studio.following.on_sampler(PLAIN, "DDIM", 50, VISITOR)[table]
    assert refine(studio, PLAIN, steps=20) == gr.skip()
    exact = refine(studio, PLAIN)
    assert exact[table] != estimate and "exact" in exact[cost]
    slide(studio, 0.7)  # the early stage's
    assert refine(studio, PLAIN) == gr.skip()
    newer = refine(studio, PLAN.with_sparsity(0.5, 0.25, 0.7).to_json())
    assert 'data-exact="true"' in newer[table] and "exact" in newer[cost]


def test_plans_are_set_one_at_a_time_and_no_answer_sets_a_box_that_is_typed_into(studio):
    handlers = list(studio.page.fns.values())
    setters = [f for f in handlers if studio.shared.plan in f.outputs]
    assert {f.name for f in setters} >= {
        "on_drop",
        "on_boxes",
        "on_snap",
        "on_suggest",
        "on_preset",
        "on_slide",
        "on_master",
        "on_upload",
    }
    assert {(f.concurrency_id, f.concurrency_limit, f.queue) for f in setters} == {
        ("plan", 1, True)
    }
    boxes = set(studio.explore.boxes)
    assert len(boxes) == 2 and all(f.fn is None for f in handlers if boxes & set(f.outputs))


def test_every_edit_of_the_plan_is_followed_by_the_other_tabs_and_one_exact_prediction(studio):
    """All that sets the plan starts the one event that the other views and `refine` hang on."""
    handlers = list(studio.page.fns.values())
    for f in handlers:
        assert (studio.shared.plan in f.outputs) == (studio.shared.edited in f.outputs), f.name
    assert [f.name for f in handlers].count("follow") == 1
    after = drop(studio, [100, 560])[studio.shared.edited]
    assert drop(studio, [100, 560])[studio.shared.edited] != after  # also where nothing moved


def test_an_edit_changes_nothing_more_in_its_own_tab(studio):
    explore, prune = studio.explore, studio.prune
    other = PLAN.with_boundaries(100, 400).to_json()

    def follow(explored, pruned, about=other):
        given = (explored, pruned, about, "linear", 0.02, other, "DDIM", 50, VISITOR)
        return studio.following.follow(*given)

    # an update without a figure would empty a mosaic that was not shown yet
    unchanged = follow(other, other)
    assert set(unchanged) == {explore.curves.numbers, prune.mosaic}
    assert "heatmap" in unchanged[prune.mosaic]["figure"]
    assert explore.table in follow(PLAIN, other) and prune.cost not in follow(PLAIN, other)
    assert prune.cost in follow(other, PLAIN) and explore.table not in follow(other, PLAIN)
    assert follow(PLAIN, PLAIN)[explore.curves.chart] == [100, 400]


def test_a_box_that_was_left_as_it_was_changes_nothing(studio):
    explore = studio.explore
    assert explore.on_boxes(None, None, PLAIN, "DDIM", 50, True, False, PLAIN, VISITOR) == gr.skip()
    found = explore.on_boxes(None, 700, PLAIN, "DDIM", 50, False, False, PLAIN, VISITOR)
    assert found[explore.curves.chart] == [93, 700] and found[explore.boxes_said] == ""


BAD_BOXES = [
    (
        600,
        "Boundary 1 must lie below boundary 2, and both between 0 and 1000; they were 600 and 550.",
    ),
    (-5, "they were -5 and 550."),
    (12.5, "Boundary 1 must be a whole number of timesteps."),
    ("93", "Boundary 1 must be a whole"),
    (NAN, "Boundary 1 must be a whole"),
]


@pytest.mark.parametrize("low, words", BAD_BOXES)
def test_a_refused_boundary_goes_back_in_the_words_of_its_box(studio, low, words):
    explore = studio.explore
    found = explore.on_boxes(low, None, PLAIN, "DDIM", 50, False, False, PLAIN, VISITOR)
    said = found[explore.boxes_said]
    assert found[studio.shared.plan] == PLAIN and found[explore.curves.chart] == [93, 550]
    assert words in said and "stay as they were" in said


def test_suggest_on_another_schedule_leaves_the_plan_alone(studio):
    explore = studio.explore
    foreign = [suggest(studio, lam=0.02, beta=b) for b in schedules.LABELS if b != "linear"]
    assert len(foreign) == 5
    for found in foreign:
        assert set(found) == {explore.preset, explore.rule, explore.ruled}
        assert "was trained with linear: choose those curves" in found[explore.rule]
        assert found[explore.preset] == "Your own"
    assert suggest(studio)[studio.shared.plan]["boundaries"] == [93, 550]


BAD_RULES = [
    ((1, 0.55, 0.026), "Suggest for mean sparsity must be"),
    ((None, 0.55, 0.026), "Suggest for mean sparsity must be"),
    ((0.33, 0, 0.026), "Threshold M must be"),
    ((0.33, 0.55, None), "Lambda must be"),
    ((0.9, 0.55, 0.026), "cannot be reached"),
]


@pytest.mark.parametrize("rule, words", BAD_RULES)
def test_a_refused_suggestion_is_said_where_the_suggestion_stands(studio, rule, words):
    found = suggest(studio, *rule)
    said = found[studio.explore.rule]
    assert studio.shared.plan not in found
    assert words in said and "The plan stays as it was." in said


def test_two_different_plans_are_not_both_called_formula(studio, workshop, predictions):
    plan, explore = studio.shared.plan, studio.explore
    timesteps = predictions.visited("DDIM", 50)
    usual = presets(workshop.schedule, 0.33, timesteps)["Formula"].to_json()
    found = suggest(studio)
    assert found[plan] == usual and found[explore.preset] == "Formula"
    others = [suggest(studio, m=0.9), suggest(studio, m=0.9, lam=0.02)]
    assert [found[plan]["name"] for found in others] == [
        "Formula, M 0.9",
        "Formula, M 0.9, lambda 0.02",
    ]
    assert others[0][explore.preset] == "Your own"
    own = explore.on_preset("Your own", 0.33, usual, "DDIM", 50, False, VISITOR)
    assert own[plan] == {k: v for k, v in usual.items() if k != "name"}
    assert own[explore.preset] == "Your own" and OWN in own[explore.rule]


def test_the_rules_sentence_is_only_ever_about_its_own_plan(studio):
    found, rule = suggest(studio), studio.explore.rule
    proposed, about = found[studio.shared.plan], found[studio.explore.ruled]

    def follow(plan):
        """An edit of Prune or an upload, as Explore shows another plan."""
        explored = PLAN.with_boundaries(1, 2).to_json()
        shown = (explored, plan, about, "linear", 0.02, plan, "DDIM", 50, VISITOR)
        return studio.following.follow(*shown)

    assert rule not in follow(proposed)
    assert OWN in follow(PLAIN | {"name": "Uploaded"})[rule] and OWN in follow(PLAIN)[rule]
    # an edit of Explore itself answers with it, so that no late answer takes a newer one back
    low, high = proposed["boundaries"]
    moved = drop(studio, [low, high + 9], proposed)
    assert OWN in moved[rule]
    # Undo brings the suggested plan back, and what is said is computed from it
    about = moved[studio.explore.ruled]
    assert f"Boundaries {low} and {high} are where the score" in follow(proposed)[rule]
    assert rule not in drop(studio, [low, high], proposed)


@pytest.mark.parametrize("typed", [None, 0, -3, 1001, 7.5, "50", NAN, True])
def test_refused_steps_go_back_to_the_last_good_ones(studio, typed):
    shared, found = studio.shared, studio.steps.on_steps(typed, 30, "DDIM")
    said = "Sampling steps must be a whole number from 1 to 1000. It stays at 30."
    assert set(found) == {shared.steps_box, shared.steps_said}
    assert found[shared.steps_box] == 30 and said in found[shared.steps_said]


def test_steps_that_the_sampler_cannot_do_go_back(studio):
    shared, found = studio.shared, studio.steps.on_steps(20, 30, "a sampler of another model")
    said = found[shared.steps_said]
    assert found[shared.steps_box] == 30 and shared.steps not in found
    assert "cannot sample" in said and "It stays at 30." in said


def test_good_steps_count_and_the_same_again_leave_the_sentence(studio):
    shared, steps = studio.shared, studio.steps.on_steps
    assert steps(25.0, 30, "DDIM") == {shared.steps: 25, shared.steps_said: ""}
    assert steps(30, 30, "DDIM") == gr.skip()


def test_boundaries_that_no_network_can_be_made_for_go_back_with_the_reason(
    studio, workshop, predictions
):
    # both blocks of this model are ends, so at most half can go
    plan = replace(PLAN, sparsity=(0.6, 0.1, 0.9), scope="run", protect=0.5)
    timesteps, explore = predictions.visited("DDIM", 50), studio.explore
    workshop.sharing(plan.counted(timesteps))
    with pytest.raises(StudioError, match="can lose at most"):
        workshop.sharing(plan.with_boundaries(93, 200).counted(timesteps))
    plain = plan.to_json()
    assert explore.on_drag([93, 200], plain, "DDIM", 50, False, False, PLAIN) == gr.skip()
    boxes = explore.on_boxes(93, 200, plain, "DDIM", 50, False, False, PLAIN, VISITOR)
    for found in (boxes, drop(studio, [93, 200], plain)):
        assert found[studio.shared.plan] == found[explore.shown] == plain
        assert found[explore.curves.chart] == [93, 550]
        said = found[explore.boxes_said]
        assert "The boundaries stay as they were." in said and "can lose at most" in said
    moved = drop(studio, [100, 560], plain)
    assert moved[studio.shared.plan]["boundaries"] == [100, 560]
    assert moved[explore.boxes_said] == ""


def test_steps_that_one_budget_cannot_meet_are_said_and_the_sliders_mend_it(
    studio, workshop, predictions
):
    plan = StagePlan((93, 550), (0.1, 0.9, 0.1), scope="run", protect=0.5)
    timesteps, explore, prune = predictions.visited("DDIM", 50), studio.explore, studio.prune
    with pytest.raises(StudioError, match="can lose at most"):
        workshop.sharing(plan.with_sparsity(0.9, 0.9, 0.9).counted(timesteps))
    plain = plan.with_sparsity(0.9, 0.9, 0.9).to_json()  # as it comes to be when the steps change
    found = studio.following.on_sampler(plain, "DDIM", 50, VISITOR)
    assert set(found) == {explore.table, explore.headline, explore.strip, prune.cost}
    assert found[explore.headline] == ""
    assert all("can lose at most" in found[view] for view in (explore.table, explore.strip))
    assert "can lose at most" in found[prune.cost]
    mended = prune.on_master(0.3, plain, plain, "DDIM", 50, VISITOR)[studio.shared.plan]
    assert StagePlan.from_json(mended).mean_sparsity(timesteps) == pytest.approx(0.3, abs=1e-3)


def test_what_one_budget_removes_is_said_of_what_goes(predictions):
    """Of equal shares under one budget every stage loses the same, whatever it asks for."""
    plan = StagePlan((93, 550), (0.4, 0.1, 0.55))
    staged, budget, heun = (
        predictions.predict(p, name, 50)
        for p, name in ((plan, "DDIM"), (replace(plan, scope="run"), "DDIM"), (plan, "Heun"))
    )
    assert "least in the middle stage" in predictions.headline(staged)
    words = predictions.headline(budget)
    assert "least in" not in words and "the same in every stage" in words
    table = predictions.table(budget)
    assert "asked for" not in predictions.table(staged)
    assert "of weights removed; 10.0 % asked for" in table
    assert "one budget: the three sparsities set the total" in table
    assert "Removed:" in compare_live.plan_note(plan)
    assert "Asked for:" in compare_live.plan_note(replace(plan, scope="run"))
    assert "Runs of the network" in predictions.table(heun)
    assert "Sampling steps" not in predictions.table(heun)
    assert "Sampling steps" in predictions.table(staged)


def test_enter_mends_a_refused_number_and_leaving_the_box_does_not(studio):
    shared, steps = studio.shared, studio.steps
    assert steps.on_entered(30, 30, "DDIM") == {shared.steps_said: ""}
    assert steps.on_steps(30, 30, "DDIM") == gr.skip()
    assert "It stays at 30." in steps.on_entered(0, 30, "DDIM")[shared.steps_said]
    assert steps.on_entered(25, 30, "DDIM") == {shared.steps: 25, shared.steps_said: ""}


def test_other_curves_take_back_what_was_said_of_a_proposal_for_the_last_ones(studio, workshop):
    explore = studio.explore
    assert "dashed" in suggest(studio, beta="sigmoid")[explore.rule]
    said = explore.on_beta(PLAIN, "DDIM", 50)[explore.rule]
    assert "dashed" not in said and OWN in said
    proposal = suggest(studio, lam=default_lambda(workshop.schedule))
    assert "our default as the paper does not give its own" in proposal[explore.rule]
    again = explore.on_beta(proposal[studio.shared.plan], "DDIM", 50)
    assert again[explore.rule] == proposal[explore.rule]


def test_the_opening_plan_names_no_steps(workshop):
    opened = StagePlan((93, 550), (0.3, 0.1, 0.4), scope="run", stage_steps=(1, 2, 3))
    said = [
        str(getattr(block, "value", "")) for block in build_studio(workshop, opened).blocks.values()
    ]
    assert any('"scope"' in text for text in said) and not any(
        "stage_steps" in text for text in said
    )


def test_a_constant_that_is_none_leaves_the_curve_that_was_chosen(studio, workshop):
    curves = studio.explore.curves
    found = curves.on_curve(
        "Gradient", "linear", schedules.own_beta(workshop), None, 0.026, False, "DDIM", 50
    )
    title = json.loads(found[curves.chart]["figure"])["layout"]["yaxis"]["title"]["text"]
    assert "Gradient" in found[curves.meaning] and "Threshold M must be" in found[curves.note]
    assert title == VIEWS["Gradient"][1]


def test_no_limit_of_gradios_comes_before_a_handler(page):
    limited = [
        c
        for c in page.blocks.values()
        if isinstance(c, gr.Number) and (c.minimum, c.maximum) != (None, None)
    ]
    assert limited == []
    sliders = {c for c in page.blocks.values() if isinstance(c, gr.Slider)}
    assert len(sliders) == 4 and all(s.buttons == [] for s in sliders)
    readers = [f for f in page.fns.values() if sliders & set(f.inputs)]
    assert {f.name for f in readers} == {"on_slide", "on_master"}
    assert not any(f.preprocess for f in readers)


def test_a_network_that_was_kept_is_not_said_to_be_pruned_fast(studio):
    plain, jobs_of = PLAN.with_sparsity(0.31, 0.11, 0.41).to_json(), studio.prune.jobs

    def pruned():
        jobs_of.ask_prune(plain, "DDIM", 50, VISITOR)
        return [*jobs_of.on_prune(VISITOR)][-1][jobs_of.job]

    first, again = pruned(), pruned()
    assert "Pruned in" in first and "(measured)" in first
    assert "nothing had to be built" in again and "measured" not in again


def test_only_the_sliders_that_a_plan_moves_are_set(studio):
    prune = studio.prune
    after = slide(studio, 0.7)  # the early stage's
    assert not set(prune.sliders) & set(after)  # the others stand, and this one is held
    mean = StagePlan.from_json(after[studio.shared.plan]).mean_sparsity(range(0, 1000, 20))
    assert after[prune.master] == pytest.approx(mean, abs=1e-3)
    other = PLAN.with_sparsity(0.5, 0.3, 0.5).with_boundaries(100, 400)
    followed = prune.follow(Asked(other, "DDIM", 50), PLAN)
    late, middle, early = prune.sliders
    assert followed[middle] == 0.3 and late not in followed and early not in followed


def test_upload_handler_refuses_what_this_model_cannot_use_and_quotes_no_html(studio):
    other = StagePlan((9, 55), (0.5, 0.25, 0.5), num_train_timesteps=100).dumps().encode()
    for content in (other, json.dumps({**PLAIN, "<img src=x onerror=alert(1)>": 1}).encode()):
        with pytest.raises(gr.Error) as notice:
            studio.prune.on_upload(content, "DDIM", 50)
        assert "<" not in notice.value.message


def test_an_uploaded_name_reaches_no_view_of_explore_or_prune(studio):
    plain, explore = PLAIN | {"name": HOSTILE}, studio.explore
    uploaded = studio.prune.on_upload(json.dumps(plain).encode(), "DDIM", 50)
    assert uploaded[studio.shared.plan] == plain
    given = (PLAIN, PLAIN, plain, "linear", 0.02, plain, "DDIM", 50, VISITOR)
    found = studio.following.follow(*given)
    assert found[explore.preset] == "Your own"  # the list of presets has no such entry
    holders = {explore.shown, studio.prune.shown, studio.prune.shape, studio.prune.code}
    views = [view for component, view in found.items() if component not in holders]
    assert len(views) > 9 and "data-boundaries" in found[explore.table]
    for view in views:
        assert "<img" not in str(view) and harmless(str(view))


def test_the_page_builds_on_a_plan_and_keeps_its_handlers_private(page):
    assert {f.name for f in page.fns.values()} >= {
        "on_drag",
        "on_drop",
        "on_slide",
        "on_master",
        "on_upload",
        "on_calibrate",
        "on_prune",
        "on_stop",
        "run",
    }
    assert {f.api_visibility for f in page.fns.values()} == {"private"}
    heavy = [
        f
        for f in page.fns.values()
        if f.name in ("on_calibrate", "on_prune", "on_measure", "on_loss", "run")
    ]
    assert len(heavy) == 9 and all(
        f.concurrency_limit == 1 and f.concurrency_id == "model" for f in heavy
    )
    assert all(
        not f.queue for f in page.fns.values() if f.name in ("on_stop", "stop_run", "on_drag")
    )


def test_a_failed_measurement_says_so_and_offers_its_button_again(studio, workshop, monkeypatch):
    def full(*_, **__):
        raise StudioError("The device ran out of memory.")

    monkeypatch.setattr(workshop, "measure_latency", full)
    speed = studio.explore.speed
    found = list(speed.on_measure(PLAIN, "DDIM", 50, 0, VISITOR))[-1]
    assert set(found) == {speed.job, speed.measure}
    assert "The device ran out of memory." in found[speed.job]
    assert found[speed.measure]["interactive"] and "visible" not in found[speed.measure]


def test_a_walk_that_may_wait_says_so_before_its_turn(studio, workshop, monkeypatch):
    curves = studio.explore.curves
    key = ("DDIM", 7, *curve_panel.walk_of(workshop))
    monkeypatch.setattr(workshop, "paths_walked", {key: None})
    assert "Waiting for the model" in curves.before_path(True, "DDIM", 7)[curves.path_job]
    assert curves.before_path(False, "DDIM", 7) == {curves.path_job: ""}
    assert curves.before_path(True, "DDIM", None) == gr.skip()

    def full(*_, **__):
        raise StudioError("The device ran out of memory.")

    monkeypatch.setattr(curve_panel, "sample_path", full)
    walk = curves.on_path(schedules.own_beta(workshop), True, "DDIM", 7, VISITOR)
    assert "ran out of memory" in list(walk)[-1][curves.path_job]


def test_a_calibration_says_what_its_time_is_of(workshop):
    assert calibrated_sentence(workshop, 0.025, 4, worked=False).startswith(
        "Nothing to do, because everything was measured before: 48 images"
    )
    assert calibrated_sentence(workshop, 2, 0, worked=True).startswith(
        "Calibrated in 2.00 s (measured): 48 images"
    )
    said = calibrated_sentence(workshop, 2, 1, worked=True)
    assert (
        said.startswith("Calibrated in 2.00 s (measured; 1 of 4 bins kept from an earlier run): ")
        and workshop.bins_kept == 4
    )


def test_prune_tells_a_calibration_and_its_own_time_apart(model_folder, small_settings, tmp_path):
    fresh = Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path)
    jobs_of = Studio(fresh, PLAN).prune.jobs

    def pruned():
        jobs_of.ask_prune(PLAN.with_sparsity(0.3, 0.3, 0.3).to_json(), "DDIM", 50, VISITOR)
        return [*jobs_of.on_prune(VISITOR)][-1][jobs_of.job]

    first = pruned()
    assert "Calibrated first, in " in first and "Pruned in" in first
    assert "Calibrated" not in pruned()


def test_a_job_that_was_withdrawn_does_nothing_when_its_turn_comes(studio):
    jobs_of = studio.prune.jobs
    jobs_of.ask_calibrate(PLAIN, "DDIM", 50, VISITOR)
    found = jobs_of.on_stop(VISITOR)
    assert "Stopped while it was waiting" in found[jobs_of.job]
    buttons = (jobs_of.calibrate, jobs_of.prune, jobs_of.stop)
    assert [found[b]["interactive"] for b in buttons] == [True, True, False]
    assert [*jobs_of.on_calibrate(VISITOR)] == [gr.skip()]


def test_leaving_a_dropdown_chooses_nothing(studio, workshop, predictions):
    """Gradio's dropdown sends its value as input also when it is only left.

    A suggestion was typed meanwhile.
    """
    explore, timesteps = studio.explore, predictions.visited("DDIM", 50)
    named = presets(workshop.schedule, 0.33, timesteps)["Uniform"].to_json()
    for plan, shown in (
        (named, "Uniform"),
        (PLAIN, "Your own"),
        (PLAIN | {"name": "Uploaded"}, "Your own"),
    ):
        found = explore.on_preset(shown, 0.5, plan, "DDIM", 50, False, VISITOR)
        assert found == gr.skip()
    taken = explore.on_preset("Formula", 0.5, named, "DDIM", 50, False, VISITOR)
    assert taken[studio.shared.plan]["name"] == "Formula"
    # from the open list, for another mean
    picked = explore.on_picked("Uniform", 0.5, named, "DDIM", 50, False, VISITOR)
    assert picked[studio.shared.plan]["sparsity"] == dict.fromkeys(("late", "middle", "early"), 0.5)


def test_lambda_outlives_leaving_the_list_of_schedules(page):
    events = [event for f in page.fns.values() if f.name == "on_beta" for _, event in f.targets]
    assert events and set(events) == {"change"}


def noted(studio, choice, plan, steps):
    """Return what Compare writes below the picker of side A."""
    pair = studio.compare.pair
    return pair.describe(choice, None, "Dense", None, plan, "DDIM", steps, 1.5)[pair.a.note]


def test_a_preset_in_compare_removes_as_much_as_the_current_plan(studio, workshop, predictions):
    plan, timesteps = PLAN.with_sparsity(0.6, 0.4, 0.5), predictions.visited("DDIM", 20)
    mean = plan.mean_sparsity(timesteps)
    for name in ("Uniform", "Formula"):
        asked = Asked(plan, "DDIM", 20)
        side = sides.resolve_side(name, None, asked, predictions).plan
        assert side.mean_sparsity(timesteps) == pytest.approx(mean, abs=1e-9)
    said = noted(studio, "Uniform", plan.to_json(), 20)
    assert f"<b>{100 * mean:.0f}&nbsp;%</b>" in said
    large = PLAN.with_sparsity(0.9, 0.9, 0.9).to_json()
    assert "removes 90 %, which is more than a preset can" in noted(studio, "Formula", large, 20)


@pytest.mark.parametrize("steps", [2, 3, 200, 1000])
def test_compare_takes_the_steps_of_explore_as_they_are(studio, steps):
    compare = studio.compare
    assert compare.follow_steps(steps) == {compare.steps: steps}
    assert "Removed" in noted(studio, "Uniform", PLAIN, steps)


@pytest.mark.parametrize("steps", [0, 1001, 7.5, None, "50", True, NAN, INF, 10**400])
def test_no_steps_are_clamped(studio, steps):
    said = "Sampling steps must be a whole number from 1 to 1000"
    with pytest.raises(gr.Error, match=said):
        studio.compare.follow_steps(steps)
    assert f"{said}." in noted(studio, "Uniform", PLAIN, steps)


def test_the_page_names_no_folder_of_the_server(model_folder, small_settings, tmp_path):
    fresh = Workshop(
        load_checkpoint(model_folder, "cpu"), small_settings, tmp_path / "a folder of the server"
    )
    jobs_of = Studio(fresh, PLAN).prune.jobs
    jobs_of.ask_calibrate(PLAIN, "DDIM", 50, VISITOR)
    said = [str(views[jobs_of.job]) for views in jobs_of.on_calibrate(VISITOR)]
    assert any("MB on the disk" in words for words in said)
    assert not any(str(tmp_path) in words or fresh.key in words for words in said)
    error = PermissionError(13, "Permission denied", str(tmp_path / "secret"))
    assert jobs.failure(error, "The calibration") == "The calibration failed: Permission denied."


def test_one_listener_answers_curve_axis_and_constants_in_the_order_of_asking(studio, page):
    curves = studio.explore.curves
    ids = {box._id for box in (curves.view, curves.scale, curves.threshold, curves.lam)}
    heard = [{where for where, _ in fn.targets if where in ids} for fn in page.fns.values()]
    assert [found for found in heard if found] == [ids]
    beta = schedules.own_beta(studio.shared.workshop)
    lam = default_lambda(studio.shared.workshop.schedule)
    wish, drawn = "linear", "Score"
    seen = []
    for view, scale, m in (
        ("MSE", "linear", 0.55),  # the axis that was asked for last
        ("MSE", "log", 0.55),  # the radio
        ("Score", "log", 0.8),  # always linear; the wish stays
        ("Score", "linear", 0.9),  # a typed threshold: the radio is no wish there
        ("Gradient", "linear", 0.9),
    ):
        found = curves.on_choice(wish, drawn, view, scale, beta, m, lam, False, "DDIM", 50)
        wish, drawn = found[curves.wish], found[curves.drawn_view]
        chart = json.loads(found[curves.chart]["figure"])
        axis = found.get(curves.scale)
        seen.append((chart["layout"]["yaxis"]["type"], axis and axis["value"], wish))
    assert seen == [
        ("linear", "linear", "linear"),
        ("log", None, "log"),
        ("linear", "linear", "log"),
        ("linear", None, "log"),
        ("log", "log", "log"),
    ]
