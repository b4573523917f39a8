"""A side of Compare may be any kept plan, and a side of any kept run in its own steps."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
from hostile import HOSTILE, harmless
from run_cases import BEGUN

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.runs.store import RunStore
from core.workshop.comparison import SampleSettings
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare import kept_sides, sides
from mosaic_ui.compare import run as compare_run
from mosaic_ui.predictions import Asked
from mosaic_ui.runs import record
from mosaic_ui.studio import Studio
from mosaic_ui.text import cut

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55))
OTHER = StagePlan((200, 700), (0.3, 0.1, 0.4))
SETTINGS = SampleSettings(labels=(0, 1), steps=6, repeats=1)
VISITOR = SimpleNamespace(session_hash="kept sides")


@pytest.fixture
def store(tmp_path, monkeypatch) -> RunStore:
    """Give the page an empty store of its own."""
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path / "data"))
    return record.store()


@pytest.fixture(scope="module")
def studio(workshop):
    return Studio(workshop, PLAN)


def facts(workshop) -> dict[str, str]:
    return {"model": workshop.name, "model_key": workshop.model_key, "device": "CPU"}


def ended(store, workshop, plans=(None, OTHER), settings=SETTINGS, name="", names=("A", "B")):
    """Keep a run that was stopped before it had pictures."""
    run = store.begin(plans, names, settings, **facts(workshop))
    store.end(run.id, "stopped", "Stopped.")
    return store.rename(run.id, name)


def offered(workshop, *chosen: str) -> dict[str, str]:
    """Return the kept choices of a picker: words by value."""
    return {
        v: words for words, v in sides.picker_choices(workshop, chosen) if kept_sides.is_kept(v)
    }


def resolved(studio, choice: str) -> sides.SideRun:
    return sides.resolve_side(choice, None, Asked(PLAN, "DDIM", 20), studio.shared.predictions)


def listing(studio, choice_a: str, choice_b: str) -> dict:
    pair = studio.compare.pair
    return pair.offer(choice_a, None, choice_b, None, PLAN.to_json(), "DDIM", 20, 1.5)


def note(studio, choice: str) -> str:
    pair = studio.compare.pair
    return pair.describe(choice, None, "Dense", None, PLAN.to_json(), "DDIM", 20, 1.5)[pair.a.note]


def test_kept_plans_and_both_pruned_sides_of_runs_are_offered(workshop, store, studio):
    plan = store.keep_plan("for the talk", OTHER, workshop.model_key, workshop.name)
    one = ended(store, workshop, name="the best")
    two = ended(store, workshop, (replace(PLAN, name="eye"), OTHER), name="a race")
    store.begin((None, OTHER), ("A", "B"), SETTINGS, **facts(workshop))  # goes on
    ended(store, workshop, (None, None), name="dense both")
    assert offered(workshop) == {
        f"plan:{plan.id}": "Kept plan: for the talk",
        f"run:{two.id}:a": "Run: a race, side A",
        f"run:{two.id}:b": "Run: a race, side B",
        f"run:{one.id}:b": "Run: the best, side B",
    }
    pair = studio.compare.pair
    found = listing(studio, "Dense", f"run:{one.id}:b")
    of_a, of_b = (found[side.choice] for side in (pair.a, pair.b))
    assert of_a == of_b and of_a.keys() == {"choices", "__type__"}  # no value moves
    assert "late" in found[pair.b.note]


def test_a_kept_side_runs_its_plan_and_a_run_its_own_steps(workshop, store, studio):
    counted = replace(OTHER, scope="run").counted([500.0, 100.0])
    plan = store.keep_plan("for the talk", counted, workshop.model_key)
    settings = replace(SETTINGS, side_steps=(6, 4))
    run = ended(store, workshop, (replace(PLAN, name="eye"), OTHER), settings, "a race")
    talk = replace(OTHER, scope="run", name="for the talk")
    assert resolved(studio, f"plan:{plan.id}") == (talk, 20, "for the talk")
    assert resolved(studio, f"run:{run.id}:a") == (replace(PLAN, name="eye"), 6, "eye")
    assert resolved(studio, f"run:{run.id}:b") == (OTHER, 4, "a race, side B")
    assert "4 steps" in note(studio, f"run:{run.id}:b")
    assert not sides.follows_plan(f"plan:{plan.id}") and not sides.follows_plan(f"run:{run.id}:a")


def test_what_ran_under_a_kept_side_is_kept_in_turn(workshop, store, studio):
    plan = store.keep_plan("for the talk", OTHER, workshop.model_key)
    first = ended(store, workshop, name="a race")
    asked = compare_inputs.Sides(f"plan:{plan.id}", None, f"run:{first.id}:b", None, PLAN)
    wish = compare_inputs.Wish([], 2, 0, 4, 1.5, "DDIM", 1)
    wanted = compare_inputs.checked_request(studio.shared.predictions, asked, wish)
    assert wanted.settings.side_steps == (4, 6) and wanted.in_hand is None
    *_, _ = compare_run.stream(workshop, wanted, threading.Event())
    run = store.runs()[0]
    assert run.status == "finished" and (run.a.name, run.b.name) == wanted.names
    assert wanted.names == ("for the talk", "a race, side B")
    assert run.a.plan == replace(OTHER, name="for the talk") and run.b.plan == OTHER
    # the same plan but for its name, in other steps: both can be run again
    again = {v for v in offered(workshop) if run.id in v}
    assert again == {f"run:{run.id}:a", f"run:{run.id}:b"}
    assert [resolved(studio, v).steps for v in sorted(again)] == [4, 6]


def test_a_choice_that_was_deleted_stays_and_is_refused_in_a_sentence(workshop, store, studio):
    plan = store.keep_plan("for the talk", OTHER, workshop.model_key)
    run = ended(store, workshop)
    choices = (f"plan:{plan.id}", f"run:{run.id}:b")
    store.delete_plan(plan.id)
    store.delete([run.id])
    assert offered(workshop) == {}
    assert list(offered(workshop, *choices)) == sorted(choices)
    found, pair = listing(studio, *choices), studio.compare.pair
    assert all("was deleted" in found[side.note] for side in (pair.a, pair.b))
    asked = [[], 2, 0, 4, 1.5, "DDIM", 1, "", None, False, None, "plain"]
    compare = studio.compare
    for choice in choices:
        assert "deleted: choose another one" in note(studio, choice)
        found = compare.ask(choice, None, "Dense", None, PLAN.to_json(), *asked, VISITOR)
        assert set(found) == {compare.live} and "was deleted" in found[compare.live]["value"]
    store.undelete_plan(plan.id)
    assert resolved(studio, choices[0]).plan.name == "for the talk"


@pytest.mark.parametrize("choice", ["plan:", "run:", "run:a", "run::b", "plan:x' OR 1", "run:x:c"])
def test_a_choice_that_was_never_kept_is_refused(store, studio, choice):
    with pytest.raises(StudioError):
        resolved(studio, choice)


def test_what_another_model_was_pruned_by_is_a_side_where_it_fits(workshop, store, studio):
    foreign = store.keep_plan("theirs", OTHER, "another key", "Tiny painter (bundled)")
    run = store.begin((None, OTHER), ("A", "B"), SETTINGS, **BEGUN)
    store.end(run.id, "failed", "Broken.")
    short = StagePlan((9, 55), (0.3, 0.1, 0.4), num_train_timesteps=100)
    smaller = store.keep_plan("small", short, "another key", "Tiny painter (bundled)")
    fewer = store.keep_plan("short", short, workshop.model_key)
    whole = StagePlan((93, 550), (0.9,) * 3, allocation="lagrangian", protect=1.0)
    hopeless = store.keep_plan("hopeless", whole, workshop.model_key)
    dense = ended(store, workshop)
    words = offered(workshop)
    assert words[f"plan:{foreign.id}"] == "Kept plan: theirs (Tiny painter)"
    assert words[f"run:{run.id}:b"].endswith("side B (tiny)")
    assert set(list(words)[2:4]) == {
        f"plan:{foreign.id}",
        f"plan:{smaller.id}",
    }  # behind those of this model
    for choice, name, model in (
        (f"plan:{foreign.id}", "theirs (made on Tiny painter)", "Tiny painter"),
        (f"run:{run.id}:b", "side B (made on tiny)", "tiny"),
    ):
        fits = resolved(studio, choice)
        assert fits.plan.sparsity == OTHER.sparsity and fits.name.endswith(name)
        assert f"Made on {model}, which" in note(studio, choice)
    assert "Made on" not in note(studio, f"run:{ended(store, workshop).id}:b")
    for choice, why in (
        (f"plan:{smaller.id}", "100 training timesteps"),
        (f"plan:{fewer.id}", "100 training timesteps"),
        (f"plan:{hopeless.id}", "can lose at most"),
        (f"run:{dense.id}:a", "has no plan: choose another entry"),
    ):
        with pytest.raises(StudioError, match=why):
            resolved(studio, choice)
        assert "cmp-bad" in note(studio, choice)


def test_names_are_text_and_cut_and_equal_words_are_told_apart(workshop, store, studio):
    long = store.keep_plan("n" * 198, OTHER, workshop.model_key)
    longer = store.keep_plan("n" * 198, OTHER, workshop.model_key)
    words = offered(workshop)
    assert words[f"plan:{long.id}"] != words[f"plan:{longer.id}"]
    assert all(len(said) <= len("Kept plan: ") + kept_sides.SHOWN for said in words.values())
    hostile = store.keep_plan(HOSTILE[:150], OTHER, workshop.model_key)
    run = resolved(studio, f"plan:{hostile.id}")
    assert harmless(note(studio, f"plan:{hostile.id}")) and len(run.name) <= kept_sides.SHOWN
    began = time.mktime((2026, 10, 2, 7, 8, 9, 0, 0, -1))
    both = [ended(store, workshop, name="same") for _ in range(2)]
    for i, one in enumerate(both):
        with store.database.writing() as connection:
            query = "UPDATE runs SET created = ? WHERE id = ?"
            connection.execute(query, (began + 2 * i, one.id))
    assert {offered(workshop)[f"run:{one.id}:b"] for one in both} == {
        f"Run: same, side B, {moment}" for moment in ("10-02 07:08:09", "10-02 07:08:11")
    }
    assert cut("one\n two", 9) == "one two" and cut("a" * 20 + " 2", 12) == "aaa…aaaaaa 2"


def test_the_newest_runs_are_listed_and_an_older_one_that_is_chosen(workshop, store):
    runs = [ended(store, workshop) for _ in range(kept_sides.MOST_RUNS + 3)]
    words = offered(workshop)
    assert list(words) == [f"run:{run.id}:b" for run in runs[:2:-1]]
    oldest = f"run:{runs[0].id}:b"
    assert list(offered(workshop, oldest, "Dense")) == [*words, oldest]


def test_a_store_that_cannot_be_read_leaves_what_is_always_offered(workshop, tmp_path, monkeypatch):
    (tmp_path / "runs.sqlite").write_text("no database at all, but some text of one")
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path))
    assert offered(workshop) == {} and len(sides.picker_choices(workshop)) > 8
    broken = Studio(workshop, PLAN)
    assert "runs.sqlite" in note(broken, "plan:x")


def test_two_visitors_have_each_their_own_list(workshop, store, studio):
    """Gradio keeps what a picker offers by session; what a choice means is read anew each time."""
    pair = studio.compare.pair
    before = listing(studio, "Dense", "Current plan")
    plan = store.keep_plan("new", OTHER, workshop.model_key)
    after = listing(studio, "Dense", "Current plan")
    more = [
        one
        for one in after[pair.a.choice]["choices"]
        if one not in before[pair.a.choice]["choices"]
    ]
    assert more == [("Kept plan: new", f"plan:{plan.id}")]
    # the other visitor's page has not heard of it, and may choose it all the same
    assert "Removed" in note(studio, f"plan:{plan.id}")
    functions = [f for f in studio.page.fns.values() if pair.a.choice in f.inputs]
    assert functions and not any(f.preprocess for f in functions if f.name != "upload")
    with pytest.raises(gr.Error):
        listing(studio, ["plan:x"], "Dense")
