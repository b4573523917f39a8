"""The box of sampling steps: our own handlers judge what is typed, and name the box that is meant.

Gradio checks a component's minimum and maximum before any handler runs and answers with an error
that names no box; the events chained to it then never come, and the page stays as it was in the
middle of an answer. So a `gr.Number` here has no limits, and every event that reads a slider is
wired with `events.RAW`: the slider's limits are for its handle only.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.errors import StudioError

from . import tables
from .events import EDIT, NOTHING, Views
from .input_checks import plain_errors
from .page_state import Shared
from .remedies import page_sentence

# 1e2 and 0050 are numbers to a browser; the box then shows what was understood. A text that is no
# number at all is empty to it.
PLAIN = (
    "if (box.value !== '' && box.value !== String(Number(box.value))) box.value ="
    " String(Number(box.value));"
)
_STEPS = (
    "(...typed) => { const box = document.querySelector('.own-steps input'); "
    + PLAIN
    + " return typed; }"
)


def steps_box(steps: int) -> gr.Number:
    """Make the box of sampling steps, not rendered yet.

    It counts when Enter is pressed or when it is left, not key by key.
    """
    return gr.Number(steps, label="Sampling steps", elem_classes="own-steps", render=False)


class StepsBox:
    """The events of the box of sampling steps."""

    def __init__(self, shared: Shared):
        self.shared = shared

    def wire(self) -> None:
        """Connect the box through the plan's queue, so that the next press finds the new steps."""
        shared, box = self.shared, self.shared.steps_box
        inputs = [box, shared.steps, shared.scheduler]
        outputs = [shared.steps, box, shared.steps_said]
        box.submit(self.on_entered, inputs, outputs, js=_STEPS, **EDIT)
        box.blur(self.on_steps, inputs, outputs, js=_STEPS, **EDIT)

    @plain_errors
    def on_steps(self, typed: Any, kept: int, scheduler: str) -> Views:
        """Take the typed steps, or put the box back to the steps that hold and say why.

        Leaving the box comes after every refusal and keeps its sentence.
        """
        return self._take(typed, kept, scheduler) or NOTHING

    @plain_errors
    def on_entered(self, typed: Any, kept: int, scheduler: str) -> Views:
        """Take the typed steps at Enter, where a number that holds already mends a refused one."""
        return self._take(typed, kept, scheduler) or {self.shared.steps_said: ""}

    def _take(self, typed: Any, kept: int, scheduler: str) -> Views:
        """Return what the typed steps change; nothing where they are those that hold."""
        shared = self.shared
        try:
            steps = shared.predictions.whole_steps(typed)
            shared.predictions.visited(scheduler, steps)
        except StudioError as error:
            said = tables.notes([f"{page_sentence(error)} It stays at {kept}."])
            return {shared.steps_box: kept, shared.steps_said: said}
        return {} if steps == kept else {shared.steps: steps, shared.steps_said: ""}
