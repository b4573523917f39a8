"""The number in the sentence above the chart: what a drag of it estimates and sets."""

from __future__ import annotations

import re
from types import SimpleNamespace

import gradio as gr
import pytest

from core.curves.plan import StagePlan
from mosaic_ui.mean_sparsity import shape_behind, with_mean
from mosaic_ui.studio import Studio

VISITOR = SimpleNamespace(session_hash="mean", query_params={})
PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5), name="mine")
STEPS = list(range(0, 1000, 20))


@pytest.fixture(scope="module")
def studio(workshop):
    return Studio(workshop, PLAN)


def scaled(studio, target, plan=PLAN, shape=PLAN):
    mean = studio.explore.mean
    return mean.on_scaled(target, shape.to_json(), plan.to_json(), "DDIM", 50, VISITOR)


def live(studio, target, shape=PLAN):
    mean = studio.explore.mean
    return mean.on_scale(target, shape.to_json(), PLAN.to_json(), "DDIM", 50)


def number(html: str) -> str:
    return re.search(r'aria-valuenow="(\d+)"', html)[1]


def test_a_release_takes_the_plan_of_that_mean_in_its_proportions(studio):
    found = scaled(studio, 0.2)
    plan = StagePlan.from_json(found[studio.shared.plan])
    assert plan.mean_sparsity(STEPS) == pytest.approx(0.2, abs=1e-4)
    late, middle, early = plan.sparsity
    assert late == early and late == pytest.approx(2 * middle, abs=2e-4)
    assert plan.boundaries == PLAN.boundaries and plan.name == ""
    assert found[studio.shared.edited] and number(found[studio.explore.headline]) == "20"
    assert plan == with_mean(PLAN, PLAN, 0.2, STEPS)


def test_the_master_slider_of_prune_makes_the_same_plan(studio):
    prune, own = studio.prune, PLAN.to_json()
    found = prune.on_master(0.2, own, own, "DDIM", 50, VISITOR)
    assert found[studio.shared.plan] == scaled(studio, 0.2)[studio.shared.plan]


def test_a_drag_answers_live_with_every_number_in_sight_and_leaves_the_plan(studio):
    explore = studio.explore
    found = live(studio, 0.6)
    assert set(found) == {explore.table, explore.strip, explore.headline}
    assert number(found[explore.headline]) == "60" and found[explore.strip] != explore.strip.value
    assert "quick estimate" in found[explore.strip]
    events = [f for f in studio.page.fns.values() if f.name == "on_scale"]
    assert len(events) == 2 and not any(event.queue for event in events)
    release = next(f for f in studio.page.fns.values() if f.name == "on_scaled")
    assert release.concurrency_id == "plan" and studio.shared.plan in release.outputs


def test_a_number_that_is_back_at_its_beginning_changes_nothing(studio):
    assert scaled(studio, None) == gr.skip()
    assert (
        number(live(studio, None)[studio.explore.headline])
        == f"{100 * PLAN.mean_sparsity(STEPS):.0f}"
    )


def test_the_way_through_zero_keeps_the_proportions(studio):
    found = scaled(studio, 0.0)
    nothing = StagePlan.from_json(found[studio.shared.plan])
    assert nothing.sparsity == (0, 0, 0)
    assert "Nothing is pruned yet" in found[studio.explore.headline]
    assert number(found[studio.explore.headline]) == "0"
    shape = StagePlan.from_json(found[studio.explore.mean.shape])
    back = StagePlan.from_json(scaled(studio, 0.2, nothing, shape)[studio.shared.plan])
    assert back.sparsity == with_mean(PLAN, PLAN, 0.2, STEPS).sparsity
    even = StagePlan.from_json(scaled(studio, 0.2, nothing, nothing)[studio.shared.plan])
    assert len(set(even.sparsity)) == 1  # no proportions are known


def test_a_plan_that_was_edited_since_has_proportions_of_its_own():
    other = PLAN.with_sparsity(0.1, 0.1, 0.4)
    assert shape_behind(other, PLAN, STEPS) is other
    assert shape_behind(with_mean(PLAN, PLAN, 0.11, STEPS), PLAN, STEPS) is PLAN


@pytest.mark.parametrize("target", ["0.3", True, -0.1, 0.96, float("nan")])
def test_what_is_no_share_goes_back_and_says_why(studio, target):
    found = scaled(studio, target)
    assert studio.shared.plan not in found and 'data-refused="' in found[studio.explore.headline]
    assert (
        "Share removed on average must be a number from 0 to 0.95."
        in found[studio.explore.mean.said]
    )
    assert live(studio, target) == gr.skip()
