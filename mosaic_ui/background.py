"""Let a comparison, a tune or a sweep go on when its page is reloaded, closed or opened again.

It runs in a thread of its own. While its page listens, both go in step, as a generator and its
reader do; when the page leaves, the thread goes on alone. Any page can look at it and stop it,
where visitors are apart (visitors.py) any page of the same visitor.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TypeVar

from core.workshop.comparison import Comparison

from .visitors import visitor

T = TypeVar("T")
LOOK_SECONDS = 0.05  # how often a page that waits for the next view looks at its Stop
PATIENCE_SECONDS = 5.0  # after which a page that asks for nothing counts as left
TURN_SECONDS = 0.2
TUNE, SWEEP = "tune-", "sweep-"  # what the id of a tune or of a sweep begins with


@dataclass(eq=False)
class Ongoing:
    """One comparison that goes on in this process, or one job of another kind."""

    title: str  # what is compared, in words
    model: str
    id: str = ""  # of the kept run; empty where it could not be kept
    done: float = 0.0
    total: float = 1.0
    said: str = "Preparing both models"
    stop: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)  # no page listens any more
    thread: threading.Thread | None = None
    found: Comparison | None = None  # the pictures, while their times are measured
    kind: str = "comparison"
    owner: str = field(default_factory=visitor)  # who alone may look at it and stop it

    @property
    def runs(self) -> set[str]:
        """Return the ids of the kept runs that it works on now."""
        return {self.id}


_ongoing: list[Ongoing] = []
_turn = threading.Lock()  # one at a time, also of those whose page has left


def ongoing() -> list[Ongoing]:
    """Return what waits or runs in this process for who asks, the oldest first."""
    return [one for one in list(_ongoing) if one.owner == visitor()]


def stop_ongoing(id: str) -> bool:
    """Ask the comparison of a kept run to stop; False where this process runs none."""
    found = [one for one in ongoing() if one.id == id and not one.stop.is_set()]
    for one in found:
        one.stop.set()
    return bool(found)


def others_first() -> Iterator[str]:
    """Yield a kind again and again while one of that kind whose page has left has the model.

    The queue of the page knows nothing of it any more. A comparison does not wait for itself.
    """
    me, pause = threading.current_thread(), threading.Event()
    while True:
        others = [one for one in list(_ongoing) if one.left.is_set() and one.thread is not me]
        if not others:
            return
        yield others[0].kind
        pause.wait(TURN_SECONDS)


def followed(one: Ongoing, views: Callable[[], Iterator[T]], stop: threading.Event) -> Iterator[T]:
    """Run `views()` in a thread as `one`; yield what it yields as long as somebody reads.

    A set `stop` stops it while it is read; afterwards `one.stop` does. An exception is raised here.
    """
    sent: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue()
    read = threading.Semaphore(0)

    def body() -> None:
        try:
            with _own_turn(one):
                for view in views():
                    sent.put(("view", view))
                    if not one.left.is_set():
                        read.acquire(timeout=PATIENCE_SECONDS)
            sent.put(("end", None))
        except BaseException as error:  # handed to the reader, whatever it is
            sent.put(("error", error))
        finally:
            _ongoing.remove(one)

    if stop.is_set():
        one.stop.set()
    # in the context of the visitor, whose store it writes to
    one.thread = threading.Thread(target=copy_context().run, args=(body,), daemon=True)
    _ongoing.append(one)
    one.thread.start()
    try:
        while True:
            kind, item = _next(sent, one, stop)
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
            if stop.is_set():
                one.stop.set()
            read.release()
    finally:
        one.left.set()
        read.release()


@contextmanager
def _own_turn(one: Ongoing) -> Iterator[None]:
    """Hold the turn; without it goes what is stopped while it waits, as it will do nothing."""
    held = False
    while not held and not one.stop.is_set():
        held = _turn.acquire(timeout=TURN_SECONDS)
    try:
        yield
    finally:
        if held:
            _turn.release()


def _next(sent: queue.Queue, one: Ongoing, stop: threading.Event) -> tuple:
    """Return what was sent next; pass a Stop on while nothing is."""
    while True:
        try:
            return sent.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if stop.is_set():
                one.stop.set()
