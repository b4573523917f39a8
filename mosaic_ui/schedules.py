"""Choose the noise schedule whose curves are drawn: the model's own, or another one to look at.

Only the model's own schedule makes plans for it. What the rule proposes for another one is shown
and goes no further, because the model was trained with its own and samples with it.
"""

from __future__ import annotations

from functools import lru_cache

from core.curves.betas import BETA_SCHEDULES
from core.curves.noise import NoiseSchedule
from core.curves.proposals import Proposal, propose_plan
from core.curves.samplers import OTHER_SCHEDULERS, make_scheduler
from core.errors import PlanError
from core.workshop.workshop import Workshop

from . import tables

LABELS = {
    **{name: name.replace("_", " ") for name in BETA_SCHEDULES},
    "squaredcos_cap_v2": "squared cosine",
    "Flow matching": "Flow matching",
    "EDM": "EDM (Karras)",
}


def choices(own: str) -> list[tuple[str, str]]:
    """Return (shown, value) of every schedule on offer; the model's own is marked."""
    return [
        (f"{label} (the model's own)" if name == own else label, name)
        for name, label in LABELS.items()
    ]


def own_beta(workshop: Workshop) -> str:
    """Return the beta schedule that the model was trained with and samples with."""
    return workshop.beta_schedule


@lru_cache(maxsize=8)
def _other(name: str, total: int) -> NoiseSchedule:
    if name in OTHER_SCHEDULERS:
        return NoiseSchedule.from_scheduler(make_scheduler(name, num_train_timesteps=total))
    return NoiseSchedule.from_betas(name, num=total)


def curve_schedule(workshop: Workshop, name: str) -> NoiseSchedule:
    """Choose the schedule to draw: the model's own, or another one on as many timesteps."""
    return workshop.schedule if name == own_beta(workshop) else _other(name, len(workshop.schedule))


def shown_proposal(workshop: Workshop, name: str, m: float, lam: float) -> Proposal | None:
    """Return what the rule proposes for a schedule; None where these constants propose nothing."""
    try:
        return propose_plan(curve_schedule(workshop, name), m=m, lam=lam)
    except PlanError:
        return None


def uses_fallback(workshop: Workshop, name: str, m: float, lam: float) -> bool:
    """Say whether the boundaries proposed for a schedule are our fallback.

    Otherwise they are the score's stretch. False where there is no proposal at all.
    """
    try:
        return propose_plan(curve_schedule(workshop, name), m=m, lam=lam).fallback
    except PlanError:
        return False


def schedule_note(workshop: Workshop, name: str, m: float, lam: float) -> str:
    """Explain curves that are not the loaded model's: their timesteps, and the rule's proposal."""
    own, label = own_beta(workshop), LABELS[name]
    if name == own:
        return ""
    sentences = [
        f"These curves of {label} are only to look at: {workshop.name} was trained with {own} and"
        f" samples with it. Your plan, the table and pruning stay with {own}; a plan made"
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
    proposal = propose_plan(curve_schedule(workshop, name), m=m, lam=lam)
    sentences.append(f"Dashed lines: {proposal.rule}")
    return tables.notes(sentences)


def not_taken_over(workshop: Workshop, name: str) -> str:
    """Say why a proposal for another schedule does not become the plan."""
    own = own_beta(workshop)
    return (
        f"The dashed lines are the rule's proposal for {LABELS[name]}. {workshop.name} was trained"
        f" with {own}: choose those curves to get a plan for it."
    )
