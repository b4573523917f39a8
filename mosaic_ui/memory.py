"""Remember what a visitor does: undo and redo, the address that follows, and a draft.

The plan in hand with its sampler and the seed of Compare is written as a query, the same that a
model's page takes over when it opens (model_menu.py). The browser puts it into the address and
keeps it as a draft.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from core.curves.plan import StagePlan
from core.errors import PlanError, StudioError

from .events import EDIT, NOTHING, QUIET, Event, Views
from .input_checks import plain_errors
from .inputs import whole_seed
from .page_state import Shared
from .predictions import Asked

HERE = Path(__file__).parent
MOST = 100  # plans that are remembered
EACH: Event = {**EDIT, "trigger_mode": "multiple"}  # three presses are three steps
# the address follows at once, not behind the next edit
AT_ONCE: Event = {**QUIET, "queue": False, "trigger_mode": "multiple"}
MARKED = "(history, mark, ...rest) => [history, window.mosaic ? window.mosaic.mark : 0, ...rest]"
FOLLOW = "(link) => { window.mosaic?.follow(link); }"
# the draft of a page that opened on the same plan: where another was asked for since, that counts.
# It is read before the page's script is there.
DRAFT = """() => {
  try {
    const kept = JSON.parse(localStorage.getItem(`mosaic-draft:${location.pathname}`));
    return [kept && kept.opening === OPENING ? String(kept.link) : ''];
  } catch { return ['']; }
}"""
# what the page has opened on; its script may come later than this
ARRIVED = """() => {
  const tab = () => document.querySelector('#studio-tabs [role=tab][aria-selected=true]');
  const place = () => tab()?.dataset.tabId ?? 'explore';
  const tell = () => window.mosaic ? window.mosaic.arrived(place()) : setTimeout(tell, 100);
  setTimeout(tell, 100);
}"""
SEED = "(seed) => { window.mosaic?.seed(seed); }"
COPY = "() => { window.mosaic?.copy(); }"

# {"plans": plans as JSON, "at": the one in hand, "mark": of its edit, "step": of the last step back
# or forth}
History = dict[str, Any]


def link_of(asked: Asked, seed: object) -> str:
    """Return a plan, its sampler and a seed as the query of an address.

    What is no seed, as while one is typed, is left out.
    """
    query = {"plan": asked.plan.dumps_short(), "scheduler": asked.scheduler, "steps": asked.steps}
    with suppress(StudioError):
        query["seed"] = whole_seed(seed)
    return urlencode(query)


def opening_link(shared: Shared) -> str:
    """Return the query of what a page opens with."""
    return link_of(Asked(shared.opening, *shared.opening_sampler), shared.seed.value)


def read_draft(shared: Shared) -> str:
    """Return the script that reads the draft of a page."""
    return DRAFT.replace("OPENING", json.dumps(opening_link(shared)))


def begun(plan: StagePlan) -> History:
    """Return the history of a page that opens with a plan; no hand has touched it (mark 0)."""
    return {"plans": [plan.to_json()], "at": 0, "mark": 0, "step": -1}


def after_edit(history: History, plan: StagePlan, mark: int) -> History:
    """Return the history after an edit.

    Edits of one mark, as of one drag or one series of keys, are one step. What was undone is gone.
    A plan that a step back brought is no edit, also where it is told after the next step.
    """
    plans, at = history["plans"], history["at"]
    now = plan.to_json()
    if now == plans[at] or (mark <= history["step"] and now in plans):
        return history
    kept = plans[:at] if mark == history["mark"] else plans[: at + 1]
    kept = [*kept, now][-MOST:]
    return {**history, "plans": kept, "at": len(kept) - 1, "mark": mark}


def moved(history: History, by: int, mark: int) -> History:
    """Return the history one step back (-1) or forth (1), or as it is at its end.

    mark: of the key or the press. The next edit is a step of its own, whatever its mark.
    """
    at = min(max(history["at"] + by, 0), len(history["plans"]) - 1)
    return {**history, "at": at, "mark": -1, "step": mark}


class Memory:
    """The buttons Undo, Redo and Copy link, the history, and the script behind them."""

    def __init__(self, shared: Shared):
        self.shared = shared
        opening = opening_link(shared)
        self.history = gr.State(begun(shared.opening))
        self.mark = gr.Textbox(visible="hidden")  # its value comes from MARKED
        self.link = gr.Textbox(opening, visible="hidden")
        with gr.Row(elem_classes="page-tools"):
            self.undo = _button("↶ Undo", "page-undo", interactive=False)
            self.redo = _button("↷ Redo", "page-redo", interactive=False)
            self.copy = _button("Copy link", "page-copy", interactive=True)
        script = (HERE / "memory.js").read_text(encoding="utf-8")
        gr.HTML(
            "",
            js_on_load=script.replace("OPENING;", f"{json.dumps(opening)};", 1),
            elem_classes="page-script",
        )

    def wire(self) -> None:
        """Connect every edit and the three buttons."""
        shared, seed = self.shared, self.shared.seed
        asked = [shared.plan, *shared.sampler]
        buttons = [self.history, self.undo, self.redo]
        gr.on(
            [shared.edited.change, shared.scheduler.change, shared.steps.change, seed.change],
            self.remember,
            [self.history, self.mark, *asked, seed],
            [*buttons, self.link],
            js=MARKED,
            **AT_ONCE,
        ).then(None, self.link, None, js=FOLLOW, **QUIET)
        seed.change(None, seed, None, js=SEED, **QUIET)
        steps = [*buttons, shared.plan, shared.edited]
        step = [self.history, self.mark, *asked]
        self.undo.click(self.on_undo, step, steps, js=MARKED, **EACH)
        self.redo.click(self.on_redo, step, steps, js=MARKED, **EACH)
        self.copy.click(None, None, None, js=COPY, **QUIET)

    @plain_errors
    def remember(self, history: History, mark: int, asked: Asked, seed: Any) -> Views:
        """Note the plan in hand, and write the address that brings it back."""
        history = after_edit(history, asked.plan, mark)
        link = link_of(asked, seed)
        return {self.history: history, **self._buttons(history), self.link: link}

    @plain_errors
    def on_undo(self, history: History, mark: int, asked: Asked, request: gr.Request) -> Views:
        """Take the plan before the last edit in hand."""
        return self._move(history, -1, mark, asked, request)

    @plain_errors
    def on_redo(self, history: History, mark: int, asked: Asked, request: gr.Request) -> Views:
        """Take the plan in hand that was undone last."""
        return self._move(history, 1, mark, asked, request)

    def _move(
        self, history: History, by: int, mark: int, asked: Asked, request: gr.Request
    ) -> Views:
        after = moved(history, by, mark)
        if after["at"] == history["at"]:
            return NOTHING
        found = asked._replace(plan=_plan_at(after))
        self.shared.predictions.predict(*found)  # another sampler may not allow it: refused
        taken = self.shared.in_hand(found, request)
        return {self.history: after, **self._buttons(after), **taken}

    def _buttons(self, history: History) -> Views:
        last = len(history["plans"]) - 1
        return {
            self.undo: gr.update(interactive=history["at"] > 0),
            self.redo: gr.update(interactive=history["at"] < last),
        }


def _plan_at(history: History) -> StagePlan:
    """Return the plan in hand of a history. Raises StudioError for what is none."""
    try:
        return StagePlan.from_json(history["plans"][history["at"]])
    except PlanError as error:
        raise StudioError("There is no such step to go back to.") from error


def _button(label: str, elem_id: str, interactive: bool) -> gr.Button:
    return gr.Button(
        label, size="sm", elem_id=elem_id, interactive=interactive, scale=0, min_width=84
    )
