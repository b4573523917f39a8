"""Run long work behind a button: progress while it runs, and a Stop that reaches it at once.

A blocking call (`calibrate`, `build`, `measure_latency`) runs in a thread of its own and reports
through a queue, so the handler stays a generator that can show each step. Stop sets an event that
the work looks at; the event is kept per browser session, because a visitor must be able to stop
their own job and no other.

A job that has to wait for another visitor's is kept as asked until its turn comes, so that its
visitor can withdraw it at once, while the queue still holds the event.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from core.errors import OutOfMemory, Stopped, StudioError, out_of_memory

from .remedies import page_sentence

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]  # done, total, words
_stops: dict[str, threading.Event] = {}
_latest: dict[str, Any] = {}
_asked: dict[str, Any] = {}

WAITING = "Waiting for the model; another run, yours or somebody else's, may be before this one."
# one model, so one heavy job at a time
MODEL_JOB = {"concurrency_limit": 1, "concurrency_id": "model"}

WITHDRAWN = "Stopped before its turn came: nothing was begun."


@dataclass(frozen=True)
class JobReport:
    """One report of a running job: `done` of `total`, in words."""

    done: int
    total: int
    text: str


def new_stop(session: str | None) -> threading.Event:
    """Return a fresh event for the job that begins now; `request_stop` of the session sets it."""
    stop = threading.Event()
    _stops[session or ""] = stop
    return stop


def request_stop(session: str | None) -> bool:
    """Ask the session's running job to stop; False when there is none to ask."""
    stop = _stops.get(session or "")
    if stop is None or stop.is_set():
        return False
    stop.set()
    return True


def finish(session: str | None, stop: threading.Event) -> None:
    """Forget the event of a job that is over, unless a newer job has taken the place."""
    if _stops.get(session or "") is stop:
        del _stops[session or ""]


@contextmanager
def stoppable(session: str | None) -> Iterator[threading.Event]:
    """Hold the Stop event of a job of this session while the job runs.

    However the job ends, also when the visitor closes the page, the event is set, so that no thread
    goes on working, and forgotten.
    """
    stop = new_stop(session)
    try:
        yield stop
    finally:
        stop.set()
        finish(session, stop)


def ask(key: str, what: Any) -> None:
    """Keep what waits for its turn; `key` names the session and the kind of job.

    Asked again before its turn, the newest counts.
    """
    _asked[key] = what


def take(key: str) -> Any | None:
    """Return what was asked for, now that its turn has come; None where it was withdrawn."""
    return _asked.pop(key, None)


def withdraw(*keys: str) -> bool:
    """Withdraw what waits under these keys; False when nothing waited."""
    return any([_asked.pop(key, None) is not None for key in keys])


def mark_latest(session: str | None, key: Any) -> None:
    """Remember what this session asked for last, so that a slow answer can see that it is late."""
    _latest[session or ""] = key


def is_latest(session: str | None, key: Any) -> bool:
    """Say whether nothing newer has been asked for."""
    return _latest.get(session or "", key) == key


def forget(session: str | None) -> None:
    """Stop what runs for a visitor who left and drop what was kept, also under `session/kind`."""
    name = session or ""
    for key in [k for k in [*_stops, *_asked, *_latest] if k == name or k.startswith(f"{name}/")]:
        request_stop(key)
        for kept in (_stops, _asked, _latest):
            kept.pop(key, None)


def failure(error: Exception, what: str) -> str:
    """Return the sentence for a job that ended in this error; `what` names the job.

    An error that was not foreseen is logged with its traceback.
    """
    if isinstance(error, (StudioError, Stopped)):
        return page_sentence(error) or "Stopped."
    if out_of_memory(error):
        return str(OutOfMemory.instead_of(error))
    log.error("%s failed", what, exc_info=error)
    if isinstance(error, OSError):  # whose own words name a file of the server
        return f"{what} failed: {error.strerror or type(error).__name__}."
    return (
        f"{what} failed: {(str(error).partition(chr(10))[0] or type(error).__name__).rstrip('.')}."
    )


def run_job(work: Callable[[Progress], Any]) -> Iterator[JobReport | Any]:
    """Run `work(progress)` in a thread; yield a `JobReport` per report and, last, its result.

    Its exception is raised here.
    """
    sent: queue.Queue[tuple[str, Any]] = queue.Queue()

    def report(done: int, total: int, text: str) -> None:
        sent.put(("report", JobReport(done, total, text)))

    def body() -> None:
        try:
            sent.put(("result", work(report)))
        except BaseException as error:  # handed to the caller's thread below, whatever it is
            sent.put(("error", error))

    threading.Thread(target=body, daemon=True).start()
    while True:
        kind, item = sent.get()
        # the page needs the newest report, not each of them
        while kind == "report" and not sent.empty():
            kind, item = sent.get()
        if kind == "error":
            raise item
        yield item
        if kind == "result":
            return


def reports(work: Callable[[Progress], Any]) -> Iterator[JobReport]:
    """Run `work(progress)` as `run_job` does; yield its reports only."""
    for item in run_job(work):
        if isinstance(item, JobReport):
            yield item
