"""Hold what a plan will cost and lose, per stage, before its networks run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..guidance import Half
from ..sampling.timing import LatencyTable

UNITS = {
    "macs": "one image, the whole run or stage, all rows, linear and convolution layers",
    "seconds_predicted": "denoiser of `batch` images, from forwards timed on this device",
    "error": "mean over layers of ||W'X - WX||^2 / ||WX||^2, weighted by steps",
}


@dataclass(frozen=True)
class TableLabels:
    """The different labels among the images of every batch of a set.

    The tables of adaLN vectors of a run have a row for each, and for the null label, per step.
    """

    images: int  # of the whole set
    batches: tuple[int, ...]  # different labels in each

    @classmethod
    def of(cls, labels: Sequence[int], batch: int) -> TableLabels:
        """Return those of a set of labels that is cut into batches."""
        parts = [labels[k : k + batch] for k in range(0, len(labels), batch)]
        return cls(len(labels), tuple(len(set(part)) for part in parts))

    @classmethod
    def all_different(cls, images: int) -> TableLabels:
        """Return those of one batch in which every image has a label of its own."""
        return cls(images, (images,))

    @property
    def most(self) -> int:
        """Return the most labels of one batch, the null label among them."""
        return max(self.batches) + 1

    def rows(self, half: Half) -> list[int]:
        """Return the rows per step of the table of every batch, for rows of a half."""
        if half == "unconditional":
            return [1] * len(self.batches)
        return [labels + (half == "both") for labels in self.batches]


@dataclass(frozen=True)
class StepWork:
    """What one model call of a run costs for one image."""

    stage: int  # index into STAGES, -1 dense
    rows: int  # denoiser rows per image
    macs: float  # of one row, linear and convolution layers
    full: bool = True  # every layer is computed, none reused
    table: float = 0.0  # MACs per image of the adaLN vectors that are made before this call

    @property
    def total(self) -> float:
        """Return the MACs per image of all rows, and of what is made before the call."""
        return self.rows * self.macs + self.table

    def seconds(self, times: LatencyTable, images: float) -> float:
        """Return the predicted seconds for so many images; times: of a forward of their rows.

        What is made before the call is predicted at the rate of a dense forward.
        """
        return times.at(self.macs) + images * self.table * times.per_mac


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

    def to_json(self) -> dict[str, Any]:
        """Return plain data; seconds say in their name that they are predicted."""
        return {
            "stage": self.stage,
            "steps": self.steps,
            "full_steps": self.full_steps,
            "rows": self.rows,
            "sparsity": self.sparsity,
            "achieved": self.achieved,
            "macs": self.macs,
            "macs_dense": self.macs_dense,
            "seconds_predicted": self.seconds,
            "seconds_dense_predicted": self.seconds_dense,
            "error": self.error,
            "error_held_out": self.error_held_out,
        }


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

    def to_json(self) -> dict[str, Any]:
        """Return plain data; seconds say in their name that they are predicted."""
        return {
            "macs": self.macs,
            "macs_dense": self.macs_dense,
            "speedup_macs": self.speedup_macs,
            "seconds_predicted": self.seconds,
            "seconds_dense_predicted": self.seconds_dense,
            "speedup_predicted": self.speedup_seconds,
            "error": self.error,
            "error_held_out": self.error_held_out,
            "batch": self.batch,
            "exact": self.exact,
            "stages": [stage.to_json() for stage in self.stages],
            "units": UNITS,
        }

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
