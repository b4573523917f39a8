"""The shelf of kept plans: keep the plan in hand under a name, and take a kept one in hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.events import Dependency

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.runs.differences import plan_words
from core.runs.run import KeptPlan

from ..events import EDIT, QUIET, Event, Views
from ..input_checks import plain_errors
from ..page_state import Shared
from ..predictions import Asked
from ..remedies import page_sentence
from ..tables import message
from .record import store
from .table import plan_rows

CHOSEN = (
    "(...given) => [document.querySelector('#kept-plans input:checked')?.value ?? '',"
    " ...given.slice(1)]"
)
NONE = (
    "<p>No plan is kept yet. Keep the plan in hand here, or in 2 Prune beside the plan as a file;"
    " kept plans stay after a restart.</p>"
)
# what can be done with one kept plan
OF_ONE = ("Take as the plan in hand", "Rename to the name below", "Delete")
CHOOSE = "Choose a kept plan from the list first."
PLAN: Event = {**EDIT, "js": CHOSEN}


class KeepBox:
    """A box for a name and the button that keeps the plan in hand under it."""

    def __init__(self, shared: Shared, label: str = "Name for this plan"):
        self.shared = shared
        with gr.Row(elem_classes="keep-row"):
            self.title = gr.Textbox(
                shared.opening.name,
                label=label,
                placeholder="Up to 200 characters",
                scale=2,
                min_width=180,
            )
            self.keep = gr.Button("Keep this plan", scale=0, min_width=140)
        self.said = gr.HTML("")

    def wire(self) -> Dependency:
        """Connect the button; return what changes the kept plans."""
        return gr.on(
            [self.keep.click, self.title.submit],
            self.on_keep,
            [self.title, self.shared.plan],
            self.said,
            **EDIT,
        )

    @plain_errors
    def on_keep(self, title: Any, plan: StagePlan) -> Views:
        """Keep the plan in hand, or say why it cannot be."""
        return {self.said: kept_words(self.shared, title, plan)}


def kept_words(shared: Shared, title: Any, plan: StagePlan) -> str:
    """Keep a plan and return the sentence that says under which name, or why not."""
    workshop = shared.workshop
    try:
        kept = store().keep_plan(title or "", plan, workshop.model_key, workshop.name)
    except StudioError as error:
        return message(page_sentence(error), "bad")
    return message(f"Kept as “{kept.name}”: it is listed in 4 Runs.", "good")


class PlanShelf:
    """The list of kept plans in the Runs tab, and what is done with one of them."""

    def __init__(self, shared: Shared):
        self.shared = shared
        with gr.Column(elem_classes="card", elem_id="plan-shelf"):
            gr.HTML('<h2 class="panel-title">Kept plans</h2>')
            self.list = gr.HTML(f'<div class="plans">{NONE}</div>', elem_id="kept-plans")
            self.chosen = gr.Textbox(visible="hidden")  # its value comes from CHOSEN
            self.gone = gr.State("")  # id of the plan that was deleted last
            with gr.Row(elem_classes="runs-actions"):
                self.take, self.rename, self.delete = (
                    gr.Button(_label(words, False), size="sm", interactive=False)
                    for words in OF_ONE
                )
                self.undelete = gr.Button("Undo delete", size="sm", visible=False)
            with gr.Row(elem_classes="keep-row"):
                self.title = gr.Textbox(
                    label="Name", placeholder="Up to 200 characters", scale=2, min_width=180
                )
                self.keep = gr.Button("Keep the plan in hand", scale=0, min_width=180)
            self.said = gr.HTML("", elem_id="plans-said")

    @property
    def views(self) -> list[Any]:
        """Return the components that `show` sets."""
        return [self.list, self.take, self.rename, self.delete]

    def show(self) -> Views:
        """Return the list as it is now. Raises StudioError."""
        kept = store().plans()
        any_kept = bool(kept)
        buttons: Views = {
            button: gr.update(value=_label(words, any_kept), interactive=any_kept)
            for button, words in zip(self.views[1:], OF_ONE, strict=True)
        }
        if not kept:
            return {self.list: f'<div class="plans">{NONE}</div>', **buttons}
        head = "<th></th><th>Name</th><th>Model</th><th>Plan</th>"
        rows = plan_rows(kept, _words)
        return {
            self.list: f'<div class="plans"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>",
            **buttons,
        }

    def wire(self) -> list[Dependency]:
        """Connect the buttons; return what changes the kept plans."""
        shared = self.shared
        taken = [shared.plan, shared.edited, self.said]
        self.take.click(self.on_take, [self.chosen, shared.plan, *shared.sampler], taken, **PLAN)
        listed = [*self.views, self.said]
        bin_views = [*listed, self.gone, self.undelete]
        return [
            self.rename.click(self.on_rename, [self.chosen, self.title], listed, **PLAN),
            self.delete.click(self.on_delete, [self.chosen], bin_views, **PLAN),
            self.undelete.click(self.on_undelete, [self.gone], bin_views, **EDIT),
            self.keep.click(self.on_keep, [self.title, shared.plan], listed, **QUIET),
        ]

    @plain_errors
    def on_keep(self, title: Any, plan: StagePlan) -> Views:
        """Keep the plan in hand."""
        said = kept_words(self.shared, title, plan)
        return {**self.show(), self.said: said}

    @plain_errors
    def on_take(self, chosen_plan: str, asked: Asked, request: gr.Request) -> Views:
        """Take a kept plan in hand, or say why this model cannot use it."""
        try:
            kept = self._kept(chosen_plan)
            plan = replace(kept.plan, stage_steps=None)  # the page has a sampler of its own
            found = asked._replace(plan=plan)
            self.shared.predictions.predict(*found)
        except StudioError as error:
            return {self.said: message(f"{page_sentence(error)} The plan in hand stays.", "bad")}
        said = message(f"“{kept.name}” is the plan in hand now, on every tab.", "good")
        return self.shared.in_hand(found, request) | {self.said: said}

    @plain_errors
    def on_rename(self, chosen_plan: str, title: Any) -> Views:
        """Give the chosen plan the typed name."""
        try:
            kept = store().rename_plan(self._kept(chosen_plan).id, title or "")
        except StudioError as error:
            return {self.said: message(page_sentence(error), "bad")}
        return {**self.show(), self.said: message(f"It is called “{kept.name}” now.", "good")}

    @plain_errors
    def on_delete(self, chosen_plan: str) -> Views:
        """Delete the chosen plan; it can be had back."""
        try:
            kept = self._kept(chosen_plan)
            store().delete_plan(kept.id)
        except StudioError as error:
            return {self.said: message(page_sentence(error), "bad")}
        said = message(f"Deleted “{kept.name}”. Undo has it back for a day.")
        return {
            **self.show(),
            self.said: said,
            self.gone: kept.id,
            self.undelete: gr.update(visible=True),
        }

    @plain_errors
    def on_undelete(self, lost: str) -> Views:
        """Have the plan back that was deleted last."""
        back = store().undelete_plan(lost)
        said = "The plan is back." if back else "There was nothing to have back."
        hidden: Views = {self.gone: "", self.undelete: gr.update(visible=False)}
        return {**self.show(), self.said: message(said), **hidden}

    def _kept(self, id: str) -> KeptPlan:
        """Return a kept plan. Raises StudioError where none is chosen or it is gone."""
        if not id:
            raise StudioError(CHOOSE)
        return store().plan(id)


def _label(words: str, any_kept: bool) -> str:
    """Return the words of a button; where no plan is kept they say why it is switched off."""
    return words if any_kept else f"{words} (no plan is kept)"


def _words(kept: KeptPlan) -> str:
    """Return what a kept plan does, or why it cannot be read."""
    try:
        return plan_words(kept.plan)
    except StudioError as error:
        return str(error)
