"""Test a comparison as it runs: its progress, its last views, and what Stop leaves.

On a tiny model, without a browser.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.mosaic import adaln_table, runnable
from core.workshop.compare import compare
from core.workshop.comparison import Preview, SampleSettings
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare import pace, sides
from mosaic_ui.compare import run as compare_run
from mosaic_ui.predictions import Predictions

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55))


def test_progress_runs_once_from_nothing_to_all():
    settings = SampleSettings(labels=(0,) * 4, steps=10, repeats=2)
    walk = pace.overall(Preview("step", 5, 10, step=4, drawing=True), settings)
    timing = pace.overall(Preview("timing", 1, 2, timing=True), settings)
    assert walk[0] / walk[1] == pytest.approx(0.5 / 3) and timing[0] / timing[1] == pytest.approx(
        2 / 3
    )
    assert pace.overall(Preview("measuring", 0, 1), settings)[0] == 0
    assert pace.overall(Preview("batch", 3, 4), SampleSettings(labels=(0,) * 400)) == (3, 4)
    one_batch = replace(settings, labels=(0,) * 80)  # drawn whole, then timed
    done = [
        pace.overall(item, one_batch)[0]
        for item in (Preview("batch", 1, 1, drawing=True), Preview("timing", 0, 2, timing=True))
    ]
    assert done == [1, 1]


def last_live(updates) -> dict:
    *_, last = updates
    return last


@pytest.fixture(autouse=True)
def every_preview(monkeypatch):
    """Show every preview: how many come otherwise depends on the machine's speed."""
    monkeypatch.setattr(compare_run, "PREVIEW_SECONDS", 0)


def test_a_run_from_the_handler_to_the_views(workshop):
    settings = compare_inputs.checked_settings(
        workshop, compare_inputs.Wish(["thing 1"], 2, 0, 5, 1.5, "DDIM", 1)
    )
    request = compare_inputs.Request(settings, (None, PLAN), ("Dense", "Current plan"))
    updates = list(compare_run.stream(workshop, request, threading.Event()))
    assert any("<img" in str(update.get("live")) for update in updates[:-1])
    views = {name: str(v) for update in updates for name, v in update.items()}
    assert "Current plan" in views["verdict"] and "Dense" in views["verdict"]
    assert views["viewer"].count("<li ") == 3 * 2 and "sample 1: " in views["viewer"]
    # the pictures came before the times
    first = next(update for update in updates if "viewer" in update)
    assert "Not timed" in first["verdict"] and "Not timed" not in views["verdict"]
    assert [entry["title"] for entry in updates[-1]["past"]] and len(updates[-1]["past"]) == 1


def test_stop_leaves_partial_pictures_and_a_sentence(workshop, monkeypatch):
    monkeypatch.setattr(compare_run, "PREVIEW_SECONDS", 0)
    stop = threading.Event()
    settings = compare_inputs.checked_settings(
        workshop, compare_inputs.Wish([], 2, 0, 20, 1.5, "DDIM", 1)
    )
    seen = []
    for update in compare_run.stream(
        workshop, compare_inputs.Request(settings, (None, PLAN), ("Dense", "Current plan")), stop
    ):
        seen.append(str(update["live"]))
        if "<img" in seen[-1]:
            stop.set()
    assert "Stopped" in seen[-1] and "unfinished" in seen[-1] and seen[-1].count("<img") == 2
    assert str(seen[-1]).count("Stopped at step 1 of 20") == 1
    before = last_live(
        compare_run.stream(
            workshop,
            compare_inputs.Request(settings, (None, PLAN), ("Dense", "Current plan")),
            stop,
        )
    )
    assert "Press Compare to start again" in before["live"]


def stopped_at(workshop, n: int, words: str) -> str:
    """Return the last live view of a run of n images, stopped at a report with these words."""
    stop, request = (
        threading.Event(),
        compare_inputs.Request(
            SampleSettings(labels=(0,) * n, steps=5), (None, PLAN), ("Dense", "Current plan")
        ),
    )
    for update in compare_run.stream(workshop, request, stop):
        last = update.get("live", "")
        if words in str(last):
            stop.set()
    return last


def test_stop_while_timing_keeps_the_finished_pictures(workshop):
    stop = threading.Event()
    request = compare_inputs.Request(
        SampleSettings(labels=(0, 1), steps=5), (None, PLAN), ("Dense", "Current plan")
    )
    seen = {}
    for update in compare_run.stream(workshop, request, stop):
        seen |= update
        if "iming run 1 of 3" in str(update["live"] if "live" in update else ""):
            stop.set()
    assert "Stopped while timing. The pictures and their distance are finished" in seen["live"]
    assert "viewer" in seen and "Not timed" in seen["verdict"] and "dB PSNR" in seen["verdict"]


def test_the_timing_can_be_skipped_and_left_out(workshop):
    skip = threading.Event()
    for repeats, said in ((9, "Timing skipped after 0 of 9"), (0, "Not timed")):
        settings = SampleSettings(labels=(0,), steps=5, repeats=repeats)
        request = compare_inputs.Request(settings, (None, PLAN), ("Dense", "Mine"))
        for update in compare_run.stream(workshop, request, threading.Event(), skip):
            if "viewer" in update:
                skip.set()
        assert said in update["verdict"] and "is-doubtful" in update["verdict"]


def walked(done: int, denoiser: float) -> Preview:
    return Preview("step", done, 10, step=done - 1, drawing=True, denoiser=denoiser)


def timed(done: int) -> Preview:
    return Preview("timing", done, 3, timing=True)


SETTINGS_OF_TEN = SampleSettings(labels=(0,) * 4, steps=10, repeats=3)


def test_drawing_and_timing_are_foreseen_each_by_its_own_pace():
    """Ten steps of 2 s, half of it for the denoiser: 18 s of drawing, then three rounds of 10 s."""
    count = pace.Countdown(SETTINGS_OF_TEN, said=50.0)
    assert count.words(Preview("measuring", 0, 1), 80.0) == ""
    assert count.words(walked(1, 1.0), 100.0) == ""
    assert count.words(walked(2, 2.0), 102.0) == "; about 46 s left"  # 8 x 2 + 3 x 10
    assert count.words(walked(10, 10.0), 118.0) == "; about 30 s left"
    assert count.walk == pytest.approx(20.0)
    assert count.words(timed(0), 120.0) == "; about 30 s left"
    assert count.words(timed(1), 129.0) == "; about 18 s left"  # its own pace: 9 s a round


def test_the_time_that_is_left_grows_only_with_a_word():
    count = pace.Countdown(SETTINGS_OF_TEN, said=20.0)
    count.words(walked(1, 1.0), 0.0)
    assert count.words(walked(2, 2.0), 1.0) == "; longer than predicted: about 38 s left"
    slow = pace.Countdown(SETTINGS_OF_TEN)  # nothing was said before
    slow.words(walked(1, 1.0), 0.0)
    assert slow.words(walked(2, 2.0), 1.0) == "; about 38 s left"
    assert slow.words(walked(3, 3.3), 2.2) == "; about 38 s left"  # 41 by the pace
    assert "longer than predicted: about 72 s" in slow.words(walked(4, 8.0), 6.0)


def test_a_large_set_is_foreseen_by_its_batches():
    count = pace.Countdown(SampleSettings(labels=(0,) * 400, steps=10))
    batches = [(0, 0), (0, 5), (1, 10), (1, 15), (2, 20)]
    said = [count.words(Preview("b", done, 4, drawing=True), now) for done, now in batches]
    assert said == ["", "", *(f"; about {left} s left" for left in (30, 25, 20))]


def test_what_the_last_comparison_took_corrects_the_next_prediction(workshop):
    settings = SampleSettings(labels=(0,) * 4, steps=5, repeats=2)
    plans = (None, PLAN)
    *_, last = compare(workshop, *plans, settings)
    pace.forget(workshop)  # what other tests made it learn
    before = pace.foreseen(workshop, plans, settings)
    assert not before.learned and before.found.when.startswith("20")
    for side in (last.a, last.b):  # 1 s was predicted, 2 s were measured
        side.predicted_seconds, side.step_seconds = [0.2] * 5, [[0.4] * 5] * 2
    try:
        pace.learn(workshop, last, walk=6.0)
        after = pace.foreseen(workshop, plans, settings)
    finally:
        pace.forget(workshop)
    assert after.learned
    assert after.found.pictures == pytest.approx(3 * before.found.pictures)
    assert after.found.timing == pytest.approx(2 * before.found.timing)


def test_an_earlier_result_stays_when_a_newer_one_comes(workshop):
    past = []
    for seed in range(6):
        settings = SampleSettings(labels=(0,), steps=3, repeats=0, seed=seed)
        request = compare_inputs.Request(settings, (None, PLAN), ("Dense", "Mine"), PLAN)
        *_, last = compare_run.stream(workshop, request, threading.Event(), None, past)
        past = last["past"]
    assert len(past) == compare_run.KEPT
    assert last["earlier"].count("<details>") == compare_run.KEPT - 1
    assert [f"seed {n}" in last["earlier"] for n in range(6)] == [False] * 2 + [True] * 3 + [False]
    assert last["made"]["plan"] == PLAN.to_json()


def test_stop_in_a_large_set_says_the_batch(workshop):
    assert (
        "Stopped at step 1 of 5 of batch 2 of 3; 100 of 300 images of each side were made."
        in stopped_at(workshop, 300, "Batch 1 of 3, 100")
    )
    assert "Stopped at step 1 of 5 of batch 1 of 3. Press" in stopped_at(
        workshop, 300, "arming both sides up"
    )


def test_a_refusal_or_an_early_stop_leaves_the_earlier_results_in_sight(workshop):
    impossible = StagePlan((93, 550), (0.9, 0.9, 0.9), allocation="lagrangian", protect=1.0)
    request = compare_inputs.Request(
        SampleSettings(labels=(0, 1), steps=5), (None, impossible), ("Dense", "Uploaded plan")
    )
    updates = list(compare_run.stream(workshop, request, threading.Event()))
    assert "is-bad" in updates[-1]["live"]
    assert all(set(update) == {"live"} for update in updates)


def test_an_upload_that_no_network_can_be_made_of_is_refused_at_once(workshop):
    timesteps = Predictions(workshop).visited("DDIM", 50)
    with pytest.raises(StudioError, match="can lose at most"):
        sides.checked_plan(
            workshop,
            StagePlan((93, 550), (0.9, 0.9, 0.9), allocation="lagrangian", protect=1.0),
            timesteps,
        )
    with pytest.raises(StudioError, match="100 training timesteps"):
        sides.checked_plan(
            workshop, StagePlan((9, 55), (0.5, 0.5, 0.5), num_train_timesteps=100), timesteps
        )
    timed = StagePlan((93, 550), (0.5, 0.5, 0.5), allocation="lagrangian", costs="latency")
    # a run times the layers first
    assert sides.checked_plan(workshop, timed, timesteps) is timed


def test_one_budget_is_judged_by_the_steps_it_will_run_with(workshop):
    """Half of this model can go at most, as every block is an end.

    Few steps fall where little is asked for, or many.
    """
    plan = StagePlan((93, 550), (0.1, 0.9, 0.1), scope="run", protect=0.5, stage_steps=(0, 1, 0))
    # the file's own steps do not count
    assert sides.checked_plan(workshop, plan, [50.0] * 3 + [300.0]) is plan
    with pytest.raises(StudioError, match="can lose at most"):
        sides.checked_plan(workshop, plan, [50.0] + [300.0] * 3)


def test_a_table_on_both_sides_is_the_default_and_changes_rounding_only(workshop, monkeypatch):
    made, vectors = [], runnable.step_vectors
    monkeypatch.setattr(
        runnable, "step_vectors", lambda *given: made.append(given) or vectors(*given)
    )
    settings = SampleSettings(labels=(1, 2) * 2, steps=6, repeats=1)
    table, plain = (
        [*compare(workshop, None, PLAN, s)][-1]
        for s in (settings, replace(settings, tabulate=False))
    )
    for a, b in ((plain.a, table.a), (plain.b, table.b)):
        assert (a.latents - b.latents).abs().max() < 1e-5 * a.latents.abs().max()
        assert a.predicted_seconds and b.predicted_seconds and b.macs < a.macs
        # 18 pairs of 6 steps and 3 labels, in a product of 32 rows, in the place of 48 rows
        assert a.macs - b.macs == (48 - 32) * workshop.macs.conditioning
    # the first call makes them, so it is predicted to take longer
    first, *others = table.a.predicted_seconds
    assert first > others[0] and len(set(others)) == 1
    assert table.to_json()["tabulated"] and not plain.to_json()["tabulated"]
    assert table.notes == plain.notes == ""
    assert table.speedup_predicted is not None
    rows = table.to_json()["stages"]
    assert all(row["a_predicted"] and row["b_predicted"] for row in rows)
    # each side once while it is watched and once while it is timed, and never without
    # being asked for
    assert len(made) == 4


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_sparsity_zero_has_the_bits_of_dense_with_a_table(workshop, guidance):
    settings = SampleSettings((1, 2, 1), steps=6, repeats=0, guidance=guidance)
    *_, found = compare(workshop, None, PLAN.with_sparsity(0, 0, 0), settings)
    assert found.settings.tabulate and torch.equal(found.a.latents, found.b.latents)


def test_a_table_that_would_be_too_large_is_left_out_on_both_sides(workshop, monkeypatch):
    """What is said, counted and predicted is what ran."""
    # 3 labels in 6 steps of 2 blocks, 64 wide
    monkeypatch.setattr(adaln_table, "TABLE_BYTES", 6 * 2 * 6 * 64 * 4 * 3)
    fits = SampleSettings(labels=(1, 2, 1, 2), steps=6, repeats=1)
    found = [*compare(workshop, None, PLAN, fits)][-1]
    assert found.notes == "" and found.settings.tabulate
    wider = replace(fits, labels=(1, 2, 3, 2))
    found = [*compare(workshop, None, PLAN, wider)][-1]
    assert "4 different labels" in found.notes and "too large, 3 labels fit." in found.notes
    assert not found.settings.tabulate and not found.to_json()["tabulated"]
    assert found.a.macs == workshop.forward_macs[0] * 2 * 4 * 6 and found.a.predicted_seconds
    # sides of different steps: where one side's table is too large, the other side has none either
    uneven = replace(fits, side_steps=(12, 6))
    found = [*compare(workshop, None, PLAN, uneven)][-1]
    assert "12 steps" in found.notes and not found.settings.tabulate


@pytest.mark.parametrize("wish", ["yes", None, 1])
def test_a_table_is_wanted_or_not(workshop, wish):
    with pytest.raises(StudioError, match="yes or no"):
        compare_inputs.checked_settings(
            workshop, compare_inputs.Wish([], 2, 0, 5, 1.5, "DDIM", 1, "", None, wish)
        )


SETTINGS = {
    "asked": [],
    "images": 2,
    "seed": 0,
    "steps": 5,
    "guidance": 1.5,
    "scheduler": "DDIM",
    "repeats": 1,
}
BAD = [
    ("images", 600, "Images"),
    ("images", None, "Images"),
    ("images", 1.5, "Images"),
    ("seed", -1, "Seed"),
    ("seed", None, "Seed"),
    ("seed", 1.5, "Seed"),
    ("steps", 0, "Sampling steps"),
    ("guidance", 0, "Guidance"),
    ("guidance", 50, "Guidance"),
    ("guidance", True, "Guidance"),
    ("repeats", -1, "Timing repeats"),
]


@pytest.mark.parametrize("name, value, box", BAD)
def test_a_refused_setting_names_its_box(workshop, name, value, box):
    with pytest.raises(StudioError, match=f"^{box} must be"):
        compare_inputs.checked_request(
            Predictions(workshop),
            compare_inputs.Sides("Dense", None, "Formula", None, PLAN),
            compare_inputs.Wish(**SETTINGS | {name: value}),
        )


def test_a_request_carries_own_steps_and_the_plan_it_follows(workshop):
    def ask(a, b):
        sides = compare_inputs.Sides(a, None, b, PLAN, PLAN.with_boundaries(50, 600))
        wish = compare_inputs.Wish(**SETTINGS | {"steps": 20})
        return compare_inputs.checked_request(Predictions(workshop), sides, wish)

    fewer = ask("Dense, fewer steps (same MACs)", "Current plan")
    assert fewer.settings.side_steps[1] == 20 > fewer.settings.side_steps[0]
    assert fewer.names[0] == f"Dense, {fewer.settings.side_steps[0]} steps"
    assert fewer.in_hand.boundaries == (50, 600) and fewer.plans[0] is None
    plain = ask("Dense", "Uploaded plan")
    assert plain.settings.side_steps is None and plain.in_hand is None
