"""The Compare tab: two configurations from the same noise, judged by measured time and distance.

A side is a choice by name, or by the id of a kept plan or run, plus, perhaps, an uploaded plan; it
becomes a `StagePlan` (None is the dense model) only when something is shown or run. The pickers are
in side_pair.py, the job itself in run.py; each visitor's Stop reaches only their own run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from core.curves.plan import StagePlan
from core.curves.scheduler_tables import SCHEDULERS
from core.errors import StudioError
from core.mosaic.modes import PLAIN
from core.workshop.compare import sampler
from core.workshop.workshop import Workshop

from .. import jobs, lent, model_facts, tables
from ..events import ASK, NEWEST, NOTHING, QUIET, Event, Views
from ..front_view import FrontCard
from ..input_checks import plain_errors
from ..inputs import MOST_SEED, whole_seed
from ..page_state import Shared
from ..remedies import page_sentence
from ..stage_chart import plot_panel
from . import live as live_views
from . import study_view
from .between import example_html, stale_html
from .boxes import classes_box, images_info, prompts_box
from .inputs import (
    Sides,
    Wish,
    all_classes,
    checked_classes,
    checked_request,
    tidy_classes,
)
from .pace import foreseen
from .result import ResultPanel
from .run import opening, stream
from .side_pair import SidePair

EXAMPLE_MADE = {"example": True}  # see `run.Run`, which says what a result of the page was made of
TABULATE = (
    "Worked out once for all steps, wherever the table fits, and pictures differ in rounding only."
    " Off: at every step, as a stock pipeline does."
)
# a place of its own: a waiting Compare must not take over the Stop of another running job
KIND = jobs.COMPARISON
SKIP = "compare-skip"  # the place of Skip timing
CSS = "".join(
    (Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("tab.css", "viewer.css")
)
# a button that is switched off loses the focus; Stop takes it, and gives it back in the end
TO_STOP = "() => { document.querySelector('#cmp-stop')?.focus(); }"
TO_START = """() => {
  const at = document.activeElement, lost = !at || at === document.body;
  if (lost || at.disabled || at.id === 'cmp-stop' || at.id === 'cmp-skip')
    document.querySelector('#cmp-start')?.focus();
}"""


class CompareTab:
    """The tab's components, inside the caller's `gr.Tab`, and their handlers as methods."""

    def __init__(self, shared: Shared):
        self.shared = shared
        self.workshop, self.predictions = shared.workshop, shared.predictions
        live, first = opening(self.workshop)
        self.example = _plan_of_example(self.workshop)
        gr.HTML(f"<style>{CSS}</style>", elem_classes="cmp-style")
        with gr.Row(elem_classes="cmp-tab cmp-desk"):
            with gr.Column(elem_classes="cmp-controls"):
                self._build_controls()
            with gr.Column(elem_classes="cmp-outcome"):
                self.live = gr.HTML(live, elem_id="cmp-live", visible=not first)
                self.result = ResultPanel(first, self.workshop, shared.page)
            if self.example is not None:
                # a result is of the example until another one takes its place
                self.result.made.value = EXAMPLE_MADE
                self.result.about.value = example_html(self.example, shared.opening)
        with gr.Column(elem_classes="cmp-tab"):
            self.front = FrontCard(self.workshop, "compare-front")
            _build_study(self.workshop)

    def _build_controls(self) -> None:
        words = model_facts.asks_words(self.workshop)
        self.pair = SidePair(self.shared)
        self._build_asked()
        self.asked.render()
        with gr.Row(elem_classes="cmp-numbers"):
            self._build_numbers()
        with gr.Row(visible=words):
            self.negative.render()
            self.size.render()
        with gr.Row(elem_classes="cmp-go"):
            self._build_buttons()
        self.ahead = gr.HTML("", elem_id="cmp-ahead")
        with gr.Accordion("Guidance, scheduler, timing, how it runs", open=False):
            self._build_details()

    def _build_buttons(self) -> None:
        self.start = gr.Button("Compare", variant="primary", elem_id="cmp-start")
        self.next = gr.Button("Next seed", elem_id="cmp-next")
        self.stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="cmp-stop")
        self.skip = gr.Button("Skip timing", visible=False, elem_id="cmp-skip")

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
        first, _ = model_facts.images_offered(self.workshop)
        self.images = _number(first, "Images")
        self.steps = _number(self.shared.steps.value, "Sampling steps")
        self.shared.seed.render()

    def _build_details(self) -> None:
        gr.HTML(f'<p class="cmp-note">{images_info(self.workshop)}.</p>')
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
        self.repeats = _number(3, "Timing repeats", "The median counts; 0: no timing")
        self.dtype = gr.Dropdown(
            model_facts.precisions(self.workshop),
            value=model_facts.AS_LOADED,
            label="Precision",
            filterable=False,
            min_width=190,
        )
        self.mode = gr.Radio(
            model_facts.modes(self.workshop),
            value=PLAIN,
            label="How it runs, both sides",
            info=model_facts.modes_info(self.workshop),
            elem_id="cmp-mode",
        )
        self.tabulate = gr.Checkbox(
            True,
            label="adaLN from a table, on both sides",
            info=TABULATE,
            visible=not model_facts.asks_words(self.workshop),
        )

    def wire(self) -> None:
        """Connect the pickers, what follows Explore's sampler, and the run."""
        shared = self.shared
        self.front.wire()
        wish: list[Block] = [self.asked, self.images, shared.seed, self.steps, self.guidance]
        wish += [self.scheduler, self.repeats, self.negative, self.size, self.tabulate]
        wish += [self.dtype, self.mode]
        asked = [*self.pair.inputs, *wish]
        foresee: Event = {
            "fn": self.foresee,
            "inputs": [*asked, self.result.made],
            "outputs": [self.ahead, self.result.about],
            **NEWEST,
        }
        self.pair.wire(self.scheduler, self.steps, self.guidance).then(**foresee)
        costs = [self.images.change, self.repeats.change, self.mode.input]
        gr.on([*costs, shared.page.load, shared.measured.change], **foresee)
        if not model_facts.asks_words(self.workshop):
            self.asked.input(self.tidy, self.asked, self.asked, **NEWEST)
        shared.steps.change(self.follow_steps, shared.steps, self.steps, **NEWEST)
        shared.scheduler.change(self.follow_scheduler, shared.scheduler, self.scheduler, **NEWEST)
        self.ended = self._wire_run(asked, foresee)  # what ends a run of this page
        self.foreseeing = foresee  # for what sets the controls from elsewhere

    def _wire_run(self, asked: list[Block], foresee: Event) -> list[Dependency]:
        """Connect Compare, Next seed, Skip timing and Stop; return what ends a run."""
        states, seed = [self.start, self.next, self.stop, self.skip], self.shared.seed
        ask: Event = {"fn": self.ask, "inputs": asked, "outputs": [*states, self.live], **ASK}
        again = self.next.click(self.next_seed, seed, seed, **QUIET)
        views = [self.live, self.skip, *self.result.places.values()]
        ends = []
        for begun in (self.start.click(**ask), again.success(**ask)):
            begun.then(None, None, None, js=TO_STOP, queue=False)
            done = begun.then(self.run, self.result.past, views, **jobs.MODEL_JOB, **QUIET)
            ended = [*states, self.shared.status]
            back = done.then(self.ready, None, ended, queue=False, **QUIET)
            back.then(None, None, None, js=TO_START, queue=False).then(**foresee)
            ends.append(back)
        self.stop.click(self.stop_run, None, [*states, self.live], queue=False, **QUIET)
        self.skip.click(self.skip_timing, None, self.skip, queue=False, **QUIET)
        self.shared.status.change(self.on_status, self.live, self.live, queue=False, **QUIET)
        return ends

    @plain_errors
    def foresee(self, sides: Sides, wish: Wish, made: Any) -> Views:
        """Say how long a run will take, and whether the result is of a plan that has moved on."""
        about = ""
        if made == EXAMPLE_MADE:
            about = example_html(self.example, sides.current)
        elif made:
            about = stale_html(StagePlan.from_json(made["plan"]), made["when"], sides.current)
        try:
            wanted = checked_request(self.predictions, sides, wish)
            found = foreseen(self.workshop, wanted.plans, wanted.settings)
        except StudioError:  # Compare will say it
            return {self.ahead: "", self.result.about: about}
        if lent.lends():  # what is predicted is this machine's time
            return {self.ahead: live_views.message(lent.LENDS), self.result.about: about}
        measures = wanted.settings.dtype is None
        calibrates = any(map(self.workshop.needs_calibration, wanted.plans))
        prepares = wanted.settings.mode != PLAIN
        ahead = live_views.ahead_html(found, measures, calibrates, prepares)
        return {self.ahead: ahead, self.result.about: about}

    @plain_errors
    def next_seed(self, seed: Any) -> Views:
        """Go on to the next seed; the first follows the last."""
        return {self.shared.seed: (whole_seed(seed) + 1) % (MOST_SEED + 1)}

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
    def run(self, past: Any, request: gr.Request) -> Iterator[Views]:
        """Run what was asked for, now that its turn has come."""
        visit = jobs.visit(request.session_hash)
        wanted = visit.take(KIND)
        if wanted is None:  # refused, or withdrawn while it waited
            yield NOTHING
            return
        places = {"live": self.live, "skip": self.skip, **self.result.places}
        with visit.stoppable(KIND) as stop, visit.stoppable(SKIP) as skip:
            for views in stream(self.workshop, wanted, stop, skip, past):
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
    def skip_timing(self, request: gr.Request) -> Views:
        """End the timing of the run that goes on; its pictures stay."""
        jobs.visit(request.session_hash).request_stop(SKIP)
        return {self.skip: gr.update(visible=False)}

    @plain_errors
    def on_status(self, live: str | None) -> Views:
        """Write the empty state anew: it must not ask for a calibration that has ended since."""
        if live_views.EMPTY in (live or ""):
            return {self.live: opening(self.workshop)[0]}
        return NOTHING

    def _buttons(self, busy: bool) -> Views:
        return {
            self.start: gr.update(interactive=not busy),
            self.next: gr.update(interactive=not busy),
            self.stop: gr.update(interactive=busy),
            self.skip: gr.update(visible=False),
        }


def _plan_of_example(workshop: Workshop) -> StagePlan | None:
    """Return the plan that the example beside a model ran, None where there is no example."""
    example = workshop.example()
    return None if example is None else example.b.plan or example.a.plan


def _number(value: int, label: str, info: str | None = None) -> gr.Number:
    """Make a box for a whole number; its range is checked when Compare is pressed."""
    return gr.Number(value, label=label, info=info, step=1, min_width=70)


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
