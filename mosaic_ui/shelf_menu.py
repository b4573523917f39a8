"""The menu of earlier sweeps or tunes of a model: see one again, delete it after one question.

The tab that holds it says how one is shown. What is kept for other visitors of a public page is on
a shelf of theirs, and no id leads there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import gradio as gr
from gradio.events import Dependency

from core.errors import StudioError
from core.shelf import Kept, Shelf

from . import background
from .events import QUIET, Event, Views
from .input_checks import plain_errors
from .remedies import page_sentence
from .tables import message

K = TypeVar("K", bound=Kept)
MOST = 60  # that the menu offers, the latest first
AT_ONCE: Event = {**QUIET, "queue": False}


@dataclass(frozen=True)
class Shown(Generic[K]):
    """How a tab shows what is kept: words for the menu, views, and what a deletion leaves.

    show: the views of one, or of none where nothing is kept any more. busy: why one cannot be
    deleted, empty where it can.
    """

    shelf: Callable[[], Shelf[K]]
    words: Callable[[K], str]
    show: Callable[[K | None], Views]
    stays: str
    busy: Callable[[K], str]


class ShelfMenu(Generic[K]):
    """The menu, Delete, and the question before it."""

    def __init__(self, kind: str, model_key: str, shown: Shown[K]):
        self.kind, self.model_key, self.how = kind, model_key, shown
        self.picked = gr.State("")  # id that a hand chose; empty: the one that was worked on last
        with gr.Row(elem_classes="shelf-row", visible=False, elem_id=f"{kind}-shelf") as self.row:
            self.menu = gr.Dropdown(
                [], label=f"Earlier {kind}s of this model", filterable=False, min_width=220
            )
            self.delete = gr.Button("Delete", size="sm", scale=0, min_width=80)
        with gr.Row(elem_classes="shelf-ask", visible=False) as self.question:
            self.words = gr.HTML("")
            self.yes = gr.Button("Delete it", variant="stop", size="sm", scale=0, min_width=90)
            self.no = gr.Button("Keep it", size="sm", scale=0, min_width=80)
        self.said = gr.HTML("", elem_id=f"{kind}-shelf-said")

    @property
    def views(self) -> list[Any]:
        """Return the components that `offer` and `lock` set."""
        return [self.row, self.menu, self.delete, self.question, self.picked]

    def wire(self, views: list[Any]) -> Dependency:
        """Connect the menu and the question; views: what `show` sets. Return the choice."""
        own = [*self.views, self.said]
        # not `input`, which a menu sends too when the focus leaves it
        chosen = self.menu.select(self.on_chosen, self.menu, [*own, *views], **AT_ONCE)
        self.delete.click(
            self.on_delete, self.menu, [self.question, self.words, self.said], **AT_ONCE
        )
        self.yes.click(self.on_yes, self.menu, [*own, *views], **AT_ONCE)
        self.no.click(self.on_no, None, self.question, **AT_ONCE)
        return chosen

    def offer(self, id: str, another: bool = True) -> Views:
        """Return the menu with one in sight; nothing where none is kept. Raises StudioError.

        another: than was in sight; a question about that one is taken back.
        """
        shelf = self.how.shelf()
        kept = list(islice(shelf.of(self.model_key), MOST))
        choices = [(self._label(shelf, one), one.id) for one in kept]
        value = id if any(id == one for _, one in choices) else None
        views: Views = {self.question: gr.update(visible=False)} if another else {}
        return views | {
            self.row: gr.update(visible=bool(kept)),
            self.menu: gr.update(choices=choices, value=value, interactive=True),
            self.delete: gr.update(interactive=True),
        }

    def lock(self, busy: bool) -> Views:
        """Return the menu while the page's own job runs, which shows itself, or afterwards."""
        shut: Views = {self.question: gr.update(visible=False), self.picked: ""} if busy else {}
        return shut | {
            self.menu: gr.update(interactive=not busy),
            self.delete: gr.update(interactive=not busy),
        }

    def in_sight(self, picked: str) -> K | None:
        """Return the one that a hand chose, else the latest; None for none. Raises StudioError."""
        shelf = self.how.shelf()
        if picked:
            try:
                return self._own(shelf, picked)
            except StudioError:  # deleted on another page
                pass
        return shelf.latest(self.model_key)

    @plain_errors
    def on_chosen(self, picked: str) -> Views:
        """Show the one that was chosen."""
        try:
            one = self._own(self.how.shelf(), picked)
            return {
                **self.how.show(one),
                **self.offer(one.id),
                self.picked: one.id,
                self.said: "",
            }
        except StudioError as error:
            return {**self.offer(""), self.said: message(page_sentence(error), "bad")}

    @plain_errors
    def on_delete(self, picked: str) -> Views:
        """Ask once, or say why it cannot be deleted."""
        try:
            shelf = self.how.shelf()
            one = self._own(shelf, picked)
            self._check_still(one)
        except StudioError as error:
            return {self.said: message(page_sentence(error), "bad")}
        asked = f"Delete the {self.kind} “{self._label(shelf, one)}”? {self.how.stays}"
        return {
            self.question: gr.update(visible=True),
            self.words: message(asked),
            self.said: "",
        }

    @plain_errors
    def on_yes(self, picked: str) -> Views:
        """Delete it, and show the one that was worked on last of those that are left."""
        try:
            shelf = self.how.shelf()
            one = self._own(shelf, picked)
            self._check_still(one)
            shelf.delete(one.id)
        except StudioError as error:
            hidden: Views = {self.question: gr.update(visible=False)}
            return {**hidden, self.said: message(page_sentence(error), "bad")}
        left = shelf.latest(self.model_key)
        return {
            **self.how.show(left),
            **self.offer("" if left is None else left.id),
            self.picked: "",
            self.said: message(f"Deleted. {self.how.stays}"),
        }

    def on_no(self) -> Views:
        """Take the question back."""
        return {self.question: gr.update(visible=False)}

    def _own(self, shelf: Shelf[K], id: str) -> K:
        """Return one of this model. Raises StudioError."""
        one = shelf.get(id)
        if one.model_key != self.model_key:
            raise StudioError(shelf.gone)
        return one

    def _check_still(self, one: K) -> None:
        """Raise StudioError for one that goes on, in this program or in another."""
        ids = {going.id for going in background.ongoing()}
        said = self.how.busy(one)
        if f"{self.kind}-{one.id}" in ids:
            said = f"This {self.kind} goes on: press Stop first."
        if said:
            raise StudioError(said)

    def _label(self, shelf: Shelf[K], one: K) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(shelf.worked_on(one.id)))
        return f"{self.how.words(one)}, {when}"
