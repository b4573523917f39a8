"""Say what a classifier-free guidance scale asks of a denoiser.

With conditional output c and unconditional output u, a scale g gives u + g (c - u) (Ho & Salimans
2022, arXiv 2207.12598). At 1 that is c and at 0 it is u, so one row per image is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np

Half = Literal["both", "conditional", "unconditional"]  # of a guided pair

MAX_GUIDANCE = 20.0


def is_guidance(value: Any) -> bool:
    """Say whether a value is a number from 0 to MAX_GUIDANCE. NaN and True are none."""
    number = isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
    return number and bool(0 <= value <= MAX_GUIDANCE)


def run_scale(guidance: float) -> float:
    """Return the scale of a run: 1, the conditional rows alone, for everything up to 1.

    Stock pipelines read their `guidance_scale` in the same way.
    """
    return max(1.0, float(guidance))


def half_of(scale: float) -> Half:
    """Return the rows that a scale needs: both halves of the pair, or the one that it is."""
    if scale in (0, 1):
        return "conditional" if scale else "unconditional"
    return "both"


def rows_of(scale: float) -> int:
    """Return the denoiser rows per image at a scale: 1 where one half of the pair is not needed."""
    return 2 if half_of(scale) == "both" else 1


def scales_of(per_stage: Sequence[float | None] | None, guidance: float) -> tuple[float, ...]:
    """Return the scales of the late, middle and early stage, and of the dense model last.

    per_stage: those that a plan sets, None where it leaves the run's own.
    guidance: of the run.
    """
    run = run_scale(guidance)
    own = (None,) * 3 if per_stage is None else per_stage
    return (*(run if scale is None else scale for scale in own), run)
