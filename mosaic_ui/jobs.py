"""Run long work behind a button: progress while it runs, and a Stop that reaches it at once.

A blocking call (`calibrate`, `build`, `measure_latency`) runs in a thread of its own and reports
through a queue, so the handler stays a generator that can show each step. Stop sets an event that
the work looks at; the event is kept per browser session (`Visit`), because a visitor must be able
to stop their own job and no other.

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

from .background import LOOK_SECONDS, others_first
from .remedies import page_sentence

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]  # done, total, words

WAITING = "Waiting for the model: another run, yours or another visitor's, may come first."
# one model, so one heavy job at a time
MODEL_JOB = {"concurrency_limit": 1, "concurrency_id": "model"}

# places of their Stops: who reloads the page finds the run again (background.py)
COMPARISON, TUNE, SWEEP = "compare", "tune", "sweep"
GO_ON = (COMPARISON, TUNE, SWEEP)
STOPPING = "Stopping …"
WITHDRAWN = "Stopped while it was waiting: nothing was started."


class Withdrawn(Stopped):
    """The job was stopped while it waited, so nothing was started."""


@dataclass(frozen=True)
class JobReport:
    """One report of a running job: `done` of `total`, in words."""

    done: int
    total: int
    text: str


class Visit:
    """The jobs of one browser session: what waits, what runs, and what was asked for last."""

    def __init__(self) -> None:
        self._waiting: dict[str, Any] = {}  # kind of job -> what was asked for
        self._stops: dict[str, threading.Event] = {}  # place of a Stop button -> its running job's
        self._latest: list[Any] = []  # the question that was asked last, or nothing

    def ask(self, kind: str, what: Any) -> None:
        """Keep what waits for its turn; asked again before its turn, the newest counts."""
        self._waiting[kind] = what

    def take(self, kind: str) -> Any | None:
        """Return what was asked for, now that its turn has come; None where it was withdrawn."""
        return self._waiting.pop(kind, None)

    def waits(self, kind: str) -> bool:
        """Say whether something of this kind waits for its turn."""
        return kind in self._waiting

    def runs(self, place: str) -> bool:
        """Say whether a job runs whose Stop is at this place."""
        return place in self._stops

    def withdraw(self, *kinds: str) -> bool:
        """Withdraw what waits of these kinds; False when nothing waited."""
        return any([self._waiting.pop(kind, None) is not None for kind in kinds])

    @contextmanager
    def stoppable(self, place: str = "") -> Iterator[threading.Event]:
        """Hold the event of the Stop button at a place while its job runs.

        However the job ends, also when the visitor closes the page, the event is set, so that no
        thread goes on working, and forgotten, unless a newer job has taken the place.
        """
        stop = threading.Event()
        self._stops[place] = stop
        try:
            yield stop
        finally:
            stop.set()
            if self._stops.get(place) is stop:
                del self._stops[place]

    def request_stop(self, place: str = "") -> bool:
        """Ask the job that runs at a place to stop; False when there is none to ask."""
        stop = self._stops.get(place)
        if stop is None or stop.is_set():
            return False
        stop.set()
        return True

    def mark_latest(self, question: Any) -> None:
        """Remember what was asked for last, so that a slow answer can see that it is late."""
        self._latest = [question]

    def is_latest(self, question: Any) -> bool:
        """Say whether nothing newer has been asked for."""
        return self._latest in ([], [question])

    def leave(self) -> None:
        """Stop what runs, and drop what waits, as the visitor has left.

        A comparison, a tune and a sweep go on.
        """
        self._waiting.clear()
        for place in list(self._stops):
            if place not in GO_ON:
                self.request_stop(place)


_visits: dict[str, Visit] = {}


def visit(session: str | None) -> Visit:
    """Return the jobs of a browser session."""
    return _visits.setdefault(session or "", Visit())


def forget(session: str | None) -> None:
    """Stop what runs for a visitor who left, and drop what was kept."""
    left = _visits.pop(session or "", None)
    if left is not None:
        left.leave()


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


def run_job(
    work: Callable[[Progress], Any], stop: threading.Event | None = None
) -> Iterator[JobReport | Any]:
    """Run `work(progress)` in a thread; yield a `JobReport` per report and, last, its result.

    Its exception is raised here. It waits for what goes on without a page. A `stop` that
    is set is said here, in order with the reports: said by the handler of the Stop button, it could
    reach the page after the job's last words.
    """
    for kind in others_first():
        if stop is not None and stop.is_set():
            raise Withdrawn(WITHDRAWN)
        yield JobReport(0, 0, f"Waiting for a {kind} that goes on")
    sent: queue.Queue[tuple[str, Any]] = queue.Queue()

    def report(done: int, total: int, text: str) -> None:
        sent.put(("report", JobReport(done, total, text)))

    def body() -> None:
        try:
            sent.put(("result", work(report)))
        except BaseException as error:  # handed to the caller's thread below, whatever it is
            sent.put(("error", error))

    threading.Thread(target=body, daemon=True).start()
    said = False
    while True:
        kind, item = _newest(sent, None if said else stop)
        if kind == "error":
            raise item
        if kind == "result":
            yield item
            return
        if stop is None or not stop.is_set():
            yield item
        elif not said:
            said = True
            yield JobReport(0, 0, STOPPING)


def _newest(sent: queue.Queue, stop: threading.Event | None) -> tuple[str, Any]:
    """Wait for the next report or the end; a set `stop` ends the waiting.

    The page needs the newest report, not each of them.
    """
    kind, item = "", None
    while not kind:
        try:
            kind, item = sent.get(timeout=None if stop is None else LOOK_SECONDS)
        except queue.Empty:
            kind = "report" if stop is not None and stop.is_set() else ""
    while kind == "report" and not sent.empty():
        kind, item = sent.get()
    return kind, item


def reports(
    work: Callable[[Progress], Any], stop: threading.Event | None = None
) -> Iterator[JobReport]:
    """Run `work(progress)` as `run_job` does; yield its reports only."""
    for item in run_job(work, stop):
        if isinstance(item, JobReport):
            yield item
