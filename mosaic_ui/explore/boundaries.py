"""The card of the two boundaries: boxes, bins, the lock that holds the work, the way back."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from core.curves.plan import StagePlan

from ..page_state import Shared
from .boundary_boxes import boundary_boxes

SNAP = "Bins: the {} stretches that calibration measures."
HOLD = "The sparsities follow; a run costs the same."


class Moving(NamedTuple):
    """How a boundary moves: on bin edges or freely, and with the work of `anchor` held or not."""

    snap: bool
    hold: bool
    anchor: StagePlan  # see held_work.anchor_of


class BoundariesCard:
    """The components of the card, for the opening plan; `ExploreTab` takes what they ask for."""

    def __init__(self, shared: Shared):
        self.anchor = gr.State(shared.opening.to_json())
        with gr.Column(elem_classes="card boundaries-card"):
            with gr.Row(elem_classes="title-row"):
                gr.HTML('<h2 class="panel-title">Boundaries</h2>')
                self.reset = gr.Button("Reset to the suggestion", size="sm", elem_classes="fit")
            with gr.Column(elem_classes="boundary-boxes"):
                self.boxes = boundary_boxes(shared.opening.boundaries)  # low, high
            self.said = gr.HTML("")  # why they were refused
            self.hold = gr.Checkbox(False, label="hold the work", info=HOLD)
            self.snap = gr.Checkbox(
                False,
                label="snap to calibration bins",
                info=SNAP.format(shared.workshop.settings.bins),
            )

    @property
    def moving(self) -> list[Any]:
        """Return the inputs of a `Moving`."""
        return [self.snap, self.hold, self.anchor]
