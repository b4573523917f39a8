"""What a person sees of a stage's own guidance: boxes, words, pictures, costs, and the verbs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_compare_figures import comparison

import app
from core.cli.plan_options import guided
from core.curves.guidance_words import own_guidance, rows_words
from core.curves.plan import StagePlan
from core.errors import StudioError
from core.mosaic.adaln_table import padded
from core.runs.differences import differences, plan_words
from core.runs.export import columns
from core.runs.run import RunSide
from core.workshop.comparison import side_name
from core.workshop.device_times import DeviceTimes
from core.workshop.same_work import dense_steps, run_macs, uniform_of_same_work
from mosaic_ui import tables
from mosaic_ui.compare.between import between_html, differing, example_html
from mosaic_ui.compare.figures import verdict_html
from mosaic_ui.compare.live import plan_note
from mosaic_ui.compare.sides import SideRun, checked_plan, resolve_side
from mosaic_ui.compare.timing import timing_html, timing_rows
from mosaic_ui.compare.view_parts import halves_words
from mosaic_ui.explore.best_place import UNEVEN
from mosaic_ui.explore.held_work import held_sentence, with_same_work
from mosaic_ui.explore.outcome import outcome, spoken
from mosaic_ui.inputs import stage_guidance
from mosaic_ui.jobs import visit
from mosaic_ui.model_facts import rows_timed
from mosaic_ui.model_menu import carried
from mosaic_ui.predictions import Asked, Predictions
from mosaic_ui.prune.mosaic_figure import mosaic_figure
from mosaic_ui.prune.views import file_name, picture_key
from mosaic_ui.runs.table import columns as run_columns
from mosaic_ui.runs.table import title_of
from mosaic_ui.studio import Studio
from mosaic_ui.text import macs_text, percent

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5), name="mine")
HALF = PLAN.with_guidance(early=1)
VISITOR = SimpleNamespace(session_hash="guidance")
NAN = float("nan")


@pytest.fixture(scope="module")
def studio(workshop):
    return Studio(workshop, PLAN)


@pytest.fixture(scope="module")
def predictions(workshop):
    return Predictions(workshop)


@pytest.fixture(scope="module")
def steps(predictions):
    return predictions.visited("DDIM", 50)


def explore_box(studio, stage):
    return next(one for one in studio.explore.guidance.stages if one.guidance.stage == stage)


def pick(studio, place, value, stage=2, plan=PLAN):
    """Choose or type a stage's guidance in a place; return the answer."""
    one = studio.prune.stage_controls[stage] if place == "prune" else explore_box(studio, stage)
    return one.on_guidance(value, plan.to_json(), "DDIM", 50, VISITOR)


def box(studio, place, stage=2):
    one = studio.prune.stage_controls[stage] if place == "prune" else explore_box(studio, stage)
    return one.guidance.box


# ------------------------------------------------------------ the boxes


@pytest.mark.parametrize("place", ["prune", "explore"])
@pytest.mark.parametrize(
    ("value", "scale", "shown"),
    [("1", 1, "1"), ("off", 1, "1"), (" 2,50 ", 2.5, "2.5"), (0, 0, "0"), (3.0, 3, "3")],
)
def test_a_box_sets_the_guidance_of_its_stage_alone(studio, place, value, scale, shown):
    found = pick(studio, place, value, stage=2, plan=PLAN.with_guidance(late=4))
    plan = StagePlan.from_json(found[studio.shared.plan])
    assert plan.guidance == (4, None, scale) and plan.name == "" and studio.shared.edited in found
    assert replace(plan, guidance=(None,) * 3) == replace(PLAN, name="")
    assert found[box(studio, place)] == shown


@pytest.mark.parametrize("place", ["prune", "explore"])
@pytest.mark.parametrize("value", [NAN, "nan", -1, "-1", 20.5, "21", "much", True, [1], "1e999"])
def test_what_is_no_guidance_is_refused_in_one_sentence_and_nothing_is_lost(studio, place, value):
    found = pick(studio, place, value, plan=HALF)
    assert studio.shared.plan not in found and found[box(studio, place)] == "1"
    said = studio.prune.effect if place == "prune" else studio.explore.guidance.said
    assert re.search(
        r"Early guidance must be a number from 0 to 20, off, or the run.{1,6}s own, not .*"
        r"The plan stays as it was\.",
        found[said],
    )


@pytest.mark.parametrize("place", ["prune", "explore"])
@pytest.mark.parametrize("value", ["1", "off", "1.0", 1])
def test_a_box_that_is_only_left_is_no_edit(studio, place, value):
    assert pick(studio, place, value, plan=HALF) == {box(studio, place): "1"}


@pytest.mark.parametrize("value", [None, "", "own", "The run's own"])
def test_the_runs_own_guidance_comes_back(value):
    assert stage_guidance(value, "Early guidance") is None


def test_both_tabs_follow_each_other(studio):
    views = studio.following.follow(
        PLAN.to_json(),
        PLAN.to_json(),
        PLAN.to_json(),
        "linear",
        0.026,
        HALF.to_json(),
        "DDIM",
        50,
        VISITOR,
    )
    for place in ("prune", "explore"):
        assert views[box(studio, place)] == "1"
    assert box(studio, "prune", 0) not in views  # stands right already
    assert "½" in views[studio.explore.strip] and "Half a tile" in views[studio.prune.picture_key]


def test_a_slider_and_a_boundary_keep_the_guidance(studio):
    slid = studio.prune.stage_controls[0].on_slide(0.2, HALF.to_json(), "DDIM", 50, VISITOR)
    dropped = studio.explore.on_drop(
        [93, 700], HALF.to_json(), "DDIM", 50, False, False, HALF.to_json(), VISITOR
    )
    for found in (slid, dropped):
        assert found[studio.shared.plan]["guidance"] == {"early": 1}


def test_the_preset_is_the_published_interval_and_says_so(studio):
    found = studio.explore.on_preset(
        "Guidance interval", NAN, PLAN.to_json(), "DDIM", 50, False, VISITOR
    )
    taken = StagePlan.from_json(found[studio.shared.plan])
    assert taken.guidance == (1, None, 1) and taken.boundaries == (82, 579)
    said, words = found[studio.explore.rule], "SDXL among them (Kynkäänniemi et al. 2024"
    assert f"published for other models, {words}" in said and "not measured on this one" in said
    for plan, own in ((taken, False), (replace(HALF, name=taken.name), True)):
        views = studio.explore.follow(Asked(plan, "DDIM", 50), PLAN, VISITOR)
        assert ("plan is your own" in views[studio.explore.rule]) is own


def test_guidance_goes_to_another_models_page_and_through_undo(studio, predictions):
    query = {"plan": HALF.dumps_short(), "scheduler": "DDIM", "steps": "20"}
    assert carried(predictions, studio.shared, query).asked.plan.guidance == (None, None, 1)
    # one budget that these widths cannot meet: every layer loses the same share, guidance stays
    impossible = replace(HALF, scope="run", protect=1.0, sparsity=(0.9, 0.9, 0.9))
    found = carried(predictions, studio.shared, {**query, "plan": impossible.dumps_short()})
    assert found.asked.plan.plain and found.asked.plan.guidance == (None, None, 1)
    history = {"plans": [PLAN.to_json(), HALF.to_json()], "at": 1, "mark": 1}
    back = studio.memory.on_undo(history, 2, HALF.to_json(), "DDIM", 50, VISITOR)
    assert "guidance" not in back[studio.shared.plan]
    forth = studio.memory.on_redo({**history, "at": 0}, 3, PLAN.to_json(), "DDIM", 50, VISITOR)
    assert forth[studio.shared.plan]["guidance"] == {"early": 1}


# ------------------------------------------------------------ words


def test_words_go_by_sampling_order():
    assert own_guidance(None) == own_guidance(PLAN) == ""
    assert own_guidance(PLAN.with_guidance(1, 3, 1)) == "off early and late, 3 middle"
    assert own_guidance(PLAN.with_guidance(1, 1, 1)) == "off in every stage"
    assert own_guidance(PLAN.with_guidance(late=0, early=1.5)) == "1.5 early, 0 late"
    assert rows_words((2, 2, 2)) == "both guidance halves"
    assert rows_words((1, 2, 1)) == "both guidance halves, one alone early and late"
    assert rows_words((1, 1, 1)) == "one guidance half"


def test_names_of_plans_say_their_guidance():
    nameless = replace(HALF, name="")
    assert side_name(HALF) == "mine" and side_name(PLAN.with_guidance()) == "mine"
    assert side_name(nameless) == "MosaicDiff, guidance off early"
    assert file_name(nameless) == "plan-93-550-50-25-50-guidance-off-early.json"
    assert file_name(replace(PLAN, name="")) == "plan-93-550-50-25-50.json"
    run = SimpleNamespace(
        name="", notes="", status="finished", b=RunSide("B", HALF.dumps_short(), *[None] * 7)
    )
    assert title_of(run) == "B 50/25/50 %, guidance off early"
    named = SimpleNamespace(**{**vars(run), "name": "night"})
    for one, title in ((run, "B 50/25/50 %"), (named, "night")):
        cell = run_columns()[0].cell(one)
        assert cell == f'<b title="{title}">{title}</b><small>guidance off early</small>'
    assert "guidance off early" in plan_words(HALF) and "guidance" not in plan_words(PLAN)


def test_guidance_is_a_difference_of_plans_and_of_sides():
    (found,) = differences(PLAN, HALF)
    assert found == ("guidance in the early stage", "the run's own", "off")
    assert differing(SideRun(HALF, 50, "a"), SideRun(HALF.with_guidance(early=3), 50, "b")) == [
        ("guidance in the early stage", "off", "3")
    ]
    assert "guidance off early" in example_html(HALF, PLAN)
    dense, alone = SideRun(None, 50, "Dense"), HALF.with_sparsity(0, 0, 0)
    between = [between_html(dense, SideRun(p, 50, "b"), None) for p in (PLAN, HALF, alone)]
    for html, words in zip(
        between, ("pruned;", "pruned, guidance off early;", "guidance"), strict=True
    ):
        assert f"plan none → {words}" in html


def test_exports_have_a_column_per_stage():
    side = RunSide("B", HALF.dumps_short(), *[None] * 7)
    run = SimpleNamespace(b=side, a=RunSide("A", None, *[None] * 7))
    cells = {c.key: c.value(run) for c in columns() if "guidance_" in c.key}
    assert cells["b_guidance_early"] == 1 and cells["b_guidance_late"] is None
    assert cells["a_guidance_early"] is None


# ------------------------------------------------------------ what it costs


def test_the_page_shows_the_work_of_one_half(predictions):
    whole, half = (predictions.predict(p, "DDIM", 50) for p in (PLAN, HALF))
    early = half.prediction.stages[2]
    # rows of one half, and the adaLN vectors of 16 images' labels, made once at the first step
    shop, batch = predictions.workshop, half.prediction.batch
    made = padded(early.steps * batch) * shop.macs.conditioning / batch
    row = shop.stage_macs(HALF, tabulated=True)[2]
    assert early.macs == pytest.approx(row * early.steps + made)
    assert early.macs < 0.55 * whole.prediction.stages[2].macs
    table = predictions.table(half)
    assert "both guidance halves, one alone early; dense: both in every stage" in table
    assert re.search(r'data-stage="early".*?data-label="Guidance">off<small>one half', table)
    assert re.search(r'data-stage="middle".*?data-label="Guidance">the run', table)
    assert f">{early.steps} of 50<small>steps with one half" in table
    assert "Guidance</th>" not in predictions.table(whole)
    assert "both guidance halves. Time" in predictions.table(whole)
    cards = tables.cost_cards(half.plan, half.prediction, half.timesteps)
    assert macs_text(half.prediction.macs) in cards and "one guidance half early" in cards
    assert "guidance" not in tables.cost_cards(whole.plan, whole.prediction, whole.timesteps)
    assert outcome(half).count("½") == 1 and "½" not in outcome(whole)
    said = f"Guidance is off early: {early.steps} of 50 steps run one half of the guided pair."
    assert said in predictions.headline(half) and said in spoken(HALF, half)


def test_a_plan_that_prunes_nothing_has_a_headline_of_its_own(predictions):
    nothing = PLAN.with_sparsity(0, 0, 0)
    guided = predictions.predict(nothing.with_guidance(1, None, 1), "DDIM", 50)
    found, costs = predictions.headline(guided), guided.prediction
    assert re.search("This plan prunes nothing, <b[^>]*>0 %</b>. Guidance is off early and", found)
    assert "late: 27 of 50" in found
    less = 1 - costs.macs / costs.macs_dense  # 27 % of the rows; the vectors are made once
    assert 0.2 < less <= 0.27 and f"<b>{percent(less)}</b> less computation" in found
    assert "Nothing is pruned yet" in predictions.headline(predictions.predict(nothing, "DDIM", 50))


def test_times_of_a_half_batch_say_where_they_come_from(predictions, monkeypatch):
    table = predictions.workshop.measure_latency(predictions.workshop.usual_images)
    monkeypatch.setattr(
        DeviceTimes, "latency", lambda _, rows, *__, **___: table if rows == table.rows else None
    )
    assert "as the half batch was not timed yet" in predictions.table(
        predictions.predict(HALF, "DDIM", 50)
    )
    assert not predictions.knows_time(HALF)
    monkeypatch.setattr(DeviceTimes, "latency", lambda *_, **__: table)
    assert "from the table of the half batch" in predictions.table(
        predictions.predict(HALF, "DDIM", 50)
    )
    assert rows_timed(HALF) == [1, 2] and rows_timed(PLAN) == rows_timed(None) == [2]


def test_the_button_offers_to_time_the_half_batch_and_times_it(studio, workshop, monkeypatch):
    timed = []
    monkeypatch.setattr(workshop, "measure_latency", lambda n, rows, **_: timed.append((n, rows)))
    monkeypatch.setattr(workshop, "measure_layers", lambda *_: None)
    monkeypatch.setattr(DeviceTimes, "latency", lambda *_, **__: None)
    visit(VISITOR.session_hash).mark_latest(Asked(HALF, "DDIM", 50))
    refined = studio.following.refine(HALF.to_json(), "DDIM", 50, False, 0, VISITOR)
    assert refined[studio.explore.speed.measure]["visible"]
    for _ in studio.explore.speed.on_measure(HALF.to_json(), "DDIM", 50, 0, VISITOR):
        pass
    assert timed == [(16, 1), (16, 2)]


def test_the_mosaic_shows_half_a_tile_for_half_the_work():
    kept = np.array([[0.5, 1.0], [0.75, 0.5], [0.25, 0.5]])
    picture = mosaic_figure(
        kept, [2, 2, 1, 0], [900.0, 700.0, 300.0, 50.0], guidance=(0.0, None, 1.0)
    )
    late, middle, early = picture["data"][:3]
    nothing = [None] * 4
    assert middle["y"] == [1, 2] and middle["z"][0] == [None, None, 0.75, None]
    assert early["y"] == late["y"] == [0.75, 1.25, 1.75, 2.25]
    assert early["z"] == [[0.25, 0.25, None, None], nothing, [0.5, 0.5, None, None], nothing]
    assert late["z"] == [nothing, [None, None, None, 0.5], nothing, [None, None, None, 1.0]]
    assert "conditional half alone" in early["text"][0][0] and "unconditional" in late["text"][1][3]
    assert len(early["text"]) == len(early["z"]) and "alone" not in middle["text"][0][2]
    labels = [a["text"] for a in picture["layout"]["annotations"]]
    assert labels == ["<b>late · 1 × ½</b>", "<b>middle · 1</b>", "<b>early · 2 × ½</b>"]
    assert "Half a tile (early)" in picture_key(HALF) and "Half" not in picture_key(PLAN)


# ------------------------------------------------------------ work that is held or compared


def test_work_counts_the_halves_of_every_stage(workshop, predictions, steps):
    found = predictions.predict(HALF, "DDIM", 50).prediction
    assert run_macs(workshop, HALF, steps) == pytest.approx(found.macs)
    assert run_macs(workshop, None, steps) == pytest.approx(found.macs_dense)
    off = run_macs(workshop, PLAN.with_guidance(early=3), steps, halves=1)
    plain = run_macs(workshop, PLAN, steps, halves=1)
    # a second row in the early stage, whose adaLN vectors are in a table of their own
    early, row = found.stages[2].steps, workshop.stage_macs(HALF, tabulated=True)[2]
    pairs = padded(early * 17) + padded((50 - early) * 16) - padded(50 * 16)
    made = pairs * workshop.macs.conditioning / 16
    assert off - plain == pytest.approx(row * early + made)
    rival = uniform_of_same_work(workshop, HALF, steps)
    assert rival.guidance == HALF.guidance and len(set(rival.sparsity)) == 1
    assert run_macs(workshop, rival, steps) == pytest.approx(found.macs, rel=0.03)
    fewer = dense_steps(workshop, HALF, steps, lambda n: n)
    assert fewer == pytest.approx(50 * found.macs / found.macs_dense, abs=0.51)


def test_held_work_counts_halves_and_is_refused_where_sparsities_cannot_hold_it(workshop, steps):
    held = with_same_work(workshop, HALF, 93, 600, steps)
    goal = run_macs(workshop, HALF, steps)
    assert held.guidance == HALF.guidance and min(held.sparsity) > max(PLAN.sparsity) / 2
    assert run_macs(workshop, held, steps) == pytest.approx(goal, rel=0.03)
    assert f"Work held at {macs_text(goal)} an image" in held_sentence(workshop, HALF, held, steps)
    nothing = HALF.with_sparsity(0, 0, 0)
    for plan, high in ((nothing, 700), (HALF.with_sparsity(0.1, 0.1, 0.1), 150)):
        with pytest.raises(StudioError, match="differ in their guidance halves"):
            with_same_work(workshop, plan, 93, high, steps)
    assert with_same_work(workshop, PLAN.with_sparsity(0, 0, 0), 93, 700, steps)


def test_no_best_place_is_drawn_where_stages_differ_in_halves(studio):
    visit(VISITOR.session_hash).mark_latest(Asked(HALF, "DDIM", 50))
    places = studio.explore.places
    found = places.on_places(1, HALF.to_json(), "DDIM", 50, VISITOR)
    assert found[places.drawn] == UNEVEN and not found[places.go]["visible"]


# ------------------------------------------------------------ Compare


def test_a_note_of_a_side_names_its_guidance():
    assert "guidance off early" in plan_note(HALF) and "guidance" not in plan_note(PLAN)


def test_figures_say_which_halves_they_count():
    both = comparison()
    assert halves_words(both) == ", both guidance halves"
    half = comparison(b=replace(both.b, plan=HALF))
    words = ", A with both guidance halves, B with both guidance halves, one alone early"
    assert halves_words(half) == words and words in timing_html(timing_rows(half.a, half.b), half)
    assert half.to_json()["mosaic"]["rows_per_image"] == {"late": 2, "middle": 2, "early": 1}
    assert half.to_json()["dense"]["rows_per_image"] == {"late": 2, "middle": 2, "early": 2}
    assert "guidance off early)" in verdict_html(half)
    off = replace(both.settings, guidance=1.0)
    assert halves_words(comparison(settings=off)) == ""
    own = comparison(settings=off, b=replace(both.b, plan=PLAN.with_guidance(early=3)))
    assert halves_words(own).startswith(", A with one guidance half, B with both guidance halves, ")


def test_sides_keep_guidance_and_the_interval_is_on_offer(workshop, predictions, steps):
    asked = Asked(HALF.with_sparsity(0.9, 0.9, 0.9), "DDIM", 50)
    interval = resolve_side("Guidance interval", None, asked, predictions)
    assert interval.plan is not None and interval.plan.guidance == (1, None, 1)
    assert checked_plan(workshop, HALF, steps) is HALF
    same = resolve_side("Magnitude, no compensation", None, asked, predictions)
    assert same.plan is not None and same.plan.guidance == HALF.guidance


def test_compares_guidance_decides_whether_budgets_are_unequal(studio):
    pair, uploaded = studio.compare.pair, PLAN.to_json()

    def between(guidance):
        current = HALF.to_json()
        found = pair.describe(
            "Current plan", None, "Uploaded plan", uploaded, current, "DDIM", 50, guidance
        )
        return found[pair.between]

    assert "guidance in the early stage off → the run&#x27;s own" in between(1.5)
    assert "Unequal budgets" in between(1.5) and "Unequal" not in between(1.0)
    assert "Unequal budgets" in between("what")


# ------------------------------------------------------------ the verbs


@pytest.mark.parametrize(
    ("text", "guidance"),
    [
        (None, (None, None, 1)),
        ("late=1", (1, None, 1)),
        (" early=3 , middle=0", (None, 0, 3)),
        ("early=own", (None, None, None)),
    ],
)
def test_the_option_sets_the_named_stages(text, guidance):
    assert guided(HALF, text).guidance == guidance


@pytest.mark.parametrize(
    "text",
    ["", "early", "early=", "early=nan", "early=-1", "early=21", "soon=1", "early=1,early=2", "=1"],
)
def test_a_bad_option_is_one_sentence_and_exit_code_2(text, tmp_path, capsys):
    file = tmp_path / "plan.json"
    file.write_text(PLAN.dumps())
    rest = ["--plan", str(file), "--out", str(tmp_path / "out")]
    for verb in (["curves"], ["prune", *rest], ["compare", *rest]):
        assert app.main([*verb, "--stage-guidance", text]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "--stage-guidance" in err
    assert not (tmp_path / "out").exists()


def test_the_page_takes_the_option_with_a_plan_only(tmp_path, capsys):
    assert app.main(["--stage-guidance", "early=1"]) == 2
    assert "--stage-guidance changes the plan of --plan" in capsys.readouterr().err
    file = tmp_path / "plan.json"
    file.write_text(PLAN.dumps())
    args = app.parser().parse_args(["--plan", str(file), "--stage-guidance", "late=1"])
    opened = app.opening_plan(args)
    assert opened is not None and opened.guidance == (1, None, None)


def json_of(capsys, *arguments) -> dict:
    assert app.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_curves_tells_guidance_and_rows_and_the_interval(capsys):
    found = json_of(capsys, "curves", "--stage-guidance", "early=1")
    assert found["rows"] == {"late": 2, "middle": 2, "early": 1}
    assert found["guidance"] == {"late": None, "middle": None, "early": 1}
    assert StagePlan.from_json(found["plan"]).guidance == (None, None, 1)
    found = json_of(capsys, "curves", "--preset", "interval", "--beta-schedule", "scaled_linear")
    assert found["boundaries"] == [73, 813] and found["rows"]["middle"] == 2
    assert "published for other models" in found["rule"]


def test_prune_and_compare_carry_the_option_into_their_results(
    model_folder, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setenv("MOSAIC_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "plan.json"
    file.write_text(PLAN.with_sparsity(0, 0, 0).dumps())
    some = ["--model", model_folder, "--device", "cpu", "--plan", file, "--steps", 4]
    found = json_of(capsys, "prune", *some, "--out", tmp_path / "o", "--stage-guidance", "early=1")
    assert found["guidance"]["early"] == 1 and found["macs"]["early"]["rows"] == 1
    part = found["macs"]["early"]
    assert part["pruned"] == part["dense"] / 2 and "one alone early" in found["macs_unit"]
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["plan"]["guidance"] == {
        "early": 1
    }
    some += ["--images", 2, "--repeats", 1, "--stage-guidance", "early=1,late=1"]
    found = json_of(capsys, "compare", *some)
    assert found["mosaic"]["rows_per_image"] == {"late": 1, "middle": 2, "early": 1}
    assert found["speedup_macs"] > 1.1 and found["mosaic"]["plan"]["guidance"] == {
        "late": 1,
        "early": 1,
    }
