"""Place 1: where the trajectory is cut. Curves, two boundaries to drag, and a table that follows.

A drop is answered twice: at once with the estimate from per-bin curves, and by a second event
(following.py) with the exact prediction, so that the table never waits for linear algebra. Each
answer says which of the two it is.

No answer sets a number box: those follow the chart inside the page (boundary_boxes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from core.curves.plan import StagePlan
from core.curves.proposals import presets
from core.errors import StudioError

from .. import jobs, model_facts, tables
from ..events import EDIT, LIVE, NOTHING, QUIET, Event, Views, next_edit
from ..input_checks import plain_errors
from ..inputs import constants, share_of, two_boundaries, typed_boundaries
from ..page_state import Shared
from ..predictions import OWN, Asked, Predicted
from ..remedies import page_sentence
from ..schedules import not_taken_over, own_beta
from .boundary_boxes import boundary_boxes, follow_chart, send_typed
from .curve_panel import CurvePanel
from .device_speed import DeviceSpeed
from .outcome import outcome, spoken

CUSTOM = "Your own"
BINS = "Bins: the {} stretches of timesteps that calibration measures one by one."
# read out by a screen reader when it has nothing else to say
LIVE_REGION = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"


class ExploreTab:
    """The tab's components, filled with the opening plan, and their handlers as methods."""

    def __init__(self, shared: Shared):
        self.shared = shared
        self.workshop, self.predictions = shared.workshop, shared.predictions
        self.preset_names = list(presets(self.workshop.schedule))
        found = self.predictions.predict(shared.opening, *shared.opening_sampler)
        plain = shared.opening.to_json()
        self.shown = gr.State(plain)  # the plan that the tab shows
        self.ruled = gr.State(plain)  # the plan that the sentence of the rule is about
        self._build_first_step()
        self.headline = gr.HTML(self.predictions.headline(found))
        with gr.Row(equal_height=False, elem_classes="explore-row"):
            with gr.Column(elem_classes="card axis-card"):
                self.curves = CurvePanel(shared)
            with gr.Column(elem_classes="card outcome-card"):
                self.strip = gr.HTML(outcome(found), elem_id="outcome")
            self._build_boundaries()
        self.said = gr.HTML("", elem_classes="only-heard", js_on_load=LIVE_REGION)
        with gr.Row(equal_height=False, elem_classes="main-row"):
            with gr.Column(scale=2, min_width=280, elem_classes="side"):
                self._build_suggestion()
            with gr.Column(scale=3, min_width=300, elem_classes="side"):
                self._build_sampler()
        with gr.Column(elem_classes="card"):
            self.table = gr.HTML(self.predictions.table(found), elem_id="stage-table")
            self.speed = DeviceSpeed(shared, self.table)
            self.curves.caption.render()
        with gr.Accordion("Exact numbers at the boundaries, and the formulas", open=False):
            self.curves.numbers.render()

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

    def _build_boundaries(self) -> None:
        with gr.Column(elem_classes="card boundaries-card"):
            gr.HTML('<h2 class="panel-title">Stage boundaries</h2>')
            with gr.Column(elem_classes="boundary-boxes"):
                self.boxes = boundary_boxes(self.shared.opening.boundaries)  # low, high
            self.boxes_said = gr.HTML("")  # why they were refused
            self.snap = gr.Checkbox(
                False,
                label="snap to calibration bins",
                info=BINS.format(self.workshop.settings.bins),
            )

    def _build_suggestion(self) -> None:
        plan = self.shared.opening
        with gr.Column(elem_classes="card"):
            gr.HTML('<h2 class="panel-title">Suggestion</h2>')
            with gr.Row(elem_classes="pair"):
                self.shared.target.render()
                self.preset = gr.Dropdown(
                    [*self.preset_names, CUSTOM],
                    value=self._preset_name(plan),
                    label="Preset",
                    filterable=False,
                    min_width=110,
                )
                self.curves.threshold.render()
                self.curves.lam.render()
            self.suggest = gr.Button("Suggest", variant="primary")
            timesteps = self.predictions.visited(*self.shared.opening_sampler)
            self.rule = gr.HTML(tables.notes([self.predictions.rule_text(plan, timesteps)]))

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
        return [self.shown, *self.predicted_views, self.preset, self.curves.chart, self.said]

    @property
    def predicted_views(self) -> list[Any]:
        """Return the components that `predicted` sets."""
        return [self.table, self.headline, self.strip]

    def predicted(self, found: Predicted) -> Views:
        """Return the views of a prediction: the table, the headline and the strip."""
        return {
            self.table: self.predictions.table(found),
            self.headline: self.predictions.headline(found),
            self.strip: outcome(found),
        }

    @property
    def _edited(self) -> list[Any]:
        """Return the outputs of every edit of this tab."""
        shared = self.shared
        own = [self.boxes_said, self.rule]
        return [shared.plan, shared.edited, *self.plan_views, *own]

    def wire(self) -> None:
        """Connect the tab's own edits and its measurement; each edit is answered at once."""
        shared = self.shared
        self._wire_boundaries()
        edit: Event = {"outputs": [*self._edited, self.ruled], **EDIT}
        rule = [shared.target, self.curves.threshold, self.curves.lam, shared.beta]
        asked = [shared.plan, *shared.sampler]
        self.suggest.click(self.on_suggest, [*rule, *asked, self.snap], **edit)
        preset = [self.preset, shared.target, *asked, self.snap]
        self.preset.input(self.on_preset, preset, **edit)
        self.preset.select(self.on_picked, preset, **edit)
        shared.beta.change(self.on_beta, asked, [self.rule, self.ruled], **LIVE)
        shared.status.change(self.on_status, None, self.first, **QUIET, queue=False)
        self.speed.wire()
        self.curves.wire()

    def _wire_boundaries(self) -> None:
        """Connect the lines of the chart, the two number boxes and the snap to bins."""
        shared, chart = self.shared, self.curves.chart
        asked = [shared.plan, *shared.sampler]
        live: Event = {"fn": self.on_drag, "inputs": [chart, *asked]}
        chart.input(**live, outputs=self.predicted_views, **LIVE)
        # the numbers follow by the short way; the plan itself goes through the queue
        chart.release(**live, outputs=self.predicted_views, **LIVE)
        edit: Event = {"outputs": self._edited, **EDIT}
        chart.release(self.on_drop, [chart, *asked, self.snap], **edit)
        opening = list(shared.opening.boundaries)
        typed = gr.on(
            [event for box in self.boxes for event in (box.submit, box.blur)],
            self.on_boxes,
            [*self.boxes, *asked, self.snap],
            js=send_typed(opening),
            **edit,
        )
        follow_line = {**follow_chart(chart, self.boxes, opening), **QUIET}
        # also where the chart did not move: a refused boundary goes back to what it was
        typed.then(**follow_line)
        chart.change(**follow_line)
        self.snap.input(self.on_snap, [self.snap, *asked], **edit)

    @plain_errors
    def on_drag(self, value: Any, asked: Asked) -> Views:
        """Estimate the plan whose boundary is being dragged."""
        after = asked.plan.with_boundaries(*two_boundaries(value))
        try:
            found = self.predictions.predict(after, asked.scheduler, asked.steps)
        except StudioError:  # no such networks; the drop refuses them, once
            return NOTHING
        return self.predicted(found)

    @plain_errors
    def on_drop(self, value: Any, asked: Asked, snap: bool, request: gr.Request) -> Views:
        """Take the boundaries where the lines were dropped."""
        low, high = two_boundaries(value)
        return self._move(
            lambda: self.predictions.moved(asked.plan, low, high, snap),
            asked,
            request,
            chart=[low, high],
        )

    @plain_errors
    def on_boxes(self, low: Any, high: Any, asked: Asked, snap: bool, request: gr.Request) -> Views:
        """Take typed boundaries; a box that was left as it was comes as None."""
        if low is None and high is None:
            return NOTHING
        plan = asked.plan
        low = plan.boundaries[0] if low is None else low
        high = plan.boundaries[1] if high is None else high

        def make() -> StagePlan:
            typed = typed_boundaries(low, high, plan.num_train_timesteps)
            return self.predictions.moved(plan, *typed, snap)

        return self._move(make, asked, request)

    @plain_errors
    def on_snap(self, snap: bool, asked: Asked, request: gr.Request) -> Views:
        """Put the boundaries on edges of bins, or leave them where they are."""
        plan = asked.plan
        return self._move(
            lambda: self.predictions.moved(plan, *plan.boundaries, snap), asked, request
        )

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
        if beta != own_beta(self.workshop):
            return self._not_proposed(not_taken_over(self.workshop, beta), asked.plan)
        try:
            visited = self.predictions.visited(asked.scheduler, asked.steps)
            proposal = self.predictions.suggested(share_of(target), visited, *constants(m, lam))
        except StudioError as error:
            return self._not_proposed(
                f"{page_sentence(error)} The plan stays as it was.", asked.plan
            )
        after, words = self._on_bins(proposal.plan, snap)
        return self._proposed(after, [proposal.rule, *words], asked, request)

    @plain_errors
    def on_preset(
        self, name: str, target: Any, asked: Asked, snap: bool, request: gr.Request
    ) -> Views:
        """Take another preset than the plan's; a dropdown that is only left sends its value too."""
        if name == self._preset_name(asked.plan):
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
        plan = asked.plan
        visited = self.predictions.visited(asked.scheduler, asked.steps)
        words = self.predictions.rule_text(plan, visited)
        if words == OWN and plan.name:
            words = f"This plan is “{plan.name}”."
        return {self.rule: tables.notes([words]), self.ruled: plan.to_json()}

    def on_status(self) -> Views:
        """Hide the first step when a calibration has ended: nothing is left to be done first."""
        return {self.first: gr.update(visible=model_facts.unmeasured(self.workshop))}

    def follow(self, asked: Asked, about: StagePlan, request: gr.Request) -> Views:
        """Return the tab's views after an edit in another tab; the rule's sentence is `about`."""
        views = self._show(asked, request)
        views |= {self.curves.chart: list(asked.plan.boundaries), self.boxes_said: ""}
        if asked.plan != about:
            views[self.rule] = tables.notes([OWN])
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

    def _preset_name(self, plan: StagePlan) -> str:
        return plan.name if plan.name in self.preset_names else CUSTOM

    def _show(self, asked: Asked, request: gr.Request, before: StagePlan | None = None) -> Views:
        """Return the views of a plan, the chart's lines apart, and mark it as asked for last.

        `before` is the plan that it replaces.
        """
        # refuses a plan that cannot be, before it counts as asked for
        found = self.predictions.predict(*asked)
        jobs.visit(request.session_hash).mark_latest(asked)
        return self.predicted(found) | {
            self.shown: asked.plan.to_json(),
            self.preset: self._preset_name(asked.plan),
            self.said: spoken(before or asked.plan, found),
        }

    def _take(self, after: StagePlan, asked: Asked, request: gr.Request) -> Views:
        """Return what an edit of this tab sets: the plan `after` and the tab's views of it."""
        shown = self._show(asked._replace(plan=after), request, asked.plan)
        return shown | {self.shared.plan: after.to_json(), self.shared.edited: next_edit()}

    def _move(
        self,
        make: Callable[[], StagePlan],
        asked: Asked,
        request: gr.Request,
        chart: list[Any] | None = None,
    ) -> Views:
        """Take what `make` makes of the boundaries; `chart` are those that the chart has already.

        Where it cannot be done the lines go back, and the reason stands below the boxes.
        """
        said = ""
        try:
            after = make()
            views = self._take(after, asked, request)
        except StudioError as error:
            after, chart = asked.plan, None
            views = self._take(after, asked, request)
            said = tables.notes([f"{page_sentence(error)} The boundaries stay as they were."])
        if list(after.boundaries) != chart:
            views[self.curves.chart] = list(after.boundaries)
        # a rule's sentence must not stand beside a plan that it did not make
        if after != asked.plan:
            views[self.rule] = tables.notes([OWN])
        return views | {self.boxes_said: said}

    def _on_bins(self, plan: StagePlan, snap: bool) -> tuple[StagePlan, list[str]]:
        """Return the plan, on bin edges if asked, and the sentence that says so."""
        after = self.workshop.snap(plan) if snap else plan
        if after.boundaries == plan.boundaries:
            return plan, []
        low, high = after.boundaries
        words = f"Then snapped to {low} and {high}, the nearest edges of calibration bins."
        return replace(after, name=f"{plan.name}, snapped"), [words]

    def _proposed(
        self, after: StagePlan, words: list[str], asked: Asked, request: gr.Request
    ) -> Views:
        """Take a proposed plan, with the sentences of its rule."""
        views = self._take(after, asked, request)
        views |= {
            self.curves.chart: list(after.boundaries),
            self.rule: tables.notes(words),
            self.ruled: after.to_json(),
        }
        if after != asked.plan:  # a refusal is of the boundaries that were
            views[self.boxes_said] = ""
        return views

    def _not_proposed(self, sentence: str, plan: StagePlan) -> Views:
        """Say where the proposal would stand why there is none; the preset shown is the plan's."""
        return {
            self.preset: self._preset_name(plan),
            self.rule: tables.notes([sentence]),
            self.ruled: plan.to_json(),
        }

    def _pick(self, name: str, target: Any, asked: Asked, snap: bool, request: gr.Request) -> Views:
        """Take a preset, or the plan as the visitor's own."""
        if name == CUSTOM:
            return self._proposed(replace(asked.plan, name=""), [OWN], asked, request)
        try:
            visited = self.predictions.visited(asked.scheduler, asked.steps)
            offered = presets(self.workshop.schedule, share_of(target), visited)
        except StudioError as error:
            return self._not_proposed(
                f"{page_sentence(error)} The plan stays as it was.", asked.plan
            )
        if name not in offered:
            raise StudioError("Choose one of the listed presets.")
        after, words = self._on_bins(offered[name], snap)
        about = (
            f"Preset “{name}”, at a step-weighted mean sparsity of {share_of(target):g}"
            f" over {len(visited)} runs of the network."
        )
        return self._proposed(after, [about, *words], asked, request)
