"""Tell how far long work is, also while nothing comes of it, and what is prepared before it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from core.workshop.workshop import Workshop

from . import jobs, model_facts, tables
from .background import Ongoing

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
