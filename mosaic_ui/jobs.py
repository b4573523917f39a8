"""Long work behind a button: progress while it runs, and a Stop that reaches it at once.

A blocking call (`calibrate`, `build`, `measure_latency`) runs in a thread of its own and reports through a queue, so
the handler stays a generator that can show each step. Stop sets an event that the work looks at; the event is kept
per browser session, because a visitor must be able to stop their own job and nobody else's.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_stops: dict[str, threading.Event] = {}
_latest: dict[str, Any] = {}

MODEL_JOB = {"concurrency_limit": 1, "concurrency_id": "model"}  # one model, so one heavy job at a time


@dataclass(frozen=True)
class Step:
    """One report of a running job: `done` of `total`, in words."""

    done: int
    total: int
    text: str


def new_stop(session: str | None) -> threading.Event:
    """A fresh event for the job that begins now; `request_stop` of the same session sets it."""
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
    """The job is over: forget its event, unless a newer job has taken the place."""
    if _stops.get(session or "") is stop:
        del _stops[session or ""]


def mark_latest(session: str | None, key: Any) -> None:
    """Remember what this session asked for last, so that a slow answer can see that it is late."""
    _latest[session or ""] = key


def is_latest(session: str | None, key: Any) -> bool:
    """True while nothing newer has been asked for."""
    return _latest.get(session or "", key) == key


def forget(session: str | None) -> None:
    """A visitor left: stop what still runs for them and drop what was kept."""
    request_stop(session)
    _stops.pop(session or "", None)
    _latest.pop(session or "", None)


def run_job(work: Callable[[Callable[[int, int, str], None]], Any]) -> Iterator[Step | Any]:
    """Run `work(progress)` in a thread; yield a `Step` per report and, last, what it returned. Its exception is raised here."""
    reports: queue.Queue = queue.Queue()

    def body() -> None:
        try:
            reports.put(("result", work(lambda done, total, text: reports.put(("step", Step(done, total, text))))))
        except BaseException as error:  # handed to the caller's thread below, whatever it is
            reports.put(("error", error))

    threading.Thread(target=body, daemon=True).start()
    while True:
        kind, item = reports.get()
        while kind == "step" and not reports.empty():  # the page needs the newest report, not each of them
            kind, item = reports.get()
        if kind == "error":
            raise item
        yield item
        if kind == "result":
            return
