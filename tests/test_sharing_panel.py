"""How layers share the cut, as the page's handlers answer it: views follow at once, what cannot be
leaves the plan alone.
"""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from conftest import make_pipeline
from hostile import HOSTILE, harmless

from core.curves.plan import ALLOCATIONS, StagePlan
from core.models.checkpoints import load_checkpoint
from core.workshop.workshop import Workshop
from mosaic_ui import tables
from mosaic_ui.compare import live as compare_live
from mosaic_ui.prune import sharing_panel
from mosaic_ui.studio import build_studio

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5), name="Formula")
PLAIN = PLAN.to_json()
VISITOR = SimpleNamespace(session_hash="sharing")
SKIP = str(gr.skip())


def handler(workshop):
    (fn,) = {f.fn for f in build_studio(workshop, PLAN).fns.values() if f.name == "on_sharing"}
    return fn


@pytest.fixture(scope="module")
def workshop(small_settings, tmp_path_factory):
    """Five blocks, so that sparing both ends leaves three to cut."""
    folder = make_pipeline(tmp_path_factory.mktemp("five"), blocks=5, heads=4, head_dim=8)
    shop = Workshop(
        load_checkpoint(folder, "cpu", dtype=torch.float32),
        small_settings,
        tmp_path_factory.mktemp("cache"),
    )
    shop.calibrate()
    return shop


@pytest.fixture(scope="module")
def on_sharing(workshop):
    return handler(workshop)


def test_every_method_of_a_plan_has_its_words():
    assert list(sharing_panel.METHODS) == list(ALLOCATIONS) == list(tables.SHARED_BY)
    assert all(words.endswith(".") for _, words in sharing_panel.METHODS.values())


@pytest.mark.parametrize("method", ALLOCATIONS)
@pytest.mark.parametrize("run", [False, True])
def test_views_follow_a_choice_at_once(workshop, on_sharing, method, run):
    found = on_sharing(method, run, "macs", 16, True, PLAIN, "DDIM", 50, VISITOR)
    after = StagePlan.from_json(found[0])
    assert (after.allocation, after.scope, after.multiple, after.protect, after.name) == (
        method,
        "run" if run else "stage",
        16,
        1.0,
        "",
    )
    assert (
        "paper" not in found[-1]
        and "first and the last block lose nothing" in found[-1]
        and "multiples of 16" in found[-1]
    )
    assert ("in all three stages" in found[-1]) == (
        run and method == "uniform"
    ) and "e+" not in found[-1]
    assert after.boundaries == PLAN.boundaries and after.sparsity == PLAN.sparsity
    kept = workshop.kept_share(after)
    assert (kept[:, [0, -1]] == 1).all() and (kept[:, 1:-1] < 1).all()
    mosaic = next(v["figure"] for v in found if isinstance(v, dict) and "figure" in v)
    assert mosaic["data"][0]["z"][0][-1] == 1.0
    assert ("The sliders say" in found[-1]) == run and tables.shared_words(
        after
    ).strip() in compare_live.plan_note(after).replace("&#x27;", "'")


def test_the_picture_is_of_the_networks_that_will_run(workshop, on_sharing):
    found = on_sharing("lagrangian", True, "macs", 0, False, PLAIN, "DDIM", 50, VISITOR)
    removed = workshop.sharing(StagePlan.from_json(found[0])).removed
    assert (
        workshop.widths(StagePlan.from_json(found[0]))
        == [list(row) for row in removed]
        != workshop.widths(PLAN)
    )


def test_the_same_choice_again_keeps_the_name_and_equal_shares_are_plain(on_sharing):
    assert on_sharing("uniform", False, "macs", 0, False, PLAIN, "DDIM", 50, VISITOR)[0] == PLAIN
    back = on_sharing(
        "uniform", False, "macs", 0, False, PLAIN | {"allocation": "dynamic"}, "DDIM", 50, VISITOR
    )
    assert StagePlan.from_json(back[0]).plain and "allocation" not in back[0]


def test_a_share_from_a_file_outlives_another_choice(on_sharing):
    found = on_sharing(
        "log_ramp", False, "macs", 0, True, PLAIN | {"protect": 0.5}, "DDIM", 50, VISITOR
    )
    assert found[0]["protect"] == 0.5


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
def test_what_cannot_be_is_said_and_the_plan_stays(on_sharing, choice):
    found = on_sharing(*choice, PLAIN, "DDIM", 50, VISITOR)
    assert {str(view) for view in found[:-6]} == {SKIP} and found[-6:-1] == (
        "uniform",
        False,
        "macs",
        0,
        False,
    )
    assert "The plan stays as it was." in found[-1] and harmless(found[-1])


def test_sparing_every_block_cannot_do_the_work_of_equal_shares(
    model_folder, small_settings, tmp_path
):
    two = Workshop(
        load_checkpoint(model_folder, "cpu", dtype=torch.float32), small_settings, tmp_path
    )
    two.calibrate()
    found = handler(two)("lagrangian", False, "macs", 0, True, PLAIN, "DDIM", 50, VISITOR)
    assert {str(view) for view in found[:-6]} == {SKIP} and "The plan stays as it was." in found[-1]


def test_a_magnitude_baseline_cannot_be_shared_out(on_sharing):
    found = on_sharing(
        "dynamic", False, "macs", 0, False, PLAIN | {"method": "magnitude"}, "DDIM", 50, VISITOR
    )
    assert str(found[0]) == SKIP and "baseline" in found[-1]


def test_before_a_calibration_only_equal_shares_work(model_folder, small_settings, tmp_path):
    ask = handler(Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path))
    found = ask("lagrangian", False, "macs", 0, False, PLAIN, "DDIM", 50, VISITOR)
    assert str(found[0]) == SKIP and "press Calibrate. The plan stays as it was." in found[-1]


def test_a_plan_from_elsewhere_sets_the_controls(workshop):
    follow = [f.fn for f in build_studio(workshop, PLAN).fns.values() if f.name == "follow"][1]
    other = StagePlan(
        (93, 550), (0.5, 0.25, 0.5), allocation="lagrangian", scope="run", multiple=16, protect=1.0
    ).to_json()
    assert follow(other, PLAIN, "DDIM", 50)[-6:-1] == ("lagrangian", True, gr.skip(), 16, True)
    assert [
        str(v)
        for v in follow(PLAN.with_sparsity(0.1, 0.1, 0.1).to_json(), PLAIN, "DDIM", 50)[-6:-1]
    ] == [SKIP] * 5
