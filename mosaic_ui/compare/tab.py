"""The Compare tab: two configurations from the same noise, watched while they run, judged by
measured time and distance.

A side is a choice by name plus, perhaps, an uploaded plan; it becomes a `StagePlan` (None is the
dense model) only when something is shown or run. The job itself is in `compare_run`; each visitor's
Stop reaches only their own run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from core.curves.plan import StagePlan
from core.curves.plan_checks import MAX_STEPS, MIN_STEPS
from core.curves.samplers import SCHEDULERS
from core.errors import StudioError
from core.models.prompts import PROMPTS
from core.workshop.compare import sampler

from .. import answers, jobs, model_facts, tables
from ..answers import plain_errors, read_upload
from ..events import EDIT, FILE, QUIET
from ..remedies import page_sentence
from ..stage_chart import plot_panel
from . import live as live_views
from . import study_view
from .inputs import (
    CURRENT,
    DENSE,
    UPLOADED,
    all_classes,
    checked_classes,
    checked_plan,
    checked_request,
    resolve_side,
    run_timesteps,
    sides,
    tidy_classes,
)
from .run import NO_RESULT, opening, stream

TABULATE = (
    "Worked out for all steps at once: the same pictures but for rounding, faster at few images;"
    " times are not predicted then."
)
CSS = (Path(__file__).parent / "tab.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Side:
    """The picker of one side."""

    choice: gr.Dropdown
    upload: gr.UploadButton
    uploaded: gr.State  # dict of a StagePlan, or None
    note: gr.HTML


@dataclass(frozen=True)
class CompareTab:
    """Every component that the wiring touches."""

    a: Side
    b: Side
    asked: gr.Dropdown | gr.Textbox  # classes, or prompts one a line
    negative: gr.Textbox  # of a model of words, else hidden
    size: gr.Dropdown  # the same
    images: gr.Slider
    seed: gr.Number
    steps: gr.Slider
    guidance: gr.Number
    scheduler: gr.Dropdown
    repeats: gr.Slider
    tabulate: gr.Checkbox  # of a DiT, else hidden
    dtype: gr.Dropdown
    start: gr.Button
    stop: gr.Button
    live: gr.HTML
    results: gr.Column
    verdict: gr.HTML
    slider: gr.ImageSlider
    pair: gr.HTML
    difference: gr.HTML
    film: gr.HTML
    timing: gr.HTML
    metrics: gr.HTML
    downloads: gr.HTML


def _side(offered: tuple[str, ...], letter: str, default: str, note: str) -> Side:
    with gr.Column(min_width=260, elem_classes="cmp-picker"):
        choice = gr.Dropdown(list(offered), value=default, label=f"{letter} runs", filterable=False)
        with gr.Row(elem_classes="cmp-under"):
            text = gr.HTML(note)
            upload = gr.UploadButton(
                "Upload plan",
                type="binary",
                file_types=[".json"],
                size="sm",
                scale=0,
                min_width=110,
                elem_classes="cmp-upload",
                elem_id=f"cmp-upload-{letter.lower()}",
            )
        return Side(choice, upload, gr.State(None), text)


def build(shared: Any) -> CompareTab:
    """Components of the tab, inside the caller's `gr.Blocks` and `gr.Tab`."""
    workshop = shared.workshop
    live, visible, first = opening(workshop)
    first_images, most_images = model_facts.images_offered(workshop)
    schedulers, offered = list(SCHEDULERS), sides(workshop)
    most_steps = min(MAX_STEPS, len(workshop.schedule))
    current = StagePlan.from_json(shared.plan.value)
    gr.HTML(f"<style>{CSS}</style>", elem_classes="cmp-style")
    with gr.Column(elem_classes="cmp-tab"):
        gr.Markdown(
            "Two models draw the same pictures from the same noise. Is B really faster than A, and"
            " how far do its pictures move?",
            elem_classes="intro",
        )
        with gr.Column(elem_classes="cmp-controls"):
            with gr.Row():
                a = _side(offered, "A", DENSE, live_views.plan_note(None))
                b = _side(offered, "B", CURRENT, live_views.plan_note(current))
            asked, negative, size = _asked(workshop)
            with gr.Row():
                asked.render()
                images = _slider(1, most_images, first_images, "Images", _images_info(workshop))
                steps = _slider(
                    MIN_STEPS, most_steps, shared.steps.value, "Sampling steps", "The same for both"
                )
            with gr.Row(visible=model_facts.asks_words(workshop)):
                negative.render()
                size.render()
            with gr.Accordion("Seed, guidance, scheduler, timing, precision", open=False), gr.Row():
                seed = gr.Number(0, label="Seed", min_width=130)
                guidance = gr.Number(
                    model_facts.default_guidance(workshop),
                    label="Guidance",
                    info="1 is off",
                    step=0.1,
                    min_width=130,
                )
                scheduler = gr.Dropdown(
                    schedulers,
                    value=shared.scheduler.value,
                    label="Scheduler",
                    filterable=False,
                    min_width=150,
                )
                repeats = _slider(1, 10, 3, "Timing repeats", "The median counts")
                dtype = gr.Dropdown(
                    model_facts.precisions(workshop),
                    value=model_facts.AS_LOADED,
                    label="Precision",
                    filterable=False,
                    min_width=190,
                )
                tabulate = gr.Checkbox(
                    False,
                    label="adaLN from a table, on both sides",
                    info=TABULATE,
                    visible=not model_facts.asks_words(workshop),
                )
            with gr.Row(elem_classes="cmp-go"):
                start = gr.Button(
                    "Compare", variant="primary", scale=3, min_width=160, elem_id="cmp-start"
                )
                stop = gr.Button(
                    "Stop",
                    variant="stop",
                    scale=1,
                    min_width=90,
                    interactive=False,
                    elem_id="cmp-stop",
                )
        live_box = gr.HTML(live, elem_id="cmp-live", visible=not visible)
        with gr.Column(visible=visible, elem_id="cmp-results") as results:
            verdict = gr.HTML(first[0])
            with gr.Tabs(elem_id="cmp-views"):
                with gr.Tab("Side by side"):
                    pair = gr.HTML(first[2])
                with gr.Tab("Slider"):
                    start_pair = first[1] or {}
                    slider = gr.ImageSlider(
                        start_pair.get("value"),
                        format="png",
                        type="numpy",
                        interactive=False,
                        max_height=620,
                        label=start_pair.get("label", "Left: A   |   Right: B"),
                        elem_id="cmp-slider",
                        elem_classes="cmp-photo" if model_facts.asks_words(workshop) else None,
                    )
                with gr.Tab("Difference"):
                    difference = gr.HTML(first[3])
            film = gr.HTML(first[4])
            with gr.Tabs():
                with gr.Tab("Time per stage"):
                    timing = gr.HTML(first[5])
                with gr.Tab("All figures"):
                    metrics = gr.HTML(first[6])
            downloads = gr.HTML(first[7])
        _build_study(workshop)
    return CompareTab(
        a,
        b,
        asked,
        negative,
        size,
        images,
        seed,
        steps,
        guidance,
        scheduler,
        repeats,
        tabulate,
        dtype,
        start,
        stop,
        live_box,
        results,
        verdict,
        slider,
        pair,
        difference,
        film,
        timing,
        metrics,
        downloads,
    )


def _slider(low: int, high: int, value: int, label: str, info: str) -> gr.Slider:
    return gr.Slider(
        low, high, value=value, step=1, label=label, info=info, min_width=200, buttons=[]
    )


def _asked(workshop: Any) -> tuple[gr.Dropdown | gr.Textbox, gr.Textbox, gr.Dropdown]:
    """What the pictures shall show: classes, or prompts with what they shall not show and a size.
    Rendered by the caller.
    """
    words = model_facts.asks_words(workshop)
    if words:
        asked = gr.Textbox(
            "\n".join(PROMPTS[:2]),
            lines=2,
            max_lines=8,
            label="Prompts",
            info="One a line; they are painted in turn",
            scale=2,
            min_width=260,
            render=False,
        )
    else:
        everything = all_classes(workshop.class_names)
        choices = [everything, *workshop.class_names.values()]
        asked = gr.Dropdown(
            choices,
            value=[everything],
            multiselect=True,
            label="Classes",
            scale=2,
            min_width=220,
            render=False,
        )
    negative = gr.Textbox(
        "",
        label="Negative prompt",
        info="What to keep out; may stay empty",
        visible=words,
        scale=2,
        min_width=260,
        render=False,
    )
    offered = list(model_facts.sizes(workshop)) if words else ["own"]
    size = gr.Dropdown(
        offered,
        value=offered[0],
        label="Size",
        info="Pixels, the same for both",
        visible=words,
        filterable=False,
        min_width=200,
        render=False,
    )
    return asked, negative, size


def _images_info(workshop: Any) -> str:
    if workshop.judge is not None:
        return "The quality score FID needs 200"
    return (
        "A large model takes its time; app.py compare draws more"
        if model_facts.large(workshop)
        else "The first 36 are shown"
    )


def _build_study(workshop: Any) -> None:
    """What was measured on the shipped model at four step counts, if it comes with a study."""
    found = workshop.study()
    if not found:
        return
    with gr.Accordion("Does pruning pay, or would fewer steps do? The shipped study", open=False):
        gr.HTML(study_view.study_sentences(found))
        plot_panel(
            study_view.study_figure(found),
            label="FID against work: dense with fewer steps, MosaicDiff, uniform pruning",
            elem_id="study-chart",
        )
        gr.HTML(study_view.study_table(found))


def wire(shared: Any, tab: CompareTab) -> None:
    """Events of the tab."""
    workshop = shared.workshop
    total = len(workshop.schedule)

    def key(request: gr.Request) -> str:
        # its own key: Compare waiting in the queue must not take over a running job's Stop
        return f"{request.session_hash}/compare"

    @plain_errors
    def describe(
        choice: str, current: dict, uploaded: dict | None, scheduler: str, steps: float
    ) -> str:
        try:
            timesteps = run_timesteps(workshop, scheduler, answers.whole_steps(steps, total))
            return live_views.plan_note(
                resolve_side(choice, current, uploaded, workshop, None, timesteps)
            )
        except StudioError as error:
            return live_views.plan_note(None, page_sentence(error))

    @plain_errors
    def upload(content: bytes | None, scheduler: str, steps: int) -> tuple:
        try:
            plan = checked_plan(
                workshop, read_upload(content), answers.visited(workshop, scheduler, steps)
            )  # judged again by what a run asks for
        except StudioError as error:
            return gr.skip(), gr.skip(), live_views.plan_note(None, page_sentence(error))
        return plan.to_json(), UPLOADED, live_views.plan_note(plan)

    @plain_errors
    def tidy(chosen: list[str]) -> list[str]:
        return tidy_classes(
            checked_classes(chosen, workshop.class_names), all_classes(workshop.class_names)
        )

    @plain_errors
    def follow_steps(steps: int) -> int:
        return answers.whole_steps(steps, total)

    @plain_errors
    def follow_scheduler(scheduler: str) -> str:
        sampler(workshop, scheduler)  # refuses what is none
        return scheduler

    @plain_errors
    def ask(
        choice_a: str,
        uploaded_a: dict | None,
        choice_b: str,
        uploaded_b: dict | None,
        current: dict,
        asked: Any,
        images: float,
        seed: float,
        steps: float,
        guidance: float,
        scheduler: str,
        repeats: float,
        negative: str,
        size: str,
        tabulate: bool,
        dtype: str,
        request: gr.Request,
    ) -> tuple:
        """Note what is asked for, or say at once why it cannot be; the results of an earlier run
        stay until the next has pictures.
        """
        try:
            if not model_facts.asks_words(workshop):
                checked_classes(asked, workshop.class_names)
            settings = (
                asked,
                images,
                seed,
                steps,
                guidance,
                scheduler,
                repeats,
                negative,
                size,
                tabulate,
                dtype,
            )
            wanted = checked_request(
                workshop, (choice_a, choice_b), (uploaded_a, uploaded_b), current, None, settings
            )
        except StudioError as error:
            return (
                gr.skip(),
                gr.skip(),
                gr.update(
                    value=live_views.message_html(page_sentence(error), bad=True), visible=True
                ),
            )
        jobs.ask(key(request), wanted)
        return (
            gr.update(interactive=False),
            gr.update(interactive=True),
            gr.update(value=live_views.message_html(jobs.WAITING), visible=True),
        )

    @plain_errors
    def run(request: gr.Request) -> Iterator[tuple]:
        wanted = jobs.take(key(request))
        if wanted is None:  # refused, or withdrawn while it waited
            yield gr.skip(), gr.skip(), *NO_RESULT
            return
        stop = jobs.new_stop(key(request))
        try:
            yield from stream(workshop, wanted, stop)
        finally:
            # also when the visitor closed the page: the generator is closed, and so the work ends
            stop.set()
            jobs.finish(key(request), stop)

    @plain_errors
    def ready() -> tuple:
        """The buttons as before; the status line, because a run may have calibrated first, whether
        it was stopped later or not.
        """
        return (
            gr.update(interactive=True),
            gr.update(interactive=False),
            tables.status_line(workshop),
        )

    @plain_errors
    def stop_run(request: gr.Request) -> tuple:
        if jobs.withdraw(key(request)):  # the queue still holds it, and it will find nothing to do
            return (
                gr.update(interactive=True),
                gr.update(interactive=False),
                live_views.message_html(jobs.WITHDRAWN),
            )
        return gr.skip(), gr.update(interactive=not jobs.request_stop(key(request))), gr.skip()

    @plain_errors
    def on_status(live: str) -> Any:
        """Calibrated elsewhere, or before the page was loaded: the empty state must not say that it
        is still to be done.
        """
        return opening(workshop)[0] if live_views.EMPTY in (live or "") else gr.skip()

    for side in (tab.a, tab.b):
        inputs = [side.choice, shared.plan, side.uploaded, tab.scheduler, tab.steps]
        triggers = [side.choice.input, shared.plan.change, tab.steps.change, tab.scheduler.change]
        gr.on(triggers, describe, inputs, side.note, trigger_mode="always_last", **QUIET)
        side.upload.upload(
            upload,
            [side.upload, shared.scheduler, shared.steps],
            [side.uploaded, side.choice, side.note],
            **QUIET | FILE,
        )
    if not model_facts.asks_words(workshop):
        tab.asked.input(tidy, tab.asked, tab.asked, trigger_mode="always_last", **QUIET)
    shared.steps.change(follow_steps, shared.steps, tab.steps, trigger_mode="always_last", **QUIET)
    shared.scheduler.change(
        follow_scheduler, shared.scheduler, tab.scheduler, trigger_mode="always_last", **QUIET
    )

    controls = [
        tab.a.choice,
        tab.a.uploaded,
        tab.b.choice,
        tab.b.uploaded,
        shared.plan,
        tab.asked,
        tab.images,
        tab.seed,
    ]
    controls += [
        tab.steps,
        tab.guidance,
        tab.scheduler,
        tab.repeats,
        tab.negative,
        tab.size,
        tab.tabulate,
        tab.dtype,
    ]
    views = [
        tab.live,
        tab.results,
        tab.verdict,
        tab.slider,
        tab.pair,
        tab.difference,
        tab.film,
        tab.timing,
        tab.metrics,
        tab.downloads,
    ]
    buttons = [tab.start, tab.stop, tab.live]
    begun = tab.start.click(
        ask, controls, buttons, **EDIT | {"trigger_mode": "once"}
    )  # behind the edits of the plan that were made before
    done = begun.then(run, None, views, **jobs.MODEL_JOB, **QUIET)
    done.then(ready, None, [tab.start, tab.stop, shared.status], queue=False, **QUIET)
    tab.stop.click(stop_run, None, buttons, queue=False, **QUIET)
    shared.status.change(on_status, tab.live, tab.live, queue=False, **QUIET)
