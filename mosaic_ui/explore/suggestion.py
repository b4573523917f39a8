"""The card that proposes a plan, by the rule or by a preset, and says in plain words why.

`ExploreTab` takes what is proposed here; the card holds the components and the words.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import gradio as gr

from core.curves.plan import StagePlan
from core.curves.proposals import INTERVAL, INTERVAL_RULE, Proposal, preset, preset_names
from core.errors import PlanError, StudioError

from .. import tables
from ..inputs import constants, share_of
from ..page_state import Shared
from ..predictions import OWN, Asked, targets_of
from ..schedules import not_taken_over, own_beta
from ..text import percent, plural

CUSTOM = "Your own"
SIGNS = ((">=", "≥"), ("lambda", "λ"), ("1 - mean", "1 − mean"), ("M max", "M · max"))
INTERVAL_WORDS = INTERVAL_RULE.replace("sigma = s / a", "σ = s / a")


def rule_sentence(proposal: Proposal, timesteps: Sequence[float]) -> str:
    """Say in plain words how boundaries and sparsities follow from the curves."""
    low, high = proposal.plan.boundaries
    share, runs = percent(proposal.plan.mean_sparsity(timesteps)), plural(len(timesteps), "step")
    if proposal.fallback:
        cut = (
            f"Boundaries {low} and {high} cut the total noise error (MSE) into equal thirds,"
            " because the score would leave a stage nearly empty here."
        )
    else:
        cut = (
            f"Boundaries {low} and {high} are where the score comes up to"
            f" {percent(proposal.threshold)} of its peak and falls below it again."
        )
    return f"{cut} The lower the score of a stage, the more it loses: {share} on average of {runs}."


def rule_html(proposal: Proposal, timesteps: Sequence[float], words: Sequence[str] = ()) -> str:
    """Write the rule's sentence, the formula behind one click, and further sentences."""
    formula = proposal.rule
    for plain, sign in SIGNS:
        formula = formula.replace(plain, sign)
    return (
        f'<div class="note"><p>{html.escape(rule_sentence(proposal, timesteps))}</p><details>'
        f"<summary>How exactly</summary>{html.escape(formula)}</details></div>"
        f"{tables.notes(list(words))}"
    )


def _preset_words(name: str, target: float, steps: int) -> str:
    """Say what a preset removes."""
    return (
        f"Preset “{name}”: {percent(target)} of heads and neurons goes, on average of"
        f" {plural(steps, 'step')}."
    )


class SuggestionCard:
    """The components of the card, filled for the opening plan, and what it can propose."""

    def __init__(self, shared: Shared, lam: gr.Number):
        self.shared, self.predictions = shared, shared.predictions
        self.workshop, plan = shared.workshop, shared.opening
        self.names = preset_names(len(self.workshop.schedule))
        # the plan that the sentence of the rule is about
        self.ruled = gr.State(plan.to_json())
        with gr.Column(elem_classes="card"):
            gr.HTML('<h2 class="panel-title">Suggestion</h2>')
            with gr.Row(elem_classes="pair"):
                shared.target.render()
                self.preset = gr.Dropdown(
                    [*self.names, CUSTOM],
                    value=self.name_of(plan),
                    label="Preset",
                    filterable=False,
                    min_width=110,
                )
                lam.render()
            self.suggest = gr.Button("Suggest", elem_classes="fit")
            self.rule = gr.HTML(self.about(Asked(plan, *shared.opening_sampler)))

    def name_of(self, plan: StagePlan) -> str:
        """Return the entry of the list of presets that stands for a plan."""
        return plan.name if plan.name in self.names else CUSTOM

    def about(self, asked: Asked) -> str:
        """Write the rule where the plan is the rule's, else what the plan is."""
        timesteps = self.predictions.visited(asked.scheduler, asked.steps)
        proposal = self.predictions.rule_of(asked.plan, timesteps)
        if proposal is not None:
            return rule_html(proposal, timesteps)
        if self._is_interval(asked.plan):
            return tables.notes([INTERVAL_WORDS])
        named = f"This plan is “{asked.plan.name}”." if asked.plan.name else OWN
        return tables.notes([named])

    def about_followed(self, asked: Asked) -> str:
        """Write what a plan of another tab, of an address or of an undo is, from its numbers.

        Its name may be anybody's.
        """
        plan, schedule = asked.plan, self.workshop.schedule
        timesteps = self.predictions.visited(asked.scheduler, asked.steps)
        proposal = self.predictions.rule_of(plan, timesteps)
        if proposal is not None:
            return rule_html(proposal, timesteps)
        if self._is_interval(plan):
            return tables.notes([INTERVAL_WORDS])
        if plan.name in self.names:
            for target in targets_of(plan, timesteps):
                with suppress(StudioError):
                    if plan == preset(schedule, plan.name, target, timesteps):
                        return tables.notes([_preset_words(plan.name, target, len(timesteps))])
        return tables.notes([OWN])

    def _is_interval(self, plan: StagePlan) -> bool:
        """Say whether a plan is this model's guidance interval."""
        if plan.name != INTERVAL:
            return False
        with suppress(PlanError):  # none on this schedule
            return plan == preset(self.workshop.schedule, INTERVAL)
        return False

    def proposed(
        self, target: Any, m: Any, lam: Any, beta: str, asked: Asked
    ) -> tuple[Proposal, list[float]]:
        """Return the rule's proposal, and the timesteps that it is for. Raises StudioError."""
        if beta != own_beta(self.workshop):
            raise StudioError(not_taken_over(self.workshop, beta))
        visited = self.predictions.visited(asked.scheduler, asked.steps)
        return self.predictions.suggested(share_of(target), visited, *constants(m, lam)), visited

    def picked(self, name: str, target: Any, asked: Asked) -> tuple[StagePlan, str]:
        """Return a preset and the sentence about it. Raises StudioError."""
        if name == CUSTOM:
            return replace(asked.plan, name=""), OWN
        visited = self.predictions.visited(asked.scheduler, asked.steps)
        schedule = self.workshop.schedule
        if name == INTERVAL:  # whatever stands in the box of the target
            return preset(schedule, name), f"Preset “{name}”: {INTERVAL_WORDS}"
        plan = preset(schedule, name, share_of(target), visited)
        return plan, _preset_words(name, share_of(target), len(visited))

    def on_bins(self, plan: StagePlan, snap: bool) -> tuple[StagePlan, list[str]]:
        """Return the plan, on bin edges if asked, and the sentence that says so."""
        after = self.workshop.snap(plan) if snap else plan
        if after.boundaries == plan.boundaries:
            return plan, []
        low, high = after.boundaries
        words = f"Then snapped to {low} and {high}, the nearest edges of calibration bins."
        return replace(after, name=f"{plan.name}, snapped"), [words]
