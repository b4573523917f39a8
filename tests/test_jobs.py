"""Long work behind a button: reports, exceptions, and a Stop that is each visitor's own."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from core.errors import Stopped, StudioError
from mosaic_ui import jobs


def test_two_visitors_stop_only_their_own_job():
    me, you = jobs.visit("me"), jobs.visit("you")
    with me.stoppable() as mine, you.stoppable() as yours:
        assert me.request_stop() and mine.is_set() and not yours.is_set()
        assert not me.request_stop() and not jobs.visit("nobody").request_stop()
        you.mark_latest("asked")
        assert me.is_latest("anything") and not you.is_latest("older")
        jobs.forget("you")
        assert yours.is_set() and not jobs.visit("you").request_stop()
        assert jobs.visit("you").is_latest("older")


def test_an_older_job_that_ends_late_leaves_the_newer_one_its_stop():
    me = jobs.visit("me")
    with ExitStack() as newer:
        with me.stoppable() as old:
            new = newer.enter_context(me.stoppable())
        assert old.is_set() and not new.is_set()
        assert me.request_stop() and new.is_set()
    assert not me.request_stop()


def test_a_job_reports_and_returns():
    seen = threading.Event()

    def work(report):
        report(1, 2, "half")
        return seen.wait(10)

    steps = jobs.run_job(work)
    assert next(steps) == jobs.JobReport(1, 2, "half")
    seen.set()
    assert list(steps) == [True]


@pytest.mark.parametrize("kind", [StudioError, Stopped, KeyError, MemoryError, SystemExit])
def test_a_jobs_exception_reaches_the_caller(kind):
    def work(report):
        report(1, 2, "half")
        raise kind("why")

    with pytest.raises(kind, match="why"):
        list(jobs.run_job(work))


def test_stop_reaches_a_running_job_in_its_thread():
    visit, where = jobs.visit("runner"), []

    def work(report):
        where.append(threading.current_thread())
        while not stop.is_set():
            report(0, 0, "working")
            time.sleep(0.002)
        raise Stopped("stopped")

    with pytest.raises(Stopped), visit.stoppable() as stop:
        for _ in jobs.run_job(work):
            visit.request_stop()
    jobs.forget("runner")
    assert where[0] is not threading.current_thread()


def test_a_stop_is_said_once_in_order_and_nothing_after_it():
    stop, go_on = threading.Event(), threading.Event()

    def work(report):
        report(1, 3, "one")
        assert go_on.wait(10)
        report(2, 3, "two")
        report(3, 3, "three")
        raise Stopped("stopped")

    steps = jobs.run_job(work, stop)
    assert next(steps) == jobs.JobReport(1, 3, "one")
    stop.set()
    assert next(steps) == jobs.JobReport(0, 0, jobs.STOPPING)  # while the work has no report
    go_on.set()
    with pytest.raises(Stopped):
        next(steps)


def test_what_waits_is_taken_once_the_newest_counts_and_it_can_be_withdrawn():
    me, you = jobs.visit("me"), jobs.visit("you")
    me.ask("prune", "old")
    me.ask("prune", "new")
    you.ask("prune", "yours")
    assert me.take("prune") == "new" and me.take("prune") is None
    me.ask("calibrate", "again")
    assert me.withdraw("calibrate", "prune") and not me.withdraw("calibrate")
    assert me.take("calibrate") is None
    jobs.forget("you")
    assert you.take("prune") is None and jobs.visit("you").take("prune") is None


def test_two_stop_buttons_of_one_visitor_reach_their_own_jobs():
    me = jobs.visit("me")
    with me.stoppable() as pruning, me.stoppable("compare") as comparing:
        assert me.request_stop("compare") and comparing.is_set() and not pruning.is_set()
        jobs.forget("me")
        assert pruning.is_set()
