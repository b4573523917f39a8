"""Long work behind a button: reports, exceptions, and a Stop that is each visitor's own."""

from __future__ import annotations

import threading
import time

import pytest

from core.errors import Stopped, StudioError
from mosaic_ui import jobs


def test_two_visitors_stop_only_their_own_job():
    mine, yours = jobs.new_stop("me"), jobs.new_stop("you")
    assert jobs.request_stop("me") and mine.is_set() and not yours.is_set()
    assert not jobs.request_stop("me") and not jobs.request_stop("nobody")
    newer = jobs.new_stop("me")
    jobs.finish("me", mine)  # the older job ends late: the newer one keeps its Stop
    assert jobs.request_stop("me") and newer.is_set()
    jobs.finish("me", newer)
    jobs.mark_latest("you", "asked")
    assert jobs.is_latest("me", "anything") and not jobs.is_latest("you", "older")
    jobs.forget("you")
    assert yours.is_set() and not jobs.request_stop("you") and jobs.is_latest("you", "older")


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
    stop, where = jobs.new_stop("runner"), []

    def work(report):
        where.append(threading.current_thread())
        while not stop.is_set():
            report(0, 0, "working")
            time.sleep(0.002)
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        for _ in jobs.run_job(work):
            jobs.request_stop("runner")
    jobs.forget("runner")
    assert where[0] is not threading.current_thread()


def test_what_waits_is_taken_once_the_newest_counts_and_it_can_be_withdrawn():
    jobs.ask("me/prune", "old")
    jobs.ask("me/prune", "new")
    jobs.ask("you/prune", "yours")
    assert jobs.take("me/prune") == "new" and jobs.take("me/prune") is None
    jobs.ask("me/calibrate", "again")
    assert (
        jobs.withdraw("me/calibrate", "me/prune")
        and not jobs.withdraw("me/calibrate")
        and jobs.take("me/calibrate") is None
    )
    jobs.forget("you")
    assert jobs.take("you/prune") is None
