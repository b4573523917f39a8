"""Show the buttons Tour and Present in the header; what they open comes when it is opened."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from .. import tables
from ..events import QUIET
from ..page_state import Shared
from .answers import TourAnswers

SCRIPT = (Path(__file__).parent / "opener.js").read_text(encoding="utf-8")
MARKUP = (
    '<div class="tour-buttons"><button type="button" data-open="tour">Tour</button>'
    '<button type="button" data-open="present">Present</button><span class="tour-offer" hidden>'
    "New here? Take the tour</span></div>"
)


def tour_buttons(shared: Shared) -> gr.HTML:
    """Return the two buttons; they know the plan and the comparison that the page has in hand."""
    answers = TourAnswers(shared)
    buttons = gr.HTML(
        MARKUP,
        js_on_load=SCRIPT,
        server_functions=answers.functions(),
        apply_default_css=False,
        elem_classes="tour-block",
    )
    # the page hears of a calibration that the tour has begun, as it does of its own
    line = shared.status
    buttons.submit(lambda: tables.status_line(shared.workshop), None, line, **QUIET, queue=False)
    return buttons
