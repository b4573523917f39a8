"""What the tabs ask the core: predictions, curves and proposals, in the form that the page shows.

No components here, so it is tested without a browser.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from core.curves.dynamics import Curves, SampledCurves, curves, default_lambda, sample_forward
from core.curves.plan import STAGES, StagePlan
from core.curves.proposals import Proposal, presets, propose_plan
from core.errors import PlanError, StudioError
from core.workshop.compare import visited
from core.workshop.prediction import Prediction
from core.workshop.workshop import Workshop

from . import model_facts, tables
from .figures import VIEWS, curve_figure
from .headline import headline
from .inputs import whole_steps
from .schedules import curve_schedule, own_beta, shown_proposal

SAMPLED_LATENTS = 1024  # enough for points within 1 % of theory, measured in well under a second
USUAL_TARGET = 0.33
OWN = "This plan is your own. Suggest proposes another one and names its rule."


class Asked(NamedTuple):
    """A plan, and the sampler of the run that it is asked about; three inputs of a handler."""

    plan: StagePlan
    scheduler: str
    steps: Any  # as the page sent them: `Predictions` refuses what cannot be


@dataclass(frozen=True)
class Predicted:
    """A plan, the run that it is for, and what is predicted of it."""

    plan: StagePlan  # `counted` for the run
    timesteps: list[float]  # that the sampler visits, first one first
    asked: int  # sampling steps; second-order samplers run the network more often
    prediction: Prediction
    estimated: float | None = None  # the quick estimate of an error that is known exactly


class Predictions:
    """The answers of one workshop for one page; what was computed goes when the page goes."""

    def __init__(self, workshop: Workshop):
        self.workshop = workshop
        self._sampled = lru_cache(maxsize=16)(self._sample)

    def _sample(self, beta: str) -> SampledCurves | None:
        if self.workshop.latents is None:
            return None
        schedule = curve_schedule(self.workshop, beta)
        return sample_forward(self.workshop.latents[:SAMPLED_LATENTS], schedule, seed=0)

    def whole_steps(self, steps: object) -> int:
        """Return a number of sampling steps that this model allows. Raises StudioError."""
        return whole_steps(steps, len(self.workshop.schedule))

    def visited(self, scheduler: str, steps: object) -> list[float]:
        """Return the timesteps that the sampler visits with this model, first one first."""
        return visited(self.workshop, scheduler, self.whole_steps(steps))

    def sampled_curves(self, beta: str) -> SampledCurves | None:
        """Return the curves measured on the model's latents (n = 1024, seed 0), None without."""
        return self._sampled(beta)

    @cached_property
    def steepest(self) -> int:
        """Return the timestep at which the model's own curve rises fastest."""
        return int(curves(self.workshop.schedule).gradient.argmax())

    def predict(
        self, plan: StagePlan, scheduler: str, steps: object, exact: bool = False
    ) -> Predicted:
        """Predict what a plan costs with this sampler. Raises StudioError where it cannot be."""
        timesteps = self.visited(scheduler, steps)
        counted = plan.counted(timesteps)
        prediction = self.predict_run(counted, timesteps, exact)
        estimated = self.predict_run(counted, timesteps).error if exact else None
        return Predicted(counted, timesteps, self.whole_steps(steps), prediction, estimated)

    def predict_run(
        self, counted: StagePlan, timesteps: list[float], exact: bool = False
    ) -> Prediction:
        """Predict what a plan, `StagePlan.counted` for these timesteps, costs in their run."""
        batch = model_facts.batch(self.workshop)
        return self.workshop.predict(counted, timesteps, batch=batch, exact=exact)

    def knows_time(self, plan: StagePlan) -> bool:
        """Say whether all was timed that the predicted times of a plan come from."""
        batch, workshop = model_facts.batch(self.workshop), self.workshop
        tables = [workshop.latency(batch * rows) for rows in model_facts.rows_timed(plan)]
        return workshop.layer_times is not None and None not in tables

    def table(self, found: Predicted) -> str:
        """Return the stage table as HTML."""
        return tables.stage_table(
            found.plan,
            found.prediction,
            found.timesteps,
            device=self.workshop.device_text,
            asked=found.asked,
            half_timed=self.workshop.latency(found.prediction.batch) is not None,
        )

    def headline(self, found: Predicted, refused: int = 0) -> str:
        """Return the plan in one sentence as HTML; `refused` as in `headline.mean_handle`."""
        return headline(
            found.plan,
            found.prediction,
            found.timesteps,
            asked=found.asked,
            steepest=self.steepest,
            refused=refused,
        )

    def figure(
        self,
        view: str,
        scale: str,
        beta: str,
        threshold: float,
        lam: float,
        path: SampledCurves | None = None,
    ) -> dict[str, Any]:
        """Return the chart's figure for the chosen quantity, axis and noise schedule.

        `path`, the model's own sampling path, is drawn only where the schedule is the model's own.
        What the rule proposes for these constants is drawn in every view. Raises StudioError for an
        unknown view.
        """
        if view not in VIEWS:
            raise StudioError("Choose one of the four curves.")
        return curve_figure(
            view,
            scale == "log",
            theory=curves(curve_schedule(self.workshop, beta), lam=lam),
            sampled=self.sampled_curves(beta),
            threshold=threshold,
            path=path if beta == own_beta(self.workshop) else None,
            proposed=shown_proposal(self.workshop, beta, threshold, lam),
            own=beta == own_beta(self.workshop),
        )

    def moved(self, plan: StagePlan, low: Any, high: Any, snap: bool) -> StagePlan:
        """Return the plan with other boundaries, on bin edges if asked.

        A plan that moved is no longer its preset and loses the preset's name.
        """
        after = plan.with_boundaries(low, high)
        after = self.workshop.snap(after) if snap else after
        return after if after.boundaries == plan.boundaries else replace(after, name="")

    def rule_of(self, plan: StagePlan, timesteps: list[float]) -> Proposal | None:
        """Return the formula's proposal where the plan is that for its mean sparsity, else None."""
        for target in targets_of(plan, timesteps):
            with suppress(PlanError):  # more than the formula ever removes
                proposal = propose_plan(self.workshop.schedule, target, timesteps)
                if plan == replace(proposal.plan, name=plan.name):
                    return proposal
        return None

    def suggested(self, target: float, timesteps: list[float], m: float, lam: float) -> Proposal:
        """Return the formula's proposal for M and lambda.

        With other constants than the presets' it is another plan, and its name says so.
        """
        schedule = self.workshop.schedule
        untouched = abs(lam - default_lambda(schedule)) < 1e-9
        proposal = propose_plan(schedule, target, timesteps, m=m, lam=None if untouched else lam)
        usual = presets(schedule, target, timesteps)[proposal.plan.name]
        if proposal.plan == usual:
            return proposal
        name = f"{usual.name}, M {m:g}" + ("" if untouched else f", lambda {lam:g}")
        return replace(proposal, plan=replace(proposal.plan, name=name))

    def exact_numbers(self, plan: StagePlan, beta: str, lam: float) -> str:
        """Return theory at both boundaries, and how far samples lie from it, as HTML."""
        theory = curves(curve_schedule(self.workshop, beta), lam=lam)
        if plan.boundaries[1] >= len(theory.mse):
            raise PlanError(
                f"The plan has more timesteps than {self.workshop.name}, which has"
                f" {len(theory.mse)}."
            )
        agreement = _agreement(theory, self.sampled_curves(beta))
        return tables.boundary_numbers(theory, plan.boundaries, lam, agreement)

    def without_effect(
        self, before: StagePlan, after: StagePlan, timesteps: list[float]
    ) -> list[str]:
        """Return one sentence for each sparsity that changed without changing what runs."""
        idle = idle_stages(after, timesteps)
        sentences = [
            f"No sampling step falls into the {stage} stage, so its slider has no effect at"
            f" {len(timesteps)} steps."
            for stage in idle
        ]
        return [*sentences, *self._too_small(before, after, timesteps, idle)]

    def _too_small(
        self, before: StagePlan, after: StagePlan, timesteps: list[float], idle: list[str]
    ) -> list[str]:
        old, new = before.counted(timesteps), after.counted(timesteps)
        moved = [
            i
            for i, stage in enumerate(STAGES)
            if old.sparsity[i] != new.sparsity[i] and stage not in idle
        ]
        if not moved:
            return []
        try:
            kept_before, kept_now = self.workshop.kept_share(old), self.workshop.kept_share(new)
        # of one of them no networks can be made; the prediction says so where it is the new one
        except StudioError:
            return []
        return [
            f"The {STAGES[i]} stage keeps the same heads and neurons as before: the change was too"
            " small to matter."
            for i in moved
            if (kept_before[i] == kept_now[i]).all()
        ]


def idle_stages(plan: StagePlan, timesteps: list[float]) -> list[str]:
    """Return the stages that no sampling step visits: nothing set there can matter."""
    return [stage for stage, steps in plan.steps_per_stage(timesteps).items() if steps == 0]


def _agreement(theory: Curves, sampled: SampledCurves | None) -> str:
    """Say how near samples are to theory; empty where nothing is sampled."""
    if sampled is None:
        return ""
    at = np.interp(sampled.timesteps, theory.timesteps, theory.mse)
    off = float(np.max(np.abs(sampled.mse / at - 1)))
    return (
        f"Sampled MSE agrees with theory within {100 * off:.1f} % at every one of"
        f" {len(sampled.timesteps)} timesteps (n = {sampled.n} latents, seed {sampled.seed};"
        " theory is for latents of mean square 1)."
    )


def targets_of(plan: StagePlan, timesteps: list[float]) -> list[float]:
    """Return the mean sparsities that a plan may have been proposed for, in whole per cent."""
    return list(dict.fromkeys((USUAL_TARGET, round(plan.mean_sparsity(timesteps), 2))))
