"""Describe the noise schedule of a model by two numbers per timestep, x_t = a_t x_0 + s_t e.

Three kinds: variance-preserving "vp" (a = sqrt(abar), s = sqrt(1 - abar); Ho et al. 2020, arXiv
2006.11239), flow matching "flow" (a = 1 - sigma, s = sigma; Lipman et al. 2023, arXiv 2210.02747)
and sigma-space "sigma" (a = 1, s = sigma; Karras et al. 2022, arXiv 2206.00364). The kind says how
the *model* was trained: a scheduler that carries `alphas_cumprod` is "vp" even when it samples in
sigma-space (Euler, Heun, LMS).

NumPy only: neither torch nor diffusers is loaded here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._old_paths import forward
from ..errors import StudioError
from .betas import BETA_SCHEDULES, NUM_TRAIN_TIMESTEPS, betas
from .scheduler_tables import Kind, alphas_cumprod, kind_of, named_betas, training_grid

__all__ = ["BETA_SCHEDULES", "NUM_TRAIN_TIMESTEPS", "NoiseSchedule", "betas"]

# the samplers were in this module before version 0.3
__getattr__ = forward(__name__, "samplers")


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise levels of a model, x_t = a_t x_0 + s_t e, at every training timestep.

    Index i is the scheduler's timestep i, cleanest first. Raises StudioError for values that are
    not finite, or do not grow noisier with the timestep.
    """

    name: str
    kind: Kind
    a: np.ndarray  # (T,) fp64
    s: np.ndarray  # (T,) fp64
    beta_schedule: str = ""  # "linear", "scaled_linear" ... or "" where there is none

    def __post_init__(self) -> None:
        for field in ("a", "s"):
            # a copy that cannot be written to
            values = np.array(getattr(self, field), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, field, values)
        if self.kind not in ("vp", "flow", "sigma"):
            raise StudioError(
                f"A noise schedule is of kind 'vp', 'flow' or 'sigma', not {self.kind!r}."
            )
        if self.a.ndim != 1 or self.a.shape != self.s.shape or len(self.a) < 3:
            raise StudioError(
                "A noise schedule needs one a and one s per timestep and at least 3 timesteps."
            )
        if not (
            np.isfinite(self.a).all()
            and np.isfinite(self.s).all()
            and (self.a >= 0).all()
            and (self.s > 0).all()
        ):
            raise StudioError(
                f"The noise schedule {self.name!r} has values that are not finite and positive;"
                " check its betas."
            )
        if (np.diff(self.s) < 0).any() or (np.diff(self.a) > 0).any():
            raise StudioError(
                f"The noise schedule {self.name!r} does not grow noisier with the timestep; check"
                " its betas."
            )

    def __len__(self) -> int:
        return len(self.a)

    def at(self, t: float) -> tuple[float, float]:
        """Return (a, s) at scheduler timestep `t`.

        Linear between the two neighbours when `t` is fractional, held at the ends.
        """
        if not math.isfinite(t):
            raise StudioError("A timestep must be a finite number.")
        grid = np.arange(len(self.a))
        return float(np.interp(t, grid, self.a)), float(np.interp(t, grid, self.s))

    @classmethod
    def from_alphas_cumprod(
        cls, alphas_cumprod: Sequence[float] | np.ndarray, name: str, beta_schedule: str = ""
    ) -> NoiseSchedule:
        """Make the variance-preserving schedule of abar (T,), cleanest first (Ho 2020, eq. 4)."""
        abar = np.asarray(alphas_cumprod, dtype=np.float64)
        if not ((abar >= 0) & (abar < 1)).all():
            raise StudioError(
                f"The noise schedule {name!r} has alphas_cumprod outside [0, 1); check its betas."
            )
        return cls(name, "vp", a=np.sqrt(abar), s=np.sqrt(1 - abar), beta_schedule=beta_schedule)

    @classmethod
    def from_betas(
        cls,
        beta_schedule: str,
        beta_start: float | None = None,
        beta_end: float | None = None,
        num: int = NUM_TRAIN_TIMESTEPS,
    ) -> NoiseSchedule:
        """Make the schedule of a diffusers scheduler of these settings, in fp64 without torch."""
        return cls.from_alphas_cumprod(
            np.cumprod(1 - betas(beta_schedule, beta_start, beta_end, num)),
            beta_schedule,
            beta_schedule,
        )

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> NoiseSchedule:
        """Make the schedule that the model behind any diffusers scheduler was trained with.

        The scheduler is not changed. Raises StudioError for a scheduler that has neither
        alphas_cumprod nor a flow-matching or EDM sigma grid.
        """
        name = type(scheduler).__name__
        kind = kind_of(scheduler)
        if kind == "vp":
            abar = alphas_cumprod(scheduler)
            return cls.from_alphas_cumprod(abar, name, named_betas(scheduler.config))
        sigmas = training_grid(scheduler)[1]
        return cls(name, kind, 1 - sigmas if kind == "flow" else np.ones_like(sigmas), sigmas)
