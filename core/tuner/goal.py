"""Say what a tune is asked for."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

from ..curves.plan_checks import checked_steps, short
from ..curves.scheduler_tables import SCHEDULERS
from ..errors import StudioError
from .record import Cost


@dataclass(frozen=True)
class Goal:
    """What a tune is asked for: so many times faster, so many seconds, or as good as dense.

    speedup: the reference's cost over the plan's. run_seconds: the denoiser's seconds for the usual
    images, predicted. match_dense: no worse than the reference on held-out noises, as fast as
    possible. One of the three. cost: what speed-ups are counted in. Raises StudioError.
    """

    speedup: float | None = None
    run_seconds: float | None = None
    match_dense: bool = False
    cost: Cost = "macs"

    def __post_init__(self) -> None:
        asked = [self.speedup is not None, self.run_seconds is not None, bool(self.match_dense)]
        if sum(asked) != 1:
            raise StudioError(
                "Ask for one thing: a speed-up, the seconds of a run, or as good as dense."
            )
        for value, what, least in (
            (self.speedup, "The speed-up", 1),
            (self.run_seconds, "The seconds of a run", 0),
        ):
            if value is not None and not (_number(value) and least < value < 1e6):
                raise StudioError(f"{what} must be a number above {least}, not {short(value)}.")
        if self.cost not in ("macs", "seconds"):
            raise StudioError(f"A cost is macs or seconds, not {short(self.cost)}.")

    @property
    def counts(self) -> Cost:
        """Return what the budget is counted in."""
        return "seconds" if self.run_seconds is not None else self.cost

    def budget(self, reference: float) -> float:
        """Return the budget, where the reference costs so much; infinite for `match_dense`."""
        if self.speedup is not None:
            return reference / self.speedup
        return math.inf if self.run_seconds is None else self.run_seconds

    @property
    def text(self) -> str:
        """Return the goal in words."""
        if self.speedup is not None:
            return f"×{self.speedup:g} as fast by {'time' if self.cost == 'seconds' else 'MACs'}"
        if self.run_seconds is not None:
            return f"at most {self.run_seconds:g} s"
        return "no worse than the reference, as fast as possible"


@dataclass(frozen=True)
class Effort:
    """How much a tune may try. Raises StudioError.

    seconds: of everything but the calibration. images: of one evaluation. held_out: images that the
    finalists are judged on, from other noise.
    """

    seconds: float = 300.0
    evaluations: int = 60
    images: int = 256
    held_out: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not _number(self.seconds) or not 1 <= self.seconds <= 1e6:
            raise StudioError(
                f"The seconds of a tune must be at least 1, not {short(self.seconds)}."
            )
        for name, low, high in (
            ("evaluations", 1, 10_000),
            ("images", 1, 10_000),
            ("held_out", 1, 10_000),
            ("seed", 0, 2**31),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise StudioError(
                    f"{name} must be a whole number from {low} to {high}, not {short(value)}."
                )

    def to_json(self) -> dict[str, Any]:
        """Return plain data without the time, which a tune that goes on may have more of."""
        return {k: v for k, v in asdict(self).items() if k not in ("seconds", "evaluations")}


def checked_fixed(steps: Any, scheduler: Any, total: int) -> None:
    """Raise StudioError for steps or a scheduler that no run can have; None leaves them open."""
    if steps is not None:
        checked_steps(steps, total)
    if scheduler is not None and scheduler not in SCHEDULERS:
        raise StudioError(
            f"The scheduler {short(scheduler)} is not known; choose one of {', '.join(SCHEDULERS)}."
        )


def _number(value: Any) -> bool:
    """Say whether a value is a real number and finite."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and math.isfinite(float(value))
