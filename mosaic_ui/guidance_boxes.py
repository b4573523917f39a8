"""Make the boxes that set a stage's own guidance, the same in Explore and in Prune.

A box is a view of the plan: it offers the run's own guidance and off, and takes a typed number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import gradio as gr

from core.curves.plan import STAGES, StagePlan

from .events import Views
from .inputs import OWN_GUIDANCE, stage_guidance

WHY = (
    '<p class="fine"><b>Guidance off</b>: no guided pair, half the work of the stage. On other'
    " models guidance did harm at high noise and little good at low noise (Kynkäänniemi et al."
    " 2024, arXiv 2404.07724).</p>"
)


class GuidanceBox:
    """The box of one stage's guidance, and what it makes of a plan."""

    def __init__(self, stage: int, plan: StagePlan):
        self.stage = stage
        self.label = f"{STAGES[stage].capitalize()} guidance"
        self.box = gr.Dropdown(
            [("run's own", OWN_GUIDANCE), ("off (1)", "1")],
            value=self.shown(plan),
            label=self.label,
            allow_custom_value=True,  # a typed number
            min_width=96,
            elem_classes="guidance-box",
        )

    def shown(self, plan: StagePlan) -> str:
        """Return the value that the box has for a plan."""
        scale = plan.guidance[self.stage]
        return OWN_GUIDANCE if scale is None else f"{scale:g}"

    def changed(self, plan: StagePlan, value: Any) -> StagePlan:
        """Return the plan with what was chosen or typed; a plan that moves loses its name.

        Raises StudioError.
        """
        late, middle, early = (
            stage_guidance(value, self.label) if stage == self.stage else scale
            for stage, scale in enumerate(plan.guidance)
        )
        after = plan.with_guidance(late, middle, early)
        return after if after == plan else replace(after, name="")


def box_views(
    boxes: Iterable[GuidanceBox], plan: StagePlan, before: StagePlan | None = None
) -> Views:
    """Return what boxes show for a plan.

    A box that stands right since `before` is not set, as a person may be typing in it.
    """
    return {
        one.box: one.shown(plan)
        for one in boxes
        if before is None or one.shown(plan) != one.shown(before)
    }
