"""The card that sets each stage's own guidance in Explore, and its handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from core.curves.plan import STAGES, StagePlan
from core.errors import StudioError

from .. import tables
from ..events import EDIT, Views
from ..guidance_boxes import WHY, GuidanceBox, box_views
from ..input_checks import plain_errors
from ..page_state import Shared
from ..predictions import Asked
from ..remedies import page_sentence

# (plan, what was asked before, the visitor) -> all that an edit sets
Take = Callable[[StagePlan, Asked, gr.Request], Views]


class StageGuidance:
    """The box of one stage in Explore, and its handler."""

    def __init__(self, card: GuidanceCard, stage: int, plan: StagePlan):
        self.card, self.guidance = card, GuidanceBox(stage, plan)

    @plain_errors
    def on_guidance(self, guidance: Any, asked: Asked, request: gr.Request) -> Views:
        """Set this stage's guidance; a box that is only left sends its value too.

        Where it cannot be, the box goes back and the reason stands below. "1.50" is as good as
        "1.5", and shown in one way.
        """
        own = [self.guidance]
        try:
            after = self.guidance.changed(asked.plan, guidance)
        except StudioError as error:
            said = tables.notes([f"{page_sentence(error)} The plan stays as it was."])
            return box_views(own, asked.plan) | {self.card.said: said}
        if after == asked.plan:
            return box_views(own, asked.plan)
        return self.card.take(after, asked, request) | box_views(own, after)


class GuidanceCard:
    """The three boxes in sampling order, with one line on what they are for."""

    take: Take  # the tab's own, from `wire`

    def __init__(self, shared: Shared):
        self.shared, plan = shared, shared.opening
        with gr.Column(elem_classes="card", elem_id="guidance"):
            gr.HTML('<h2 class="panel-title">Guidance of each stage</h2>')
            with gr.Row(elem_classes="knobs"):
                self.stages = [StageGuidance(self, i, plan) for i in reversed(range(len(STAGES)))]
            gr.HTML(WHY)
            self.said = gr.HTML("")
        self.boxes = [one.guidance for one in self.stages]

    @property
    def views(self) -> list[Any]:
        """Return the components that `follow` sets."""
        return [*(one.box for one in self.boxes), self.said]

    def follow(self, plan: StagePlan, before: StagePlan | None) -> Views:
        """Return what the card shows for a plan, as `box_views`."""
        return box_views(self.boxes, plan, before) | {self.said: ""}

    def wire(self, take: Take, outputs: list[Any]) -> None:
        """Connect the boxes; each is an edit of the plan, which `take` takes in hand."""
        self.take, shared = take, self.shared
        for one in self.stages:
            one.guidance.box.input(
                one.on_guidance,
                [one.guidance.box, shared.plan, *shared.sampler],
                outputs,
                **EDIT,
            )
