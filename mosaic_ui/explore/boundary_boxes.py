"""Make the two number boxes beside the chart: exact boundaries to type.

The boxes are a view of the chart and follow it inside the page, so no answer from the server,
however late, sets them. What stands in a box is the person's while they type, from the first key
until Enter or until they leave the box; a box in which nothing was typed is sent as None, so that
leaving it never counts as an edit.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from ..steps_box import PLAIN

_BOXES = "[...document.querySelectorAll('.boundary input')]"
# `known` is what the page last put into a box or sent from it; before that it is the opening plan's
# boundary.
_SEND = f"""(low, high, ...rest) => [...{_BOXES}.map((box, i) => {{
  const typed = box.value !== String(box.dataset.known ?? OPENING[i]);
  {PLAIN}
  box.dataset.known = box.value;
  return typed ? [low, high][i] : null;
}}), ...rest]"""
_FOLLOW = f"""(line, ...typed) => {_BOXES}.map((box, i) => {{
  const known = String(box.dataset.known ?? OPENING[i]);
  if (box === document.activeElement && box.value !== known) return typed[i];
  box.dataset.known = line[i];
  return line[i];
}})"""


def boundary_boxes(boundaries: tuple[int, int]) -> list[gr.Number]:
    """Make the boxes of the low and the high boundary, scheduler timesteps."""
    labels = ("Boundary 1 (late | middle)", "Boundary 2 (middle | early)")
    return [
        gr.Number(b, label=label, min_width=110, elem_classes="boundary")
        for b, label in zip(boundaries, labels, strict=True)
    ]


def send_typed(opening: list[int]) -> str:
    """Return the `js` of an event whose first inputs are the boxes: untouched ones go as null."""
    return _SEND.replace("OPENING", json.dumps(opening))


def follow_chart(chart: gr.HTML, boxes: list[gr.Number], opening: list[int]) -> dict[str, Any]:
    """Return the arguments of an event, in the page alone, that sets the boxes to the lines."""
    return {
        "fn": None,
        "inputs": [chart, *boxes],
        "outputs": boxes,
        "js": _FOLLOW.replace("OPENING", json.dumps(opening)),
    }
