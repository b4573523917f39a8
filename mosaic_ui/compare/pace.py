"""Say how long a comparison still goes on, from its own pace, and remember that for the next one.

Drawing the pictures and timing have different paces, as only the first one decodes pictures. No
Gradio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.workshop.comparison import BATCH, Comparison, Preview, SampleSettings
from core.workshop.estimate import Estimate, estimate
from core.workshop.workshop import Workshop

from ..text import about_seconds

LEAST_SECONDS = 1.0  # of a part, before its pace counts
# share and seconds beyond what was said before, from which on a run takes longer than predicted
LATE_SHARE, LATE_SECONDS = 0.25, 2.0
LEAST_PREDICTED = 0.5  # seconds: nothing is learned from a shorter part


class Factors(NamedTuple):
    """How many times the predicted seconds both parts of the last comparison took."""

    pictures: float
    timing: float


_learned: WeakKeyDictionary[Workshop, Factors] = WeakKeyDictionary()


class Foreseen(NamedTuple):
    """What a comparison will take; `learned`: corrected by what the last one took."""

    found: Estimate
    learned: bool


def foreseen(
    workshop: Workshop, plans: Sequence[StagePlan | None], settings: SampleSettings
) -> Foreseen | None:
    """Return what a comparison will take, None where no forward was timed on this device.

    Raises StudioError for a plan whose widths are not known yet.
    """
    found, factors = estimate(workshop, plans, settings), _learned.get(workshop)
    if found is None or factors is None:
        return None if found is None else Foreseen(found, False)
    pictures, timing = found.pictures * factors.pictures, found.timing * factors.timing
    return Foreseen(replace(found, pictures=pictures, timing=timing), True)


def learn(workshop: Workshop, comparison: Comparison, walk: float | None) -> None:
    """Remember how much longer than predicted a comparison took, for the next of this model.

    walk: seconds in which its pictures were drawn, previews included.
    """
    a, b = comparison.a, comparison.b
    if a.predicted_seconds is None or b.predicted_seconds is None:
        return
    run = sum(a.predicted_seconds) + sum(b.predicted_seconds)
    if run < LEAST_PREDICTED or a.seconds is None or b.seconds is None:
        return
    timing = (a.seconds + b.seconds) / run
    pictures = timing if walk is None else walk / run
    _learned[workshop] = Factors(pictures, timing)


def forget(workshop: Workshop) -> None:
    """Predict from this device's speed alone again."""
    _learned.pop(workshop, None)


def overall(item: Preview, settings: SampleSettings) -> tuple[float, float]:
    """Return (done, total) of the whole job.

    A set of less than a batch is drawn once and then timed `repeats` times, and each part counts
    its own steps. In a larger set every batch is a timed run.
    """
    if settings.n >= BATCH:
        return item.done, item.total
    share = item.done / max(1, item.total)
    return 1 + share * settings.repeats if item.timing else share, 1 + settings.repeats


class Countdown:
    """The seconds that a run still takes, foreseen from the pace of the part that goes on.

    said: seconds of the whole run that were said before it began, None if none were.
    """

    def __init__(self, settings: SampleSettings, said: float | None = None):
        self.repeats = 0 if settings.n >= BATCH else settings.repeats
        self.said = said
        self.walk: float | None = None  # seconds of drawing all pictures, foreseen or measured
        self._round: float | None = None  # seconds of a timed round, foreseen while drawing
        self._began = 0.0  # seconds on the clock, at the first report of the drawing
        self._first: tuple[float, float] | None = None  # (clock, share done), of the present part
        self._last = 0.0  # share that was done at the last new one
        self._timing = False  # whether the present part is the timing
        self._end: float | None = None  # clock at which the run is foreseen to end
        self._shown: float | None = None  # seconds that were said to be left

    def words(self, item: Preview, now: float) -> str:
        """Return "; about 12 s left" or the like for a report at `now`, or nothing yet."""
        if item.drawing or item.timing:
            self._note(item, now)
        if self._end is None or self._end <= now:
            return ""
        left, whole = self._end - now, self._end - self._began
        if self.said is None:
            self.said = whole
        late = whole > self.said * (1 + LATE_SHARE) + LATE_SECONDS
        if not late and self._shown is not None:
            left = min(left, self._shown)  # what was said does not grow without a word
        self._shown = left
        return f"; {'longer than predicted: ' if late else ''}{about_seconds(left)} left"

    def _note(self, item: Preview, now: float) -> None:
        """Take the pace of the present part from a report of it."""
        share = item.done / max(1, item.total)
        if self._first is None or item.timing != self._timing:
            if self._first is None:
                self._began = now
            self._begin_part(item.timing, now, share)
            return
        start, before = self._first
        if share <= self._last or now - start < LEAST_SECONDS:
            return
        self._last = share
        pace = (now - start) / (share - before)  # seconds of the whole part
        left = pace * (1 - share)
        if not self._timing:
            self.walk = pace
            self._round = item.denoiser / share if item.denoiser else pace
            left += self._round * self.repeats
        self._end = now + left

    def _begin_part(self, timing: bool, now: float, share: float) -> None:
        """Begin the drawing or the timing; the first round of timing has the foreseen pace."""
        self._first, self._last, self._timing = (now, share), share, timing
        if timing:
            each = now - self._began if self._round is None else self._round
            self._end = now + each * self.repeats * (1 - share)


def promise(
    workshop: Workshop, plans: Sequence[StagePlan | None], settings: SampleSettings
) -> float | None:
    """Return the seconds that were said before a run began, None if none were."""
    try:
        found = foreseen(workshop, plans, settings)
    except StudioError:  # not known before a calibration
        return None
    return None if found is None else found.found.seconds
