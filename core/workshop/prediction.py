"""What a plan will cost and lose, stage by stage, before the finished networks were timed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StagePrediction:
    """What one stage costs and what it loses, before anything was measured on the finished
    networks.
    """

    stage: str
    steps: int  # sampling steps that fall in it
    sparsity: float  # asked for
    # share of prunable weights that goes, after whole heads and multiples of 16 neurons
    achieved: float
    # one image, linear and convolution layers, both guidance halves, all steps of the stage
    macs: float
    macs_dense: float
    # the whole batch, all steps of the stage; None until the device's latency table is measured
    seconds: float | None
    seconds_dense: float | None
    error: float | None  # mean over layers of ||W'X - WX||^2 / ||WX||^2 on calibration tokens
    error_held_out: float | None = None  # the same on held-out tokens, in exact predictions only


@dataclass(frozen=True)
class Prediction:
    """Sums over the stages. `error` is weighted by sampling steps."""

    stages: tuple[StagePrediction, ...]
    batch: int
    exact: bool

    def _sum(self, name: str) -> float | None:
        values = [getattr(s, name) for s in self.stages]
        return None if any(v is None for v in values) else sum(values)

    @property
    def macs(self) -> float:
        return self._sum("macs")

    @property
    def macs_dense(self) -> float:
        return self._sum("macs_dense")

    @property
    def seconds(self) -> float | None:
        return self._sum("seconds")

    @property
    def seconds_dense(self) -> float | None:
        return self._sum("seconds_dense")

    @property
    def error(self) -> float | None:
        return self._weighted("error")

    @property
    def error_held_out(self) -> float | None:
        return self._weighted("error_held_out")

    def _weighted(self, name: str) -> float | None:
        steps = sum(s.steps for s in self.stages)
        if not steps or any(getattr(s, name) is None for s in self.stages if s.steps):
            return None
        return sum(getattr(s, name) * s.steps for s in self.stages if s.steps) / steps

    @property
    def speedup_macs(self) -> float:
        return self.macs_dense / self.macs if self.macs else 1.0

    @property
    def speedup_seconds(self) -> float | None:
        return self.seconds_dense / self.seconds if self.seconds else None
