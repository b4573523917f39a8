"""Place 4: every kept run in one table; two of many beside each other; back into the studio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from core.errors import StudioError
from core.runs.export import export
from core.runs.run import Run

from .. import visitors
from ..compare.run import result_views
from ..compare.tab import CompareTab
from ..events import EDIT, NEWEST, Event, Views
from ..front_view import FrontCard
from ..input_checks import plain_errors
from ..page_state import Shared
from ..predictions import Asked
from ..recipes import COPY
from ..remedies import page_sentence
from ..sorted_table import SCRIPT, STYLE
from ..stage_chart import figure_text, plot_panel
from ..tables import message, notes
from ..text import plural
from . import chosen
from .along import server_function
from .plan_shelf import PlanShelf
from .record import store
from .table import heads_html, rows_html, title_of

HERE = Path(__file__).parent
# the ticked rows are read from the page when a button is pressed
TICKED = (
    "(...given) => [[...document.querySelectorAll('#runs-table tbody input:checked')]"
    ".map(box => box.value), ...given.slice(1)]"
)
MOST_PICTURES = 64  # thumbnails that one call of the page may ask for


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def thumbnails(ids: Any) -> dict[str, list[str]]:
    """Return the small pictures of runs as data addresses, A and B by the run's id.

    The page's script asks for those in sight. What is no run has none.
    """
    if not isinstance(ids, list):
        return {}
    found = {}
    for id in ids[:MOST_PICTURES]:
        try:
            pair = [store().thumbnail(str(id), side) for side in "ab"]
        except StudioError:
            continue
        found[str(id)] = [chosen.picture_address(content) for content in pair]
    return found


def files(asked: Any) -> str:
    """Return the text of a download: [kind, ids of runs], in the order of the page."""
    kind, ids = asked if isinstance(asked, list) and len(asked) == 2 else ("", [])
    try:
        by_id = {run.id: run for run in store().runs()}
        wanted = ids if isinstance(ids, list) else []
        runs = [by_id[id] for id in wanted if isinstance(id, str) and id in by_id]
        return export(runs, str(kind))
    except StudioError as error:
        return str(error)


class RunWords(NamedTuple):
    """What a visitor writes about one run."""

    ids: list[str]
    title: Any
    remark: Any


class RunsTab:
    """The tab's components, inside the caller's `gr.Tab`, and their handlers as methods."""

    def __init__(self, shared: Shared, compare: CompareTab):
        self.shared, self.compare = shared, compare
        gr.HTML(f"{STYLE}<style>{_read('tab.css')}</style>", elem_classes="runs-style")
        self.ids = gr.Textbox(visible="hidden")  # its value comes from TICKED
        self.gone = gr.State([])  # ids that were deleted last
        gr.Markdown(
            visitors.intro(),
            elem_classes="intro",
        )
        self.model_front = FrontCard(shared.workshop, "runs-model-front")
        self.table = gr.HTML(
            "",
            html_template=_read("table.html").replace("HEADS", heads_html()),
            js_on_load=COPY + SCRIPT + _read("table.js"),
            server_functions=[thumbnails, files, server_function(shared)],
            apply_default_css=False,
            elem_id="runs-table",
        )
        self._build_actions()
        self._build_words()
        self._build_several()
        self.shelf = PlanShelf(shared)

    def _build_actions(self) -> None:
        with gr.Row(elem_classes="runs-actions"):
            self.open = gr.Button(
                "Open in the studio", variant="primary", interactive=False, elem_id="runs-open"
            )
            self.delete = gr.Button("Delete", interactive=False, elem_id="runs-delete")
            self.undelete = gr.Button("Undo delete", visible=False, elem_id="runs-undelete")
        self.said = gr.HTML("", elem_id="runs-said")

    def _build_words(self) -> None:
        with gr.Column(visible=False, elem_classes="card", elem_id="runs-words") as self.words:
            with gr.Row():
                self.title = gr.Textbox(label="Name of this run", scale=2, min_width=200)
                self.remark = gr.Textbox(label="Notes", lines=2, scale=3, min_width=240)
            self.save = gr.Button("Save name and notes", size="sm", elem_classes="fit")

    def _build_several(self) -> None:
        with gr.Column(visible=False, elem_id="runs-several") as self.several:
            self.differ = gr.HTML("")
            with gr.Row(equal_height=False, elem_classes="main-row"):
                with gr.Column(scale=1, min_width=300, elem_classes="card"):
                    gr.HTML('<h2 class="panel-title">Pictures</h2>')
                    self.pictures = gr.HTML("")
                with gr.Column(scale=1, min_width=300, elem_classes="card"):
                    gr.HTML('<h2 class="panel-title">Time against distance</h2>')
                    self.axis = gr.Radio(
                        list(chosen.AXES),
                        value=chosen.AXES[0],
                        show_label=False,
                        elem_classes="segmented",
                    )
                    self.front = plot_panel(
                        chosen.EMPTY,
                        label="Measured time of B against its distance, one point per run",
                        elem_id="runs-front",
                        height=300,
                    )
                    self.front_words = gr.HTML("")

    def wire(self, tab: gr.Tab, tabs: gr.Tabs) -> list[Dependency]:
        """Connect the table, what is done with ticked runs, and the shelf of plans.

        Return what changes the kept runs and plans.
        """
        self.tabs = tabs
        self.model_front.wire()
        ticked: Event = {"js": TICKED, **NEWEST}
        panel = [
            *(self.open, self.delete, self.words, self.title, self.remark),
            *(self.several, self.differ, self.pictures, self.front, self.front_words),
        ]
        rows = [self.table, *self.shelf.views]
        gr.on([tab.select, self.shared.page.load], self.refresh, None, rows, **NEWEST)
        self.table.input(self.on_tick, [self.ids, self.axis], panel, **ticked)
        self.axis.input(self.on_tick, [self.ids, self.axis], panel, **ticked)
        words = [self.ids, self.title, self.remark]
        saved = self.save.click(self.on_save, words, [self.table, self.said], **ticked)
        bin_views = [self.table, self.gone, self.undelete, self.said]
        deleted = self.delete.click(self.on_delete, [self.ids], bin_views, **ticked)
        deleted.then(self.on_tick, [self.ids, self.axis], panel, **ticked)
        back = self.undelete.click(self.on_undelete, [self.gone], bin_views, **NEWEST)
        shared = self.shared
        asked = [self.ids, shared.plan, *shared.sampler]
        self.open.click(self.on_open, asked, [*self.opens, self.said], js=TICKED, **EDIT)
        return [saved, deleted, back, *self.shelf.wire()]

    @property
    def opens(self) -> list[Block]:
        """Return what `opened` sets."""
        shared, compare = self.shared, self.compare
        taken = [shared.plan, shared.edited, *shared.sampler, shared.steps_box, self.tabs]
        return [*taken, compare.live, *compare.result.places.values()]

    @plain_errors
    def refresh(self) -> Views:
        """Read runs and kept plans anew."""
        return {self.table: rows_html(store().runs()), **self.shelf.show()}

    @plain_errors
    def on_tick(self, ids: list[str], axis: str) -> Views:
        """Show what can be done with the ticked runs, and what differs between them."""
        runs = self._there(ids)
        one = runs[0] if len(runs) == 1 else None
        views: Views = {
            self.open: gr.update(interactive=one is not None and one.timed_runs is not None),
            self.delete: gr.update(
                interactive=bool(runs),
                value=f"Delete {plural(len(runs), 'run')}" if len(runs) > 1 else "Delete",
            ),
            self.words: gr.update(visible=one is not None),
            self.several: gr.update(visible=len(runs) > 1),
        }
        if one is not None:
            views |= {self.title: one.name, self.remark: one.notes}
        if len(runs) > 1:
            views |= self._side_by_side(runs, axis)
        return views

    def _side_by_side(self, runs: Sequence[Run], axis: str) -> Views:
        shown = runs[: chosen.MOST_COMPARED]
        said = ""
        if len(runs) > len(shown):
            said = notes([f"The first {len(shown)} are shown here; the plot has all {len(runs)}."])
        return {
            self.differ: said + chosen.differences_html(shown),
            self.pictures: chosen.pictures_html(shown, store().thumbnail),
            self.front: gr.update(figure=figure_text(chosen.front_figure(runs, axis))),
            self.front_words: chosen.front_words(runs, axis),
        }

    @plain_errors
    def on_save(self, words: RunWords) -> Views:
        """Give the ticked run its name and notes, or say why it cannot have them."""
        try:
            id = self._only(words.ids)
            store().rename(id, words.title or "")
            store().annotate(id, words.remark or "")
        except StudioError as error:
            return {self.said: message(page_sentence(error), "bad")}
        return {self.table: rows_html(store().runs()), self.said: message("Saved.", "good")}

    @plain_errors
    def on_delete(self, ids: list[str]) -> Views:
        """Delete the ticked runs; they can be had back."""
        gone = store().delete(ids)
        said = f"Deleted {plural(len(gone), 'run')}. Undo has them back for a day."
        if not gone:
            said = "Nothing was deleted: these runs are gone already."
        return {
            self.table: rows_html(store().runs()),
            self.gone: gone,
            self.undelete: gr.update(visible=bool(gone)),
            self.said: message(said),
        }

    @plain_errors
    def on_undelete(self, gone: list[str]) -> Views:
        """Have the runs back that were deleted last."""
        back = store().undelete(gone)
        return {
            self.table: rows_html(store().runs()),
            self.gone: [],
            self.undelete: gr.update(visible=False),
            self.said: message(f"{plural(len(back), 'run')} back.", "good"),
        }

    @plain_errors
    def on_open(self, ids: list[str], asked: Asked, request: gr.Request) -> Views:
        """Open the ticked run; where something of it cannot be had it is said."""
        try:
            return {**self.opened(self._only(ids), asked, request), self.said: ""}
        except StudioError as error:
            return {self.said: message(page_sentence(error), "bad")}

    def opened(self, id: str, asked: Asked, request: gr.Request) -> Views:
        """Take plan B, solver and steps of a run in hand, and its result into Compare.

        Raises StudioError where something of it cannot be had; then nothing is changed.
        """
        run = store().get(id)
        if run.model_key != self.shared.workshop.model_key:
            raise StudioError(
                f"This run is of {run.model}: choose that model in the menu first, then open"
                " the run again."
            )
        comparison = store().comparison(run.id)
        plan = run.b.plan or asked.plan
        found = asked._replace(plan=plan, scheduler=run.scheduler, steps=run.steps)
        self.shared.predictions.predict(*found)
        shared, compare = self.shared, self.compare
        origin = f"A kept run, {title_of(run)}: measured on {run.device}, {run.when}."
        places = compare.result.places
        views = result_views(shared.workshop, comparison, run.id, origin)
        return {
            **shared.in_hand_with_sampler(found, request),
            self.tabs: gr.Tabs(selected="compare"),
            compare.live: gr.update(value="", visible=False),
            places["results"]: gr.update(visible=True),
            **{places[name]: value for name, value in views.items()},
            places["about"]: "",
            places["made"]: None,
        }

    def _there(self, ids: list[str]) -> list[Run]:
        """Return the runs of these ids that are still there, in their order."""
        by_id = {run.id: run for run in store().runs()}
        return [by_id[id] for id in ids if id in by_id]

    def _only(self, ids: list[str]) -> str:
        """Return the one ticked run. Raises StudioError for none and for several."""
        if len(ids) != 1:
            raise StudioError("Tick one run first.")
        return ids[0]
