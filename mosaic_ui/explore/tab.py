"""Place 1: where the trajectory is cut. Curves, two boundaries to drag, and a table that follows.

A drop is answered twice: at once with the estimate from per-bin curves, and by a second event
(following.py) with the exact prediction, so that the table never waits for linear algebra. Each
answer says which of the two it is.

No answer sets a number box: those follow the chart inside the page (boundary_boxes.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from core.curves.plan import StagePlan
from core.errors import StudioError

from .. import jobs, model_facts, tables
from ..events import EDIT, LIVE, NOTHING, QUIET, Event, Views, next_edit
from ..input_checks import plain_errors
from ..inputs import two_boundaries, typed_boundaries
from ..page_state import Shared
from ..predictions import Asked, Predicted
from ..remedies import page_sentence
from .best_place import PlacesView, moved_to
from .boundaries import BoundariesCard, Moving
from .boundary_boxes import follow_chart, send_typed
from .curve_panel import CurvePanel
from .device_speed import DeviceSpeed
from .guidance import GuidanceCard
from .held_work import anchor_of, held_sentence, with_same_work
from .mean_handle import MeanHandle
from .outcome import outcome, spoken
from .suggestion import CUSTOM, SuggestionCard, rule_html

# read out by a screen reader when it has nothing else to say
LIVE_REGION = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"


class ExploreTab:
    """The tab's components, filled with the opening plan, and their handlers as methods."""

    def __init__(self, shared: Shared):
        self.shared = shared
        self.workshop, self.predictions = shared.workshop, shared.predictions
        found = self.predictions.predict(shared.opening, *shared.opening_sampler)
        self.shown = gr.State(shared.opening.to_json())  # the plan that the tab shows
        self._build_first_step()
        self.mean = MeanHandle(shared, found)
        self.headline = self.mean.headline
        with gr.Row(equal_height=False, elem_classes="explore-row"):
            with gr.Column(elem_classes="card axis-card"):
                self.curves = CurvePanel(shared)
                self.places = PlacesView(shared)
            with gr.Column(elem_classes="card outcome-card"):
                self.strip = gr.HTML(outcome(found), elem_id="outcome")
            self.boundaries = BoundariesCard(shared)
        self.said = gr.HTML("", elem_classes="only-heard", js_on_load=LIVE_REGION)
        with gr.Row(equal_height=False, elem_classes="main-row"):
            with gr.Column(scale=1, min_width=300, elem_classes="side"):
                self.suggestion = SuggestionCard(shared, self.curves.lam)
            with gr.Column(scale=1, min_width=300, elem_classes="side"):
                self._build_sampler()
                self.guidance = GuidanceCard(shared)
        with gr.Column(elem_classes="card"):
            self.table = gr.HTML(self.predictions.table(found), elem_id="stage-table")
            self.speed = DeviceSpeed(shared, self.table)
            self.curves.caption.render()
        with gr.Accordion("Exact numbers at the boundaries, and the formulas", open=False):
            self.curves.numbers.render()
        self._name_parts()

    def _name_parts(self) -> None:
        """Name what the handlers of this tab set in its cards."""
        self.boxes = self.boundaries.boxes
        self.boxes_said = self.boundaries.said  # why boundaries were refused
        self.preset = self.suggestion.preset
        self.rule = self.suggestion.rule
        self.ruled = self.suggestion.ruled

    def _build_first_step(self) -> None:
        """Make the card that says what to do first with a model of which nothing is measured."""
        with gr.Column(
            visible=model_facts.unmeasured(self.workshop),
            elem_classes="card first-step",
            elem_id="first-step",
        ) as self.first:
            gr.HTML(tables.first_step(self.workshop))
            self.to_prune = gr.Button(
                "Go to Calibrate", variant="primary", size="sm", elem_classes="fit"
            )

    def _build_sampler(self) -> None:
        with gr.Column(elem_classes="card"):
            gr.HTML('<h2 class="panel-title">Sampler, and other curves</h2>')
            with gr.Row(elem_classes="knobs"):
                self.shared.scheduler.render()
                self.shared.steps_box.render()
                self.shared.beta.render()
            self.shared.steps_said.render()
            self.curves.path.render()
            self.curves.path_job.render()

    @property
    def plan_views(self) -> list[Any]:
        """Return the components that show the plan; `follow` and `on_sampler` set them."""
        views = [*self.predicted_views, self.preset, self.curves.chart, self.said]
        return [self.shown, *views, *self.guidance.views]

    @property
    def predicted_views(self) -> list[Any]:
        """Return the components that `predicted` sets."""
        return [self.table, self.headline, self.strip]

    def predicted(self, found: Predicted, held: str = "") -> Views:
        """Return the views of a prediction: the table, the headline and the strip."""
        return {
            self.table: self.predictions.table(found),
            self.headline: self.predictions.headline(found),
            self.strip: outcome(found, held),
        }

    @property
    def _edited(self) -> list[Any]:
        """Return the outputs of every edit of this tab."""
        shared = self.shared
        own = [self.boxes_said, self.rule, self.ruled, self.boundaries.anchor, self.places.moved]
        return [shared.plan, shared.edited, *self.plan_views, *own]

    def wire(self) -> None:
        """Connect the tab's own edits and its measurement; each edit is answered at once."""
        shared, card = self.shared, self.suggestion
        self._wire_boundaries()
        edit: Event = {"outputs": self._edited, **EDIT}
        rule = [shared.target, self.curves.threshold, self.curves.lam, shared.beta]
        asked, snap = [shared.plan, *shared.sampler], self.boundaries.snap
        gr.on(
            [card.suggest.click, self.boundaries.reset.click],
            self.on_suggest,
            [*rule, *asked, snap],
            **edit,
        )
        preset = [self.preset, shared.target, *asked, snap]
        self.preset.input(self.on_preset, preset, **edit)
        self.preset.select(self.on_picked, preset, **edit)
        shared.beta.change(self.on_beta, asked, [self.rule, self.ruled], **LIVE)
        shared.status.change(self.on_status, None, self.first, **QUIET, queue=False)
        self.guidance.wire(self._ruled, self._edited)
        self.mean.wire(self._ruled, self.predicted, self._edited)
        self.speed.wire()
        self.curves.wire()

    def _wire_boundaries(self) -> None:
        """Connect the lines of the chart, the two number boxes, the snap and the best place."""
        shared, chart = self.shared, self.curves.chart
        card, places = self.boundaries, self.places
        asked = [shared.plan, *shared.sampler]
        how = [*asked, *card.moving]
        live: Event = {"fn": self.on_drag, "inputs": [chart, *how]}
        chart.input(**live, outputs=self.predicted_views, **LIVE)
        # the numbers follow by the short way; the plan itself goes through the queue
        chart.release(**live, outputs=self.predicted_views, **LIVE)
        edit: Event = {"outputs": self._edited, **EDIT}
        chart.release(self.on_drop, [chart, *how], **edit)
        opening = list(shared.opening.boundaries)
        typed = gr.on(
            [event for box in card.boxes for event in (box.submit, box.blur)],
            self.on_boxes,
            [*card.boxes, *how],
            js=send_typed(opening),
            **edit,
        )
        follow_line = {**follow_chart(chart, card.boxes, opening), **QUIET}
        # also where the chart did not move: a refused boundary goes back to what it was
        typed.then(**follow_line)
        chart.change(**follow_line)
        card.snap.input(self.on_snap, how, **edit)
        places.go.click(self.on_best, [places.moved, *how], **edit)

    @plain_errors
    def on_drag(self, value: Any, asked: Asked, how: Moving) -> Views:
        """Estimate the plan whose boundary is being dragged."""
        low, high = two_boundaries(value)
        asked.plan.with_boundaries(low, high)  # what are no boundaries is refused aloud
        try:
            after, held, _ = self._moved(asked, how._replace(snap=False), low, high)
            found = self.predictions.predict(after, asked.scheduler, asked.steps)
        except StudioError as error:  # no such networks; the drop refuses them, once
            said = tables.message(page_sentence(error), "bad")
            return {self.strip: said} if how.hold else NOTHING
        return self.predicted(found, held)

    @plain_errors
    def on_drop(self, value: Any, asked: Asked, how: Moving, request: gr.Request) -> Views:
        """Take the boundaries where the lines were dropped."""
        low, high = two_boundaries(value)
        return self._move(low, high, asked, how, request, chart=[low, high])

    @plain_errors
    def on_boxes(
        self, low: Any, high: Any, asked: Asked, how: Moving, request: gr.Request
    ) -> Views:
        """Take typed boundaries; a box that was left as it was comes as None."""
        if low is None and high is None:
            return NOTHING
        low = asked.plan.boundaries[0] if low is None else low
        high = asked.plan.boundaries[1] if high is None else high
        return self._move(low, high, asked, how, request, typed=True)

    @plain_errors
    def on_snap(self, asked: Asked, how: Moving, request: gr.Request) -> Views:
        """Put the boundaries on edges of bins, or leave them where they are."""
        return self._move(*asked.plan.boundaries, asked, how, request)

    @plain_errors
    def on_best(self, moved: int, asked: Asked, how: Moving, request: gr.Request) -> Views:
        """Put the boundary that was moved last where the layers lose least, with the work held."""
        places = self.places.find(moved, asked)
        if places is None:
            return NOTHING
        there = moved_to(asked.plan, places.boundary, places.best)
        return self._move(*there, asked, how._replace(hold=True, snap=False), request)

    @plain_errors
    def on_suggest(
        self,
        target: Any,
        m: Any,
        lam: Any,
        beta: str,
        asked: Asked,
        snap: bool,
        request: gr.Request,
    ) -> Views:
        """Take the formula's proposal for the model's own schedule."""
        try:
            proposal, visited = self.suggestion.proposed(target, m, lam, beta, asked)
        except StudioError as error:
            return self._not_proposed(error, asked.plan)
        after, words = self.suggestion.on_bins(proposal.plan, snap)
        return self._proposed(after, rule_html(proposal, visited, words), asked, request)

    @plain_errors
    def on_preset(
        self, name: str, target: Any, asked: Asked, snap: bool, request: gr.Request
    ) -> Views:
        """Take another preset than the plan's; a dropdown that is only left sends its value too."""
        if name == self.suggestion.name_of(asked.plan):
            return NOTHING
        return self._pick(name, target, asked, snap, request)

    @plain_errors
    def on_picked(
        self, name: str, target: Any, asked: Asked, snap: bool, request: gr.Request
    ) -> Views:
        """Take a preset from the open list, perhaps the plan's own for another mean sparsity."""
        return self._pick(name, target, asked, snap, request)

    @plain_errors
    def on_beta(self, asked: Asked) -> Views:
        """Put the plan's own rule back when other curves are shown.

        What was written of a proposal for the last curves goes.
        """
        return {self.rule: self.suggestion.about(asked), self.ruled: asked.plan.to_json()}

    def on_status(self) -> Views:
        """Hide the first step when a calibration has ended: nothing is left to be done first."""
        return {self.first: gr.update(visible=model_facts.unmeasured(self.workshop))}

    def follow(self, asked: Asked, about: StagePlan, request: gr.Request) -> Views:
        """Return the tab's views after an edit in another tab; the rule's sentence is `about`."""
        views = self._show(asked, request)
        views |= {self.curves.chart: list(asked.plan.boundaries), self.boxes_said: ""}
        if asked.plan != about:
            views[self.rule] = self.suggestion.about_followed(asked)
            views[self.ruled] = asked.plan.to_json()
        return views

    def on_sampler(self, asked: Asked) -> Views:
        """Return the tab's predictions for another sampler."""
        try:
            found = self.predictions.predict(*asked)
        # one budget, say, that these steps cannot meet: what was there is of other steps
        except StudioError as error:
            said = tables.message(page_sentence(error), "bad")
            return {self.table: said, self.headline: "", self.strip: said}
        return self.predicted(found)

    def _show(
        self,
        asked: Asked,
        request: gr.Request,
        before: StagePlan | None = None,
        held: str = "",
    ) -> Views:
        """Return the views of a plan, the chart's lines apart, and mark it as asked for last.

        `before` is the plan that it replaces, `held` what stayed the same.
        """
        # refuses a plan that cannot be, before it counts as asked for
        found = self.predictions.predict(*asked)
        jobs.visit(request.session_hash).mark_latest(asked)
        return self.predicted(found, held) | {
            self.shown: asked.plan.to_json(),
            self.preset: self.suggestion.name_of(asked.plan),
            self.said: spoken(before or asked.plan, found),
            **self.guidance.follow(asked.plan, before),
        }

    def _take(self, after: StagePlan, asked: Asked, request: gr.Request, held: str = "") -> Views:
        """Return what an edit of this tab sets: the plan `after` and the tab's views of it."""
        shown = self._show(asked._replace(plan=after), request, asked.plan, held)
        return shown | {self.shared.plan: after.to_json(), self.shared.edited: next_edit()}

    def _ruled(self, after: StagePlan, asked: Asked, request: gr.Request) -> Views:
        """Take a plan with other guidance or another mean in hand, and say whose it is."""
        about = self.suggestion.about(asked._replace(plan=after))
        own: Views = {self.rule: about, self.ruled: after.to_json()}
        return self._take(after, asked, request) | own

    def _moved(
        self, asked: Asked, how: Moving, low: Any, high: Any
    ) -> tuple[StagePlan, str, StagePlan]:
        """Return the plan with other boundaries, what is held, and the plan whose work is held.

        Raises StudioError, PlanError for boundaries that cannot be or work that cannot be held.
        """
        after = self.predictions.moved(asked.plan, low, high, how.snap)
        if not how.hold:
            return after, "", after
        visited = self.predictions.visited(asked.scheduler, asked.steps)
        anchor = anchor_of(self.workshop, how.anchor, asked.plan, visited)
        held = with_same_work(self.workshop, anchor, *after.boundaries, visited)
        if held.boundaries != anchor.boundaries:
            held = replace(held, name="")
        return held, held_sentence(self.workshop, anchor, held, visited), anchor

    def _move(
        self,
        low: Any,
        high: Any,
        asked: Asked,
        how: Moving,
        request: gr.Request,
        chart: list[Any] | None = None,
        typed: bool = False,
    ) -> Views:
        """Take other boundaries; `chart` are those that the chart has already.

        Where it cannot be done the lines go back, and the reason stands below the boxes.
        """
        said, before = "", asked.plan
        try:
            if typed:
                low, high = typed_boundaries(low, high, before.num_train_timesteps)
            after, held, anchor = self._moved(asked, how, low, high)
            views = self._take(after, asked, request, held)
        except StudioError as error:
            after, anchor, chart = before, how.anchor, None
            views = self._take(after, asked, request)
            said = tables.notes([f"{page_sentence(error)} The boundaries stay as they were."])
        if list(after.boundaries) != chart:
            views[self.curves.chart] = list(after.boundaries)
        moved = [i for i in (0, 1) if after.boundaries[i] != before.boundaries[i]]
        if len(moved) == 1:
            views[self.places.moved] = moved[0]
        # a rule's sentence must not stand beside a plan that it did not make
        if after != before:
            views[self.rule] = self.suggestion.about(asked._replace(plan=after))
            views[self.ruled] = after.to_json()
        return views | {self.boxes_said: said, self.boundaries.anchor: anchor.to_json()}

    def _proposed(self, after: StagePlan, about: str, asked: Asked, request: gr.Request) -> Views:
        """Take a proposed plan, with what is said about it."""
        views = self._take(after, asked, request)
        views |= {
            self.curves.chart: list(after.boundaries),
            self.rule: about,
            self.ruled: after.to_json(),
        }
        if after != asked.plan:  # a refusal is of the boundaries that were
            views[self.boxes_said] = ""
        return views

    def _not_proposed(self, error: StudioError, plan: StagePlan) -> Views:
        """Say where the proposal would stand why there is none; the preset shown is the plan's."""
        return {
            self.preset: self.suggestion.name_of(plan),
            self.rule: tables.notes([f"{page_sentence(error)} The plan stays as it was."]),
            self.ruled: plan.to_json(),
        }

    def _pick(self, name: str, target: Any, asked: Asked, snap: bool, request: gr.Request) -> Views:
        """Take a preset, or the plan as the visitor's own."""
        try:
            plan, about = self.suggestion.picked(name, target, asked)
        except StudioError as error:
            return self._not_proposed(error, asked.plan)
        after, words = (plan, []) if name == CUSTOM else self.suggestion.on_bins(plan, snap)
        return self._proposed(after, tables.notes([about, *words]), asked, request)
