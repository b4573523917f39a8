"""Compute the betas of the named beta schedules of diffusers, in fp64 and without torch."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np

from ..errors import StudioError

NUM_TRAIN_TIMESTEPS = 1000
DEFAULT_BETAS = {  # first and last beta
    "linear": (1e-4, 0.02),
    "scaled_linear": (0.00085, 0.012),
    "squaredcos_cap_v2": (1e-4, 0.02),
    "sigmoid": (1e-4, 0.02),
}
BETA_SCHEDULES = tuple(DEFAULT_BETAS)


def betas(
    beta_schedule: str,
    beta_start: float | None = None,
    beta_end: float | None = None,
    num: int = NUM_TRAIN_TIMESTEPS,
) -> np.ndarray:
    """Return betas (num,) fp64 as diffusers defines them.

    squaredcos_cap_v2 (Nichol & Dhariwal 2021, arXiv 2102.09672) has no start and end and ignores
    them. Raises StudioError for an unknown name, betas that are not 0 < start <= end < 1, or an
    impossible `num`.
    """
    if beta_schedule not in BETA_SCHEDULES:
        raise StudioError(
            f"Unknown beta schedule {beta_schedule!r}; choose one of {', '.join(BETA_SCHEDULES)}."
        )
    if isinstance(num, bool) or not isinstance(num, Integral) or not 3 <= num <= 100_000:
        raise StudioError(
            "The number of training timesteps must be a whole number from 3 to 100000."
        )
    default_start, default_end = DEFAULT_BETAS[beta_schedule]
    start = default_start if beta_start is None else beta_start
    end = default_end if beta_end is None else beta_end
    if (
        any(isinstance(b, bool) or not isinstance(b, Real) for b in (start, end))
        or not 0 < start <= end < 1
    ):
        raise StudioError(
            f"Betas must be numbers with 0 < start <= end < 1, not {start} and {end}."
        )
    if beta_schedule == "linear":
        return np.linspace(start, end, num)
    if beta_schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, num) ** 2
    if beta_schedule == "sigmoid":  # GeoDiff (Xu et al. 2022), the range diffusers uses
        return (end - start) / (1 + np.exp(-np.linspace(-6, 6, num))) + start
    abar = np.cos((np.arange(num + 1) / num + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - abar[1:] / abar[:-1], 0.999)
