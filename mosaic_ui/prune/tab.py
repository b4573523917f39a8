"""Place 2: how much of each stage is removed, what that costs and saves, and two long jobs.

The mosaic picture shows the whole idea: one tile per block and sampling step, as strong as the
share of it that runs.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from core.curves.plan import MAX_SPARSITY, STAGES, StagePlan
from core.errors import StudioError

from .. import jobs, tables
from ..events import EDIT, FILE, LIVE, NOTHING, QUIET, Views, next_edit
from ..guidance_boxes import WHY, GuidanceBox, box_views
from ..input_checks import plain_errors
from ..inputs import number_within, read_upload
from ..mean_sparsity import with_mean
from ..page_state import Shared
from ..predictions import Asked
from ..remedies import page_sentence
from ..runs.plan_shelf import KeepBox
from ..stage_chart import figure_text, plot_panel
from ..theme import STAGE_MEANING
from .inside_block import InsideBlock
from .jobs import PruneJobs
from .layer_table import layer_table, table_rows
from .mosaic_figure import mosaic_height
from .sharing_panel import SharingChoice, SharingPanel, changed
from .views import (
    BEFORE,
    download_link,
    layer_rows,
    layers_caption,
    picture,
    picture_key,
    ready,
)

MASTER = "Target mean sparsity"
INTRO = (
    "Sparsity is the share of attention heads and MLP neurons that is removed. The rest is adjusted"
    " so that each layer's output changes as little as possible, without any training."
)


def _slider(value: float, label: str, info: str, classes: list[str] | None = None) -> gr.Slider:
    """Make a slider without Gradio's reset arrow, which would set it without an event."""
    return gr.Slider(
        0,
        MAX_SPARSITY,
        round(value, 3),
        step=0.005,
        label=label,
        info=info,
        elem_classes=classes,
        buttons=[],
    )


def _share(value: Any, label: str) -> float:
    """Return what a slider sent. Raises StudioError that names it."""
    return number_within(value, 0, MAX_SPARSITY, label)


class StageControls:
    """The slider of one stage's sparsity, the box of its guidance beside it, their handlers."""

    def __init__(self, tab: PruneTab, stage: int, plan: StagePlan):
        name = STAGES[stage]
        self.tab, self.stage = tab, stage
        self.label = f"{name.capitalize()} stage sparsity"
        with gr.Row(elem_classes=["stage-row", f"stage-{name}"]):
            value = plan.sparsity[stage]
            self.slider = _slider(value, self.label, STAGE_MEANING[name], ["stage-slider"])
            self.guidance = GuidanceBox(stage, plan)

    @plain_errors
    def on_slide(self, value: Any, asked: Asked, request: gr.Request) -> Views:
        """Set this stage's sparsity; the other stages keep their unrounded values."""

        def make(_: list[float]) -> StagePlan:
            sparsity = [*asked.plan.sparsity]
            sparsity[self.stage] = _share(value, self.label)
            return replace(asked.plan.with_sparsity(*sparsity), name="")

        views = self.tab.slide(make, self.slider, asked, request)
        if self.tab.shared.plan in views:
            views[self.tab.shape] = views[self.tab.shared.plan]
        return views

    @plain_errors
    def on_guidance(self, guidance: Any, asked: Asked, request: gr.Request) -> Views:
        """Set this stage's guidance; a box that is only left sends its value too.

        "1.50" is as good as "1.5", and shown in one way.
        """

        def make(_: list[float]) -> StagePlan:
            return self.guidance.changed(asked.plan, guidance)

        own, same = [self.guidance], box_views([self.guidance], asked.plan)
        views = self.tab.slide(make, None, asked, request)
        after = views.get(self.tab.shared.plan)
        if after is None:
            return views | same
        if after == asked.plan.to_json():
            return same
        return views | box_views(own, StagePlan.from_json(after))


class PruneTab:
    """The tab's components, filled with the opening plan, and their handlers as methods."""

    def __init__(self, shared: Shared):
        self.shared = shared
        self.workshop, self.predictions = shared.workshop, shared.predictions
        plan = shared.opening
        found = self.predictions.predict(plan, *shared.opening_sampler)
        self.shown = gr.State(plan.to_json())  # the plan that the tab shows
        # the plan whose proportions the master slider keeps, even through zero
        self.shape = gr.State(plan.to_json())
        self.layers_open = gr.State(False)
        gr.Markdown(INTRO, elem_classes="intro")
        with gr.Row(equal_height=False, elem_classes="main-row"):
            with gr.Column(scale=3, min_width=300, elem_classes="side"):
                with gr.Column(elem_classes="card"):
                    self._build_sliders(plan, found.timesteps)
                with gr.Column(elem_classes="card"):
                    self._build_buttons()
                # below the buttons, which would leave the first screen when it opens
                with gr.Column(elem_classes="card"):
                    self.sharing = SharingPanel(self.workshop, found.plan)
            with gr.Column(scale=5, min_width=300, elem_classes="side"):
                with gr.Column(elem_classes="card"):
                    self.cost = gr.HTML(
                        tables.cost_cards(found.plan, found.prediction, found.timesteps)
                    )
                    self._build_mosaic(found.plan, found.timesteps)
                with gr.Column(elem_classes="card"):
                    self.inside = InsideBlock(shared)
        with gr.Accordion("Per-layer table, dense against pruned", open=False) as self.layers_box:
            self.layers = layer_table()
            gr.HTML(layers_caption(self.workshop))
        with gr.Accordion("The plan as a file", open=False):
            self._build_file(plan)
        self.jobs = PruneJobs(shared, self.job, self.calibrate, self.prune, self.stop)

    def _build_sliders(self, plan: StagePlan, timesteps: list[float]) -> None:
        gr.HTML('<h2 class="panel-title">How much to remove</h2>')
        self.master = _slider(
            plan.mean_sparsity(timesteps),
            MASTER,
            "Scales the three below, weighted by steps.",
        )
        # shown as sampling meets the stages, kept in the order of STAGES
        shown = [StageControls(self, i, plan) for i in reversed(range(len(STAGES)))]
        self.stage_controls = shown[::-1]
        self.sliders = [one.slider for one in self.stage_controls]
        self.guidance = [one.guidance for one in self.stage_controls]
        gr.HTML(WHY)
        self.effect = gr.HTML("")

    def _build_buttons(self) -> None:
        gr.HTML('<h2 class="panel-title">Calibrate and prune</h2>')
        with gr.Row(elem_classes="buttons"):
            self.calibrate = gr.Button("Calibrate", min_width=76)
            self.prune = gr.Button("Prune", variant="primary", min_width=76)
            self.stop = gr.Button("Stop", variant="stop", min_width=76, interactive=False)
        self.job = gr.HTML(ready(self.workshop))

    def _build_mosaic(self, plan: StagePlan, timesteps: list[float]) -> None:
        gr.HTML('<h2 class="panel-title">What runs when: blocks × sampling steps</h2>')
        self.mosaic = plot_panel(
            picture(self.workshop, plan, timesteps),
            label="Share of each block that runs at each sampling step",
            elem_id="mosaic",
            height=mosaic_height(self.workshop.blocks),
        )
        gr.HTML(tables.stage_legend())
        self.picture_key = gr.HTML(picture_key(plan))

    def _build_file(self, plan: StagePlan) -> None:
        with gr.Row(elem_classes="file-row"):
            self.download = gr.HTML(download_link(plan))
            self.upload = gr.UploadButton(
                "Upload plan", type="binary", file_types=[".json"], size="md"
            )
        self.keep = KeepBox(self.shared)
        self.code = gr.Code(plan.dumps(), language="json", label="plan.json", interactive=False)

    @property
    def plan_views(self) -> list[Any]:
        """Return the components that show the plan; `follow` and `on_sampler` set them."""
        return [
            self.shown,
            *self.sliders,
            *(one.box for one in self.guidance),
            self.master,
            self.cost,
            self.mosaic,
            self.picture_key,
            self.effect,
            self.code,
            self.download,
            *self.sharing.controls,
            self.sharing.note,
        ]

    def wire(self) -> None:
        """Connect the tab's own edits, the table per layer and the two jobs."""
        shared, asked = self.shared, [self.shared.plan, *self.shared.sampler]
        edit = {"outputs": [shared.plan, shared.edited, self.shape, *self.plan_views], **EDIT}
        for one in self.stage_controls:
            one.slider.input(one.on_slide, [one.slider, *asked], **edit)
            one.guidance.box.input(one.on_guidance, [one.guidance.box, *asked], **edit)
        self.master.input(self.on_master, [self.master, self.shape, *asked], **edit)
        gr.on(
            [control.input for control in self.sharing.controls],
            self.on_sharing,
            [*self.sharing.controls, *asked],
            **edit,
        )
        self.kept = self.keep.wire()
        uploaded = [shared.plan, shared.edited, self.keep.title]
        self.upload.upload(self.on_upload, [self.upload, *shared.sampler], uploaded, **EDIT | FILE)
        shared.status.change(self.on_status, self.job, self.job, **LIVE)
        self.layers_box.expand(
            self.on_layers_open,
            asked,
            [self.layers_open, self.layers],
            **QUIET,
        )
        self.layers_box.collapse(self.on_layers_close, None, self.layers_open, **QUIET)
        self.inside.wire()
        self.jobs.wire()

    @plain_errors
    def on_master(self, target: Any, shape: StagePlan, asked: Asked, request: gr.Request) -> Views:
        """Scale the three sparsities to a mean, in the proportions of `shape`."""

        def make(timesteps: list[float]) -> StagePlan:
            return with_mean(asked.plan, shape, _share(target, MASTER), timesteps)

        return self.slide(make, self.master, asked, request)

    @plain_errors
    def on_sharing(self, choice: SharingChoice, asked: Asked, request: gr.Request) -> Views:
        """Take another way to share the cut.

        Where it cannot be, the reason is shown, the controls go back and the plan stays.
        """
        plan, timesteps = asked.plan, self.predictions.visited(asked.scheduler, asked.steps)
        try:
            after = changed(self.workshop, plan, timesteps, choice)
        except StudioError as error:
            said = tables.notes([f"{page_sentence(error)} The plan stays as it was."])
            return self.sharing.views_of(plan) | {self.sharing.note: said}
        jobs.visit(request.session_hash).mark_latest(asked._replace(plan=after))
        shown = self._show(after, plan, timesteps)
        return shown | self._edit(after) | {self.shape: after.to_json()}

    @plain_errors
    def on_upload(self, content: bytes | None, scheduler: str, steps: Any) -> Views:
        """Take the plan of an uploaded file over into every tab."""
        # the page has a sampler of its own
        plan = replace(read_upload(content), stage_steps=None)
        # refuses what no networks can be made of before every tab takes it over
        self.predictions.predict(plan, scheduler, steps)
        called = f" “{html.escape(plan.name)}”" if plan.name else ""  # a notice is HTML
        gr.Info(f"Plan{called} loaded: boundaries {plan.boundaries[0]} and {plan.boundaries[1]}.")
        return self._edit(plan) | {self.keep.title: plan.name}

    @plain_errors
    def on_status(self, job: str | None) -> Views:
        """Take back the remark that nothing is calibrated, where a calibration has ended since."""
        if BEFORE in (job or "") and self.workshop.calibrated:
            return {self.job: ready(self.workshop)}
        return NOTHING

    @plain_errors
    def on_layers_open(self, asked: Asked) -> Views:
        """Fill the table per layer when it is opened."""
        timesteps = self.predictions.visited(asked.scheduler, asked.steps)
        rows = layer_rows(self.workshop, asked.plan.counted(timesteps))
        return {self.layers_open: True, self.layers: table_rows(rows)}

    @plain_errors
    def on_layers_close(self) -> Views:
        """Remember that the table per layer is closed and need not be filled."""
        return {self.layers_open: False}

    def slide(
        self,
        make: Callable[[list[float]], StagePlan],
        held: gr.Slider | None,
        asked: Asked,
        request: gr.Request,
    ) -> Views:
        """Take the plan that `make` makes for the run's timesteps, moved by the slider `held`.

        The held slider is never set. Where the plan cannot be, every slider goes back and the
        reason stands below them.
        """
        plan, timesteps = asked.plan, self.predictions.visited(asked.scheduler, asked.steps)
        try:
            after = make(timesteps)
            views = self._show(after, plan, timesteps)
            effects = self.predictions.without_effect(plan, after, timesteps)
        except StudioError as error:
            return self._refused(error, plan, timesteps)
        jobs.visit(request.session_hash).mark_latest(asked._replace(plan=after))
        views |= {self.effect: tables.notes(effects), **self._edit(after)}
        if held is not None:
            views.pop(held, None)
        return views

    def follow(self, asked: Asked, before: StagePlan) -> Views:
        """Return the tab's views after an edit made in another tab; `before` is what it shows."""
        timesteps = self.predictions.visited(asked.scheduler, asked.steps)
        return self._show(asked.plan, before, timesteps) | {self.shape: asked.plan.to_json()}

    def drawn(self, asked: Asked) -> Views:
        """Return the mosaic's figure alone, for a plan that the tab shows already."""
        timesteps = self.predictions.visited(asked.scheduler, asked.steps)
        figure = picture(self.workshop, asked.plan.counted(timesteps), timesteps)
        return {self.mosaic: gr.update(figure=figure_text(figure))}

    def on_sampler(self, asked: Asked) -> Views:
        """Return the tab's views for another sampler."""
        try:
            timesteps = self.predictions.visited(asked.scheduler, asked.steps)
            return self._show(asked.plan, asked.plan, timesteps)
        # one budget, say, that these steps cannot meet: what was there is of other steps
        except StudioError as error:
            return {self.cost: tables.message(page_sentence(error), "bad")}

    def _edit(self, plan: StagePlan) -> Views:
        return {self.shared.plan: plan.to_json(), self.shared.edited: next_edit()}

    def _show(self, plan: StagePlan, before: StagePlan, timesteps: list[float]) -> Views:
        """Return all views of a plan.

        A slider that stands right since `before` is not set, as a person may be holding it. Raises
        StudioError where no networks can be made of the plan.
        """
        run = plan.counted(timesteps)
        found = self.predictions.predict_run(run, timesteps)
        views: Views = {
            self.shown: plan.to_json(),
            self.master: round(plan.mean_sparsity(timesteps), 3),
            self.cost: tables.cost_cards(run, found, timesteps),
            self.mosaic: gr.update(figure=figure_text(picture(self.workshop, run, timesteps))),
            self.picture_key: picture_key(run),
            self.effect: "",
            self.code: plan.dumps(),
            self.download: download_link(plan),
        }
        for slider, new, old in zip(self.sliders, plan.sparsity, before.sparsity, strict=True):
            if new != old:
                views[slider] = round(new, 3)
        views |= box_views(self.guidance, plan, before)
        return views | self.sharing.follow(run, before)

    def _refused(self, error: StudioError, plan: StagePlan, timesteps: list[float]) -> Views:
        """Put every slider back to the plan, with the reason below them."""
        views: Views = {
            slider: round(s, 3) for slider, s in zip(self.sliders, plan.sparsity, strict=True)
        }
        said = tables.notes([f"{page_sentence(error)} The plan stays as it was."])
        return views | {self.master: round(plan.mean_sparsity(timesteps), 3), self.effect: said}
