"""Say how far a tune is, and what it found."""

from __future__ import annotations

from dataclasses import dataclass

from .goal import Goal
from .record import Evaluation, front


@dataclass(frozen=True)
class Report:
    """How far a tune is, with everything that was evaluated so far."""

    text: str
    done: int
    total: int
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Tuned:
    """What a tune found. Quality numbers of one n and seed compare, others do not."""

    goal: Goal
    reference: Evaluation
    best: Evaluation
    evaluations: tuple[Evaluation, ...]  # one per configuration
    quality: str  # in words
    seconds: float
    speedup: tuple[float, float] | None = None  # measured: median and spread over rounds
    notes: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def front(self) -> list[Evaluation]:
        """Return every evaluation of the search that no other one beats, cheapest first."""
        return front(self.evaluations, self.goal.counts)

    @property
    def speedup_macs(self) -> float:
        """Return the reference's MACs over the plan's."""
        return self.reference.macs / self.best.macs
