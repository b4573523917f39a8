"""The tab Tune: ask for a speed, press once, watch the front grow, open any point of it.

What is asked is checked in inputs.py, the job itself is in run.py. A tune goes on when its page is
reloaded or closed; every page of the model finds it again, running or kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.tuner.configuration import Configuration
from core.tuner.kept import KeptTune
from core.workshop.workshop import Workshop

from .. import background, jobs, model_facts, tables
from ..compare.kept_sides import TUNE as TUNE_SIDE
from ..compare.sides import DENSE as DENSE_SIDE
from ..compare.sides import picker_choices
from ..compare.tab import CompareTab
from ..events import ASK, EDIT, NEWEST, NOTHING, QUIET, Event, Views
from ..input_checks import plain_errors
from ..long_work import WAITS, progress_html, stop_shown
from ..page_state import Shared
from ..predictions import Asked
from ..remedies import page_sentence
from ..shelf_menu import ShelfMenu, Shown
from ..stage_chart import plot_panel
from ..visitors import tune_shelf
from . import inputs, words
from .figure import EMPTY
from .inputs import TuneWish
from .run import STAYS, Named, board_views, ended_sentence, ongoing, shelf_words, stream

HERE = Path(__file__).parent
KIND = jobs.TUNE
LOOK_SECONDS = 1.5
LOOK: Event = {**QUIET, "queue": False}
POINT = "(...given) => [window.mosaicTunePoint ?? '', ...given.slice(1)]"
INTRO = (
    "Say what is wanted and press **Tune**: solver, steps, stages, sparsities, guidance and reuse"
    " are searched together, within the budget, and every point can be opened as a plan."
)
NONE = (
    '<section class="none-yet"><h3>Nothing tuned yet</h3><p>Press <b>Tune</b>: points of cost and'
    " quality appear here as they are evaluated, and the best of them is a plan to open in Explore"
    " or to compare with dense.</p></section>"
)
DENSE_CHOSEN = "That point is the dense model itself, not a plan: choose another one."


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


class TuneTab:
    """The tab's components, inside the caller's `gr.Tab`, and their handlers as methods."""

    def __init__(self, shared: Shared, compare: CompareTab):
        self.shared, self.compare, self.workshop = shared, compare, shared.workshop
        gr.HTML(f"<style>{_read('tab.css')}</style>", elem_classes="tune-style")
        self.point = gr.Textbox(visible="hidden")  # its value comes from POINT
        self.shown = gr.Textbox("", visible="hidden")  # what of which tune is in sight
        self.timer = gr.Timer(LOOK_SECONDS, active=False)
        gr.Markdown(INTRO, elem_classes="intro")
        with gr.Row(equal_height=False, elem_classes="main-row"):
            with gr.Column(scale=2, min_width=300, elem_classes="side"):
                with gr.Column(elem_classes="card tune-controls"):
                    self._build_controls()
            with gr.Column(scale=5, min_width=300, elem_classes="side"):
                self._build_outcome()

    def _build_controls(self) -> None:
        shared = self.shared
        self.goal = gr.Radio(
            inputs.goals(self.workshop),
            value=inputs.FASTER,
            label="Goal",
            elem_classes="stacked",
        )
        self.speedup = gr.Number(inputs.USUAL_SPEEDUP, label="Times as fast", min_width=110)
        images = self.workshop.usual_images
        self.run_seconds = gr.Number(
            _usual_seconds(self.workshop),
            label=f"Seconds of a run of {images} images, predicted",
            visible=False,
            min_width=110,
        )
        self.counted = gr.Radio(
            [("MACs", inputs.MACS), ("time on this device", inputs.TIME)],
            value=inputs.MACS,
            label="Counted in",
            elem_classes="segmented",
        )
        self.allowed = gr.Number(inputs.USUAL_SECONDS, label="Seconds allowed", min_width=110)
        self.keep = gr.Checkbox(False, label=_keep_label(*shared.opening_sampler))
        with gr.Row(elem_classes="buttons"):
            self.start = gr.Button("Tune", variant="primary", min_width=90, elem_id="tune-start")
            self.stop = gr.Button(
                "Stop", variant="stop", min_width=76, interactive=False, elem_id="tune-stop"
            )
        self.ahead = gr.HTML("", elem_id="tune-ahead")

    def _build_outcome(self) -> None:
        how = Shown(tune_shelf, shelf_words, self._view, STAYS, lambda _: "")
        self.shelf = ShelfMenu("tune", self.workshop.model_key, how)
        self.job = gr.HTML("", elem_id="tune-job")
        self.said = gr.HTML("", elem_id="tune-said")
        self.empty = gr.HTML(NONE)
        with gr.Column(visible=False, elem_classes="card", elem_id="tune-results") as self.results:
            self.verdict = gr.HTML("", elem_id="tune-verdict")
            self.plot = plot_panel(
                EMPTY,
                label="Quality against cost of everything that was tried; the table has the same",
                elem_id="tune-front",
                height=400,
            )
            self.points = gr.HTML(
                "",
                html_template=_read("table.html"),
                js_on_load=_read("table.js"),
                apply_default_css=False,
                elem_id="tune-points",
            )

    @property
    def _places(self) -> dict[str, Block]:
        """Return the components of a tune's views by their names."""
        names = ("job", "results", "empty", "verdict", "plot", "points")
        return {name: getattr(self, name) for name in names}

    def wire(self, place: gr.Tab, tabs: gr.Tabs) -> None:
        """Connect the controls, the job, what finds a tune again, and the two ways to open."""
        self.tabs, shared = tabs, self.shared
        wish: list[Block] = [self.goal, self.speedup, self.run_seconds, self.counted]
        wish += [self.allowed, self.keep, *shared.sampler]
        foresee: Event = {"fn": self.foresee, "inputs": wish, "outputs": self.ahead, **NEWEST}
        boxes = [self.speedup.change, self.run_seconds.change, self.allowed.change]
        choices = [self.counted.change, self.keep.change]
        known = [shared.status.change, shared.measured.change, shared.page.load, place.select]
        gr.on([*boxes, *choices, *known], **foresee)
        chosen = [self.speedup, self.run_seconds, self.counted]
        self.goal.change(self.on_goal, self.goal, chosen, **NEWEST).then(**foresee)
        sampler = [shared.scheduler.change, shared.steps.change]
        gr.on(sampler, self.on_sampler, shared.sampler, self.keep, **NEWEST).then(**foresee)
        self._wire_job(wish, foresee, place)
        self._wire_points()

    def _wire_job(self, wish: list[Block], foresee: Event, place: gr.Tab) -> None:
        """Connect Tune and Stop, and what finds a tune of before or of another page."""
        buttons = [self.start, self.stop, *self.shelf.views]
        sight = [*self._places.values(), self.start, self.stop]
        views = [*sight, *self.shelf.views]
        asked = self.start.click(self.ask, wish, [self.job, *buttons], **ASK)
        done = asked.then(self.run, None, [*views, self.shared.status], **jobs.MODEL_JOB, **QUIET)
        done.then(**foresee)
        self.stop.click(self.on_stop, None, [self.job, *buttons], **LOOK)
        found = [*views, self.shown, self.timer]
        looks = [self.shared.page.load, place.select, self.timer.tick]
        look: Event = {
            "fn": self.on_look,
            "inputs": [self.shown, self.shelf.picked],
            "outputs": found,
            **LOOK,
        }
        gr.on(looks, **look)
        self.shelf.wire([*sight, self.shown]).then(**look)

    def _wire_points(self) -> None:
        """Connect the buttons of the rows and the points of the plot."""
        shared, compare = self.shared, self.compare
        edit: Event = {**EDIT, "js": POINT}
        taken = [shared.plan, shared.edited, *shared.sampler, shared.steps_box]
        asked = [self.point, shared.plan, *shared.sampler]
        self.points.input(self.on_explore, asked, [*taken, self.tabs, self.said], **edit)
        pair = [compare.pair.a.choice, compare.pair.b.choice]
        sides = [*pair, compare.steps, compare.scheduler, compare.guidance, self.tabs, self.said]
        opened = self.points.submit(self.on_compare, self.point, sides, **edit)
        # in the queue of what the new scheduler and steps start, so that its answer is the last
        opened.then(**compare.pair.describing).then(**compare.foreseeing)

    @plain_errors
    def on_goal(self, goal: str) -> Views:
        """Show the box that the goal needs."""
        return {
            self.speedup: gr.update(visible=goal == inputs.FASTER),
            self.run_seconds: gr.update(visible=goal == inputs.SECONDS),
            self.counted: gr.update(visible=goal != inputs.SECONDS),
        }

    @plain_errors
    def on_sampler(self, scheduler: str, steps: Any) -> Views:
        """Name the solver and steps of the page that can be kept."""
        return {self.keep: gr.update(label=_keep_label(scheduler, steps))}

    @plain_errors
    def foresee(self, wish: TuneWish) -> Views:
        """Say what a press will do, or why it cannot."""
        try:
            said = inputs.ahead(self.workshop, inputs.checked(self.workshop, wish))
        except StudioError as error:
            return {self.ahead: tables.notes([page_sentence(error)])}
        return {self.ahead: tables.fine(said)}

    @plain_errors
    def ask(self, wish: TuneWish, request: gr.Request) -> Views:
        """Note what is asked for, or say at once why it cannot be; what was found stays."""
        try:
            wanted = inputs.checked(self.workshop, wish)
        except StudioError as error:
            return {self.job: tables.message(page_sentence(error), "bad")}
        jobs.visit(request.session_hash).ask(KIND, wanted)
        return {self.job: tables.message(jobs.WAITING), **self._buttons(busy=True)}

    @plain_errors
    def run(self, request: gr.Request) -> Iterator[Views]:
        """Tune, now that the turn has come; nothing where it was refused or withdrawn."""
        visit = jobs.visit(request.session_hash)
        wanted = visit.take(KIND)
        if wanted is None:
            yield NOTHING
            return
        with visit.stoppable(KIND) as stop:
            for views in stream(self.workshop, wanted, stop):
                yield self._placed(views)
        tune = self.shelf.in_sight("")
        offered = self.shelf.offer("" if tune is None else tune.id)
        status = tables.status_line(self.workshop)
        yield {**self._buttons(busy=False), **offered, self.shared.status: status}

    @plain_errors
    def on_stop(self, request: gr.Request) -> Views:
        """Withdraw the tune that waits, or stop the one that is shown, whoever began it."""
        if stop_shown(request.session_hash, KIND, lambda: ongoing(self.workshop)):
            return {self.job: tables.message(jobs.WITHDRAWN), **self._buttons(busy=False)}
        return {self.stop: gr.update(interactive=False)}

    @plain_errors
    def on_look(self, shown: str, picked: str, request: gr.Request) -> Views:
        """Show the tune that a hand chose, else the one that goes on or was worked on last.

        Nothing changes on a page whose own tune waits or runs.
        """
        visit = jobs.visit(request.session_hash)
        if visit.waits(KIND) or visit.runs(KIND):
            return {self.timer: gr.Timer(active=False)}
        going = ongoing(self.workshop)
        if going is None:
            return {self.timer: gr.Timer(active=False), **self._last(shown, picked)}
        now = _seen(going.tune, running=True)
        if picked not in ("", going.id.removeprefix(background.TUNE)):
            now = shown  # what a hand chose stays in sight
        views: Views = {
            self.timer: gr.Timer(active=True),
            self.job: progress_html(going) + tables.notes([WAITS]),
            self.shown: now,
            self.start: gr.update(interactive=True),
            self.stop: gr.update(interactive=True),
        }
        if going.tune is not None and now != shown:
            views |= self._placed(board_views(self.workshop, going.tune))
        return views if shown else views | self.shelf.offer("")

    def _last(self, shown: str, picked: str) -> Views:
        """Return the views of the tune to show while none goes on, as far as they are new."""
        try:
            tune = self.shelf.in_sight(picked)
            same = tune is not None and _seen(tune, running=False) == shown
            offered = self.shelf.offer("" if tune is None else tune.id, another=not same)
        except StudioError as error:
            return {self.job: tables.message(page_sentence(error), "bad")}
        if tune is None or same:
            return {**self._buttons(busy=False), **offered}
        return {**self._view(tune), **offered}

    def _view(self, tune: KeptTune | None) -> Views:
        """Return the views of a kept tune that does not go on, or of none."""
        if tune is None:
            return {
                self.results: gr.update(visible=False),
                self.empty: gr.update(visible=True),
                self.shown: "",
                self.job: "",
                **self._buttons(busy=False),
            }
        return {
            **self._placed(board_views(self.workshop, tune)),
            self.job: tables.message(ended_sentence(tune)),
            self.shown: _seen(tune, running=False),
            **self._buttons(busy=False),
        }

    @plain_errors
    def on_explore(self, point: str, asked: Asked, request: gr.Request) -> Views:
        """Take the plan of a point in hand with its solver and steps, and open Explore."""
        try:
            what = self._chosen(point)
            plan = replace(_plan_of(what), name=f"Tuned: {words.title(what)}", stage_steps=None)
            found = asked._replace(plan=plan, scheduler=what.scheduler, steps=what.steps)
            self.shared.predictions.predict(*found)
        except StudioError as error:
            return {self.said: tables.message(page_sentence(error), "bad")}
        return {
            **self.shared.in_hand_with_sampler(found, request),
            self.tabs: gr.Tabs(selected="explore"),
            self.said: "",
        }

    @plain_errors
    def on_compare(self, point: str) -> Views:
        """Put a point on side B of Compare, in its own steps, against dense in those of the tune.

        Both sides have one solver there: the point's.
        """
        try:
            what = self._chosen(point)
            _plan_of(what)
            tune = self._tune(point)
        except StudioError as error:
            return {self.said: tables.message(page_sentence(error), "bad")}
        compare, choice = self.compare, f"{TUNE_SIDE}{point}"
        offered = picker_choices(self.workshop, (DENSE_SIDE, choice))
        return {
            compare.pair.a.choice: gr.update(choices=offered, value=DENSE_SIDE),
            compare.pair.b.choice: gr.update(choices=offered, value=choice),
            compare.steps: tune.reference.steps,
            compare.scheduler: what.scheduler,
            compare.guidance: what.guidance,
            self.tabs: gr.Tabs(selected="compare"),
            self.said: "",
        }

    def _tune(self, point: str) -> KeptTune:
        """Return the kept tune of a point. Raises StudioError."""
        return tune_shelf().get(point.partition(":")[0])

    def _chosen(self, point: str) -> Configuration:
        """Return the configuration of a point. Raises StudioError."""
        return tune_shelf().point(point, self.workshop.model_key).configuration

    def _placed(self, views: Named) -> Views:
        places = self._places
        return {places[name]: value for name, value in views.items()}

    def _buttons(self, busy: bool) -> Views:
        return {
            self.start: gr.update(interactive=not busy),
            self.stop: gr.update(interactive=busy),
            **self.shelf.lock(busy),
        }


def _plan_of(what: Configuration) -> StagePlan:
    """Return the plan of a configuration. Raises StudioError for the dense model."""
    if what.plan is None:
        raise StudioError(DENSE_CHOSEN)
    return what.plan


def _seen(tune: KeptTune | None, running: bool) -> str:
    """Return a mark of what is in sight, which changes when there is more to show."""
    if tune is None:
        return ""
    held = sum(one.held_out is not None for one in tune.evaluations)
    state = "running" if running else "kept"
    return f"{tune.id} {len(tune.evaluations)} {held} {state}"


def _keep_label(scheduler: str, steps: Any) -> str:
    return f"Keep solver and steps as on the page ({scheduler}, {steps})"


def _usual_seconds(workshop: Workshop) -> float:
    """Return a quarter of what dense is predicted to take, or 1 s where that is not known."""
    scheduler, steps = model_facts.default_sampler(workshop)
    dense = Configuration(None, scheduler, steps, workshop.guidance)
    seconds = dense.seconds(workshop, workshop.usual_images)
    return 1.0 if seconds is None else float(f"{seconds / inputs.USUAL_SPEEDUP:.2g}")
