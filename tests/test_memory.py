"""The page remembers: undo and redo, a link that brings everything back, a draft."""

from __future__ import annotations

from types import SimpleNamespace
from urllib.parse import parse_qsl

import gradio as gr
import pytest

from core.curves.plan import StagePlan
from mosaic_ui import memory
from mosaic_ui.memory import after_edit, begun, link_of, moved
from mosaic_ui.predictions import Asked
from mosaic_ui.studio import Studio

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5))
VISITOR = SimpleNamespace(session_hash="memory", query_params={})


@pytest.fixture(scope="module")
def studio(workshop):
    return Studio(workshop, PLAN)


def plan(low: int) -> StagePlan:
    return PLAN.with_boundaries(low, 550)


def lows(history) -> list[int]:
    return [one["boundaries"][0] for one in history["plans"]]


def arrive(studio, draft: str = "", **query: str):
    request = SimpleNamespace(session_hash="memory", query_params=query)
    return studio.models.on_open(draft, request)


def test_all_edits_of_one_hand_movement_are_one_step():
    history = begun(PLAN)
    for low, mark in ((100, 1), (110, 1), (120, 1), (130, 2)):
        history = after_edit(history, plan(low), mark)
    assert lows(history) == [93, 120, 130] and history["at"] == 2
    assert after_edit(history, plan(130), 3) == history  # nothing moved: no step


def test_what_a_link_brings_before_any_hand_is_the_beginning():
    assert lows(after_edit(begun(PLAN), plan(200), 0)) == [200]


def test_undo_goes_back_redo_forth_and_an_edit_forgets_what_was_undone():
    history = begun(PLAN)
    for low in (100, 110, 120):
        history = after_edit(history, plan(low), low)
    back = moved(moved(history, -1, 121), -1, 122)
    assert back["at"] == 1 and moved(back, 1, 123)["at"] == 2
    assert moved(begun(PLAN), -1, 1)["at"] == moved(begun(PLAN), 1, 1)["at"] == 0
    assert lows(after_edit(back, plan(300), 123)) == [93, 100, 300]


def test_a_step_back_that_is_told_after_the_next_one_is_no_edit():
    history = begun(PLAN)
    for low in (100, 110, 120):
        history = after_edit(history, plan(low), low)
    back = moved(moved(history, -1, 121), -1, 122)  # the page still holds the plan between
    assert after_edit(back, plan(110), 122) == back and moved(back, 1, 123)["at"] == 2
    dragged = after_edit(back, plan(110), 124)  # a hand moved a line to where it was before
    assert lows(dragged) == [93, 100, 110] and dragged["at"] == 2


def test_a_hundred_plans_are_remembered():
    history = begun(PLAN)
    for low in range(94, 294):
        history = after_edit(history, plan(low), low)
    assert lows(history) == list(range(194, 294)) and history["at"] == memory.MOST - 1


def test_undo_sets_the_plan_as_every_edit_does(studio):
    shared, page = studio.shared, studio.memory
    history = after_edit(begun(PLAN), plan(200), 1)
    found = page.on_undo(history, 2, plan(200).to_json(), "DDIM", 50, VISITOR)
    assert found[shared.plan] == PLAN.to_json() and found[shared.edited]
    assert not found[page.undo]["interactive"] and found[page.redo]["interactive"]
    again = page.on_redo(found[page.history], 3, PLAN.to_json(), "DDIM", 50, VISITOR)
    assert StagePlan.from_json(again[shared.plan]).boundaries == (200, 550)
    assert page.on_undo(begun(PLAN), 1, PLAN.to_json(), "DDIM", 50, VISITOR) == gr.skip()


@pytest.mark.parametrize(
    "history",
    [None, [], {}, {"plans": [], "at": 0, "mark": 0}, {"plans": [1], "at": 5, "mark": 0}],
)
def test_what_is_no_history_is_refused(studio, history):
    with pytest.raises(gr.Error):
        studio.memory.on_undo(history, 1, PLAN.to_json(), "DDIM", 50, VISITOR)
    broken = {"plans": [{"boundaries": "x"}, PLAN.to_json()], "at": 1, "mark": 0}
    with pytest.raises(gr.Error, match="no such step"):
        studio.memory.on_undo(broken, 1, PLAN.to_json(), "DDIM", 50, VISITOR)


def test_a_link_brings_plan_sampler_and_tab_back(studio):
    shared, models = studio.shared, studio.models
    link = dict(parse_qsl(link_of(Asked(plan(200), "Euler", 20), 7)))
    found = arrive(studio, tab="runs", **link)
    assert StagePlan.from_json(found[shared.plan]).boundaries == (200, 550)
    assert (found[shared.scheduler], found[shared.steps]) == ("Euler", 20)
    assert found[models.tabs].selected == "runs" and models.said not in found
    assert found[shared.seed] == 7


def test_the_link_wins_over_the_draft_and_the_draft_over_the_opening(studio):
    shared = studio.shared
    draft, link = (link_of(Asked(plan(low), "DDIM", 20), low) for low in (300, 200))
    for query, low in ((dict(parse_qsl(link)), 200), ({}, 300), ({"tab": "prune"}, 300)):
        found = arrive(studio, draft, **query)
        assert StagePlan.from_json(found[shared.plan]).boundaries == (low, 550)
        assert found[shared.seed] == low
    assert arrive(studio, draft, seed="5")[shared.seed] == 5
    assert arrive(studio) == gr.skip()


@pytest.mark.parametrize("seed", ["", "abc", "-1", "1.5", "2147483648", "9" * 5000, "²", "<b>"])
def test_a_nonsense_seed_is_one_sentence_and_the_default_stands(studio, seed):
    found = arrive(studio, seed=seed)
    assert set(found) == {studio.models.said}
    said = found[studio.models.said]
    assert "The seed in the address was not taken over, so it is 0: Seed must be a whole" in said
    assert said.count("<p") == 1 and "<b>" not in said
    both = arrive(studio, seed=seed, plan="{")[studio.models.said]
    assert both.count("<p") == 2 and "The plan in the address" in both


def test_the_address_follows_the_seed_and_has_none_while_none_is_typed(studio):
    page, history = studio.memory, begun(PLAN)
    for seed, kept in ((2147483647, "2147483647"), (3.0, "3"), (None, None), (-1, None)):
        found = page.remember(history, 1, PLAN.to_json(), "DDIM", 50, seed)
        assert dict(parse_qsl(found[page.link])).get("seed") == kept
        assert found[page.history] == history  # a seed is no step of undo


@pytest.mark.parametrize(
    "query",
    [{"plan": "{"}, {"plan": '{"boundaries":[5,5]}'}, {"tab": "<b>nowhere</b>"}, {"plan": "x" * 9}],
)
def test_an_impossible_link_is_one_sentence_and_nothing_else(studio, query):
    found = arrive(studio, **query)
    assert set(found) == {studio.models.said}
    assert found[studio.models.said].count("<p") == 1 and "<b>" not in found[studio.models.said]


@pytest.mark.parametrize("draft", ["plan=%7B", "nothing", "x" * 100_000, "plan=&steps=-1"])
def test_a_broken_draft_harms_nothing(studio, draft):
    found = arrive(studio, draft)
    assert found == gr.skip() or set(found) == {studio.models.said}
