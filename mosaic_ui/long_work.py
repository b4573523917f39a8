"""Tell how far long work is, also while nothing comes of it, and what is prepared before it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from core.errors import Stopped
from core.workshop.workshop import Workshop

from . import background, jobs, model_facts, tables
from .background import Ongoing
from .remedies import page_sentence

T = TypeVar("T")
TICK_SECONDS = 1.0  # how often the time is told while nothing else is
WAITS = "It goes on; what is asked for meanwhile waits for it."


def progress_html(one: Ongoing) -> str:
    """Write how far something is that goes on."""
    return tables.progress(int(100 * one.done), int(100 * one.total), one.said)


def told(
    workshop: Workshop, one: Ongoing, what: str, work: Callable[[jobs.Progress], object]
) -> Iterator[str]:
    """Do something before `one`, whose title is `what`; yield its progress as HTML."""

    def body(put: Callable[[tuple[int, int, str]], None]) -> None:
        work(lambda done, total, text: put((done, total, text)))

    last = (0, 0, "")
    for report in ticking(body):
        last = last if report is None else report
        done, total, text = last
        words = model_facts.without_paths(workshop, text)
        one.said = f"{what}: {words}" if words else what
        one.done, one.total = done, total or 1
        yield progress_html(one)


def ticking(
    work: Callable[[Callable[[T], None]], object], every: float = TICK_SECONDS
) -> Iterator[T | None]:
    """Run `work(put)` in a thread; yield what it puts, and None where nothing comes for a while.

    Its exception is raised here.
    """
    sent: queue.Queue[tuple[str, Any]] = queue.Queue()

    def body() -> None:
        try:
            work(lambda item: sent.put(("item", item)))
            sent.put(("end", None))
        except BaseException as error:  # handed to the reader, whatever it is
            sent.put(("error", error))

    threading.Thread(target=body, daemon=True).start()
    while True:
        try:
            kind, item = sent.get(timeout=every)
        except queue.Empty:
            kind, item = "item", None
        if kind == "error":
            raise item
        if kind == "end":
            return
        yield item


def to_the_end(
    views: Iterator[dict[str, Any]], broken_off: Callable[[str], dict[str, Any]], what: str
) -> Iterator[dict[str, Any]]:
    """Yield the views of long work, and what is left of it where it is stopped or breaks.

    broken_off: makes the last views of a sentence as HTML. what: its name, as in "The tune".
    """
    try:
        yield from views
    except Stopped as stopped:
        yield broken_off(tables.message(page_sentence(stopped) or "Stopped."))
    except Exception as error:  # whatever it is, what is done stays
        yield broken_off(tables.message(jobs.failure(error, what), "bad"))


def stop_shown(session: str | None, kind: str, going: Callable[[], Ongoing | None]) -> bool:
    """Withdraw a page's work that waits, or stop the work that is shown, whoever began it.

    Return whether it was withdrawn. going: finds the work of this kind that runs, if any.
    """
    visit = jobs.visit(session)
    if visit.withdraw(kind):
        return True
    if not visit.request_stop(kind):
        one = going()
        if one is not None:
            background.stop_ongoing(one.id)
    return False
