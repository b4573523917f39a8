"""Place 2: how much of each stage is removed, what that costs and saves, and the two long jobs,
Calibrate and Prune.

The mosaic picture shows the whole idea: one tile per block and sampling step, as strong as the
share of it that runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from core.curves.plan import MAX_SPARSITY, STAGES, StagePlan
from core.errors import StudioError

from .. import answers, jobs, model_facts, tables
from ..answers import plain_errors, read_upload
from ..events import EDIT, FILE, LIVE, QUIET
from ..figures import mosaic_height
from ..remedies import page_sentence
from ..stage_chart import plot_panel
from ..theme import STAGE_MEANING
from . import sharing_panel
from .jobs import wire_jobs
from .sharing_panel import SharingPanel, build_sharing
from .views import (
    BEFORE,
    LAYER_HEADERS,
    download_link,
    layer_rows,
    layers_caption,
    picture,
    predicted_cost,
    ready,
)


@dataclass
class Prune:
    """The tab's components. `shape` is the plan whose proportions the master slider keeps, even
    through zero.
    """

    sliders: list[gr.Slider]  # in STAGES order
    master: gr.Slider
    effect: gr.HTML
    sharing: SharingPanel
    cost: gr.HTML
    mosaic: gr.HTML
    calibrate: gr.Button
    prune: gr.Button
    stop: gr.Button
    job: gr.HTML
    layers_box: gr.Accordion
    layers: gr.Dataframe
    code: gr.Code
    download: gr.HTML
    upload: gr.UploadButton
    shown: gr.State
    shape: gr.State
    layers_open: gr.State


MASTER, STAGE_SLIDERS = (
    "Target mean sparsity",
    tuple(f"{stage.capitalize()} stage sparsity" for stage in STAGES),
)


def _slider(value: float, label: str, info: str, classes: list[str] | None = None) -> gr.Slider:
    """Without Gradio's reset arrow, which would set the slider and tell nobody."""
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
    """What a slider sent. Raises StudioError that names it."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 <= value <= MAX_SPARSITY
    ):
        raise StudioError(f"{label} must be a number from 0 to {MAX_SPARSITY:g}.")
    return float(value)


def build(shared: Any) -> Prune:
    """The tab's components, filled with the opening plan."""
    workshop, timesteps = (
        shared.workshop,
        answers.visited(shared.workshop, shared.scheduler.value, shared.steps.value),
    )
    plan = StagePlan.from_json(shared.plan.value)
    run = plan.counted(timesteps)
    gr.Markdown(
        "Sparsity is the share of attention heads and of MLP neurons that is removed. What is left"
        " is adjusted so that each layer's output changes as little as possible, without any"
        " training.",
        elem_classes="intro",
    )
    with gr.Row(equal_height=False, elem_classes="main-row"):
        with gr.Column(scale=2, min_width=300, elem_classes="side"):
            with gr.Column(elem_classes="card"):
                gr.HTML('<h3 class="panel-title">How much to remove</h3>')
                master = _slider(
                    plan.mean_sparsity(timesteps),
                    MASTER,
                    "Scales the three below, keeping their proportions; weighted by sampling"
                    " steps.",
                )
                sliders = [
                    _slider(
                        plan.sparsity[i],
                        STAGE_SLIDERS[i],
                        STAGE_MEANING[stage],
                        ["stage-slider", f"stage-{stage}"],
                    )
                    for i, stage in reversed(list(enumerate(STAGES)))  # as sampling meets them
                ][::-1]
                effect = gr.HTML("")
                sharing = build_sharing(workshop, run)
            with gr.Column(elem_classes="card"):
                gr.HTML('<h3 class="panel-title">Calibrate and prune</h3>')
                with gr.Row(elem_classes="buttons"):
                    calibrate = gr.Button("Calibrate", min_width=76)
                    prune = gr.Button("Prune", variant="primary", min_width=76)
                    stop = gr.Button("Stop", variant="stop", min_width=76, interactive=False)
                job = gr.HTML(ready(workshop))
        with gr.Column(scale=5, min_width=300, elem_classes="card"):
            cost = gr.HTML(predicted_cost(workshop, run, timesteps))
            gr.HTML('<h3 class="panel-title">What runs when: blocks × sampling steps</h3>')
            mosaic = plot_panel(
                picture(workshop, run, timesteps),
                label="Share of each block that runs at each sampling step",
                elem_id="mosaic",
                height=mosaic_height(workshop.blocks),
            )
            gr.HTML(tables.stage_legend())
            gr.HTML(
                '<p class="fine">Full colour: the whole block runs. The fainter the tile, the more'
                " of its heads and neurons are removed.</p>"
            )
    with gr.Accordion("Per-layer table, dense against pruned", open=False) as layers_box:
        layers = gr.Dataframe(
            headers=LAYER_HEADERS,
            interactive=False,
            max_height=420,
            show_label=False,
            elem_id="layer-table",
        )
        gr.HTML(layers_caption(workshop))
    with gr.Accordion("The plan as a file", open=False):
        with gr.Row(elem_classes="file-row"):
            download = gr.HTML(download_link(plan))
            upload = gr.UploadButton("Upload plan", type="binary", file_types=[".json"], size="md")
        code = gr.Code(plan.dumps(), language="json", label="plan.json", interactive=False)
    plain = plan.to_json()
    return Prune(
        sliders,
        master,
        effect,
        sharing,
        cost,
        mosaic,
        calibrate,
        prune,
        stop,
        job,
        layers_box,
        layers,
        code,
        download,
        upload,
        gr.State(plain),
        gr.State(plain),
        gr.State(False),
    )


def wire(shared: Any, tab: Prune) -> None:
    """Connect the tab: sliders answer at once, jobs run one at a time, edits made elsewhere arrive
    through the plan.
    """
    workshop = shared.workshop
    sampler = [shared.scheduler, shared.steps]
    views = [
        tab.shown,
        *tab.sliders,
        tab.master,
        tab.cost,
        tab.mosaic,
        tab.effect,
        tab.code,
        tab.download,
        *tab.sharing.controls,
        tab.sharing.note,
    ]

    def show(plan: StagePlan, before: StagePlan, timesteps: list[float], effect: str = "") -> tuple:
        """All views of a plan, in the order of `views`; a slider that stands right since `before`
        is not set, as somebody may be holding it.
        """
        sliders = (
            gr.skip() if new == old else round(new, 3)
            for new, old in zip(plan.sparsity, before.sparsity, strict=True)
        )
        run = plan.counted(timesteps)
        return (
            plan.to_json(),
            *sliders,
            round(plan.mean_sparsity(timesteps), 3),
            predicted_cost(workshop, run, timesteps),
            gr.update(figure=picture(workshop, run, timesteps)),
            effect,
            plan.dumps(),
            download_link(plan),
            *sharing_panel.follow(workshop, run, before),
        )

    def moved(plan: StagePlan, before: StagePlan, timesteps: list[float], held: int) -> tuple:
        """The same after a move of the knob at place `held` of `views`: that one is never set."""
        shown = list(
            show(
                plan,
                before,
                timesteps,
                tables.notes(answers.without_effect(workshop, before, plan, timesteps)),
            )
        )
        shown[held] = gr.skip()
        return tuple(shown)

    def refused(error: StudioError, plan: StagePlan, timesteps: list[float]) -> tuple:
        """The views after a move that cannot be: every slider goes back to the plan, and the reason
        stands below them.
        """
        sliders = (*(round(s, 3) for s in plan.sparsity), round(plan.mean_sparsity(timesteps), 3))
        said = tables.notes([f"{page_sentence(error)} The plan stays as it was."])
        return gr.skip(), *sliders, gr.skip(), gr.skip(), said, *(gr.skip() for _ in views[8:])

    def on_stage(i: int) -> Callable:
        """The handler of one stage's slider; only that stage changes, the others keep their
        unrounded values.
        """

        @plain_errors
        def on_slide(
            value: float, plan: dict, scheduler: str, steps: Any, request: gr.Request
        ) -> tuple:
            before, timesteps = (
                StagePlan.from_json(plan),
                answers.visited(workshop, scheduler, steps),
            )
            sparsity = [*before.sparsity]
            try:
                sparsity[i] = _share(value, STAGE_SLIDERS[i])
                after = replace(before.with_sparsity(*sparsity), name="")
                shown = moved(after, before, timesteps, 1 + i)
            except StudioError as error:
                return gr.skip(), gr.skip(), *refused(error, before, timesteps)
            jobs.mark_latest(request.session_hash, [after.to_json(), scheduler, steps])
            return after.to_json(), after.to_json(), *shown

        return on_slide

    @plain_errors
    def on_master(
        target: float, plan: dict, shape: dict, scheduler: str, steps: Any, request: gr.Request
    ) -> tuple:
        timesteps, before = answers.visited(workshop, scheduler, steps), StagePlan.from_json(plan)
        try:
            scaled = (
                StagePlan.from_json(shape)
                .with_boundaries(*before.boundaries)
                .scaled_to(_share(target, MASTER), timesteps)
            )
            after = replace(before.with_sparsity(*(round(s, 4) for s in scaled.sparsity)), name="")
            shown = moved(after, before, timesteps, 4)
        except StudioError as error:
            return gr.skip(), *refused(error, before, timesteps)
        jobs.mark_latest(request.session_hash, [after.to_json(), scheduler, steps])
        return after.to_json(), *shown

    @plain_errors
    def on_sharing(
        method: str,
        run: bool,
        costs: str,
        multiple: int,
        ends: bool,
        plan: dict,
        scheduler: str,
        steps: Any,
        request: gr.Request,
    ) -> tuple:
        """Another way to share the cut; one that cannot be is said, the controls go back and the
        plan stays as it was.
        """
        before, timesteps = StagePlan.from_json(plan), answers.visited(workshop, scheduler, steps)
        try:
            after = sharing_panel.changed(
                workshop, before, timesteps, method, run, costs, multiple, ends
            )
        except StudioError as error:
            said = tables.notes([f"{page_sentence(error)} The plan stays as it was."])
            return *(gr.skip() for _ in range(len(views) - 4)), *sharing_panel.values(before), said
        jobs.mark_latest(request.session_hash, [after.to_json(), scheduler, steps])
        return after.to_json(), after.to_json(), *show(after, before, timesteps)

    @plain_errors
    def follow(plan: dict, shown: dict, scheduler: str, steps: Any) -> tuple:
        """An edit made in another tab; an echo of our own changes nothing."""
        if plan == shown:
            return tuple(gr.skip() for _ in range(1 + len(views)))
        return plan, *show(
            StagePlan.from_json(plan),
            StagePlan.from_json(shown),
            answers.visited(workshop, scheduler, steps),
        )

    @plain_errors
    def on_sampler(plan: dict, scheduler: str, steps: Any, request: gr.Request) -> tuple:
        checked = StagePlan.from_json(plan)
        jobs.mark_latest(request.session_hash, [plan, scheduler, steps])
        try:
            return show(checked, checked, answers.visited(workshop, scheduler, steps))
        # one budget, say, that these steps cannot meet: what was there is of other steps
        except StudioError as error:
            return (
                *(gr.skip() for _ in views[:5]),
                tables.message(page_sentence(error), "bad"),
                *(gr.skip() for _ in views[6:]),
            )

    @plain_errors
    def on_upload(content: bytes, scheduler: str, steps: Any) -> dict:
        # the page has a sampler of its own
        plan, timesteps = (
            replace(read_upload(content), stage_steps=None),
            answers.visited(workshop, scheduler, steps),
        )
        # refuses what no networks can be made of before every tab takes it over
        workshop.predict(plan.counted(timesteps), timesteps)
        gr.Info(f"Plan loaded: boundaries {plan.boundaries[0]} and {plan.boundaries[1]}.")
        return plan.to_json()

    @plain_errors
    def refine(plan: dict, scheduler: str, steps: Any, request: gr.Request) -> Any:
        """The exact cost, or the estimate where that cannot be had in time; nothing when the
        visitor has moved on meanwhile.
        """
        asked = [plan, scheduler, steps]
        if not jobs.is_latest(request.session_hash, asked):
            return gr.skip()
        timesteps = answers.visited(workshop, scheduler, steps)
        cost = predicted_cost(
            workshop,
            StagePlan.from_json(plan).counted(timesteps),
            timesteps,
            exact=model_facts.exact_in_time(workshop),
        )
        return cost if jobs.is_latest(request.session_hash, asked) else gr.skip()

    @plain_errors
    def on_status(job: str) -> Any:
        """Another tab has calibrated, or another visitor before the page was loaded: the remark
        that nobody has is out of date.
        """
        return ready(workshop) if BEFORE in (job or "") and workshop.calibrated else gr.skip()

    @plain_errors
    def on_layers(plan: dict, scheduler: str, steps: Any, is_open: bool) -> Any:
        return on_layers_open(plan, scheduler, steps)[1] if is_open else gr.skip()

    @plain_errors
    def on_layers_open(plan: dict, scheduler: str, steps: Any) -> tuple:
        return True, layer_rows(
            workshop, StagePlan.from_json(plan).counted(answers.visited(workshop, scheduler, steps))
        )

    @plain_errors
    def on_layers_close() -> bool:
        return False

    layers = [shared.plan, *sampler, tab.layers_open]
    exactly = {
        "fn": refine,
        "inputs": [shared.plan, *sampler],
        "outputs": tab.cost,
        **QUIET,
        "trigger_mode": "always_last",
    }
    shared.page.load(**exactly)
    shared.status.change(on_status, tab.job, tab.job, **LIVE)
    shared.status.change(**exactly)
    shared.measured.change(**exactly)
    shared.status.change(on_layers, layers, tab.layers, **QUIET, trigger_mode="always_last")
    for i, slider in enumerate(tab.sliders):
        slider.input(
            on_stage(i), [slider, shared.plan, *sampler], [shared.plan, tab.shape, *views], **EDIT
        ).then(**exactly)
    tab.master.input(
        on_master, [tab.master, shared.plan, tab.shape, *sampler], [shared.plan, *views], **EDIT
    ).then(**exactly)
    share = [*tab.sharing.controls, shared.plan, *sampler]
    shared_out = gr.on(
        [c.input for c in tab.sharing.controls],
        on_sharing,
        share,
        [shared.plan, tab.shape, *views],
        **EDIT,
    )
    shared_out.then(**exactly)
    shared.plan.change(
        follow, [shared.plan, tab.shown, *sampler], [tab.shape, *views], **LIVE
    ).then(**exactly)
    shared.plan.change(on_layers, layers, tab.layers, **QUIET, trigger_mode="always_last")
    gr.on([s.change for s in sampler], on_sampler, [shared.plan, *sampler], views, **LIVE).then(
        **exactly
    )
    gr.on(
        [s.change for s in sampler],
        on_layers,
        layers,
        tab.layers,
        **QUIET,
        trigger_mode="always_last",
    )
    tab.layers_box.expand(
        on_layers_open, [shared.plan, *sampler], [tab.layers_open, tab.layers], **QUIET
    )
    tab.layers_box.collapse(on_layers_close, None, tab.layers_open, **QUIET)
    tab.upload.upload(on_upload, [tab.upload, *sampler], shared.plan, **EDIT | FILE)
    wire_jobs(shared, tab, exactly)
