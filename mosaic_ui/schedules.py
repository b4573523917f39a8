"""Noise schedules whose curves can be looked at: the loaded model's own, other beta schedules, flow
matching and EDM.

Only the model's own schedule makes plans for it. What the rule proposes for another one is shown
and goes no further, because the model was trained with its own and samples with it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from core.curves.betas import BETA_SCHEDULES
from core.curves.noise import NoiseSchedule
from core.curves.proposals import Proposal, propose_plan
from core.curves.samplers import OTHER_SCHEDULERS, make_scheduler
from core.errors import PlanError

from . import tables

LABELS = {
    **{name: name for name in BETA_SCHEDULES},
    "Flow matching": "Flow matching",
    "EDM": "EDM (Karras)",
}


def choices(own: str) -> list[tuple[str, str]]:
    """(shown, value) of every schedule on offer; the model's own is marked."""
    return [
        (f"{label} (the model's own)" if name == own else label, name)
        for name, label in LABELS.items()
    ]


def own_beta(workshop: Any) -> str:
    """The beta schedule that the model was trained with, which is also the one it samples with."""
    return workshop.beta_schedule


@lru_cache(maxsize=8)
def _other(name: str, total: int) -> NoiseSchedule:
    if name in OTHER_SCHEDULERS:
        return NoiseSchedule.from_scheduler(make_scheduler(name, num_train_timesteps=total))
    return NoiseSchedule.from_betas(name, num=total)


def curve_schedule(workshop: Any, name: str) -> NoiseSchedule:
    """Choose the schedule to draw: the model's own, or another one on as many timesteps."""
    return workshop.schedule if name == own_beta(workshop) else _other(name, len(workshop.schedule))


def foreign_proposal(workshop: Any, name: str, m: float, lam: float) -> Proposal | None:
    """What the rule proposes for a schedule that is not the model's; None for the model's own."""
    return (
        None
        if name == own_beta(workshop)
        else propose_plan(curve_schedule(workshop, name), m=m, lam=lam)
    )


def uses_fallback(workshop: Any, name: str, m: float, lam: float) -> bool:
    """Whether the boundaries proposed for a schedule are our fallback and not the score's stretch;
    False where there is no proposal at all.
    """
    try:
        return propose_plan(curve_schedule(workshop, name), m=m, lam=lam).fallback
    except PlanError:
        return False


def schedule_note(workshop: Any, name: str, m: float, lam: float) -> str:
    """Says so when the curves are not those of the loaded model: what a timestep is there, and what
    the rule proposes.
    """
    own, label = own_beta(workshop), LABELS[name]
    if name == own:
        return ""
    sentences = [
        f"For looking only: these are the curves of {label}, but {workshop.name} was trained with"
        f" {own} and samples with it. Your plan, the table and pruning stay with {own}; a plan made"
        " from these curves could not prune this model."
    ]
    if name in OTHER_SCHEDULERS:
        sigma = curve_schedule(workshop, name).s
        mix = (
            "(1 − σ) · picture + σ · noise"
            if name == "Flow matching"
            else "picture + σ · noise; the logarithmic axis shows its low noise levels"
        )
        sentences.append(
            f"{label} goes beyond the paper; the formulas are the same. Timestep t counts places in"
            f" its list of noise levels, σ = {sigma[0]:.3g} at t = 0 to {sigma[-1]:.3g} at t ="
            f" {len(sigma) - 1}, and a noised latent is {mix}."
        )
    sentences.append(f"Dashed lines: {foreign_proposal(workshop, name, m, lam).rule}")
    return tables.notes(sentences)


def not_taken_over(workshop: Any, name: str) -> str:
    """Why a proposal for another schedule does not become the plan."""
    own = own_beta(workshop)
    return (
        f"The dashed lines are the rule's proposal for {LABELS[name]}. {workshop.name} was trained"
        f" with {own}: show those curves to get a plan for it."
    )
