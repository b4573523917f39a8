"""The tab Sweep: choose what changes along two axes, press once, watch the map fill.

What is asked is checked in inputs.py, the job itself is in run.py, what the page shows of a sweep
in board.py. A sweep goes on when its page is reloaded or closed; every page of the model finds it
again, running or kept. Nothing is asked of the server before the tab is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.sweep.cells import Grid
from core.sweep.kept import KeptSweep

from .. import background, jobs, model_facts, tables
from ..compare.inputs import Wish
from ..compare.tab import CompareTab
from ..events import ASK, EDIT, NEWEST, NOTHING, QUIET, Event, Views
from ..input_checks import plain_errors
from ..long_work import WAITS, progress_html, stop_shown
from ..page_state import Shared
from ..predictions import Asked
from ..recipes import COPY
from ..remedies import page_sentence
from ..runs.tab import RunsTab
from ..shelf_menu import ShelfMenu, Shown
from ..visitors import sweep_shelf
from . import inputs
from .board import board, sweep_file, sweep_pictures
from .inputs import SweepWish
from .run import STAYS, Named, busy_elsewhere, ended_sentence, ongoing, shelf_words, stream

HERE = Path(__file__).parent
KIND = jobs.SWEEP
LOOK_SECONDS = 1.5
LOOK: Event = {**QUIET, "queue": False}
CELL = "(...given) => [[window.mosaicSweepRun ?? ''], ...given.slice(1)]"
USUAL_IMAGES, USUAL_REPEATS = 4, 1
NO_Y = [("nothing: one row", inputs.NO_Y)]
INTRO = (
    "Choose one or two settings and the values they run through. Every cell of the grid compares"
    " dense with the plan in hand under its settings, and is **kept as a run**."
)
NONE = (
    '<section class="none-yet"><h3>Nothing swept yet</h3><p>Press <b>Sweep</b>: the pictures of'
    " every cell appear here as they are drawn, coloured by a number that you choose.</p></section>"
)


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


class SweepTab:
    """The tab's components, inside the caller's `gr.Tab`, and their handlers as methods."""

    def __init__(self, shared: Shared, compare: CompareTab, runs: RunsTab):
        self.shared, self.compare, self.runs = shared, compare, runs
        self.workshop = shared.workshop
        gr.HTML(f"<style>{_read('tab.css')}</style>", elem_classes="sweep-style")
        self.cell = gr.Textbox(visible="hidden")  # its value comes from CELL
        self.shown = gr.Textbox("", visible="hidden")  # what of which sweep is in sight
        self.timer = gr.Timer(LOOK_SECONDS, active=False)
        gr.Markdown(INTRO, elem_classes="intro")
        with gr.Row(equal_height=False, elem_classes="main-row"):
            with gr.Column(scale=2, min_width=300, elem_classes="side"):
                with gr.Column(elem_classes="card sweep-controls"):
                    self._build_controls()
            with gr.Column(scale=5, min_width=300, elem_classes="side"):
                self._build_outcome()

    def _build_controls(self) -> None:
        self.x_name, self.x_values, self.x_said = self._axis("x", inputs.USUAL_X)
        self.y_name, self.y_values, self.y_said = self._axis("y", inputs.USUAL_Y)
        most = model_facts.images_offered(self.workshop)[0]
        with gr.Row(elem_classes="sweep-numbers"):
            self.images = gr.Number(
                min(USUAL_IMAGES, most), label="Images per cell", step=1, min_width=90
            )
            self.repeats = gr.Number(
                USUAL_REPEATS,
                label="Timing repeats",
                info="0: nothing is timed",
                step=1,
                min_width=90,
            )
        with gr.Row(elem_classes="buttons"):
            self.start = gr.Button("Sweep", variant="primary", min_width=90, elem_id="sweep-start")
            self.stop = gr.Button(
                "Stop", variant="stop", min_width=76, interactive=False, elem_id="sweep-stop"
            )
        self.ahead = gr.HTML("", elem_id="sweep-ahead")

    def _axis(self, which: str, usual: str) -> tuple[gr.Dropdown, gr.Textbox, gr.HTML]:
        """Make the menu and the box of an axis, and the place of what is wrong with it."""
        way, alone = ("along a row", []) if which == "x" else ("down a column", NO_Y)
        name = gr.Dropdown(
            alone + inputs.axis_choices(),
            value=usual,
            label=f"What changes {way}",
            filterable=False,
            elem_id=f"sweep-{which}",
        )
        values = gr.Textbox(
            inputs.usual_values(self.workshop, usual),
            label=f"Its values {way}",
            info=inputs.form_of(usual),
            max_lines=1,
            elem_id=f"sweep-{which}-values",
        )
        return name, values, gr.HTML("", elem_id=f"sweep-{which}-said")

    def _build_outcome(self) -> None:
        how = Shown(sweep_shelf, shelf_words, self._view, STAYS, busy_elsewhere)
        self.shelf = ShelfMenu("sweep", self.workshop.model_key, how)
        self.job = gr.HTML("", elem_id="sweep-job")
        self.more = gr.Button(
            "Go on", size="sm", visible=False, elem_id="sweep-more", elem_classes="fit"
        )
        self.said = gr.HTML("", elem_id="sweep-said")
        self.empty = gr.HTML(NONE)
        with gr.Column(visible=False, elem_classes="card", elem_id="sweep-results") as self.results:
            self.grid = gr.HTML(
                "",
                html_template=_read("grid.html"),
                js_on_load=COPY + _read("grid.js"),
                server_functions=[sweep_pictures, sweep_file],
                apply_default_css=False,
                elem_id="sweep-grid",
            )

    def wire(self, place: gr.Tab, tabs: gr.Tabs) -> None:
        """Connect the controls, the job, what finds a sweep again, and the way to open a cell."""
        self.tabs = tabs
        axes: list[Block] = [self.x_name, self.x_values, self.y_name, self.y_values]
        wish = [*axes, self.shared.plan, *self._settings]
        foresee: Event = {
            "fn": self.foresee,
            "inputs": wish,
            "outputs": [self.ahead, self.x_said, self.y_said],
            **NEWEST,
        }
        values = [self.x_values.change, self.y_values.change]
        gr.on([place.select, *values, self.images.change, self.repeats.change], **foresee)
        for which, on_name in (("x", self.on_x), ("y", self.on_y)):
            name, box = getattr(self, f"{which}_name"), getattr(self, f"{which}_values")
            # not `input`, which a menu sends too when the focus leaves it
            name.change(on_name, name, box, **NEWEST).then(**foresee)
        self._wire_job(wish, foresee, place)
        opened = self.grid.input(
            self.on_open,
            [self.cell, self.shared.plan, *self.shared.sampler],
            [*self.runs.opens, self.said],
            **{**EDIT, "js": CELL},
        )
        opened.then(**foresee)

    @property
    def _settings(self) -> list[Block]:
        """Return the inputs of `compare.inputs.Wish`, in its order."""
        shared, compare = self.shared, self.compare
        found: list[Block] = [compare.asked, self.images, shared.seed, shared.steps]
        found += [compare.guidance, shared.scheduler, self.repeats, compare.negative]
        return [*found, compare.size, compare.tabulate, compare.dtype, compare.mode]

    def _wire_job(self, wish: list[Block], foresee: Event, place: gr.Tab) -> None:
        """Connect Sweep, Go on and Stop, and what finds a sweep of before or of another page."""
        buttons = [self.start, self.stop, self.more, *self.shelf.views]
        sight = [self.job, self.results, self.empty, self.grid, self.shown]
        views = [*sight, *buttons]
        asked = self.start.click(self.ask, wish, [self.job, *buttons], **ASK)
        again = self.more.click(self.on_more, self.shown, [self.job, *buttons], **ASK)
        for one in (asked, again):
            done = one.then(self.run, None, [*views, self.shared.status], **jobs.MODEL_JOB, **QUIET)
            done.then(**foresee)
        self.stop.click(self.on_stop, None, [self.job, *buttons], **LOOK)
        looks = [place.select, self.timer.tick]
        look: Event = {
            "fn": self.on_look,
            "inputs": [self.shown, self.shelf.picked],
            "outputs": [*views, self.timer],
            **LOOK,
        }
        gr.on(looks, **look)
        self.shelf.wire([*sight, self.start, self.stop, self.more]).then(**look)

    @plain_errors
    def on_x(self, x_name: str) -> Views:
        """Offer values of the axis that was chosen for the rows."""
        return {self.x_values: self._offer(x_name)}

    @plain_errors
    def on_y(self, y_name: str) -> Views:
        """Offer values of the axis that was chosen for the columns; none for no axis."""
        return {self.y_values: self._offer(y_name)}

    def _offer(self, name: str) -> Any:
        return gr.update(
            value=inputs.usual_values(self.workshop, name),
            info=inputs.form_of(name),
            visible=name != inputs.NO_Y,
        )

    @plain_errors
    def foresee(self, axes: SweepWish, plan: StagePlan, settings: Wish) -> Views:
        """Say how many cells and how long, or at the box why it cannot be."""
        x, y = inputs.refusals(axes)
        said: Views = {self.x_said: _refusal(x), self.y_said: _refusal(y), self.ahead: ""}
        if x or y:
            return said
        try:
            grid = inputs.checked(self.workshop, axes, plan, settings)
            ahead = inputs.ahead(self.workshop, inputs.foreseen(self.workshop, grid))
        except StudioError as error:
            return said | {self.ahead: tables.notes([page_sentence(error)])}
        return said | {self.ahead: tables.fine(ahead)}

    @plain_errors
    def ask(self, axes: SweepWish, plan: StagePlan, settings: Wish, request: gr.Request) -> Views:
        """Note what is asked for, or say at once why it cannot be; what is in sight stays."""
        try:
            grid = inputs.checked(self.workshop, axes, plan, settings)
        except StudioError as error:
            return {self.job: tables.message(page_sentence(error), "bad")}
        return self._asked(grid, request)

    @plain_errors
    def on_more(self, swept: str, request: gr.Request) -> Views:
        """Go on with the sweep in sight, with the plan and settings that it began with."""
        try:
            kept = sweep_shelf().get(swept.partition(" ")[0])
            grid = inputs.grid_again(self.workshop, kept)
        except StudioError as error:
            return {self.job: tables.message(page_sentence(error), "bad")}
        return self._asked(grid, request)

    def _asked(self, grid: Grid, request: gr.Request) -> Views:
        jobs.visit(request.session_hash).ask(KIND, grid)
        return {self.job: tables.message(jobs.WAITING), **self._buttons(busy=True)}

    @plain_errors
    def run(self, request: gr.Request) -> Iterator[Views]:
        """Sweep, now that the turn has come; nothing where it was refused or withdrawn."""
        visit = jobs.visit(request.session_hash)
        grid = visit.take(KIND)
        if grid is None:
            yield NOTHING
            return
        kept: KeptSweep | None = None
        with visit.stoppable(KIND) as stop:
            for named in stream(self.workshop, grid, stop):
                kept = named.get("kept", kept)
                yield self._placed(named, running=True)
        status = tables.status_line(self.workshop)
        ended = {} if kept is None else self._sight(kept, running=False)
        offered = self.shelf.offer("" if kept is None else kept.id)
        idle = self._buttons(busy=False, kept=kept)
        yield {**ended, **idle, **offered, self.shared.status: status}

    @plain_errors
    def on_stop(self, request: gr.Request) -> Views:
        """Withdraw the sweep that waits, or stop the one that is shown, whoever began it."""
        if stop_shown(request.session_hash, KIND, lambda: ongoing(self.workshop)):
            return {self.job: tables.message(jobs.WITHDRAWN), **self._buttons(busy=False)}
        return {self.stop: gr.update(interactive=False)}

    @plain_errors
    def on_look(self, swept: str, picked: str, request: gr.Request) -> Views:
        """Show the sweep that a hand chose, else the one that goes on or was worked on last.

        Nothing changes on a page whose own sweep waits or runs.
        """
        visit = jobs.visit(request.session_hash)
        if visit.waits(KIND) or visit.runs(KIND):
            return {self.timer: gr.Timer(active=False)}
        going = ongoing(self.workshop)
        if going is None:
            return {self.timer: gr.Timer(active=False), **self._last(swept, picked)}
        views: Views = {
            self.timer: gr.Timer(active=True),
            self.job: progress_html(going) + tables.notes([WAITS]),
            self.start: gr.update(interactive=True),
            self.stop: gr.update(interactive=not going.stop.is_set()),
            self.more: gr.update(visible=False),
        }
        if going.sweep is not None and picked in ("", going.id.removeprefix(background.SWEEP)):
            kept = sweep_shelf().get(going.id.removeprefix(background.SWEEP))
            if _mark(kept, running=True) != swept:
                views |= self._sight(kept, running=True)
        return views if swept else views | self.shelf.offer("")

    def _last(self, swept: str, picked: str) -> Views:
        """Return the views of the sweep to show while none goes on, as far as they are new."""
        try:
            kept = self.shelf.in_sight(picked)
            same = kept is not None and _mark(kept, running=False) == swept
            offered = self.shelf.offer("" if kept is None else kept.id, another=not same)
        except StudioError as error:
            return {self.job: tables.message(page_sentence(error), "bad")}
        if kept is None or same:
            return {**self._buttons(busy=False, kept=kept), **offered}
        return {**self._view(kept), **offered}

    def _view(self, kept: KeptSweep | None) -> Views:
        """Return the views of a kept sweep that does not go on, or of none."""
        if kept is None:
            return {
                self.results: gr.update(visible=False),
                self.empty: gr.update(visible=True),
                self.shown: "",
                self.job: "",
                **self._buttons(busy=False),
            }
        return {
            **self._sight(kept, running=False),
            self.job: tables.message(ended_sentence(kept)),
            **self._buttons(busy=False, kept=kept),
        }

    @plain_errors
    def on_open(self, ids: list[str], asked: Asked, request: gr.Request) -> Views:
        """Open the kept run of a cell, as Runs does; where it cannot be had it is said."""
        try:
            return {**self.runs.opened(ids[0] if ids else "", asked, request), self.said: ""}
        except StudioError as error:
            return {self.said: tables.message(page_sentence(error), "bad")}

    def _placed(self, named: Named, running: bool) -> Views:
        """Return the views of what a running sweep tells."""
        views: Views = {self.job: named["job"]} if "job" in named else {}
        kept = named.get("kept")
        return views if kept is None else views | self._sight(kept, running)

    def _sight(self, kept: KeptSweep, running: bool) -> Views:
        """Return the views of a sweep's cells."""
        return {
            self.results: gr.update(visible=True),
            self.empty: gr.update(visible=False),
            self.grid: board(kept),
            self.shown: _mark(kept, running),
        }

    def _buttons(self, busy: bool, kept: KeptSweep | None = None) -> Views:
        return {
            self.start: gr.update(interactive=not busy),
            self.stop: gr.update(interactive=busy),
            self.more: gr.update(visible=not busy and kept is not None and kept.left > 0),
            **self.shelf.lock(busy),
        }


def _refusal(sentence: str) -> str:
    return tables.notes([sentence]) if sentence else ""


def _mark(kept: KeptSweep, running: bool) -> str:
    """Return a mark of what is in sight, which changes when there is more to show."""
    states = ("waiting", "running", "done", "failed", "impossible")
    counts = " ".join(str(kept.record.count(state)) for state in states)
    return f"{kept.id} {counts} {'running' if running else 'kept'}"
