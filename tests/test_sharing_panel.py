"""Test how layers share the cut: views follow at once, what cannot be leaves the plan alone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import calibrated, make_pipeline
from hostile import HOSTILE, harmless

from core.allocation.sentences import METHOD_TITLES
from core.curves.plan import ALLOCATIONS, StagePlan
from core.models.checkpoints import load_checkpoint
from core.workshop.workshop import Workshop
from mosaic_ui import tables
from mosaic_ui.compare import live as compare_live
from mosaic_ui.methods import METHOD_WORDS
from mosaic_ui.predictions import Asked
from mosaic_ui.studio import Studio

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5), name="Formula")
PLAIN = PLAN.to_json()
VISITOR = SimpleNamespace(session_hash="sharing")


class Sharing:
    """The panel of one page: what a choice sets, by name."""

    def __init__(self, workshop):
        self.studio = Studio(workshop, PLAN)
        self.panel, self.plan = self.studio.prune.sharing, self.studio.shared.plan

    def __call__(self, *choice, plan=PLAIN):
        return self.studio.prune.on_sharing(*choice, plan, "DDIM", 50, VISITOR)

    def refused(self, found):
        """Return the reason, where nothing but the controls and the reason is set."""
        assert set(found) == {*self.panel.controls, self.panel.note}
        return found[self.panel.note]


@pytest.fixture(scope="module")
def workshop(small_settings, tmp_path_factory):
    """Five blocks, so that sparing both ends leaves three to cut."""
    folder = make_pipeline(tmp_path_factory.mktemp("five"), blocks=5, heads=4, head_dim=8)
    return calibrated(folder, small_settings, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def sharing(workshop):
    return Sharing(workshop)


def test_every_method_of_a_plan_has_its_words():
    assert list(METHOD_WORDS) == list(METHOD_TITLES) == list(ALLOCATIONS)
    assert all(words.about.endswith(".") for words in METHOD_WORDS.values())


@pytest.mark.parametrize("method", ALLOCATIONS)
@pytest.mark.parametrize("run", [False, True])
def test_views_follow_a_choice_at_once(workshop, sharing, method, run):
    found = sharing(method, run, "macs", 16, True)
    after, note = StagePlan.from_json(found[sharing.plan]), found[sharing.panel.note]
    assert (after.allocation, after.scope, after.multiple, after.protect, after.name) == (
        method,
        "run" if run else "stage",
        16,
        1.0,
        "",
    )
    assert (
        "paper" not in note
        and "first and the last block lose nothing" in note
        and "a multiple of 16" in note
    )
    assert ("in all three stages" in note) == (run and method == "uniform") and "e+" not in note
    assert after.boundaries == PLAN.boundaries and after.sparsity == PLAN.sparsity
    kept = workshop.kept_share(after)
    assert (kept[:, [0, -1]] == 1).all() and (kept[:, 1:-1] < 1).all()
    mosaic = json.loads(found[sharing.studio.prune.mosaic]["figure"])
    assert mosaic["data"][0]["z"][0][-1] == 1.0
    assert ("The sliders show" in note) == run and tables.shared_words(
        after
    ).strip() in compare_live.plan_note(after).replace("&#x27;", "'")


def test_the_picture_is_of_the_networks_that_will_run(workshop, sharing):
    found = sharing("lagrangian", True, "macs", 0, False)
    after = StagePlan.from_json(found[sharing.plan])
    removed = [list(row) for row in workshop.sharing(after).removed]
    assert workshop.widths(after) == removed != workshop.widths(PLAN)


def test_the_same_choice_again_keeps_the_name_and_equal_shares_are_plain(sharing):
    equal = ("uniform", False, "macs", 0, False)
    assert sharing(*equal)[sharing.plan] == PLAIN
    back = sharing(*equal, plan=PLAIN | {"allocation": "dynamic"})[sharing.plan]
    assert StagePlan.from_json(back).plain and "allocation" not in back


def test_a_share_from_a_file_outlives_another_choice(sharing):
    found = sharing("log_ramp", False, "macs", 0, True, plan=PLAIN | {"protect": 0.5})
    assert found[sharing.plan]["protect"] == 0.5


CANNOT_BE = [
    ("best", False, "macs", 0, False),
    ("lagrangian", False, "macs", 7, False),
    ("lagrangian", False, "macs", None, False),
    (HOSTILE, False, "macs", 0, False),
    # the last: this device was not measured
    ("lagrangian", False, "money", 0, False),
    ("lagrangian", False, "latency", 0, False),
]


@pytest.mark.parametrize("choice", CANNOT_BE)
def test_what_cannot_be_is_said_and_the_plan_stays(sharing, choice):
    found = sharing(*choice)
    said = sharing.refused(found)
    shown = [found[control] for control in sharing.panel.controls]
    assert shown == ["uniform", False, "macs", 0, False]
    assert "The plan stays as it was." in said and harmless(said)


def test_sparing_every_block_cannot_do_the_work_of_equal_shares(
    model_folder, small_settings, tmp_path
):
    two = Workshop(
        load_checkpoint(model_folder, "cpu", dtype=torch.float32), small_settings, tmp_path
    )
    two.calibrate()
    of_two = Sharing(two)
    said = of_two.refused(of_two("lagrangian", False, "macs", 0, True))
    assert "The plan stays as it was." in said


def test_a_magnitude_baseline_cannot_be_shared_out(sharing):
    found = sharing("dynamic", False, "macs", 0, False, plan=PLAIN | {"method": "magnitude"})
    assert "baseline" in sharing.refused(found)


def test_before_a_calibration_only_equal_shares_work(model_folder, small_settings, tmp_path):
    fresh = Sharing(Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path))
    said = fresh.refused(fresh("lagrangian", False, "macs", 0, False))
    assert "alibrat" in said and "The plan stays as it was." in said


def test_a_plan_from_elsewhere_sets_the_controls(sharing):
    follow, panel = sharing.studio.prune.follow, sharing.panel
    other = StagePlan(
        (93, 550), (0.5, 0.25, 0.5), allocation="lagrangian", scope="run", multiple=16, protect=1.0
    )
    found = follow(Asked(other, "DDIM", 50), PLAN)
    assert [found.get(control) for control in panel.controls] == [
        "lagrangian",
        True,
        None,  # stands right already
        16,
        True,
    ]
    found = follow(Asked(PLAN.with_sparsity(0.1, 0.1, 0.1), "DDIM", 50), PLAN)
    assert not set(panel.controls) & set(found)
