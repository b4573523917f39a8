"""Let one small run of the tour go on at a time, and stop those that nobody waits for any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import Stopped, StudioError

from .. import background

MOST_VISITORS = 64  # whose running question is remembered
LOOK_SECONDS = 0.1
BUSY = (
    "A comparison or a search is running on this machine, and the tour would spoil its times:"
    " come back to this step when it has ended."
)

_one = threading.Lock()  # one model, so one run at a time, whoever asks


class Turns:
    """The newest question of every open tour; a newer one, or leaving, stops the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: dict[str, threading.Event] = {}

    def leave(self, visitor: str) -> None:
        """Stop what runs for a visitor who has left the tour."""
        with self._lock:
            stop = self._stops.pop(visitor, None)
        if stop is not None:
            stop.set()

    @contextmanager
    def turn(self, visitor: str) -> Iterator[threading.Event]:
        """Wait for the model and hold it; yield the event that stops this question.

        Raises Stopped where a newer question came meanwhile, StudioError while something is timed.
        """
        stop = threading.Event()
        with self._lock:
            before = self._stops.pop(visitor, None)
            self._stops[visitor] = stop
            while len(self._stops) > MOST_VISITORS:
                self._stops.pop(next(iter(self._stops))).set()
        if before is not None:
            before.set()
        while not _one.acquire(timeout=LOOK_SECONDS):
            if stop.is_set():
                raise Stopped
        try:
            if stop.is_set():
                raise Stopped
            if background.ongoing():
                raise StudioError(BUSY)
            yield stop
        finally:
            _one.release()
            with self._lock:
                if self._stops.get(visitor) is stop:
                    del self._stops[visitor]
