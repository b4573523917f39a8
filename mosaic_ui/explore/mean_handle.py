"""Make the sentence above the chart a control: its mean sparsity is dragged, as in an explorable.

While the number is held the estimates follow; a release takes the plan in hand, as the drop of a
boundary does. The number itself moves inside the page (mean_handle.js).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from core.curves.plan import StagePlan
from core.curves.plan_checks import MAX_SPARSITY
from core.errors import StudioError

from .. import tables
from ..events import EDIT, LIVE, NOTHING, Event, Views, next_edit
from ..headline import HANDLE_LABEL
from ..input_checks import plain_errors
from ..inputs import number_within
from ..mean_sparsity import shape_behind, with_mean
from ..page_state import Shared
from ..predictions import Asked, Predicted
from ..remedies import page_sentence

# (plan, what was asked before, the visitor) -> all that an edit sets
Take = Callable[[StagePlan, Asked, gr.Request], Views]
SCRIPT = (Path(__file__).parent / "mean_handle.js").read_text(encoding="utf-8")
# the first input is a stand-in: a share of 1, or nothing where the number is back at its beginning
MOVED = "(...given) => [window.mosaicMean ?? null, ...given.slice(1)]"


class MeanHandle:
    """The sentence with its handle, and what a drag of it sets."""

    take: Take  # the tab's own, from `wire`
    show: Callable[[Predicted], Views]  # the tab's views of a prediction

    def __init__(self, shared: Shared, found: Predicted):
        self.shared, self.predictions = shared, shared.predictions
        # the plan whose proportions are kept, even through zero
        self.shape = gr.State(shared.opening.to_json())
        self.target = gr.Textbox(visible="hidden")  # its value comes from MOVED
        self.headline = gr.HTML(
            self.predictions.headline(found),
            html_template='<div class="says"></div>',
            js_on_load=SCRIPT,
        )
        self.said = gr.HTML("")  # why a mean was refused

    def wire(self, take: Take, show: Callable[[Predicted], Views], outputs: list[Any]) -> None:
        """Connect the handle; `outputs` are those of every edit of the tab."""
        self.take, self.show, shared = take, show, self.shared
        asked = [self.target, self.shape, shared.plan, *shared.sampler]
        views = list(self.show(self.predictions.predict(shared.opening, *shared.opening_sampler)))
        live: Event = {"fn": self.on_scale, "inputs": asked, "outputs": views, "js": MOVED, **LIVE}
        self.headline.input(**live)
        # the numbers follow by the short way; the plan itself goes through the queue
        self.headline.release(**live)
        edited = [*outputs, self.shape, self.said]
        self.headline.release(self.on_scaled, asked, edited, js=MOVED, **EDIT)

    def _scaled(self, target: Any, shape: StagePlan, asked: Asked) -> tuple[StagePlan, StagePlan]:
        """Return the plan with another mean, and the plan whose proportions it has."""
        mean = number_within(target, 0, MAX_SPARSITY, HANDLE_LABEL)
        visited = self.predictions.visited(asked.scheduler, asked.steps)
        behind = shape_behind(asked.plan, shape, visited)
        return with_mean(asked.plan, behind, mean, visited), behind

    @plain_errors
    def on_scale(self, target: Any, shape: StagePlan, asked: Asked) -> Views:
        """Estimate the plan whose mean is being dragged; nothing dragged is the plan in hand."""
        if target is None:
            return self.show(self.predictions.predict(*asked))
        try:
            plan, _ = self._scaled(target, shape, asked)
            return self.show(self.predictions.predict(plan, asked.scheduler, asked.steps))
        except StudioError:  # the release refuses it, once
            return NOTHING

    @plain_errors
    def on_scaled(self, target: Any, shape: StagePlan, asked: Asked, request: gr.Request) -> Views:
        """Take the plan with the mean where the number was let go.

        Where it cannot be, the number goes back and the reason stands below the sentence.
        """
        if target is None:
            return NOTHING
        try:
            plan, behind = self._scaled(target, shape, asked)
            views = self.take(plan, asked, request)
        except StudioError as error:
            said = tables.notes([f"{page_sentence(error)} The plan stays as it was."])
            found = self.predictions.predict(*asked)
            back = self.predictions.headline(found, refused=next_edit())
            return self.show(found) | {self.headline: back, self.said: said}
        return views | {self.shape: behind.to_json(), self.said: ""}
