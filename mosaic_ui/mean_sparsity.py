"""Scale the three sparsities of a plan to a mean, in proportions that outlive zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.curves.plan import StagePlan
from core.errors import StudioError

PLACES = 4  # decimals of a sparsity that follows


def with_mean(
    plan: StagePlan, shape: StagePlan, target: float, timesteps: Sequence[float]
) -> StagePlan:
    """Return the plan with the proportions of `shape` and a step-weighted mean of `target`.

    timesteps: those that the sampler visits. Raises PlanError for a mean that cannot be reached.
    """
    whole = shape.with_boundaries(*plan.boundaries).scaled_to(target, timesteps)
    late, middle, early = (round(share, PLACES) for share in whole.sparsity)
    return replace(plan.with_sparsity(late, middle, early), name="")


def shape_behind(plan: StagePlan, shape: StagePlan, timesteps: Sequence[float]) -> StagePlan:
    """Return the plan whose proportions count: `shape` as long as the plan came of it.

    Else the plan itself. So a plan that was scaled to zero comes back as it was.
    """
    try:
        came = with_mean(plan, shape, plan.mean_sparsity(timesteps), timesteps)
    except StudioError:
        return plan
    pairs = zip(came.sparsity, plan.sparsity, strict=True)
    return shape if all(abs(a - b) <= 2 * 10**-PLACES for a, b in pairs) else plan
