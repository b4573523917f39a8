"""The Compare tab: two configurations from the same noise, judged by measured time and distance.

A side is a choice by name plus, perhaps, an uploaded plan; it becomes a `StagePlan` (None is the
dense model) only when something is shown or run. The job itself is in run.py; each visitor's Stop
reaches only their own run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from core.curves.plan import StagePlan
from core.curves.plan_checks import MAX_STEPS, MIN_STEPS
from core.curves.scheduler_tables import SCHEDULERS
from core.errors import StudioError
from core.workshop.compare import sampler
from core.workshop.workshop import Workshop

from .. import jobs, model_facts, tables
from ..events import ASK, NOTHING, QUIET, Event, Views
from ..input_checks import plain_errors
from ..page_state import Shared
from ..predictions import Asked
from ..remedies import page_sentence
from ..stage_chart import plot_panel
from . import live as live_views
from . import study_view
from .boxes import classes_box, images_info, prompts_box
from .inputs import (
    CURRENT,
    DENSE,
    Sides,
    Wish,
    all_classes,
    checked_classes,
    checked_request,
    resolve_side,
    sides,
    tidy_classes,
)
from .result import ResultPanel
from .run import opening, stream
from .side_picker import SidePicker

TABULATE = (
    "Computed once for all steps: faster for few images, and the pictures are the same except for"
    " rounding. Times are then not predicted."
)
INTRO = (
    "Two models draw the same pictures from the same noise. Is B really faster than A, and how much"
    " do its pictures change?"
)
# a place of its own: a waiting Compare must not take over the Stop of another running job
KIND = jobs.COMPARISON
CSS = (Path(__file__).parent / "tab.css").read_text(encoding="utf-8")
NEWEST: Event = {**QUIET, "trigger_mode": "always_last"}


class CompareTab:
    """The tab's components, inside the caller's `gr.Tab`, and their handlers as methods."""

    def __init__(self, shared: Shared):
        self.shared = shared
        self.workshop, self.predictions = shared.workshop, shared.predictions
        live, first = opening(self.workshop)
        gr.HTML(f"<style>{CSS}</style>", elem_classes="cmp-style")
        with gr.Column(elem_classes="cmp-tab"):
            gr.Markdown(INTRO, elem_classes="intro")
            with gr.Column(elem_classes="cmp-controls"):
                self._build_controls()
            self.live = gr.HTML(live, elem_id="cmp-live", visible=not first)
            self.result = ResultPanel(first, model_facts.asks_words(self.workshop))
            _build_study(self.workshop)

    def _build_controls(self) -> None:
        offered, words = sides(self.workshop), model_facts.asks_words(self.workshop)
        note = live_views.plan_note
        with gr.Row():
            self.a = SidePicker(self.shared, "A", offered, DENSE, note(None))
            self.b = SidePicker(self.shared, "B", offered, CURRENT, note(self.shared.opening))
        self._build_asked()
        with gr.Row():
            self.asked.render()
            self._build_numbers()
        with gr.Row(visible=words):
            self.negative.render()
            self.size.render()
        with gr.Accordion("Seed, guidance, scheduler, timing, precision", open=False), gr.Row():
            self._build_details()
        with gr.Row(elem_classes="cmp-go"):
            self.start = gr.Button(
                "Compare", variant="primary", scale=3, min_width=160, elem_id="cmp-start"
            )
            self.stop = gr.Button(
                "Stop",
                variant="stop",
                scale=1,
                min_width=90,
                interactive=False,
                elem_id="cmp-stop",
            )

    def _build_asked(self) -> None:
        """Make what the pictures shall show: classes, or prompts, and what they shall not."""
        words = model_facts.asks_words(self.workshop)
        self.asked = prompts_box() if words else classes_box(self.workshop)
        self.negative = gr.Textbox(
            "",
            label="Negative prompt",
            info="What the pictures should not show; may stay empty",
            visible=words,
            scale=2,
            min_width=260,
            render=False,
        )
        offered = list(model_facts.sizes(self.workshop)) if words else ["own"]
        self.size = gr.Dropdown(
            offered,
            value=offered[0],
            label="Size",
            info="Pixels, the same for both",
            visible=words,
            filterable=False,
            min_width=200,
            render=False,
        )

    def _build_numbers(self) -> None:
        first, most = model_facts.images_offered(self.workshop)
        self.images = _slider(1, most, first, "Images", images_info(self.workshop))
        self.steps = _slider(
            MIN_STEPS,
            min(MAX_STEPS, len(self.workshop.schedule)),
            self.shared.steps.value,
            "Sampling steps",
            "The same for both",
        )

    def _build_details(self) -> None:
        self.seed = gr.Number(0, label="Seed", min_width=130)
        self.guidance = gr.Number(
            model_facts.default_guidance(self.workshop),
            label="Guidance",
            info="1 is off",
            step=0.1,
            min_width=130,
        )
        self.scheduler = gr.Dropdown(
            list(SCHEDULERS),
            value=self.shared.scheduler.value,
            label="Scheduler",
            filterable=False,
            min_width=150,
        )
        self.repeats = _slider(1, 10, 3, "Timing repeats", "The median counts")
        self.dtype = gr.Dropdown(
            model_facts.precisions(self.workshop),
            value=model_facts.AS_LOADED,
            label="Precision",
            filterable=False,
            min_width=190,
        )
        self.tabulate = gr.Checkbox(
            False,
            label="adaLN from a table, on both sides",
            info=TABULATE,
            visible=not model_facts.asks_words(self.workshop),
        )

    def wire(self) -> None:
        """Connect the pickers, what follows Explore's sampler, and the run."""
        shared, a, b = self.shared, self.a, self.b
        a.wire()
        b.wire()
        pickers = [a.choice, a.uploaded, b.choice, b.uploaded, shared.plan]
        changes = [shared.plan.change, self.steps.change, self.scheduler.change]
        gr.on(
            [a.choice.input, b.choice.input, *changes],
            self.describe,
            [*pickers, self.scheduler, self.steps],
            [a.note, b.note],
            **NEWEST,
        )
        if not model_facts.asks_words(self.workshop):
            self.asked.input(self.tidy, self.asked, self.asked, **NEWEST)
        shared.steps.change(self.follow_steps, shared.steps, self.steps, **NEWEST)
        shared.scheduler.change(self.follow_scheduler, shared.scheduler, self.scheduler, **NEWEST)
        wish: list[Block] = [self.asked, self.images, self.seed, self.steps, self.guidance]
        wish += [self.scheduler, self.repeats, self.negative, self.size, self.tabulate, self.dtype]
        buttons = [self.start, self.stop, self.live]
        begun = self.start.click(self.ask, [*pickers, *wish], buttons, **ASK)
        views = [self.live, *self.result.places.values()]
        done = begun.then(self.run, None, views, **jobs.MODEL_JOB, **QUIET)
        done.then(self.ready, None, [self.start, self.stop, shared.status], queue=False, **QUIET)
        self.stop.click(self.stop_run, None, buttons, queue=False, **QUIET)
        shared.status.change(self.on_status, self.live, self.live, queue=False, **QUIET)

    @plain_errors
    def describe(self, sides: Sides, scheduler: str, steps: Any) -> Views:
        """Write below each picker what its side runs, or why it cannot."""
        asked = Asked(sides.current, scheduler, steps)
        return {
            self.a.note: self._note(sides.choice_a, sides.uploaded_a, asked),
            self.b.note: self._note(sides.choice_b, sides.uploaded_b, asked),
        }

    @plain_errors
    def tidy(self, chosen: Any) -> Views:
        """Keep 'all' and single classes from standing together."""
        names = self.workshop.class_names
        return {self.asked: tidy_classes(checked_classes(chosen, names), all_classes(names))}

    @plain_errors
    def follow_steps(self, steps: Any) -> Views:
        """Take the steps of Explore over."""
        return {self.steps: self.predictions.whole_steps(steps)}

    @plain_errors
    def follow_scheduler(self, scheduler: str) -> Views:
        """Take the scheduler of Explore over."""
        sampler(self.workshop, scheduler)  # refuses what is none
        return {self.scheduler: scheduler}

    @plain_errors
    def ask(self, sides: Sides, wish: Wish, request: gr.Request) -> Views:
        """Note what is asked for, or say at once why it cannot be.

        The results of an earlier run stay until the next has pictures.
        """
        try:
            if not model_facts.asks_words(self.workshop):
                checked_classes(wish.asked, self.workshop.class_names)
            wanted = checked_request(self.predictions, sides, wish)
        except StudioError as error:
            said = live_views.message(page_sentence(error), bad=True)
            return {self.live: gr.update(value=said, visible=True)}
        jobs.visit(request.session_hash).ask(KIND, wanted)
        waiting = gr.update(value=live_views.message(jobs.WAITING), visible=True)
        return {**self._buttons(busy=True), self.live: waiting}

    @plain_errors
    def run(self, request: gr.Request) -> Iterator[Views]:
        """Run what was asked for, now that its turn has come."""
        visit = jobs.visit(request.session_hash)
        wanted = visit.take(KIND)
        if wanted is None:  # refused, or withdrawn while it waited
            yield NOTHING
            return
        places = {"live": self.live, **self.result.places}
        with visit.stoppable(KIND) as stop:
            for views in stream(self.workshop, wanted, stop):
                yield {places[name]: value for name, value in views.items()}

    @plain_errors
    def ready(self) -> Views:
        """Put the buttons back and write the status line.

        A run may have calibrated first, whether it was stopped later or not.
        """
        status = tables.status_line(self.workshop)
        return {**self._buttons(busy=False), self.shared.status: status}

    @plain_errors
    def stop_run(self, request: gr.Request) -> Views:
        """Withdraw the run that waits, or stop the one that goes on."""
        visit = jobs.visit(request.session_hash)
        if visit.withdraw(KIND):  # the queue still holds it, and it will find nothing to do
            return {
                **self._buttons(busy=False),
                self.live: live_views.message(jobs.WITHDRAWN),
            }
        return {self.stop: gr.update(interactive=not visit.request_stop(KIND))}

    @plain_errors
    def on_status(self, live: str | None) -> Views:
        """Write the empty state anew: it must not ask for a calibration that has ended since."""
        if live_views.EMPTY in (live or ""):
            return {self.live: opening(self.workshop)[0]}
        return NOTHING

    def _buttons(self, busy: bool) -> Views:
        return {
            self.start: gr.update(interactive=not busy),
            self.stop: gr.update(interactive=busy),
        }

    def _note(self, choice: str, uploaded: StagePlan | None, asked: Asked) -> str:
        try:
            timesteps = self.predictions.visited(asked.scheduler, asked.steps)
            plan = resolve_side(choice, asked.plan, uploaded, self.workshop, None, timesteps)
        except StudioError as error:
            return live_views.plan_note(None, page_sentence(error))
        return live_views.plan_note(plan)


def _slider(low: int, high: int, value: int, label: str, info: str) -> gr.Slider:
    return gr.Slider(
        low, high, value=value, step=1, label=label, info=info, min_width=200, buttons=[]
    )


def _build_study(workshop: Workshop) -> None:
    """Show what was measured on the shipped model at four step counts, if it has a study."""
    found = workshop.study()
    if not found:
        return
    with gr.Accordion("Is pruning better than fewer steps? The study of this model", open=False):
        gr.HTML(study_view.study_sentences(found))
        plot_panel(
            study_view.study_figure(found),
            label="FID against work: dense with fewer steps, MosaicDiff, uniform pruning",
            elem_id="study-chart",
        )
        gr.HTML(study_view.study_table(found))
