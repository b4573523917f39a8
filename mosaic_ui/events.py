"""The ways to wire an event, so that every tab means the same by them, and what handlers answer."""

from __future__ import annotations

import itertools
from typing import Any

import gradio as gr
from gradio.blocks import Block

Views = dict[Block, Any]  # component -> its new value or `gr.update`; the others stay as they are
Event = dict[str, Any]  # keyword arguments of a Gradio event
NOTHING: Views = gr.skip()  # the answer that changes no component; Gradio takes no empty dictionary

# what the page sent, not checked by Gradio: `edge` and the handler refuse in their own words
RAW: Event = {"preprocess": False}
# an upload, whose file Gradio fetches; after the others, which it overrides
FILE: Event = {"preprocess": True}
# no component shows progress: Gradio would copy every component that ever was an output, value by
# value, at each beginning and end of a call
QUIET: Event = {
    "show_progress": "hidden",
    "show_progress_on": [],
    "api_visibility": "private",
    **RAW,
}
# of what is asked while the answer before is on its way, the newest is answered
NEWEST: Event = {**QUIET, "trigger_mode": "always_last"}
# while something is dragged: nothing queues
LIVE: Event = {**NEWEST, "queue": False}
# sets the plan; queued, as State.change needs the queue's answer, and one at a time in the order of
# asking, so that no edit is made to an old plan
EDIT: Event = {**NEWEST, "concurrency_limit": 1, "concurrency_id": "plan"}
# asks for a job: behind the edits that were made before, and once however often it is pressed
ASK: Event = {**EDIT, "trigger_mode": "once"}

_edits = itertools.count(1)


def next_edit() -> int:
    """Return a number that no edit had before: the value of `Shared.edited` after an edit."""
    return next(_edits)
