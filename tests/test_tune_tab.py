"""The tab Tune without a browser: kept tunes, the figure, the table, refusals, jobs. Tiny DiT."""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
from hostile import HOSTILE, harmless
from tune_cases import EVALUATIONS, ID, OFF, PLAN, ended, put, tune, what

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.tuner import search
from core.tuner.goal import Goal
from core.tuner.kept import TuneShelf
from mosaic_ui import background, jobs
from mosaic_ui.compare import kept_sides, sides
from mosaic_ui.events import NOTHING
from mosaic_ui.runs.watch import going_on, strip_html
from mosaic_ui.studio import Studio
from mosaic_ui.tune import figure, inputs, run, table, words

VISITOR = SimpleNamespace(session_hash="tuner")


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> TuneShelf:
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path / "data"))
    return TuneShelf()


@pytest.fixture(scope="module")
def studio(workshop):
    return Studio(workshop, StagePlan((93, 550), (0.5, 0.25, 0.5)))


def wish(**other) -> inputs.TuneWish:
    usual = inputs.TuneWish("faster", 4, 1, "macs", 300, False, "DDIM", 50)
    return usual._replace(**other)


# ------------------------------------------------------------ kept tunes


def test_a_kept_tune_is_read_as_it_was_written_without_its_cut_line(shelf):
    put(shelf, "model")
    kept = shelf.get(ID)
    assert kept.evaluations == EVALUATIONS and kept.end is None and kept.goal == Goal(speedup=4)
    end = ended(speedup=(3.9, 0.1), notes=("a note",))
    assert shelf.keep_end(ID, end) == end
    assert shelf.get(ID).end == end and shelf.latest("model").end == end
    assert shelf.tunes("another") == [] and shelf.latest("another") is None
    again = shelf.keep_end(ID, ended())  # the same best, not timed this time
    assert again.speedup == (3.9, 0.1)
    (shelf.folder_of(ID) / "found.json").write_text("{")
    assert shelf.get(ID).end is None


def test_a_point_of_a_tune_is_found_and_what_is_none_is_one_sentence(shelf):
    put(shelf, "model")
    assert shelf.point(f"{ID}:4", "model") == EVALUATIONS[4]
    for point in ("", ID, f"{ID}:99", f"{ID}:-1", f"{ID}:x", "../x:1", f"{'f' * 16}:0"):
        with pytest.raises(StudioError, match="no such tune"):
            shelf.point(point)
    with pytest.raises(StudioError, match="another model"):
        shelf.point(f"{ID}:4", "other")


def test_the_same_question_has_one_folder_and_another_question_another(workshop):
    def id_of(**other):
        wanted = inputs.checked(workshop, wish(**other))
        return TuneShelf.id_of(wanted.question, workshop.device_text)

    assert id_of() == id_of(allowed=900)  # more time goes on
    assert len({id_of(), id_of(speedup=3), id_of(keep=True)}) == 3


def test_the_best_so_far_is_the_best_within_the_budget():
    now = tune()
    assert now.budget == 10e9 and now.best == EVALUATIONS[4]
    assert tune(evaluations=EVALUATIONS[:1]).best is None
    assert tune(goal=Goal(match_dense=True)).best is None  # nothing is as good
    assert tune(evaluations=()).best is None and tune(evaluations=()).budget == math.inf
    assert [e.macs for e in now.front] == [4e9, 9.6e9, 40e9]
    assert tune(ended()).has_ended(300) and not tune(ended()).has_ended(301)
    assert not tune(ended(stopped=True)).has_ended(1) and not now.has_ended(1)


# ------------------------------------------------------------ what is shown


def test_every_kind_of_point_is_told_apart_and_every_point_is_there():
    drawn = figure.front_figure(tune(), 16)
    named = {trace["name"]: trace for trace in drawn["data"]}
    assert set(named) == {kind.legend for kind in figure.KINDS.values()} | {"front", "best so far"}
    points = [trace for trace in drawn["data"] if "customdata" in trace]
    shown = sorted(point for trace in points for point in trace["customdata"])
    assert shown == [f"{ID}:{place}" for place in range(len(EVALUATIONS))]
    assert len({(trace["marker"]["symbol"], trace["marker"]["color"]) for trace in points}) == 6
    assert named["front"]["x"] == [4, 9.6, 40] and named["front"]["line"]["shape"] == "hv"
    assert named["best so far"]["x"] == [9.6]
    (line,) = drawn["layout"]["shapes"]
    assert line["x0"] == line["x1"] == 10  # GMACs
    title = drawn["layout"]["yaxis"]["title"]["text"]
    assert title == f"{tune().quality}<br>n = 256, lower is better"
    assert "GMACs" in drawn["layout"]["xaxis"]["title"]["text"]


def test_hover_names_all_that_a_point_runs():
    drawn = figure.front_figure(tune(), 16)
    said = next(t for t in drawn["data"] if t["name"] == figure.KINDS["front"].legend)["hovertext"]
    one = next(text for text in said if "9 steps" in text)
    for part in (
        "<b>UniPC, 9 steps</b>",
        "early 40 %, middle 0 %, late 10 % removed, shared by dynamic programming",
        "guidance off early, 2.1 middle",
        "1 of 2 steps in full early and late",
        "stages meet at 93 and 550",
        "FID 12.0 (n = 256), 12.5 on held-out noises (n = 500)",
        "9.60 GMACs per image, 76 % fewer MACs than dense",
    ):
        assert part in one


def test_seconds_are_called_predicted_and_never_measured():
    goal = Goal(run_seconds=10)
    drawn = figure.front_figure(tune(goal=goal), 16)
    assert "predicted seconds" in drawn["layout"]["xaxis"]["title"]["text"]
    texts = [text for trace in drawn["data"] for text in trace.get("hovertext", [])]
    assert all("predicted" in text and "measured" not in text for text in texts)
    html = table.verdict_html(tune(goal=goal), 16) + table.points_html(tune(goal=goal), 16)
    assert "Predicted, not measured" in html and "Measured" not in html


def test_a_measured_speed_up_is_said_with_its_spread_and_device():
    html = table.verdict_html(tune(ended(speedup=(3.91, 0.12), notes=("A note.",))), 16)
    assert "Measured ×3.91 ± 0.12 as fast as dense on CPU" in html and "A note." in html
    assert "12.0 against 10.0 of dense (n = 256, seed 0)" in html and "(n = 500)" in html
    assert "Predicted" not in html
    assert "until it was stopped" in table.verdict_html(tune(ended(stopped=True)), 16)


def test_nothing_within_the_budget_and_a_distance_of_zero_are_drawn_too():
    zero = (replace(EVALUATIONS[0], quality=0.0),)
    drawn = figure.front_figure(tune(evaluations=zero), 16)
    assert "type" not in drawn["layout"]["yaxis"]
    assert "No plan within the budget" in table.verdict_html(tune(evaluations=zero), 16)
    assert figure.front_figure(tune(evaluations=()), 16) == figure.EMPTY
    assert table.points_html(tune(evaluations=()), 16) == ""
    assert "shapes" not in figure.front_figure(tune(goal=Goal(match_dense=True)), 16)["layout"]


def test_a_row_has_two_buttons_and_dense_has_none():
    html = table.points_html(tune(), 16)
    for place in range(1, len(EVALUATIONS)):
        for to in ("explore", "compare"):
            assert html.count(f'data-open="{to}" data-point="{ID}:{place}"') == 1
    assert (
        f'<tr data-point="{ID}:0"' in html
        and f'data-open="explore" data-point="{ID}:0"' not in html
    )
    assert "Everything else that was tried (4)" in html


def test_a_hostile_label_stays_text():
    own = (EVALUATIONS[0], replace(EVALUATIONS[4], configuration=what(label=HOSTILE)))
    shown = tune(evaluations=own)
    assert harmless(table.verdict_html(shown, 16) + table.points_html(shown, 16))
    texts = [t for d in figure.front_figure(shown, 16)["data"] for t in d.get("hovertext", [])]
    assert all("<img" not in text for text in texts)


def test_plans_in_words():
    uniform = PLAN.with_sparsity(0.3, 0.3, 0.3)
    assert words.removed_words(None) == "nothing removed"
    assert words.removed_words(uniform).startswith("30 % removed in every stage")
    assert words.boundary_words(None) == ""
    thirds = replace(PLAN, reuse=(3, 3, 3))
    assert "1 of 3 steps in full in every stage" in words.plan_parts(what(plan=thirds))
    assert "1 of 3 steps in full in every stage, the others forecast" in words.plan_parts(
        what(plan=replace(thirds, reuse_order=1))
    )


# ------------------------------------------------------------ what is asked


@pytest.mark.parametrize(
    ("other", "words_of_it"),
    [
        ({"speedup": math.nan}, "The speed-up must be a number above 1"),
        ({"speedup": None}, "The speed-up must be a number above 1"),
        ({"speedup": 0.5}, "above 1, not 0.5"),
        ({"speedup": "fast"}, "The speed-up must be"),
        ({"speedup": 5000}, "cannot be had: the nearest is"),
        ({"allowed": 0}, "at least 1"),
        ({"allowed": None}, "The seconds of a tune"),
        ({"allowed": 1e6}, "at most"),
        ({"goal": "seconds", "run_seconds": 0}, "The seconds of a run"),
        ({"goal": "dense"}, "ships none"),
        ({"keep": True, "steps": "many"}, "teps"),
        ({"keep": True, "scheduler": "Magic"}, "."),
        ({"keep": True, "speedup": 50}, "or leave the steps open"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence_and_nothing_is_lost(studio, other, words_of_it):
    said = studio.tune.ask(*wish(**other), VISITOR)
    assert set(said) == {studio.tune.job} and words_of_it in said[studio.tune.job]
    assert 'role="alert"' in said[studio.tune.job]
    assert not jobs.visit("tuner").waits(jobs.TUNE)
    assert words_of_it in studio.tune.foresee(*wish(**other))[studio.tune.ahead]


@pytest.mark.parametrize("other", [{"goal": "best"}, {"counted": "watts"}, {"keep": 1}])
def test_what_no_control_sends_is_refused(studio, other):
    with pytest.raises(gr.Error):
        studio.tune.ask(*wish(**other), VISITOR)


def test_what_will_happen_is_said_before(workshop, model_folder, small_settings, tmp_path):
    from core.models.checkpoints import load_checkpoint
    from core.workshop.workshop import Workshop

    fresh = Workshop(load_checkpoint(model_folder, "auto"), small_settings, tmp_path / "cache")
    said = " ".join(inputs.ahead(fresh, inputs.checked(fresh, wish())))
    assert "First it calibrates the model and measures this device's speed, once" in said
    assert "For 5 min it tries plans in 3 to 50 steps of UniPC" in said and "64 images" in said
    kept = " ".join(inputs.ahead(workshop, inputs.checked(workshop, wish(keep=True))))
    assert "tries plans in DDIM, 50 steps" in kept and "calibrates" not in kept


# ------------------------------------------------------------ a point is opened


def test_a_point_is_taken_in_hand_with_its_solver_and_steps(studio, workshop, shelf):
    put(shelf, workshop.model_key)
    tab, shared = studio.tune, studio.shared
    plain = studio.shared.opening.to_json()
    found = tab.on_explore(f"{ID}:4", plain, "DDIM", 50, VISITOR)
    plan = StagePlan.from_json(found[shared.plan])
    assert replace(plan, name="") == OFF and plan.name == "Tuned: UniPC, 9 steps"
    assert found[shared.scheduler] == "UniPC" and found[shared.steps] == 9
    assert found[shared.steps_box] == 9 and found[tab.tabs].selected == "explore"
    for point, why in ((f"{ID}:0", "dense model itself"), ("x", "no such tune")):
        refused = tab.on_explore(point, plain, "DDIM", 50, VISITOR)
        assert set(refused) == {tab.said} and why in refused[tab.said]
        assert set(tab.on_compare(point)) == {tab.said}


def test_a_point_is_side_b_in_its_own_steps_against_dense_in_those_of_the_tune(
    studio, workshop, shelf
):
    put(shelf, workshop.model_key)
    compare = studio.compare
    found = studio.tune.on_compare(f"{ID}:4")
    choice = found[compare.pair.b.choice]["value"]
    assert choice == f"tune:{ID}:4" and found[compare.pair.a.choice]["value"] == sides.DENSE
    assert found[compare.steps] == 50 and found[compare.scheduler] == "UniPC"
    assert dict(map(reversed, found[compare.pair.b.choice]["choices"]))[choice] == (
        "Tuned: UniPC, 9 steps"
    )
    asked_of = sides.Asked(studio.shared.opening, "UniPC", 50)
    side = sides.resolve_side(choice, None, asked_of, studio.shared.predictions)
    assert (side.plan, side.steps) == (OFF, 9)
    assert kept_sides.foreign_model(choice, workshop) == ""
    lost = f"tune:{'f' * 16}:1"
    assert ("Tuned: deleted", lost) in kept_sides.kept_choices(workshop, (lost,))
    with pytest.raises(StudioError):
        kept_sides.kept_side(f"tune:{ID}:0", workshop)


# ------------------------------------------------------------ the job


@pytest.fixture
def few(monkeypatch):
    """A tune of few images."""
    monkeypatch.setattr(inputs, "BY_DISTANCE", (4, 4))


@pytest.mark.usefixtures("few")
def test_a_tune_outlives_its_page_is_found_by_another_and_goes_on_after_a_stop(
    studio, workshop, shelf
):
    tab, other = studio.tune, SimpleNamespace(session_hash="another page")
    tab.ask(*wish(allowed=400), VISITOR)
    views = tab.run(VISITOR)
    seen: dict = {}
    while "The best so far" not in str(seen.get(tab.verdict)):
        seen |= next(views)
    assert seen[tab.results]["visible"]
    assert set(tab.on_look("", "", VISITOR)) == {tab.timer}  # its own page is told by its own job
    views.close()  # the page is reloaded
    jobs.forget("tuner")
    (found,) = going_on()
    assert found.kind == "tune" and "A tune goes on" in strip_html([found])
    looked = tab.on_look("", "", other)
    assert "progressbar" in looked[tab.job] and "waits for it" in looked[tab.job]
    assert looked[tab.stop]["interactive"] and looked[tab.start]["interactive"]
    assert "tune-best" in looked[tab.verdict] and looked[tab.timer].active

    tab.on_stop(other)
    deadline = time.monotonic() + 60
    while background.ongoing():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    last = tab.on_look(looked[tab.shown], "", other)
    assert "Stopped: this is the best" in last[tab.job] and not last[tab.timer].active
    (kept,) = shelf.tunes(workshop.model_key)
    assert kept.end is not None and kept.end.stopped
    # the same question goes on from there
    wanted = inputs.checked(workshop, wish(allowed=400))
    assert "it goes on from them" in " ".join(inputs.ahead(workshop, wanted))
    stop, count = threading.Event(), len(kept.evaluations)
    said = []
    for named in run.stream(workshop, wanted, stop):
        said.append(named.get("job", ""))
        if " evaluated" in said[-1]:
            stop.set()
    assert next(f" {count} evaluated" in words for words in said if " evaluated" in words)
    assert "Stopped: this is the best" in said[-1]


@pytest.mark.usefixtures("few")
def test_a_withdrawn_tune_does_nothing_and_a_finished_one_is_shown_again(studio, workshop, shelf):
    tab = studio.tune
    said = tab.ask(*wish(), VISITOR)
    assert "Waiting for the model" in said[tab.job] and said[tab.stop]["interactive"]
    assert jobs.WITHDRAWN in tab.on_stop(VISITOR)[tab.job]
    assert list(tab.run(VISITOR)) == [NOTHING]
    wanted = inputs.checked(workshop, wish())
    id = shelf.id_of(wanted.question, workshop.device_text)
    put(shelf, workshop.model_key, id)
    shelf.keep_end(id, ended())
    put(shelf, workshop.model_key)  # another one, of later
    (only,) = run.stream(workshop, wanted, threading.Event())
    assert shelf.latest(workshop.model_key).id == id
    assert "had its time" in only["job"] and "The best, for ×4" in only["verdict"]


def test_an_earlier_tune_is_chosen_and_deleted(studio, workshop, shelf):
    tab, menu, other = studio.tune, studio.tune.shelf, "0" * 16
    for id in (ID, other):
        put(shelf, workshop.model_key, id)
    os.utime(shelf.folder_of(other) / "evaluations.jsonl", (0, 0))
    looked = tab.on_look("", "", VISITOR)
    (label, first), (_, second) = looked[menu.menu]["choices"]
    assert (first, second) == (ID, other) and label.startswith("×4 as fast by MACs, ")
    chosen = menu.on_chosen(other)
    assert chosen[tab.shown].startswith(other) and chosen[tab.results]["visible"]
    assert tab.verdict not in tab.on_look(chosen[tab.shown], other, VISITOR)
    assert "Delete the tune" in menu.on_delete(other)[menu.words]
    assert menu.on_yes(other)[tab.shown].startswith(ID) and not shelf.folder_of(other).exists()
    assert menu.on_yes(ID)[tab.empty]["visible"] and shelf.latest(workshop.model_key) is None


@pytest.mark.usefixtures("few")
def test_a_failure_is_one_sentence_and_what_was_evaluated_stays(workshop, shelf, monkeypatch):
    draw = search.draw

    def slow(*arguments, **options):  # the reference alone takes the whole second
        time.sleep(1.1)
        return draw(*arguments, **options)

    monkeypatch.setattr(search, "draw", slow)
    wanted = inputs.checked(workshop, wish(allowed=1))
    *_, last = run.stream(workshop, wanted, threading.Event())
    assert "Allow more time" in last["job"] and "is kept" in last["job"]
    assert "tune-table" in last["points"]


def test_ticking_tells_of_silence_and_raises_what_the_work_raises():
    go = threading.Event()

    def work(put):
        put(1)
        assert go.wait(10)
        raise StudioError("why")

    items = run.ticking(work, every=0.02)
    assert next(items) == 1 and next(items) is None
    go.set()
    with pytest.raises(StudioError, match="why"):
        list(items)
