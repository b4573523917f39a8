"""Calibrate in the background for the tour, so that its last steps are there when they are read.

It is the job of the button Calibrate, with the same files. It outlives the tour: what is measured
serves the whole page, and every visitor of it. What else wants the model meanwhile waits for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

from core.errors import Stopped, StudioError
from core.workshop.workshop import Workshop

from .. import background, jobs
from ..background import Ongoing
from ..text import about_seconds
from .experiments import Answer, can_calibrate
from .turns import BUSY

BINS_SHARE = 0.8  # of the number that is shown: the bins come first, then the removal orders
SURE = 0.2  # share of the work from which on the rest is foretold
STOPPED = "The calibration was stopped; what was finished is kept."
NOBODY = "the tour"  # the owner: no page of a visitor shows it as their own run


class Calibrating:
    """The one calibration that tours of a model have begun, and how far it is."""

    def __init__(self, workshop: Workshop):
        self.workshop = workshop
        self._lock = threading.Lock()
        self._one: Ongoing | None = None
        self._thread: threading.Thread | None = None
        self._share, self._began, self._failed = 0.0, 0.0, ""
        self._first: float | None = None  # share that was there when it began

    @property
    def wanted(self) -> bool:
        """Say whether the tour calibrates this model: it is small, and was not calibrated yet."""
        return not self.workshop.calibrated and can_calibrate(self.workshop)

    @property
    def going(self) -> bool:
        """Say whether it goes on."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> Answer:
        """Begin where nothing goes on; return `state`.

        Raises StudioError while something is timed, and for a model that is too large for a tour.
        """
        with self._lock:
            if not self.going and self.wanted:
                if background.ongoing():
                    raise StudioError(BUSY)
                self._share, self._failed, self._began = 0.0, "", time.perf_counter()
                self._first = None
                one = Ongoing("Calibration", self.workshop.name, kind="calibration", owner=NOBODY)
                one.left.set()  # no page listens, so whatever wants the model waits for it
                self._one = one
                views = background.followed(one, lambda: self._run(one), threading.Event())
                self._thread = threading.Thread(target=lambda: deque(views, 0), daemon=True)
                self._thread.start()
        return self.state()

    def stop(self) -> Answer:
        """Stop it; what is finished is kept."""
        if self._one is not None:
            self._one.stop.set()
        return self.state()

    def state(self) -> Answer:
        """Return {"going", "done", "share", "text"}, and "said" where it ended too early."""
        going, share = self.going, self._share
        found: Answer = {"going": going, "done": self.workshop.calibrated, "share": share}
        first = self._first or 0.0
        spent, worked = time.perf_counter() - self._began, (share - first) / max(1 - first, 1e-9)
        rest = spent * (1 - worked) / worked if worked >= SURE else None
        found["text"] = "" if rest is None else f"{about_seconds(max(1.0, rest))} left"
        return found | ({"said": self._failed} if self._failed and not going else {})

    def _run(self, one: Ongoing) -> Iterator[None]:
        def report(done: int, total: int, text: str) -> None:
            del text
            kept = self.workshop.bins_kept == self.workshop.settings.bins
            start, width = (BINS_SHARE, 1 - BINS_SHARE) if kept else (0.0, BINS_SHARE)
            self._share = max(self._share, start + width * done / max(1, total))
            self._first = self._share if self._first is None else self._first
            one.done, one.said = self._share, "Measuring the model once"

        yield  # a generator, as whoever reads a job expects one
        try:
            self.workshop.calibrate(report, one.stop)
        except Stopped:
            self._failed = STOPPED
        except Exception as error:  # said where it is asked about
            self._failed = jobs.failure(error, "The calibration")
