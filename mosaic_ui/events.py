"""Three ways to wire an event, so that every tab means the same by them."""

from __future__ import annotations

RAW = {
    "preprocess": False
}  # what the page sent, not checked by Gradio: `edge` and the handler refuse in their own words
FILE = {
    "preprocess": True
}  # an upload, whose file Gradio fetches; after the others, which it overrides
QUIET = {"show_progress": "hidden", "api_visibility": "private", **RAW}
# while something is dragged: the newest wins, nothing queues
LIVE = {**QUIET, "queue": False, "trigger_mode": "always_last"}
# sets the plan; queued, as State.change needs the queue's answer, and one at a time in the order of
# asking, so that no edit is made to an old plan
EDIT = {**QUIET, "concurrency_limit": 1, "concurrency_id": "plan", "trigger_mode": "always_last"}
