"""Keep tunes in the data folder, one folder per question, and read them again."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ..errors import StudioError
from ..files import why_not_written, write_whole
from ..mosaic.modes import PLAIN
from ..shelf import Shelf
from .configuration import Configuration
from .found import Tuned
from .goal import Effort, Goal
from .quality import Quality
from .record import HEAD, LINES, Evaluation, front, read_lines, within
from .space import Space

END = "found.json"
GONE = "There is no such tune any more: choose another one."


def question(goal: Goal, space: Space, quality: Quality, effort: Effort) -> dict[str, Any]:
    """Return what a tune is known by: the same question goes on in the same folder."""
    return {
        "model": space.workshop.model_key,
        "goal": dict(vars(goal)),
        "reference": space.reference.to_json(),
        "fixed": {"steps": space.steps, "scheduler": space.scheduler},
        "quality": quality.name,
        "effort": effort.to_json(),
        **({} if space.mode == PLAIN else {"mode": space.mode}),
        **({} if space.cuts else {"cuts": False}),
    }


@dataclass(frozen=True)
class End:
    """How a tune ended."""

    best: Configuration
    reference: Evaluation  # with its quality on held-out noises, where they were needed
    seconds: float  # that the tune took, all its evaluations included
    allowed: float  # seconds that it was allowed
    device: str
    stopped: bool = False
    speedup: tuple[float, float] | None = None  # measured: median and spread over rounds
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Tuned, allowed: float, device: str) -> End:
        """Return the end of a tune."""
        return cls(
            best=found.best.configuration,
            reference=found.reference,
            seconds=found.seconds,
            allowed=allowed,
            device=device,
            stopped=found.stopped,
            speedup=found.speedup,
            notes=found.notes,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        plain = {"best": self.best.to_json(), "reference": self.reference.to_json()}
        return {**vars(self), **plain}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> End:
        """Make an end from plain data. Raises StudioError, KeyError, TypeError, ValueError."""
        speedup = plain["speedup"]
        if speedup is not None:
            middle, around = map(float, speedup)
            speedup = (middle, around)
        return cls(
            **{
                **plain,
                "best": Configuration.from_json(plain["best"]),
                "reference": Evaluation.from_json(plain["reference"]),
                "speedup": speedup,
                "notes": tuple(map(str, plain["notes"])),
            }
        )


@dataclass(frozen=True)
class KeptTune:
    """One tune as far as it is: what was asked, what was evaluated, and how it ended.

    evaluations: one per configuration, in the order of the first trial, so that a place among them
    names the same configuration for good.
    """

    id: str
    model_key: str
    goal: Goal
    reference: Configuration
    quality: str  # in words
    images: int  # of an evaluation
    held_out: int  # images on held-out noises
    seed: int
    evaluations: tuple[Evaluation, ...]
    end: End | None = None

    @classmethod
    def asked(
        cls, id: str, asked: dict[str, Any], evaluations: Iterable[Evaluation], end: End | None
    ) -> KeptTune:
        """Make a tune of its question. Raises StudioError, KeyError, TypeError."""
        effort = asked["effort"]
        return cls(
            id=id,
            model_key=str(asked["model"]),
            goal=Goal(**asked["goal"]),
            reference=Configuration.from_json(asked["reference"]),
            quality=str(asked["quality"]),
            images=int(effort["images"]),
            held_out=int(effort["held_out"]),
            seed=int(effort["seed"]),
            evaluations=tuple({e.configuration: e for e in evaluations}.values()),
            end=end,
        )

    @property
    def spent(self) -> float:
        """Return the seconds of all evaluations, without those that judged held-out noises."""
        return sum(one.took for one in self.evaluations)

    @property
    def dense(self) -> Evaluation | None:
        """Return the evaluation of the reference, None before there is one."""
        if self.end is not None:
            return self.end.reference
        return next((e for e in self.evaluations if e.configuration == self.reference), None)

    @property
    def budget(self) -> float:
        """Return what a run may cost, in what the goal counts; infinite where it is not known."""
        dense = self.dense
        return math.inf if dense is None else self.goal.budget(dense.cost(self.goal.counts))

    @property
    def best(self) -> Evaluation | None:
        """Return the best of the end, or the best so far within the budget, None before one."""
        if self.end is not None:
            ended = self.end.best
            return next((e for e in self.evaluations if e.configuration == ended), None)
        return self._best_so_far()

    def _best_so_far(self) -> Evaluation | None:
        dense, counts = self.dense, self.goal.counts
        own = [e for e in self.evaluations if e.configuration != self.reference]
        kept = within(own, self.budget, counts)
        if self.goal.match_dense:
            good = [e for e in kept if dense is not None and e.quality <= dense.quality]
            return min(good, key=lambda e: e.cost(counts), default=None)
        return min(kept, key=lambda e: e.quality, default=None)

    @property
    def front(self) -> list[Evaluation]:
        """Return every evaluation that no other one beats, cheapest first."""
        return front(self.evaluations, self.goal.counts)

    def place(self, one: Evaluation) -> int:
        """Return the place of an evaluation, which `at` finds again."""
        return next(
            i for i, e in enumerate(self.evaluations) if e.configuration == one.configuration
        )

    def at(self, place: int) -> Evaluation:
        """Return the evaluation at a place. Raises StudioError where there is none."""
        if not 0 <= place < len(self.evaluations):
            raise StudioError(GONE)
        return self.evaluations[place]

    def has_ended(self, allowed: float) -> bool:
        """Say whether so many seconds let the tune do nothing that it has not done."""
        return self.end is not None and not self.end.stopped and allowed <= self.end.allowed


class TuneShelf(Shelf[KeptTune]):
    """All tunes that are kept in a folder, by default `tunes` in `core.paths.data_folder`."""

    kind, file, gone = "tune", LINES, GONE

    def keep_end(self, id: str, end: End) -> End:
        """Keep how a tune ended, and return it as kept. Raises StudioError.

        A speed-up that was measured before stays where this end has none of the same best.
        """
        before = self._end(id)
        if end.speedup is None and before is not None and before.best == end.best:
            end = replace(end, speedup=before.speedup)
        text = json.dumps(end.to_json(), indent=2) + "\n"
        path = self.folder_of(id) / END
        try:
            write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
        except OSError as err:
            raise StudioError(
                f"The end of this tune could not be kept ({why_not_written(err)}); its evaluations"
                " are, and the tune goes on from them."
            ) from err
        return end

    def touch(self, id: str) -> None:
        """Make a tune the latest one, as it was asked for again."""
        with suppress(OSError):
            os.utime(self.folder_of(id) / LINES)

    def get(self, id: str) -> KeptTune:
        """Return one tune. Raises StudioError where it is not there or cannot be read."""
        folder = self.folder_of(id)
        try:
            asked = json.loads((folder / HEAD).read_text(encoding="utf-8"))
            lines = folder / LINES
            text = lines.read_text(encoding="utf-8", errors="replace") if lines.exists() else ""
            evaluations = [one for _, one in read_lines(text)]
            return KeptTune.asked(id, asked, evaluations, self._end(id))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise StudioError(GONE) from err

    def point(self, point: str, model_key: str = "") -> Evaluation:
        """Return the evaluation that a tune's id and a place name, as in "0123456789abcdef:3".

        model_key: of the model that it has to be of; empty for any. Raises StudioError.
        """
        id, _, place = point.partition(":")
        tune = self.get(id)
        if model_key and tune.model_key != model_key:
            raise StudioError("This point is of another model: choose that model first.")
        if not re.fullmatch("[0-9]{1,6}", place):
            raise StudioError(GONE)
        return tune.at(int(place))

    def tunes(self, model_key: str) -> list[KeptTune]:
        """Return the tunes of a model that have an evaluation, the latest first."""
        return list(self.of(model_key))

    def _shown(self, one: KeptTune) -> bool:
        return bool(one.evaluations)

    def _end(self, id: str) -> End | None:
        """Return how a tune ended; None before that, or where it cannot be read."""
        path = self.folder_of(id) / END
        try:
            return End.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, StudioError):
            return None
