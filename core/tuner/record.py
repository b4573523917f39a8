"""Keep what was evaluated: in a journal that survives a kill, and as the front of the best."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..errors import StudioError
from ..files import why_not_written
from .configuration import Configuration

T = TypeVar("T")
Cost = Literal["macs", "seconds"]
TOLERANCE = 1.001  # of a budget: what keeps it may round to so much more
HEAD, LINES = "tune.json", "evaluations.jsonl"  # files of a journal


@dataclass(frozen=True)
class Evaluation:
    """One configuration with what it costs and how good its pictures are."""

    configuration: Configuration
    macs: float  # of one image, whole run, all rows
    seconds: float | None  # predicted, of the denoiser for the usual images; None: not known
    quality: float  # on the noises of the search; lower is better
    n: int  # images of it
    took: float  # seconds that the evaluation took
    params: dict[str, Any] | None = None  # of the search; None for what was put there to compare
    held_out: float | None = None  # quality on other noises, for the finalists

    def cost(self, of: Cost) -> float:
        """Return the cost in MACs or in seconds. Raises StudioError for seconds not known."""
        if of == "macs":
            return self.macs
        if self.seconds is None:
            raise StudioError("How long a forward takes on this device was not measured.")
        return self.seconds

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        own = {name: value for name, value in vars(self).items() if name != "configuration"}
        return {"configuration": self.configuration.to_json(), **own}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Evaluation:
        """Make an evaluation from plain data. Raises StudioError, KeyError, TypeError."""
        own = Configuration.from_json(plain["configuration"])
        return cls(**{**plain, "configuration": own})


def unbeaten(
    things: Iterable[T], cost: Callable[[T], float], loss: Callable[[T], float]
) -> list[T]:
    """Return the things that no other one beats in cost and loss, cheapest first."""
    found: list[T] = []
    for one in sorted(things, key=lambda thing: (cost(thing), loss(thing))):
        if not found or loss(one) < loss(found[-1]):
            found.append(one)
    return found


def front(evaluations: Iterable[Evaluation], cost: Cost = "macs") -> list[Evaluation]:
    """Return the evaluations that no other one beats in cost and quality, cheapest first."""
    return unbeaten(evaluations, lambda e: e.cost(cost), lambda e: e.quality)


def within(evaluations: Iterable[Evaluation], budget: float, cost: Cost) -> list[Evaluation]:
    """Return the evaluations that keep a budget."""
    return [one for one in evaluations if one.cost(cost) <= TOLERANCE * budget]


def read_lines(text: str) -> list[tuple[str, Evaluation]]:
    """Return the lines of a journal that can be read, each with its evaluation.

    A line that was cut off by a kill is passed over.
    """
    found = []
    for line in text.splitlines():
        try:
            found.append((line, Evaluation.from_json(json.loads(line))))
        except (ValueError, KeyError, TypeError, AttributeError, StudioError):
            continue
    return found


class Journal:
    """A folder with the evaluations of one tune, one line of JSON each, and what was asked.

    folder: None keeps everything in memory. asked: plain data that the same tune always has; a
    folder of another tune is refused. Raises StudioError.
    """

    def __init__(self, folder: Path | None, asked: dict[str, Any]):
        self.folder = folder
        self.evaluations: list[Evaluation] = []
        if folder is None:
            return
        self._lines = folder / LINES
        head = folder / HEAD
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if head.exists():
                self._check(json.loads(head.read_text()), asked)
            else:
                if any(folder.iterdir()):
                    raise StudioError(
                        f"{folder}/ holds other files: give a new or empty folder, or that of a"
                        " tune to go on with."
                    )
                head.write_text(json.dumps(asked, indent=2) + "\n")
            self._read()
        except OSError as err:
            raise StudioError(
                f"The folder {folder}/ cannot be used ({why_not_written(err)})."
            ) from err
        except ValueError as err:
            raise StudioError(f"{head} is damaged; give another folder.") from err

    def _check(self, held: dict[str, Any], asked: dict[str, Any]) -> None:
        """Raise StudioError where the folder holds a tune that asked for something else."""
        other = [key for key in asked if held.get(key) != asked[key]]
        if other:
            raise StudioError(
                f"{self.folder}/ holds a tune with another {', '.join(other)}: give a new folder,"
                " or ask for the same again to go on with it."
            )

    def _read(self) -> None:
        """Read the evaluations that are there; a line that was cut off by a kill is dropped."""
        if not self._lines.exists():
            return
        kept = read_lines(self._lines.read_text(encoding="utf-8", errors="replace"))
        self.evaluations = [one for _, one in kept]
        part = self._lines.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line, _ in kept), encoding="utf-8")
        part.replace(self._lines)

    @property
    def spent(self) -> float:
        """Return the seconds that all evaluations took."""
        return sum(one.took for one in self.evaluations)

    def add(self, one: Evaluation) -> None:
        """Keep an evaluation, on the disk before this returns. Raises StudioError."""
        self.evaluations.append(one)
        if self.folder is None:
            return
        try:
            with self._lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(one.to_json()) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            raise StudioError(
                f"An evaluation could not be written to {self.folder}/ ({why_not_written(err)});"
                " what was written before is kept, and the tune goes on from it."
            ) from err

    def judge(self, one: Evaluation, held_out: float, took: float) -> Evaluation:
        """Keep the quality of an evaluation on held-out noises, and return it with it."""
        judged = replace(one, held_out=held_out, took=took)
        self.add(judged)
        return judged
