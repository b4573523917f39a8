"""Propose stage plans: boundaries by the paper's threshold rule, sparsities by its score.

One more plan prunes nothing and leaves guidance out at both ends of the trajectory.

Boundaries are scheduler timesteps counted from 0, as in `core.curves.plan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from ..errors import PlanError
from .betas import NUM_TRAIN_TIMESTEPS
from .dynamics import DEFAULT_THRESHOLD, Curves, curves
from .noise import NoiseSchedule
from .plan import StagePlan
from .plan_checks import number_within, share_out

PROPOSAL_CLIP = 0.7  # the formula never proposes more than this for a stage
PAPER_EYE = (0.2, 0.6)  # the paper's Fig. 3: fast learning for t in (200, 600) of 1000
FLAT_SPAN = 0.15  # the flatter preset stays within target +- this
# sigma = s / a that guidance is kept in: above the first, up to the second. Published for other
# models, SDXL among them (Kynkäänniemi et al. 2024, arXiv 2404.07724)
INTERVAL_SIGMA = (0.28, 5.42)
INTERVAL = "Guidance interval"
INTERVAL_RULE = (
    "Guidance only where sigma = s / a lies above 0.28 and up to 5.42, nothing pruned: published"
    " for other models, SDXL among them (Kynkäänniemi et al. 2024, arXiv 2404.07724), not measured"
    " on this one."
)
MIN_STAGE_SHARE = 0.02  # a smaller proposed stage is not worth a subnetwork: fall back


@dataclass(frozen=True)
class Proposal:
    """A proposed plan with the rule behind it in one plain sentence."""

    plan: StagePlan
    rule: str
    fallback: bool  # the boundaries are ours, not the paper's rule
    threshold: float  # M
    lam: float


def propose_plan(
    schedule: NoiseSchedule,
    target: float = 0.33,
    timesteps: Sequence[float] | None = None,
    m: float = DEFAULT_THRESHOLD,
    lam: float | None = None,
    variance: float = 1.0,
    flat: bool = False,
) -> Proposal:
    """Propose boundaries by the paper's threshold rule, and sparsities by the mean scores.

    A stage's sparsity is in proportion to 1 - its mean score. `timesteps` are the sampling
    timesteps whose counts weigh the stages (default: every training timestep), so that the
    step-weighted mean is `target`. `flat` keeps every stage within target +- 0.15. Raises PlanError
    for a target that cannot be reached with at most 0.7 in each stage.
    """
    if isinstance(m, bool) or not isinstance(m, Real) or not 0 < m < 1:
        raise PlanError("The threshold M must be a number between 0 and 1.")
    c = curves(schedule, variance, lam)
    if c.score.max() <= 0:
        raise PlanError(
            f"With lambda = {c.lam:g} every score is negative, so there is no threshold to cut at;"
            " choose a smaller lambda."
        )
    boundaries, fallback = _boundaries(c, float(m))
    mean = number_within(target, "The target sparsity")
    sparsity = _formula(c, boundaries, mean, timesteps, flat=flat)
    constants = f"M = {m:g}, lambda = {c.lam:g}"
    if lam is None:
        constants += ", our default as the paper does not give its own"
    over = "all timesteps" if timesteps is None else f"{len(timesteps)} runs of the network"
    shares = (
        f"sparsity in proportion to 1 - mean score of the stage{_flat_text(mean, flat)},"
        f" step-weighted mean {float(target):g} over {over}"
    )
    rule = f"Boundaries {list(boundaries)} by {_cut_text(constants, fallback)}; {shares}."
    plan = _plan(c, boundaries, sparsity, name="Formula, flatter" if flat else "Formula")
    return Proposal(plan=plan, rule=rule, fallback=fallback, threshold=float(m), lam=c.lam)


def preset_names(total: int = NUM_TRAIN_TIMESTEPS) -> tuple[str, str, str, str, str]:
    """Return the names of the presets of a model of `total` timesteps, in their order."""
    low, high = _eye(total)
    return "Formula", "Formula, flatter", f"Paper's eye [{low}, {high}]", "Uniform", INTERVAL


def _eye(total: int) -> tuple[int, int]:
    """Return the paper's fast stretch of `total` timesteps; even three get three stages."""
    low = min(max(1, round(PAPER_EYE[0] * total)), total - 2)
    high = min(max(low + 1, round(PAPER_EYE[1] * total)), total - 1)
    return low, high


def presets(
    schedule: NoiseSchedule, target: float = 0.33, timesteps: Sequence[float] | None = None
) -> dict[str, StagePlan]:
    """Return plans to start from, by name, with a step-weighted mean sparsity of `target`.

    Uniform is the baseline of one network for all timesteps: equal sparsities and one pooled
    calibration. The guidance interval removes nothing, whatever the target; it is left out where
    the schedule does not have it.
    """
    target = number_within(target, "The target sparsity")
    c = curves(schedule)
    formula = propose_plan(schedule, target, timesteps).plan
    flatter = propose_plan(schedule, target, timesteps, flat=True).plan
    *_, eye_name, uniform_name, _ = preset_names(len(schedule))
    eye = _eye(len(schedule))
    plans = (
        formula,
        flatter,
        _plan(c, eye, _formula(c, eye, target, timesteps, flat=False), name=eye_name),
        replace(formula, sparsity=(target,) * 3, calibration="pooled", name=uniform_name),
    )
    found = {plan.name: plan for plan in plans}
    with suppress(PlanError):
        found[INTERVAL] = interval_plan(schedule)
    return found


def preset(
    schedule: NoiseSchedule,
    name: str,
    target: float = 0.33,
    timesteps: Sequence[float] | None = None,
) -> StagePlan:
    """Return the preset of a name. Raises PlanError where there is none, or it cannot be."""
    if name == INTERVAL:
        return interval_plan(schedule)  # no target bears on it
    offered = presets(schedule, target, timesteps)
    if name not in offered:
        raise PlanError("Choose one of the listed presets.")
    return offered[name]


def interval_plan(schedule: NoiseSchedule) -> StagePlan:
    """Return the plan that guides only where sigma = s / a lies in `INTERVAL_SIGMA`.

    Nothing is pruned; early and late run the conditional half alone. Raises PlanError for a
    schedule that does not begin below the interval and end above it.
    """
    lowest, highest = INTERVAL_SIGMA
    with np.errstate(divide="ignore"):  # a is 0 where nothing but noise is left
        sigma = schedule.s / schedule.a
    low, high = (int(i) for i in np.searchsorted(sigma, INTERVAL_SIGMA, side="right"))
    if not 0 < low < high < len(sigma):
        raise PlanError(
            f"Guidance in an interval needs noise levels below {lowest:g}, between and above"
            f" {highest:g}; the {len(sigma)} timesteps of this schedule go from"
            f" {sigma[0]:.3g} to {sigma[-1]:.3g}."
        )
    return StagePlan(
        (low, high),
        (0.0, 0.0, 0.0),
        name=INTERVAL,
        num_train_timesteps=len(sigma),
        guidance=(1.0, None, 1.0),
    )


def _boundaries(c: Curves, m: float) -> tuple[tuple[int, int], bool]:
    """Return ((low, high), fallback): the stretch around the peak of Grad with score >= M max.

    The stretch is contiguous; a plain above/below test breaks into pieces for large lambda.
    Schedules whose Grad peaks at an end leave a stage (nearly) empty; there the cuts are at equal
    thirds of the total MSE, which is our rule and not the paper's.
    """
    total = len(c.score)
    above = c.score >= m * c.score.max()
    low = high = int(c.gradient.argmax())
    if above[low]:
        while low > 0 and above[low - 1]:
            low -= 1
        while high < total and above[high]:
            high += 1
    least = max(1, math.ceil(MIN_STAGE_SHARE * total))
    if min(low, high - low, total - high) >= least:
        return (low, high), False
    low, high = (int(i) for i in np.searchsorted(c.mse, c.mse[-1] * np.array([1 / 3, 2 / 3])))
    low = min(max(low, least), total - 2 * least)
    return (low, min(max(high, low + least), total - least)), True


def _formula(
    c: Curves,
    boundaries: tuple[int, int],
    target: float,
    timesteps: Sequence[float] | None,
    flat: bool,
) -> tuple[float, float, float]:
    """Return the sparsities s_i = S (1 - m_i) / sum_j w_j (1 - m_j), each at most 0.7.

    m_i is the mean of clip(score / max, 0, 1) over stage i, w_i its share of the sampling steps.
    """
    plan = _plan(c, boundaries, (0.0, 0.0, 0.0))
    weights = plan.step_shares(c.timesteps if timesteps is None else timesteps)
    importance = np.clip(c.score / c.score.max(), 0, 1)
    shape = np.array([1 - importance[slice(*plan.stage_range(i))].mean() for i in range(3)])
    sparsity = share_out(shape, weights, target, PROPOSAL_CLIP)
    widest = np.abs(sparsity - target).max()
    # shrinking all deviations together leaves the weighted mean where it is
    if flat and widest > FLAT_SPAN:
        sparsity = target + (sparsity - target) * FLAT_SPAN / widest
    late, middle, early = sparsity.tolist()
    return late, middle, early


def _plan(
    c: Curves, boundaries: tuple[int, int], sparsity: tuple[float, float, float], name: str = ""
) -> StagePlan:
    """Return a plan for the schedule of these curves."""
    return StagePlan(boundaries, sparsity, name=name, num_train_timesteps=len(c.timesteps))


def _cut_text(constants: str, fallback: bool) -> str:
    """Return in words how the boundaries were found."""
    if fallback:
        return (
            f"equal thirds of the total MSE, our fallback because the paper's rule ({constants})"
            " leaves a stage nearly empty"
        )
    return f"the paper's rule, score >= M max score around the steepest MSE ({constants})"


def _flat_text(target: float, flat: bool) -> str:
    return f", kept within {FLAT_SPAN:g} of {target:g}" if flat else ""
