"""List what a side of a comparison can run, and find the plan and the steps behind a choice.

`picker_choices` is the one place that says what a picker offers, and `resolve_side` the one that
says what a choice means; every preset follows the plan in hand. Kept plans and kept runs are
read in kept_sides.py.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from core.curves.plan import StagePlan
from core.curves.proposals import INTERVAL, interval_plan, preset, preset_names
from core.errors import PlanError, StudioError
from core.workshop.same_work import dense_steps, uniform_of_same_work, without_compensation
from core.workshop.workshop import Workshop

from .. import model_facts
from ..predictions import Asked, Predictions
from ..text import percent, plural
from .kept_sides import is_kept, kept_choices, kept_side

DENSE, CURRENT, UPLOADED = "Dense", "Current plan", "Uploaded plan"
SAME_WORK = "Uniform, same work"
MAGNITUDE = "Magnitude, no compensation"
FEWER_MACS = "Dense, fewer steps (same MACs)"
FEWER_TIME = "Dense, fewer steps (same time)"
PRESETS = preset_names()  # of the usual number of timesteps


class SideRun(NamedTuple):
    """What a side runs: a plan (None is the dense model), and in how many sampling steps."""

    plan: StagePlan | None
    steps: int
    name: str  # in figures

    @property
    def whole_dense(self) -> bool:
        """Say whether this is the dense model as a choice by itself."""
        return self.plan is None and self.name == DENSE


def picker_choices(workshop: Workshop, chosen: Collection[str] = ()) -> list[tuple[str, str]]:
    """Return what a picker offers now: the words and the value of each choice.

    The presets go by the names that they have with this model. `chosen` are the choices that both
    pickers show, which stay listed also where what they name was deleted since.
    """
    presets_here = preset_names(len(workshop.schedule))
    rivals = SAME_WORK, MAGNITUDE, FEWER_MACS, FEWER_TIME
    always = DENSE, CURRENT, *presets_here, *rivals, UPLOADED
    return [(name, name) for name in always] + kept_choices(workshop, chosen)


def follows_plan(choice: str) -> bool:
    """Say whether a choice means something else when the plan in hand moves."""
    return choice not in (DENSE, UPLOADED) and not is_kept(choice)


def resolve_side(
    choice: str, uploaded: StagePlan | None, asked: Asked, predictions: Predictions
) -> SideRun:
    """Find what a picker's choice runs, for the plan in hand and the sampler of `asked`.

    Raises StudioError where the choice has no plan, or one that this model cannot run.
    """
    workshop, steps = predictions.workshop, predictions.whole_steps(asked.steps)
    if choice == DENSE:
        return SideRun(None, steps, DENSE)
    if choice == CURRENT:
        return SideRun(asked.plan, steps, CURRENT)
    if choice == UPLOADED:
        if uploaded is None:
            raise StudioError(
                "No plan is uploaded for this side yet; press Upload plan, or choose another entry."
            )
        return SideRun(uploaded, steps, uploaded.name or UPLOADED)
    if is_kept(choice):
        return _kept_run(choice, steps, asked.scheduler, predictions)
    timesteps = predictions.visited(asked.scheduler, steps)
    if choice in (FEWER_MACS, FEWER_TIME):
        fewer = dense_steps(
            workshop,
            asked.plan,
            timesteps,
            lambda n: len(predictions.visited(asked.scheduler, n)),
            cost="macs" if choice == FEWER_MACS else "seconds",
            batch=model_facts.batch(workshop),
        )
        return SideRun(None, fewer, f"Dense, {plural(fewer, 'step')}")
    if choice == SAME_WORK:
        return SideRun(uniform_of_same_work(workshop, asked.plan, timesteps), steps, choice)
    if choice == MAGNITUDE:
        return SideRun(without_compensation(asked.plan), steps, choice)
    if choice not in preset_names(len(workshop.schedule)):
        raise StudioError("Choose what this side runs.")
    return SideRun(_preset(workshop, choice, asked.plan, timesteps), steps, choice)


def checked_plan(workshop: Workshop, plan: StagePlan, timesteps: list[float]) -> StagePlan:
    """Return the plan if networks of this model can be made of it for a run of these timesteps.

    Raises StudioError for what is known now.
    How layers share a cut cannot be known before a calibration or, counted in time, before the
    layers were timed; a run does both first.
    """
    unknown = model_facts.unmeasured(workshop) or (
        plan.costs == "latency" and workshop.layer_times is None
    )
    known = plan.with_equal_shares() if unknown else plan.counted(timesteps)
    workshop.predict(known, timesteps)
    return plan


def _kept_run(choice: str, steps: int, scheduler: str, predictions: Predictions) -> SideRun:
    """Return what a kept plan runs, or a side of a kept run in its own steps.

    Raises StudioError where it was deleted or does not fit this model.
    """
    kept = kept_side(choice, predictions.workshop)
    own = steps if kept.steps is None else predictions.whole_steps(kept.steps)
    checked_plan(predictions.workshop, kept.plan, predictions.visited(scheduler, own))
    return SideRun(kept.plan, own, kept.name)


def _preset(workshop: Workshop, choice: str, plan: StagePlan, timesteps: list[float]) -> StagePlan:
    """Return a preset that removes as much as the plan in hand. Raises StudioError.

    The guidance interval removes nothing, whatever the plan does.
    """
    if choice == INTERVAL:
        return interval_plan(workshop.schedule)
    mean = plan.mean_sparsity(timesteps)
    try:
        return preset(workshop.schedule, choice, mean, timesteps)
    except PlanError as err:
        raise StudioError(
            f"The current plan removes {percent(mean)}, which is more than a preset can: lower its"
            " sparsities, or choose another entry."
        ) from err


def side_names(a: SideRun, b: SideRun) -> tuple[str, str]:
    """Return the sides' names in figures; two equal names get their letter."""
    return (f"{a.name} (A)", f"{b.name} (B)") if a.name == b.name else (a.name, b.name)
