"""Numbers that a person types: our own handlers judge them, and say in one sentence which box is
meant.

Gradio checks a component's minimum and maximum before any handler runs and answers with an error
that names no box; the events chained to it then never come, and the page stays as it was in the
middle of an answer. So a `gr.Number` here has no limits, and every event that reads a slider is
wired with `wiring.RAW`: the slider's limits are for its handle only.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.errors import StudioError

from . import answers, tables
from .answers import plain_errors
from .events import EDIT

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
    """The box of sampling steps, not rendered yet; it counts when Enter is pressed or when it is
    left, not key by key.
    """
    return gr.Number(steps, label="Sampling steps", elem_classes="own-steps", render=False)


def wire_steps(shared: Any) -> None:
    """Through the plan's queue, so that whatever is pressed next finds the steps that were just
    typed.
    """
    box = shared.steps_box

    @plain_errors
    def on_steps(typed: Any, kept: int, scheduler: str) -> tuple:
        """(steps, box, sentence): what was typed becomes the steps, or the box goes back to the
        steps that hold and says why.
        """
        try:
            steps = answers.whole_steps(typed, len(shared.workshop.schedule))
            answers.visited(shared.workshop, scheduler, steps)
        except StudioError as error:
            return gr.skip(), kept, tables.notes([f"{error} It stays at {kept}."])
        return (gr.skip(),) * 3 if steps == kept else (steps, gr.skip(), "")

    @plain_errors
    def on_entered(typed: Any, kept: int, scheduler: str) -> tuple:
        """The same for Enter, where a number that holds already mends a refused one; leaving the
        box comes after every refusal and keeps its sentence.
        """
        found = on_steps(typed, kept, scheduler)
        return (*found[:2], "") if found[2] == gr.skip() else found

    inputs, outputs = [box, shared.steps, shared.scheduler], [shared.steps, box, shared.steps_said]
    box.submit(on_entered, inputs, outputs, js=_STEPS, **EDIT)
    box.blur(on_steps, inputs, outputs, js=_STEPS, **EDIT)
