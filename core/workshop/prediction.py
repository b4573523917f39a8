"""Hold what a plan will cost and lose, per stage, before its networks run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepWork:
    """What one model call of a run costs for one image."""

    stage: int  # index into STAGES, -1 dense
    rows: int  # denoiser rows per image
    macs: float  # of one row, linear and convolution layers
    full: bool = True  # every layer is computed, none reused


@dataclass(frozen=True)
class StagePrediction:
    """What one stage costs and loses, before anything was measured on its networks."""

    stage: str
    steps: int  # sampling steps that fall in it
    sparsity: float  # asked for
    # share of prunable weights that goes, after whole heads and multiples of 16 neurons
    achieved: float
    # one image, linear and convolution layers, all rows (guidance halves), all steps of the stage
    macs: float
    macs_dense: float
    # the whole batch, all steps of the stage; None until the device's latency table is measured
    seconds: float | None
    seconds_dense: float | None
    error: float | None  # mean over layers of ||W'X - WX||^2 / ||WX||^2 on calibration tokens
    error_held_out: float | None = None  # the same on held-out tokens, in exact predictions only
    rows: int = 2  # denoiser rows per image: 1 where the stage needs no guided pair
    full_steps: int = 0  # steps that compute every layer; the others reuse what those gave


@dataclass(frozen=True)
class Prediction:
    """What a plan costs and loses: sums over its stages; errors are weighted by sampling steps."""

    stages: tuple[StagePrediction, ...]
    batch: int
    exact: bool

    @property
    def macs(self) -> float:
        """Return the MACs of one image over the whole run."""
        return sum(stage.macs for stage in self.stages)

    @property
    def macs_dense(self) -> float:
        """Return the MACs of one image with the dense model."""
        return sum(stage.macs_dense for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """Return the seconds of the whole batch, or None before this device was measured."""
        return _sum([stage.seconds for stage in self.stages])

    @property
    def seconds_dense(self) -> float | None:
        """Return the seconds of the whole batch with the dense model, or None."""
        return _sum([stage.seconds_dense for stage in self.stages])

    @property
    def error(self) -> float | None:
        """Return the mean layer error on calibration tokens over all steps, or None."""
        return self._over_steps([stage.error for stage in self.stages])

    @property
    def error_held_out(self) -> float | None:
        """Return the mean layer error on held-out tokens over all steps, or None."""
        return self._over_steps([stage.error_held_out for stage in self.stages])

    def _over_steps(self, errors: list[float | None]) -> float | None:
        """Return the mean of the stages' errors, weighted by steps; None where one is missing."""
        return over_steps([stage.steps for stage in self.stages], errors)

    @property
    def speedup_macs(self) -> float:
        """Return how many times fewer MACs the plan takes than the dense model."""
        return self.macs_dense / self.macs if self.macs else 1.0

    @property
    def speedup_seconds(self) -> float | None:
        """Return how many times less time the plan takes than the dense model, or None."""
        seconds, dense = self.seconds, self.seconds_dense
        return dense / seconds if seconds and dense is not None else None


def over_steps(steps: Sequence[int], errors: Iterable[float | None]) -> float | None:
    """Return the mean of the stages' errors, weighted by steps; None where one is missing.

    A stage without steps counts for nothing, and its error may be missing.
    """
    total = 0.0
    for count, error in zip(steps, errors, strict=True):
        if count:
            if error is None:
                return None
            total += error * count
    return total / sum(steps) if sum(steps) else None


def _sum(values: list[float | None]) -> float | None:
    """Return the sum, or None where a value is missing."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
