"""Every comparison is kept, and the Runs tab does with the kept ones what it says."""

from __future__ import annotations

import threading
import time

import pytest

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.runs.store import RunStore
from core.workshop.comparison import SampleSettings
from mosaic_ui import background, jobs
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare import run as compare_run
from mosaic_ui.runs import record

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55))
WAIT = 60.0  # seconds


@pytest.fixture
def store(tmp_path, monkeypatch) -> RunStore:
    """Give the page an empty store of its own."""
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path / "data"))
    return record.store()


def asked(n: int = 2, steps: int = 4, plan: StagePlan = PLAN) -> compare_inputs.Request:
    settings = SampleSettings(labels=(0,) * n, steps=steps, repeats=1)
    return compare_inputs.Request(settings, (None, plan), ("Dense", "Current plan"))


def until(true, seconds: float = WAIT) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# ------------------------------------------------------------ every comparison is kept


def test_a_comparison_is_kept_while_it_runs_and_when_it_ends(workshop, store):
    states = []
    for _ in compare_run.stream(workshop, asked(), threading.Event()):
        states += [run.status for run in store.runs()]
    (run,) = store.runs()
    assert states[0] == "running" and run.status == "finished"
    assert (run.a.name, run.b.name, run.model_key) == ("Dense", "Current plan", workshop.model_key)
    assert run.b.plan == PLAN and store.comparison(run.id).timed_runs == 1


def test_a_stopped_and_a_failed_comparison_are_kept_with_their_sentence(workshop, store):
    stop = threading.Event()
    for view in compare_run.stream(workshop, asked(steps=20), stop):
        if "<img" in str(view["live"]):
            stop.set()
    impossible = StagePlan((93, 550), (0.9,) * 3, allocation="lagrangian", protect=1.0)
    list(compare_run.stream(workshop, asked(plan=impossible), threading.Event()))
    failed, stopped = store.runs()
    assert stopped.status == "stopped" and "Stopped at step" in stopped.sentence
    assert failed.status == "failed" and "can lose at most" in failed.sentence


def test_progress_is_written_down_at_most_once_a_second(workshop, store, monkeypatch):
    beats = []
    monkeypatch.setattr(RunStore, "beat", lambda self, *told: beats.append(told))
    kept = record.Record(workshop, asked())
    kept.begin()
    for share in (0.1, 0.2, 0.3):
        kept.beat(share, "step")
    assert beats == [(kept.id, 100, 1000, "step")]


def test_a_full_disk_is_one_sentence_and_the_result_stays(workshop, store, monkeypatch):
    def full(*_, **__):
        raise StudioError("This could not be kept (the disk is full): make room.")

    for name in ("begin", "beat", "finish", "add", "end"):
        monkeypatch.setattr(RunStore, name, full)
    *_, last = compare_run.stream(workshop, asked(), threading.Event())
    assert "Current plan" in last["verdict"] and last["results"]["visible"]
    assert last["live"]["visible"] and "the disk is full" in last["live"]["value"]
    assert "is not among the kept runs" in last["live"]["value"]


def test_a_run_goes_on_when_its_page_leaves_and_any_page_can_stop_it(workshop, store):
    jobs.visit("reader")
    with jobs.visit("reader").stoppable(jobs.COMPARISON) as stop:
        views = compare_run.stream(workshop, asked(n=4, steps=400), stop)
        next(views)
        next(views)
        jobs.forget("reader")
        assert not stop.is_set()
        views.close()
    (run,) = store.running()
    (one,) = background.ongoing()
    assert one.id == run.id and not one.stop.is_set() and one.title == "Dense against Current plan"
    before = one.done
    until(lambda: one.done > before)
    waiting = jobs.run_job(lambda progress: "done")
    assert next(waiting).text == "Waiting for a comparison that goes on"
    assert background.stop_ongoing(run.id) and not background.stop_ongoing(run.id)
    assert list(waiting)[-1] == "done"
    until(lambda: store.get(run.id).status != "running")
    assert store.get(run.id).status == "stopped" and not background.ongoing()


def test_a_run_whose_page_has_left_ends_and_is_kept(workshop, store):
    views = compare_run.stream(workshop, asked(), threading.Event())
    next(views)
    views.close()
    until(lambda: [run.status for run in store.runs()] == ["finished"])
    until(lambda: not background.ongoing())
