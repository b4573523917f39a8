"""Keep one comparison of the page while it runs, and never let a full disk stop it."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.runs.run import Status
from core.runs.store import RunStore
from core.workshop.comparison import Comparison, SampleSettings
from core.workshop.workshop import Workshop

from ..visitors import data_folder

BEAT_SECONDS = 1.0  # fastest rate of progress that is written down
PARTS = 1000  # of the whole, in which progress is written down
NOT_KEPT = "The result is here, but it is not among the kept runs: {}"


class Wanted(Protocol):
    """What a comparison was asked for, as `compare.inputs.Request` has it."""

    @property
    def settings(self) -> SampleSettings: ...
    @property
    def plans(self) -> tuple[StagePlan | None, StagePlan | None]: ...
    @property
    def names(self) -> tuple[str, str]: ...


def store() -> RunStore:
    """Return the store of who asks, opened once. Raises StudioError."""
    return _opened(data_folder())


@lru_cache(maxsize=8)
def _opened(folder: Path) -> RunStore:
    return RunStore(folder)


class Record:
    """What is kept of one comparison. No method raises StudioError: `why_not` has the sentence."""

    def __init__(self, workshop: Workshop, wanted: Wanted):
        self.workshop, self.wanted = workshop, wanted
        self.id = ""  # empty where the beginning could not be kept
        self.why_not = ""
        self._beaten = 0.0  # seconds, when progress was last written down

    def begin(self) -> None:
        """Keep that the run begins."""
        try:
            self.id = (
                store()
                .begin(
                    self.wanted.plans,
                    self.wanted.names,
                    self.wanted.settings,
                    model=self.workshop.name,
                    model_key=self.workshop.model_key,
                    device=self.workshop.device_text,
                )
                .id
            )
        except StudioError as error:
            self.why_not = str(error)

    def beat(self, share: float, said: str) -> None:
        """Write progress down, at most once a second."""
        if not self.id or time.monotonic() - self._beaten < BEAT_SECONDS:
            return
        self._beaten = time.monotonic()
        try:
            store().beat(self.id, round(PARTS * share), PARTS, said)
        except StudioError as error:
            self.why_not = str(error)

    def finish(
        self, comparison: Comparison, status: Status = "finished", sentence: str = ""
    ) -> str:
        """Keep the result; return a sentence where it could not be kept, else nothing."""
        try:
            if self.id:
                store().finish(self.id, comparison, status, sentence)
            else:  # there may be room by now
                store().add(comparison, self.workshop.model_key, status=status, sentence=sentence)
        except StudioError as error:
            self.why_not = str(error)
            return NOT_KEPT.format(error)
        return ""

    def end(self, status: Status, sentence: str) -> None:
        """Keep that the run ended without a result; a run that has ended stays as it is."""
        if not self.id:
            return
        try:
            store().end(self.id, status, sentence)
        except StudioError as error:
            self.why_not = str(error)
