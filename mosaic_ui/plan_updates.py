"""What follows an edit of the plan: the other tabs' views at once, then one exact prediction.

An edit sets the plan, the views of its own tab and `Shared.edited`. That starts `follow` and, when
it has answered, `refine`: so one edit asks for the exact prediction once, and never before the
estimates that it replaces. The curve of the best place is drawn meanwhile.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.curves.plan import StagePlan

from . import jobs, model_facts, tables
from .events import LIVE, NOTHING, QUIET, Event, Views
from .explore.tab import ExploreTab
from .input_checks import plain_errors
from .page_state import Shared
from .predictions import Asked
from .prune.layer_table import table_rows
from .prune.tab import PruneTab
from .prune.views import layer_rows


class Following:
    """The events that keep Explore and Prune on one plan and one prediction."""

    def __init__(self, shared: Shared, explore: ExploreTab, prune: PruneTab):
        self.shared, self.explore, self.prune = shared, explore, prune

    def wire(self) -> None:
        """Connect what every edit, another sampler and a measurement are followed by."""
        shared, explore, prune = self.shared, self.explore, self.prune
        asked = [shared.plan, *shared.sampler]
        views = [*explore.plan_views, *prune.plan_views]
        exactly: Event = {
            "fn": self.refine,
            "inputs": [*asked, prune.layers_open, prune.inside.block],
            "outputs": [
                *explore.predicted_views,
                explore.speed.measure,
                prune.cost,
                prune.layers,
                prune.inside.view,
            ],
            **QUIET,
            "trigger_mode": "always_last",
        }
        curves = explore.curves
        shown = [explore.shown, prune.shown, explore.ruled, shared.beta, curves.lam]
        sampler = [shared.scheduler.change, shared.steps.change]
        explore.places.mark_old_on([shared.edited.change, *sampler])
        edited = shared.edited.change(
            self.follow,
            [*shown, *asked],
            [*views, explore.boxes_said, explore.rule, explore.ruled, curves.numbers, prune.shape],
            **LIVE,
        )
        resampled = gr.on(sampler, self.on_sampler, asked, views, **LIVE)
        for answered in (edited, resampled):
            # beside each other: the exact prediction takes seconds, the curve a tenth of one
            answered.then(**explore.places.event)
            answered.then(**exactly)
        # a calibration or a measurement has just ended: the same plan can be predicted better
        known = [shared.page.load, shared.status.change, shared.measured.change]
        gr.on(known, **explore.places.event)
        gr.on(known, **exactly)

    @plain_errors
    def follow(
        self,
        explored: StagePlan,
        pruned: StagePlan,
        about: StagePlan,
        beta: str,
        lam: Any,
        asked: Asked,
        request: gr.Request,
    ) -> Views:
        """Set the views of the tab in which the edit was not made.

        `explored` and `pruned` are the plans that the two tabs show: a tab's own edit changes
        nothing there. `about` is the plan that the rule's sentence in Explore is about.
        """
        views: Views = self.explore.curves.numbers_at(asked.plan, beta, lam)
        if asked.plan != explored:
            views |= self.explore.follow(asked, about, request)
        if asked.plan != pruned:
            views |= self.prune.follow(asked, pruned)
        elif asked.plan == explored:
            # nothing changed, and a chart in a tab not yet opened would lose its figure by that
            views |= self.prune.drawn(asked)
        return views or NOTHING

    @plain_errors
    def on_sampler(self, asked: Asked, request: gr.Request) -> Views:
        """Set what depends on the sampler."""
        jobs.visit(request.session_hash).mark_latest(asked)
        return self.explore.on_sampler(asked) | self.prune.on_sampler(asked)

    @plain_errors
    def refine(self, asked: Asked, is_open: bool, block: int, request: gr.Request) -> Views:
        """Set the exact prediction, or the estimate again where that cannot be had in time.

        The table per layer is filled only while it `is_open`, the inside of a block only while one
        is chosen. Nothing changes when the visitor has moved on meanwhile.
        """
        visit = jobs.visit(request.session_hash)
        if not visit.is_latest(asked):
            return NOTHING
        workshop, predictions = self.shared.workshop, self.shared.predictions
        found = predictions.predict(*asked, exact=model_facts.exact_in_time(workshop))
        views: Views = {
            **self.explore.predicted(found),
            **self.explore.speed.offer(found.plan),
            self.prune.cost: tables.cost_cards(found.plan, found.prediction, found.timesteps),
        }
        if is_open:
            views[self.prune.layers] = table_rows(layer_rows(workshop, found.plan))
        views |= self.prune.inside.follow(block, found.plan)
        return views if visit.is_latest(asked) else NOTHING
