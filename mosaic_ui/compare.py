"""The Compare tab: two configurations from the same noise, watched while they run, judged by measured time and distance.

A side is a choice by name plus, perhaps, an uploaded plan; it becomes a `StagePlan` (None is the dense model) only when something is shown or run.
The job itself is in `compare_run`; each visitor's Stop reaches only their own run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import StudioError
from core.noise import SCHEDULERS
from core.plan import StagePlan
from core.prompts import PROMPTS

from . import compare_live as live_views
from . import jobs, model_facts, study_view, tables
from .answers import read_upload
from .compare_inputs import (
    CURRENT,
    DENSE,
    SIDES,
    UPLOADED,
    Request,
    all_classes,
    checked_settings,
    checked_steps,
    resolve_side,
    run_timesteps,
    side_names,
    tidy_classes,
)  # fmt: skip
from .compare_run import NO_RESULT, opening, stream
from .stage_chart import plot_panel

CSS = (Path(__file__).parent / "compare.css").read_text(encoding="utf-8")
WAITING = "Waiting for the model; somebody else's run may be before yours."
_waiting: dict[str, threading.Event] = {}  # Stop events of runs that stand in the queue, so that Stop reaches those too


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


def _side(letter: str, default: str, note: str) -> Side:
    with gr.Column(min_width=260, elem_classes="cmp-picker"):
        choice = gr.Dropdown(list(SIDES), value=default, label=f"{letter} runs", filterable=False)
        with gr.Row(elem_classes="cmp-under"):
            text = gr.HTML(note)
            upload = gr.UploadButton(
                "Upload plan", type="binary", file_types=[".json"], size="sm", scale=0, min_width=110, elem_classes="cmp-upload",
                elem_id=f"cmp-upload-{letter.lower()}",
            )  # fmt: skip
        return Side(choice, upload, gr.State(None), text)


def build(shared: Any) -> CompareTab:
    """Components of the tab, inside the caller's `gr.Blocks` and `gr.Tab`."""
    workshop = shared.workshop
    live, visible, first = opening(workshop)
    first_images, most_images = model_facts.images_offered(workshop)
    schedulers = list(SCHEDULERS)
    current = StagePlan.from_json(shared.plan.value)
    gr.HTML(f"<style>{CSS}</style>", elem_classes="cmp-style")
    with gr.Column(elem_classes="cmp-tab"):
        gr.Markdown("Two models draw the same pictures from the same noise. Is B really faster than A, and how far do its pictures move?", elem_classes="intro")
        with gr.Column(elem_classes="cmp-controls"):
            with gr.Row():
                a = _side("A", DENSE, live_views.plan_note(None))
                b = _side("B", CURRENT, live_views.plan_note(current))
            asked, negative, size = _asked(workshop)
            with gr.Row():
                asked.render()
                images = gr.Slider(1, most_images, value=first_images, step=1, label="Images", info=_images_info(workshop), min_width=200)
                steps = gr.Slider(
                    5,
                    100,
                    value=min(100, max(5, shared.steps.value)),
                    step=1,
                    label="Sampling steps",
                    info="The same for both",
                    min_width=200,
                )
            with gr.Row(visible=model_facts.asks_words(workshop)):
                negative.render()
                size.render()
            with gr.Accordion("Seed, guidance, scheduler, timing", open=False), gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=130)
                guidance = gr.Number(model_facts.default_guidance(workshop), label="Guidance", info="1 is off", minimum=1, maximum=20, step=0.1, min_width=130)
                scheduler = gr.Dropdown(schedulers, value=shared.scheduler.value, label="Scheduler", filterable=False, min_width=150)
                repeats = gr.Slider(1, 10, value=3, step=1, label="Timing repeats", info="The median counts", min_width=180)
            with gr.Row(elem_classes="cmp-go"):
                start = gr.Button("Compare", variant="primary", scale=3, min_width=160, elem_id="cmp-start")
                stop = gr.Button("Stop", variant="stop", scale=1, min_width=90, interactive=False, elem_id="cmp-stop")
        live_box = gr.HTML(live, elem_id="cmp-live", visible=not visible)
        with gr.Column(visible=visible, elem_id="cmp-results") as results:
            verdict = gr.HTML(first[0])
            with gr.Tabs(elem_id="cmp-views"):
                with gr.Tab("Side by side"):
                    pair = gr.HTML(first[2])
                with gr.Tab("Slider"):
                    start_pair = first[1] or {}
                    slider = gr.ImageSlider(
                        start_pair.get("value"), format="png", type="numpy", interactive=False, max_height=620,
                        label=start_pair.get("label", "Left: A   |   Right: B"), elem_id="cmp-slider",
                        elem_classes="cmp-photo" if model_facts.asks_words(workshop) else None,
                    )  # fmt: skip
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
        a, b, asked, negative, size, images, seed, steps, guidance, scheduler, repeats, start, stop, live_box, results, verdict, slider, pair, difference,
        film, timing, metrics, downloads,
    )  # fmt: skip


def _asked(workshop: Any) -> tuple[gr.Dropdown | gr.Textbox, gr.Textbox, gr.Dropdown]:
    """What the pictures shall show: classes, or prompts with what they shall not show and a size. Rendered by the caller."""
    words = model_facts.asks_words(workshop)
    if words:
        asked = gr.Textbox(
            "\n".join(PROMPTS[:2]), lines=2, max_lines=8, label="Prompts", info="One a line; they are painted in turn", scale=2, min_width=260, render=False
        )
    else:
        everything = all_classes(workshop.class_names)
        choices = [everything, *workshop.class_names.values()]
        asked = gr.Dropdown(choices, value=[everything], multiselect=True, label="Classes", scale=2, min_width=220, render=False)
    negative = gr.Textbox("", label="Negative prompt", info="What to keep out; may stay empty", visible=words, scale=2, min_width=260, render=False)
    offered = list(model_facts.sizes(workshop)) if words else ["own"]
    size = gr.Dropdown(offered, value=offered[0], label="Size", info="Pixels, the same for both", visible=words, filterable=False, min_width=200, render=False)
    return asked, negative, size


def _images_info(workshop: Any) -> str:
    if workshop.judge is not None:
        return "The quality score FID needs 200"
    return "A large model takes its time; app.py compare draws more" if model_facts.large(workshop) else "The first 36 are shown"


def _build_study(workshop: Any) -> None:
    """What was measured on the shipped model at four step counts, if it comes with a study."""
    found = workshop.study()
    if not found:
        return
    with gr.Accordion("Does pruning pay, or would fewer steps do? The shipped study", open=False):
        gr.HTML(study_view.study_sentences(found))
        plot_panel(study_view.study_figure(found), label="FID against work: dense with fewer steps, MosaicDiff, uniform pruning", elem_id="study-chart")
        gr.HTML(study_view.study_table(found))


def wire(shared: Any, tab: CompareTab) -> None:
    """Events of the tab."""
    workshop = shared.workshop
    quiet = {"show_progress": "hidden", "api_visibility": "private"}

    def key(request: gr.Request) -> str:
        return f"{request.session_hash}/compare"  # its own key: Compare waiting in the queue must not take over a running job's Stop

    def describe(choice: str, current: dict, uploaded: dict | None, target: float, scheduler: str, steps: float) -> str:
        try:
            timesteps = run_timesteps(workshop, scheduler, checked_steps(steps))
            return live_views.plan_note(resolve_side(choice, current, uploaded, workshop, target, timesteps))
        except StudioError as error:
            return live_views.plan_note(None, str(error))

    def upload(content: bytes | None) -> tuple:
        try:
            plan = read_upload(content)
        except StudioError as error:
            return gr.skip(), gr.skip(), live_views.plan_note(None, str(error))
        return plan.to_json(), UPLOADED, live_views.plan_note(plan)

    def tidy(chosen: list[str]) -> list[str]:
        return tidy_classes(chosen, all_classes(workshop.class_names))

    def follow_steps(steps: float | None) -> Any:
        return gr.skip() if steps is None else min(100, max(5, int(steps)))

    def follow_scheduler(name: str) -> str:
        return name

    def prepare(request: gr.Request) -> tuple:
        _waiting[key(request)] = jobs.new_stop(key(request))
        return gr.update(interactive=False), gr.update(interactive=True), gr.update(value=live_views.message_html(WAITING), visible=True)

    def run(
        choice_a: str, uploaded_a: dict | None, choice_b: str, uploaded_b: dict | None, current: dict, target: float, asked: Any,
        images: float, seed: float, steps: float, guidance: float, scheduler: str, repeats: float, negative: str, size: str, request: gr.Request,
    ) -> Iterator[tuple]:  # fmt: skip
        stop = _waiting.pop(key(request), None) or jobs.new_stop(key(request))
        try:
            settings = checked_settings(workshop, asked, images, seed, steps, guidance, scheduler, repeats, negative, size)
            timesteps = run_timesteps(workshop, scheduler, settings.steps)
            plans = (
                resolve_side(choice_a, current, uploaded_a, workshop, target, timesteps),
                resolve_side(choice_b, current, uploaded_b, workshop, target, timesteps),
            )
        except StudioError as error:
            yield live_views.message_html(str(error), bad=True), gr.skip(), *NO_RESULT
            return
        names = side_names((choice_a, choice_b), plans)
        try:
            yield from stream(workshop, Request(settings, plans, names), stop)
        finally:
            stop.set()  # also when the visitor closed the page: the generator is closed, and so the work ends
            jobs.finish(key(request), stop)

    def ready() -> tuple:
        """The buttons as before; the status line, because a run may have calibrated first, whether it was stopped later or not."""
        return gr.update(interactive=True), gr.update(interactive=False), tables.status_line(workshop)

    def stop_run(request: gr.Request) -> Any:
        return gr.update(interactive=not jobs.request_stop(key(request)))

    for side in (tab.a, tab.b):
        inputs = [side.choice, shared.plan, side.uploaded, shared.target, tab.scheduler, tab.steps]
        triggers = [side.choice.input, shared.plan.change, shared.target.change, tab.steps.release, tab.scheduler.input]
        gr.on(triggers, describe, inputs, side.note, trigger_mode="always_last", **quiet)
        side.upload.upload(upload, side.upload, [side.uploaded, side.choice, side.note], **quiet)
    if not model_facts.asks_words(workshop):
        tab.asked.input(tidy, tab.asked, tab.asked, trigger_mode="always_last", **quiet)
    shared.steps.change(follow_steps, shared.steps, tab.steps, trigger_mode="always_last", **quiet)
    shared.scheduler.change(follow_scheduler, shared.scheduler, tab.scheduler, trigger_mode="always_last", **quiet)

    controls = [tab.a.choice, tab.a.uploaded, tab.b.choice, tab.b.uploaded, shared.plan, shared.target, tab.asked, tab.images, tab.seed]
    controls += [tab.steps, tab.guidance, tab.scheduler, tab.repeats, tab.negative, tab.size]
    views = [tab.live, tab.results, tab.verdict, tab.slider, tab.pair, tab.difference, tab.film, tab.timing, tab.metrics, tab.downloads]
    begun = tab.start.click(prepare, None, [tab.start, tab.stop, tab.live], queue=False, **quiet)
    done = begun.then(run, controls, views, **jobs.MODEL_JOB, **quiet)
    done.then(ready, None, [tab.start, tab.stop, shared.status], queue=False, **quiet)
    tab.stop.click(stop_run, None, tab.stop, queue=False, **quiet)
