"""What the tabs ask the core, in the form that they show; no components here, so it is tested
without a browser.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from core.curves.dynamics import SampledCurves, curves, default_lambda, sample_forward
from core.curves.plan import STAGES, StagePlan
from core.curves.plan_checks import MAX_STEPS, checked_steps, short
from core.curves.proposals import Proposal, presets, propose_plan
from core.curves.samplers import sampling_timesteps
from core.errors import PlanError, StudioError
from core.workshop.compare import sampler

from . import model_facts, tables
from .edge import plain_errors as plain_errors
from .figures import VIEWS, curve_figure
from .schedules import curve_schedule, foreign_proposal, own_beta

MOST_ASKED = 0.9  # of the box "Suggest for mean sparsity"
UPLOAD_LIMIT = 64_000  # bytes; a plan has a few hundred
SAMPLED_LATENTS = 1024  # enough for points within 1 % of theory, measured in well under a second


def read_upload(content: bytes | None) -> StagePlan:
    """The plan in the bytes of an uploaded file. Raises PlanError with one sentence."""
    if not content:
        raise PlanError("The file is empty; choose a plan file in JSON.")
    if len(content) > UPLOAD_LIMIT:
        raise PlanError(
            f"The file has {len(content) // 1000} kB, and a plan has at most {UPLOAD_LIMIT // 1000}"
            " kB; choose a plan file in JSON."
        )
    try:
        return StagePlan.from_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PlanError("The file is not UTF-8 text; choose a plan file in JSON.") from error


def whole_steps(steps: Any, total: int = MAX_STEPS) -> int:
    """Read a box's number of sampling steps; boxes send 50.0 for 50. Raises StudioError."""
    return checked_steps(
        int(steps) if isinstance(steps, float) and steps.is_integer() else steps, total
    )


@lru_cache(maxsize=128)
def _timesteps(workshop: Any, scheduler: str, steps: int) -> tuple[float, ...]:
    return tuple(sampling_timesteps(sampler(workshop, scheduler), steps))


def visited(workshop: Any, scheduler: str, steps: Any) -> list[float]:
    """Timesteps that the sampler visits with this model, first one first."""
    return list(_timesteps(workshop, scheduler, whole_steps(steps, len(workshop.schedule))))


@lru_cache(maxsize=16)
def _sampled(workshop: Any, beta: str) -> SampledCurves:
    return sample_forward(
        workshop.latents[:SAMPLED_LATENTS], curve_schedule(workshop, beta), seed=0
    )


def sampled_curves(workshop: Any, beta: str) -> SampledCurves | None:
    """The curves measured on the model's latents (n = 1024, seed 0); None for a model without
    latents.
    """
    return None if getattr(workshop, "latents", None) is None else _sampled(workshop, beta)


def idle_stages(plan: StagePlan, timesteps: list[float]) -> list[str]:
    """Stages that no sampling step visits: nothing set there can matter."""
    return [stage for stage, steps in plan.steps_per_stage(timesteps).items() if steps == 0]


def without_effect(
    workshop: Any, before: StagePlan, after: StagePlan, timesteps: list[float]
) -> list[str]:
    """One sentence for each sparsity that changed without changing what runs."""
    idle = idle_stages(after, timesteps)
    sentences = [
        f"No sampling step falls into the {stage} stage, so its slider has no effect at"
        f" {len(timesteps)} steps."
        for stage in idle
    ]
    before, after = before.counted(timesteps), after.counted(timesteps)
    moved = [
        i
        for i in range(len(STAGES))
        if before.sparsity[i] != after.sparsity[i] and STAGES[i] not in idle
    ]
    if moved:
        try:
            old, new = workshop.kept_share(before), workshop.kept_share(after)  # (stages, blocks)
        # of one of them no networks can be made; the prediction says so where it is the new one
        except StudioError:
            return sentences
        same = [STAGES[i] for i in moved if (old[i] == new[i]).all()]
        sentences += [
            f"The {stage} stage keeps the same heads and neurons as before: that move was too small"
            " to matter."
            for stage in same
        ]
    return sentences


def predicted(
    workshop: Any, plan: dict[str, Any], scheduler: str, steps: Any, exact: bool = False
) -> tuple[str, str]:
    """(stage table, headline) as HTML for a plan in JSON form."""
    timesteps, asked = visited(workshop, scheduler, steps), whole_steps(steps)
    checked = StagePlan.from_json(plan).counted(timesteps)
    prediction = workshop.predict(
        checked, timesteps, batch=model_facts.batch(workshop), exact=exact
    )
    table = tables.stage_table(checked, prediction, timesteps, workshop.device_text, asked)
    return table, tables.headline(checked, prediction, timesteps, asked, _steepest(workshop))


@lru_cache(maxsize=16)
def _steepest(workshop: Any) -> int:
    """The timestep at which the model's own curve rises fastest."""
    return int(curves(workshop.schedule).gradient.argmax())


def figure(
    workshop: Any,
    view: str,
    scale: str,
    beta: str,
    threshold: float,
    lam: float,
    path: SampledCurves | None = None,
) -> dict[str, Any]:
    """The chart's figure for the chosen quantity, axis and schedule; `path` only where the schedule
    is the model's own, a proposal only where it is not.
    """
    if view not in VIEWS:
        raise StudioError("Choose one of the four curves.")
    theory, proposal = (
        curves(curve_schedule(workshop, beta), lam=lam),
        foreign_proposal(workshop, beta, threshold, lam),
    )
    mine = path if beta == own_beta(workshop) else None
    return curve_figure(
        view, scale == "log", theory, sampled_curves(workshop, beta), threshold, mine, proposal
    )


def constants(threshold: Any, lam: Any) -> tuple[float, float]:
    """M and lambda from their boxes; refuses what the rule cannot use."""
    if not isinstance(threshold, (int, float)) or not 0 < threshold < 1:
        raise StudioError("Threshold M must be a number between 0 and 1.")
    if isinstance(lam, bool) or not isinstance(lam, (int, float)) or not 0 <= lam <= 10:
        raise StudioError("Lambda must be a number from 0 to 10.")
    return float(threshold), float(lam)


def two_boundaries(value: Any) -> tuple[Any, Any]:
    """What the chart sent, as a pair; `StagePlan` checks the numbers themselves."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise StudioError("A chart has exactly two boundaries, low then high.")
    return value[0], value[1]


def moved(workshop: Any, plan: dict[str, Any], low: Any, high: Any, snap: bool) -> StagePlan:
    """The plan with other boundaries, on bin edges if asked; it loses its preset's name, which it
    no longer is.
    """
    before = StagePlan.from_json(plan)
    after = before.with_boundaries(low, high)
    after = workshop.snap(after) if snap else after
    return after if after.boundaries == before.boundaries else replace(after, name="")


def typed_boundaries(low: Any, high: Any, total: int) -> tuple[int, int]:
    """Both boundaries from their boxes, refused in the words of the boxes; `total` training
    timesteps.
    """
    for i, value in enumerate((low, high), start=1):
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or value != value
            or value in (math.inf, -math.inf)
            or value != int(value)
        ):
            raise StudioError(f"Boundary {i} must be a whole number of timesteps.")
    if not 0 < low < high < total:
        raise StudioError(
            f"Boundary 1 must lie below boundary 2, and both between 0 and {total}; they were"
            f" {short(low)} and {short(high)}."
        )
    return int(low), int(high)


OWN = "This plan is your own; Suggest proposes one and says by which rule."


def rule_text(workshop: Any, plan: StagePlan, timesteps: list[float]) -> str:
    """The sentence of the formula where the plan is the formula's for these sampling timesteps,
    else what the plan is.
    """
    proposal = propose_plan(workshop.schedule, 0.33, timesteps)
    return proposal.rule if plan == replace(proposal.plan, name=plan.name) else OWN


def suggested(
    workshop: Any, target: float, timesteps: list[float], m: float, lam: float
) -> Proposal:
    """The formula's proposal; with other constants than the presets' it is another plan, and its
    name says so.
    """
    untouched = abs(lam - default_lambda(workshop.schedule)) < 1e-9
    proposal = propose_plan(
        workshop.schedule, target, timesteps, m=m, lam=None if untouched else lam
    )
    usual = presets(workshop.schedule, target, timesteps)[proposal.plan.name]
    if proposal.plan == usual:
        return proposal
    name = f"{usual.name}, M {m:g}" + ("" if untouched else f", lambda {lam:g}")
    return replace(proposal, plan=replace(proposal.plan, name=name))


def exact_numbers(workshop: Any, plan: dict[str, Any], beta: str, lam: float) -> str:
    """Theory at both boundaries, and how far the samples lie from it, as HTML."""
    theory, sampled = (
        curves(curve_schedule(workshop, beta), lam=lam),
        sampled_curves(workshop, beta),
    )
    boundaries, rows = StagePlan.from_json(plan).boundaries, ""
    if boundaries[1] >= len(theory.mse):
        raise PlanError(
            f"The plan has more timesteps than {workshop.name}, which has {len(theory.mse)}."
        )
    for i, t in enumerate(boundaries):
        values = (theory.mse[t], theory.gradient[t], theory.log_snr[t], theory.score[t])
        cells = "".join(
            f'<td data-label="{name}">{value:.4g}</td>'
            for name, value in zip(VIEWS, values, strict=True)
        )
        rows += f'<tr><th scope="row">Boundary {i + 1}, t = {t}</th>{cells}</tr>'
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", *VIEWS))
    agree = ""
    if sampled is not None:
        at = np.interp(sampled.timesteps, theory.timesteps, theory.mse)
        off = float(np.max(np.abs(sampled.mse / at - 1)))
        agree = (
            f"Sampled MSE agrees with theory within {100 * off:.1f} % at every one of"
            f" {len(sampled.timesteps)} timesteps (n = {sampled.n} latents, seed {sampled.seed};"
            " theory is for latents of mean square 1)."
        )
    return (
        '<table class="stage-table'
        f' plain"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="fine">MSE(t) = (1 − a)² v + s² for x_t = a x_0 + s e, per latent value.'
        f" Gradient = MSE(t) − MSE(t − 1). "
        f"Score = gradient / max gradient + λ ln SNR, λ = {lam:g}. t is the scheduler's timestep,"
        f" counted from 0. {agree}</p>"
    )


def share_of(target: Any) -> float:
    """The target box's number as a share; refuses what no plan can reach."""
    if (
        isinstance(target, bool)
        or not isinstance(target, (int, float))
        or not 0 <= target <= MOST_ASKED
    ):
        raise StudioError(f"Suggest for mean sparsity must be a number from 0 to {MOST_ASKED:g}.")
    return float(target)
