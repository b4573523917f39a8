"""The page's handlers called as a browser would call them, on a tiny model: what an edit sets,
which answers are dropped, what is refused.
"""

from __future__ import annotations

import json
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
from core.workshop.workshop import Workshop
from mosaic_ui import answers, jobs, schedules
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare import live as compare_live
from mosaic_ui.explore import curve_panel
from mosaic_ui.figures import VIEWS
from mosaic_ui.prune.jobs import calibrated_sentence
from mosaic_ui.studio import build_studio

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5))
PLAIN = PLAN.to_json()
NAN, INF = float("nan"), float("inf")
VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture(scope="module")
def page(workshop):
    return build_studio(workshop, PLAN)


@pytest.fixture(scope="module")
def handler(page):
    """A handler of the page by its name; `which` of several, as for the three sliders."""

    def find(name: str, which: int = 0):
        return [f.fn for f in page.fns.values() if f.name == name][which]

    return find


@pytest.mark.parametrize("pair", [None, [1, 2, 3], [None, 5], ["93", 550], [NAN, 550], [INF, 550]])
def test_the_chart_handlers_refuse_what_are_no_boundaries(handler, pair):
    with pytest.raises(gr.Error):
        handler("on_drag")(pair, PLAIN, "DDIM", 50)
    if not isinstance(pair, list) or len(pair) != 2:
        with pytest.raises(gr.Error):
            handler("on_drop")(pair, PLAIN, "DDIM", 50, False, VISITOR)
    else:  # two values, but no boundaries: the lines go back
        kept, *_, line, said = handler("on_drop")(pair, PLAIN, "DDIM", 50, False, VISITOR)
        assert (
            kept == PLAIN
            and line == PLAIN["boundaries"]
            and "The boundaries stay as they were." in said
        )


@pytest.mark.parametrize("value", ["0.5", None, NAN, True, 0.96, -0.1])
def test_a_refused_slider_goes_back_and_says_why(handler, value):
    slide, master = handler("on_slide", 2), handler("on_master")
    answers = (
        slide(value, PLAIN, "DDIM", 50, VISITOR),
        master(value, PLAIN, PLAIN, "DDIM", 50, VISITOR),
    )
    for found, plans, name in zip(
        answers, (2, 1), ("Early stage sparsity", "Target mean sparsity"), strict=True
    ):
        views = found[plans:]
        assert {str(v) for v in (*found[:plans], views[0], *views[5:7], *views[8:])} == {
            str(gr.skip())
        }
        assert views[1:5] == (
            0.5,
            0.25,
            0.5,
            pytest.approx(PLAN.mean_sparsity(range(0, 1000, 20)), abs=1e-3),
        )
        assert f"{name} must be a number from 0 to 0.95. The plan stays as it was." in views[7]


def test_a_late_answer_to_an_old_plan_or_sampler_is_dropped(handler):
    table, _ = handler("on_sampler")("DDIM", 50, PLAIN, VISITOR)
    table_refine, cost_refine = handler("refine", 0), handler("refine", -1)
    assert (
        table_refine(PLAIN, "DDIM", 20, VISITOR) == (gr.skip(), gr.skip())
        and cost_refine(PLAIN, "DDIM", 20, VISITOR) == gr.skip()
    )
    assert table_refine(PLAIN, "DDIM", 50, VISITOR)[0] != table and "exact" in cost_refine(
        PLAIN, "DDIM", 50, VISITOR
    )
    handler("on_slide", 2)(0.7, PLAIN, "DDIM", 50, VISITOR)  # the early stage's
    assert (
        table_refine(PLAIN, "DDIM", 50, VISITOR) == (gr.skip(), gr.skip())
        and cost_refine(PLAIN, "DDIM", 50, VISITOR) == gr.skip()
    )
    newer = PLAN.with_sparsity(0.5, 0.25, 0.7).to_json()
    assert 'data-exact="true"' in table_refine(newer, "DDIM", 50, VISITOR)[
        0
    ] and "exact" in cost_refine(newer, "DDIM", 50, VISITOR)


def test_plans_are_set_one_at_a_time_and_no_answer_sets_a_box_that_is_typed_into(page):
    (plan,) = {o._id for f in page.fns.values() if f.name == "on_drop" for o in f.outputs[:1]}
    setters = [f for f in page.fns.values() if plan in [o._id for o in f.outputs]]
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
    boxes = {
        c._id
        for c in page.blocks.values()
        if (getattr(c, "label", "") or "").startswith("Boundary ")
    }
    assert len(boxes) == 2 and all(
        f.fn is None for f in page.fns.values() if boxes & {o._id for o in f.outputs}
    )


def test_a_box_that_was_left_as_it_was_changes_nothing(handler):
    on_boxes, skip = handler("on_boxes"), gr.skip()
    assert set(map(str, on_boxes(None, None, PLAIN, "DDIM", 50, True, VISITOR))) == {str(skip)}
    *_, line, said = on_boxes(None, 700, PLAIN, "DDIM", 50, False, VISITOR)
    assert line == [93, 700] and said == ""


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
def test_a_refused_boundary_goes_back_in_the_words_of_its_box(handler, low, words):
    plan, *_, line, said = handler("on_boxes")(low, None, PLAIN, "DDIM", 50, False, VISITOR)
    assert plan == PLAIN and line == [93, 550] and words in said and "stay as they were" in said


def test_suggest_on_another_schedule_leaves_the_plan_alone(handler):
    suggest, skip = handler("on_suggest"), str(gr.skip())
    foreign = [
        suggest(0.33, 0.55, 0.02, name, "DDIM", 50, False, PLAIN, VISITOR)
        for name in schedules.LABELS
        if name != "linear"
    ]
    assert len(foreign) == 5 and {str(view) for views in foreign for view in views[:4]} == {skip}
    assert all(
        "was trained with linear: show those curves" in views[-2] and views[4] == "Your own"
        for views in foreign
    )
    assert suggest(0.33, 0.55, 0.026, "linear", "DDIM", 50, False, PLAIN, VISITOR)[0][
        "boundaries"
    ] == [93, 550]


BAD_RULES = [
    ((1, 0.55, 0.026), "Suggest for mean sparsity must be"),
    ((None, 0.55, 0.026), "Suggest for mean sparsity must be"),
    ((0.33, 0, 0.026), "Threshold M must be"),
    ((0.33, 0.55, None), "Lambda must be"),
    ((0.9, 0.55, 0.026), "cannot be reached"),
]


@pytest.mark.parametrize("rule, words", BAD_RULES)
def test_a_refused_suggestion_is_said_where_the_suggestion_stands(handler, rule, words):
    plan, *_, said, _ = handler("on_suggest")(*rule, "linear", "DDIM", 50, False, PLAIN, VISITOR)
    assert plan == gr.skip() and words in said and "The plan stays as it was." in said


def test_two_different_plans_are_not_both_called_formula(handler, workshop):
    def suggest(m, lam):
        return handler("on_suggest")(0.33, m, lam, "linear", "DDIM", 50, False, PLAIN, VISITOR)

    usual = presets(workshop.schedule, 0.33, answers.visited(workshop, "DDIM", 50))[
        "Formula"
    ].to_json()
    assert suggest(0.55, 0.026)[0] == usual and suggest(0.55, 0.026)[4] == "Formula"
    assert [suggest(*rule)[0]["name"] for rule in ((0.9, 0.026), (0.9, 0.02))] == [
        "Formula, M 0.9",
        "Formula, M 0.9, lambda 0.02",
    ]
    assert suggest(0.9, 0.026)[4] == "Your own"
    own = handler("on_preset")("Your own", 0.33, "DDIM", 50, False, usual, VISITOR)
    assert (
        own[0] == {k: v for k, v in usual.items() if k != "name"}
        and own[4] == "Your own"
        and answers.OWN in own[-2]
    )


def test_the_rules_sentence_is_only_ever_about_its_own_plan(handler):
    proposed = handler("on_suggest")(0.33, 0.55, 0.026, "linear", "DDIM", 50, False, PLAIN, VISITOR)
    own_rule = handler("own_rule")
    assert own_rule(proposed[0], proposed[-1]) == gr.skip()
    assert answers.OWN in own_rule(
        PLAIN | {"name": "Uploaded"}, proposed[-1]
    ) and answers.OWN in own_rule(PLAIN, proposed[-1])


@pytest.mark.parametrize("typed", [None, 0, -3, 1001, 7.5, "50", NAN, True])
def test_refused_steps_go_back_to_the_last_good_ones(handler, typed):
    steps, box, said = handler("on_steps")(typed, 30, "DDIM")
    assert (
        steps == gr.skip()
        and box == 30
        and "Sampling steps must be a whole number from 1 to 1000. It stays at 30." in said
    )


def test_steps_that_the_sampler_cannot_do_go_back(handler):
    steps, box, said = handler("on_steps")(20, 30, "a sampler of another model")
    assert (
        steps == gr.skip() and box == 30 and "cannot sample" in said and "It stays at 30." in said
    )


def test_good_steps_count_and_the_same_again_leave_the_sentence(handler):
    steps = handler("on_steps")
    assert (
        steps(25.0, 30, "DDIM") == (25, gr.skip(), "") and steps(30, 30, "DDIM") == (gr.skip(),) * 3
    )


def test_boundaries_that_no_network_can_be_made_for_go_back_with_the_reason(handler, workshop):
    # both blocks of this model are ends, so at most half can go
    plan = replace(PLAN, sparsity=(0.6, 0.1, 0.9), scope="run", protect=0.5)
    workshop.sharing(plan.counted(answers.visited(workshop, "DDIM", 50)))
    with pytest.raises(StudioError, match="can go"):
        workshop.sharing(
            plan.with_boundaries(93, 200).counted(answers.visited(workshop, "DDIM", 50))
        )
    plain = plan.to_json()
    assert handler("on_drag")([93, 200], plain, "DDIM", 50) == gr.skip()
    boxes = handler("on_boxes")(93, 200, plain, "DDIM", 50, False, VISITOR)
    dropped = handler("on_drop")([93, 200], plain, "DDIM", 50, False, VISITOR)
    for kept, shown, _, _, _, line, said in (boxes, dropped):
        assert kept == shown == plain and line == [93, 550]
        assert "The boundaries stay as they were." in said and "can go" in said
    moved = handler("on_drop")([100, 560], plain, "DDIM", 50, False, VISITOR)
    assert moved[0]["boundaries"] == [100, 560] and moved[-1] == ""


def test_steps_that_one_budget_cannot_meet_are_said_and_the_sliders_mend_it(handler, workshop):
    plan = StagePlan((93, 550), (0.1, 0.9, 0.1), scope="run", protect=0.5)
    timesteps = answers.visited(workshop, "DDIM", 50)
    with pytest.raises(StudioError, match="can go"):
        workshop.sharing(plan.with_sparsity(0.9, 0.9, 0.9).counted(timesteps))
    plain = plan.with_sparsity(0.9, 0.9, 0.9).to_json()  # as it comes to be when the steps change
    table, words = handler("on_sampler", 0)("DDIM", 50, plain, VISITOR)
    assert "can go" in table and words == ""
    views = handler("on_sampler", 1)(plain, "DDIM", 50, VISITOR)
    assert "can go" in views[5] and views[6] == gr.skip()
    mended = handler("on_master")(0.3, plain, plain, "DDIM", 50, VISITOR)
    assert StagePlan.from_json(mended[0]).mean_sparsity(timesteps) == pytest.approx(0.3, abs=1e-3)


def test_what_one_budget_removes_is_said_of_what_goes(workshop):
    """The middle stage asks for least;
    under one budget of equal shares every stage loses the same.
    """
    plan = StagePlan((93, 550), (0.4, 0.1, 0.55))
    staged, budget = (
        answers.predicted(workshop, p.to_json(), "DDIM", 50)
        for p in (plan, replace(plan, scope="run"))
    )
    assert (
        "least in the middle stage" in staged[1]
        and "least in" not in budget[1]
        and "the same in every stage" in budget[1]
    )
    assert (
        "asked for" not in staged[0]
        and "of weights go; 10.0 % asked for" in budget[0]
        and "one budget: what the stages ask for" in budget[0]
    )
    assert "Removed:" in compare_live.plan_note(plan) and "Asked for:" in compare_live.plan_note(
        replace(plan, scope="run")
    )
    heun = answers.predicted(workshop, plan.to_json(), "Heun", 50)[0]
    assert (
        "Runs of the network" in heun
        and "Sampling steps" not in heun
        and "Sampling steps" in staged[0]
    )


def test_enter_mends_a_refused_number_and_leaving_the_box_does_not(handler):
    assert (
        handler("on_entered")(30, 30, "DDIM")[2] == ""
        and handler("on_steps")(30, 30, "DDIM")[2] == gr.skip()
    )
    assert "It stays at 30." in handler("on_entered")(0, 30, "DDIM")[2] and handler("on_entered")(
        25, 30, "DDIM"
    ) == (25, gr.skip(), "")


def test_other_curves_take_back_what_was_said_of_a_proposal_for_the_last_ones(handler, workshop):
    refused = handler("on_suggest")(0.33, 0.55, 0.026, "sigmoid", "DDIM", 50, False, PLAIN, VISITOR)
    assert "dashed" in refused[-2]
    assert (
        "dashed" not in handler("on_beta", 0)(PLAIN, "DDIM", 50)[0]
        and answers.OWN in handler("on_beta", 0)(PLAIN, "DDIM", 50)[0]
    )
    proposal = handler("on_suggest")(
        0.33, 0.55, default_lambda(workshop.schedule), "linear", "DDIM", 50, False, PLAIN, VISITOR
    )
    assert (
        "our default as the paper does not give its own" in proposal[-2]
        and handler("on_beta", 0)(proposal[0], "DDIM", 50)[0] == proposal[-2]
    )


def test_the_opening_plan_names_no_steps(workshop):
    opened = StagePlan((93, 550), (0.3, 0.1, 0.4), scope="run", stage_steps=(1, 2, 3))
    said = [
        str(getattr(block, "value", "")) for block in build_studio(workshop, opened).blocks.values()
    ]
    assert any('"scope"' in text for text in said) and not any(
        "stage_steps" in text for text in said
    )


def test_a_constant_that_is_none_leaves_the_curve_that_was_chosen(handler, workshop):
    chart, words, said = handler("on_curve")(
        "Gradient", "linear", schedules.own_beta(workshop), None, 0.026, False, "DDIM", 50
    )
    assert (
        "Gradient" in words
        and "Threshold M must be" in said
        and chart["figure"]["layout"]["yaxis"]["title"]["text"] == VIEWS["Gradient"][1]
    )


def test_no_limit_of_gradios_comes_before_a_handler(page):
    limited = [
        c
        for c in page.blocks.values()
        if isinstance(c, gr.Number) and (c.minimum, c.maximum) != (None, None)
    ]
    assert limited == []
    sliders = [c for c in page.blocks.values() if isinstance(c, gr.Slider)]
    assert len(sliders) == 7 and all(s.buttons == [] for s in sliders)
    ids = {s._id for s in sliders}
    readers = [f for f in page.fns.values() if ids & {i._id for i in f.inputs}]
    assert {f.name for f in readers} == {"on_slide", "on_master", "describe", "ask"} and not any(
        f.preprocess for f in readers
    )


def test_a_network_that_was_kept_is_not_said_to_be_pruned_fast(handler):
    plain = PLAN.with_sparsity(0.31, 0.11, 0.41).to_json()

    def pruned():
        handler("ask_job", 1)(plain, "DDIM", 50, VISITOR)
        return [*handler("on_prune")(VISITOR)][-1][0]

    first, again = pruned(), pruned()
    assert (
        "Pruned in" in first
        and "(measured)" in first
        and "nothing had to be built" in again
        and "measured" not in again
    )


def test_only_the_sliders_that_a_plan_moves_are_set(handler):
    after = handler("on_slide", 2)(0.7, PLAIN, "DDIM", 50, VISITOR)  # the early stage's
    assert after[3:6] == (gr.skip(),) * 3 and after[6] == pytest.approx(
        StagePlan.from_json(after[0]).mean_sparsity(range(0, 1000, 20)), abs=1e-3
    )
    other = PLAN.with_sparsity(0.5, 0.3, 0.5).with_boundaries(100, 400).to_json()
    assert handler("follow", 1)(other, PLAIN, "DDIM", 50)[2:5] == (gr.skip(), 0.3, gr.skip())


def test_upload_handler_refuses_what_this_model_cannot_use_and_quotes_no_html(handler):
    other = StagePlan((9, 55), (0.5, 0.25, 0.5), num_train_timesteps=100).dumps().encode()
    for content in (other, json.dumps({**PLAIN, "<img src=x onerror=alert(1)>": 1}).encode()):
        with pytest.raises(gr.Error) as notice:
            handler("on_upload")(content, "DDIM", 50)
        assert "<" not in notice.value.message


def test_an_uploaded_name_reaches_no_view_of_explore_or_prune(handler):
    plain = PLAIN | {"name": HOSTILE}
    assert handler("on_upload")(json.dumps(plain).encode(), "DDIM", 50) == plain
    explore, pruned = (
        handler("follow", 0)(plain, PLAIN, "DDIM", 50, VISITOR),
        handler("follow", 1)(plain, PLAIN, "DDIM", 50),
    )
    assert explore[3] == "Your own"  # the list of presets has no such entry
    for view in (*explore[1:3], pruned[6], pruned[8], pruned[-1]):
        assert isinstance(view, str | dict) and "<img" not in str(view) and harmless(str(view))


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
        f for f in page.fns.values() if f.name in ("on_calibrate", "on_prune", "on_measure", "run")
    ]
    assert len(heavy) == 4 and all(
        f.concurrency_limit == 1 and f.concurrency_id == "model" for f in heavy
    )
    assert all(
        not f.queue for f in page.fns.values() if f.name in ("on_stop", "stop_run", "on_drag")
    )


def test_a_failed_measurement_says_so_and_offers_its_button_again(handler, workshop, monkeypatch):
    def full(*args, **kwargs):
        raise StudioError("The device ran out of memory.")

    monkeypatch.setattr(workshop, "measure_latency", full)
    said, table, button, measured = list(handler("on_measure")(PLAIN, "DDIM", 50, 0, VISITOR))[-1]
    assert (
        "The device ran out of memory." in said
        and button["interactive"]
        and "visible" not in button
    )
    assert table == measured == gr.skip()


def test_a_walk_that_may_wait_says_so_before_its_turn(handler, workshop, monkeypatch):
    before, walk = handler("before_path"), handler("on_path")
    key = ("DDIM", 7, *curve_panel.walk_of(workshop))
    monkeypatch.setattr(workshop, "paths_walked", {key: None})
    assert "Waiting for the model" in before(True, "DDIM", 7)
    assert before(False, "DDIM", 7) == "" and before(True, "DDIM", None) == gr.skip()

    def full(*args, **kwargs):
        raise StudioError("The device ran out of memory.")

    monkeypatch.setattr(curve_panel, "sample_path", full)
    said = list(walk(schedules.own_beta(workshop), True, "DDIM", 7, VISITOR))[-1]
    assert "ran out of memory" in said


def test_a_calibration_says_what_its_time_is_of(workshop):
    assert calibrated_sentence(workshop, 0.025, 4, worked=False).startswith(
        "Nothing to do, as all of it was measured before: 48 images"
    )
    assert calibrated_sentence(workshop, 2, 0, worked=True).startswith(
        "Calibrated in 2.00 s (measured): 48 images"
    )
    said = calibrated_sentence(workshop, 2, 1, worked=True)
    assert (
        said.startswith(
            "Calibrated in 2.00 s (measured, without the 1 of 4 bins that an earlier run left): "
        )
        and workshop.bins_kept == 4
    )


def test_prune_tells_a_calibration_and_its_own_time_apart(model_folder, small_settings, tmp_path):
    fresh = Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path)
    # of the two that ask, Prune's is the last
    fns = {f.name: f.fn for f in build_studio(fresh, PLAN).fns.values()}

    def pruned():
        fns["ask_job"](
            PLAIN | {"sparsity": {"late": 0.3, "middle": 0.3, "early": 0.3}}, "DDIM", 50, VISITOR
        )
        return [*fns["on_prune"](VISITOR)][-1][0]

    first = pruned()
    assert (
        "Calibrated first, in " in first and "Pruned in" in first and "Calibrated" not in pruned()
    )


def test_a_job_that_was_withdrawn_does_nothing_when_its_turn_comes(handler):
    handler("ask_job", 0)(PLAIN, "DDIM", 50, VISITOR)
    job, *buttons = handler("on_stop")(VISITOR)
    assert "Stopped before its turn came" in job and [b["interactive"] for b in buttons] == [
        True,
        True,
        False,
    ]
    assert [*handler("on_calibrate")(VISITOR)] == [(gr.skip(),) * 5]


def test_leaving_a_dropdown_chooses_nothing(handler, workshop):
    """Gradio's dropdown sends its value as input also when it is only left; a suggestion was typed
    meanwhile.
    """
    named = presets(workshop.schedule, 0.33, answers.visited(workshop, "DDIM", 50))[
        "Uniform"
    ].to_json()
    for plan, shown in (
        (named, "Uniform"),
        (PLAIN, "Your own"),
        (PLAIN | {"name": "Uploaded"}, "Your own"),
    ):
        assert set(
            map(str, handler("on_preset")(shown, 0.5, "DDIM", 50, False, plan, VISITOR))
        ) == {str(gr.skip())}
    assert (
        handler("on_preset")("Formula", 0.5, "DDIM", 50, False, named, VISITOR)[0]["name"]
        == "Formula"
    )
    picked = handler("on_picked")(
        "Uniform", 0.5, "DDIM", 50, False, named, VISITOR
    )  # from the open list, for another mean
    assert picked[0]["sparsity"] == dict.fromkeys(("late", "middle", "early"), 0.5)


def test_lambda_outlives_leaving_the_list_of_schedules(page):
    events = [event for f in page.fns.values() if f.name == "on_beta" for _, event in f.targets]
    assert events and set(events) == {"change"}


def test_a_preset_in_compare_removes_as_much_as_the_current_plan(handler, workshop):
    plan, timesteps = PLAN.with_sparsity(0.6, 0.4, 0.5), answers.visited(workshop, "DDIM", 20)
    mean = plan.mean_sparsity(timesteps)
    for name in ("Uniform", "Formula"):
        side = compare_inputs.resolve_side(name, plan.to_json(), None, workshop, None, timesteps)
        assert side.mean_sparsity(timesteps) == pytest.approx(mean, abs=1e-9)
    assert f"<b>{100 * mean:.0f}&nbsp;%</b>" in handler("describe")(
        "Uniform", plan.to_json(), None, "DDIM", 20
    )
    assert "removes 90 %, and the presets cannot" in handler("describe")(
        "Formula", PLAN.with_sparsity(0.9, 0.9, 0.9).to_json(), None, "DDIM", 20
    )


@pytest.mark.parametrize("steps", [2, 3, 200, 1000])
def test_compare_takes_the_steps_of_explore_as_they_are(handler, steps):
    assert handler("follow_steps")(steps) == steps
    assert "Removed" in handler("describe")("Uniform", PLAIN, None, "DDIM", steps)


@pytest.mark.parametrize("steps", [0, 1001, 7.5, None, "50", True, NAN, INF, 10**400])
def test_no_steps_are_clamped(handler, steps):
    with pytest.raises(gr.Error, match="Sampling steps must be a whole number from 1 to 1000"):
        handler("follow_steps")(steps)
    assert "Sampling steps must be a whole number from 1 to 1000." in handler("describe")(
        "Dense", PLAIN, None, "DDIM", steps
    )


def test_the_page_names_no_folder_of_the_server(model_folder, small_settings, tmp_path):
    fresh = Workshop(
        load_checkpoint(model_folder, "cpu"), small_settings, tmp_path / "a folder of the server"
    )
    fns = {f.name: f.fn for f in build_studio(fresh, PLAN).fns.values()}
    handler = next(
        f.fn for f in build_studio(fresh, PLAN).fns.values() if f.name == "ask_job"
    )  # Calibrate's
    handler(PLAIN, "DDIM", 50, VISITOR)
    said = [str(views[0]) for views in fns["on_calibrate"](VISITOR)]
    assert any(
        "MB to this server&#x27;s cache" in words or "MB to this server's cache" in words
        for words in said
    )
    assert not any(str(tmp_path) in words or fresh.key in words for words in said)
    error = PermissionError(13, "Permission denied", str(tmp_path / "secret"))
    assert jobs.failure(error, "The calibration") == "The calibration failed: Permission denied."
