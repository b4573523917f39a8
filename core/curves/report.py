"""Report curves and the plan that a rule proposes for them, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import StudioError
from .dynamics import curves
from .noise import NoiseSchedule
from .plan import STAGES
from .plan_checks import short
from .proposals import INTERVAL_RULE, Proposal, interval_plan, propose_plan

FORMULA, INTERVAL = "formula", "interval"
PRESETS = (FORMULA, INTERVAL)


@dataclass(frozen=True)
class CurvesAsked:
    """What curves and a proposal are asked for. Raises StudioError for what cannot be.

    scheduler, steps: of the sampling run whose steps are counted. target: mean sparsity over these
    steps. variance: mean square of a latent value. preset: the paper's formula, or nothing pruned
    and guidance in an interval only.
    """

    scheduler: str = "DDIM"
    steps: int = 50
    target: float = 0.33
    variance: float = 1.0
    preset: str = FORMULA

    def __post_init__(self) -> None:
        if not math.isfinite(self.variance) or self.variance <= 0:
            raise StudioError(f"The variance must be a positive number, not {self.variance}.")
        if self.preset not in PRESETS:
            raise StudioError(f"A preset is formula or interval, not {short(self.preset)}.")


def proposal_for(
    schedule: NoiseSchedule, timesteps: Sequence[float], asked: CurvesAsked
) -> Proposal:
    """Return the proposal of a preset for a run of these timesteps. Raises StudioError."""
    found = propose_plan(schedule, asked.target, timesteps, variance=asked.variance)
    if asked.preset == INTERVAL:
        return replace(found, plan=interval_plan(schedule), rule=INTERVAL_RULE)
    return found


def curves_report(
    schedule: NoiseSchedule,
    name: str,
    timesteps: Sequence[float],
    asked: CurvesAsked,
    proposal: Proposal,
) -> dict[str, Any]:
    """Return the curves of a schedule with a proposed plan, one number per timestep and curve.

    name: of the noise schedule. timesteps: that the run visits. Source: Theorem 1 of the paper.
    """
    found = curves(schedule, asked.variance)
    plan = proposal.plan
    return {
        "timesteps": [int(t) for t in found.timesteps],
        "mse": found.mse.tolist(),
        "gradient": found.gradient.tolist(),
        "log_snr": found.log_snr.tolist(),
        "score": found.score.tolist(),
        "boundaries": list(plan.boundaries),
        "sparsity": dict(zip(STAGES, plan.sparsity, strict=True)),
        "steps_per_stage": plan.steps_per_stage(timesteps),
        "guidance": dict(zip(STAGES, plan.guidance, strict=True)),
        "rows": dict(zip(STAGES, plan.halves(2), strict=True)),
        "plan": plan.to_json(),
        "preset": asked.preset,
        "rule": proposal.rule,
        "threshold": proposal.threshold,
        "lambda": proposal.lam,
        "fallback": proposal.fallback,
        "beta_schedule": name,
        "scheduler": asked.scheduler,
        "steps": asked.steps,
        "target": asked.target,
    }
