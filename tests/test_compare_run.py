"""A comparison as it runs: its progress, its last views, and what Stop leaves. On a tiny model, without a browser."""

from __future__ import annotations

import threading

import pytest

from core.comparison import Preview, SampleSettings
from core.plan import StagePlan
from mosaic_ui import compare_inputs, compare_run

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55))


def test_progress_runs_once_from_nothing_to_all():
    settings = SampleSettings(labels=(0,) * 4, steps=10, repeats=2)
    walk = compare_run.overall(Preview("step", 5, 10, step=4), settings, True)
    timing = compare_run.overall(Preview("timing", 1, 2), settings, True)
    assert walk[0] / walk[1] == pytest.approx(0.5 / 3) and timing[0] / timing[1] == pytest.approx(2 / 3)
    assert compare_run.overall(Preview("measuring", 0, 1), settings, False)[0] == 0
    assert compare_run.overall(Preview("batch", 3, 4), SampleSettings(labels=(0,) * 400), False) == (3, 4)


def last_live(updates) -> tuple:
    *_, last = updates
    return last


def test_a_run_from_the_handler_to_the_views(workshop):
    settings = compare_inputs.checked_settings(workshop, ["thing 1"], 2, 0, 5, 1.5, "DDIM", 1)
    request = compare_inputs.Request(settings, (None, PLAN), ("Dense", "Current plan"))
    updates = list(compare_run.stream(workshop, request, threading.Event()))
    assert any("<img" in str(update[0]) for update in updates[:-1])
    views = [str(view) for view in updates[-1]]
    assert "Current plan" in views[2] and "Dense" in views[2] and "Left: A · Dense" in views[3] and len(views) == 10


def test_stop_leaves_partial_pictures_and_a_sentence(workshop):
    stop = threading.Event()
    settings = compare_inputs.checked_settings(workshop, [], 2, 0, 20, 1.5, "DDIM", 1)
    seen = []
    for update in compare_run.stream(workshop, compare_inputs.Request(settings, (None, PLAN), ("Dense", "Current plan")), stop):
        seen.append(str(update[0]))
        if "<img" in seen[-1]:
            stop.set()
    assert "Stopped" in seen[-1] and "unfinished" in seen[-1] and seen[-1].count("<img") == 2
    before = last_live(compare_run.stream(workshop, compare_inputs.Request(settings, (None, PLAN), ("Dense", "Current plan")), stop))
    assert "Press Compare to start again" in before[0]
