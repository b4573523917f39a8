"""Ask where the boundary that was moved last would stand best, with the work held.

The answer is a thin curve below the chart, on the same axis: the layer error of the whole run
against the boundary's place, from the fast per-bin curves. It is computed after a drop, beside the
exact prediction and not behind it, which takes seconds. Until then the page itself marks the curve
as old (best_place.js).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.workshop.prediction import over_steps

from .. import jobs
from ..events import LIVE, NOTHING, QUIET, Event, Views, next_edit
from ..input_checks import plain_errors
from ..page_state import Shared
from ..predictions import Asked, Predictions
from ..text import percent
from .held_work import with_same_work

PLACES = 40  # at which the error is asked for
MARGIN = 0.01  # of all timesteps: how near the ends and the other line are looked at
HEIGHT = 100  # of the curve's own units; the style gives the pixels
SHOWN = (
    0.85  # of the errors lie within the drawing: those of an all but empty stage would flatten it
)
WORTH = 0.005  # a place that is better by less than this share is no better place
SCRIPT = (Path(__file__).parent / "best_place.js").read_text(encoding="utf-8")
UPDATING = "Updating: the curve is of the plan before."
# measured on both bundled models: 9 to 15 % below at 12 plans of each
ESTIMATE_HINT = (
    "From curves of single bins, each compensated for itself: on the bundled models 9 to 15 % below"
    " the exact error of the same plan. All places of the curve are estimated in this way."
)
UNEVEN = (
    '<p class="fine">No best place is drawn while stages differ in their guidance halves: the layer'
    " error does not tell what guidance does.</p>"
)
# what was drawn is of another plan or sampler now, also where the boundaries stayed
OLD = "() => { window.mosaicOldPlaces?.(); }"


@dataclass(frozen=True)
class Places:
    """The layer error with one boundary at each of some places and everything else held."""

    boundary: int  # 0 or 1
    boundaries: tuple[int, int]  # of the plan
    at: tuple[int, ...]  # timesteps, ascending
    errors: tuple[float, ...]
    error: float  # where the boundary is now
    total: int  # timesteps of the model

    @property
    def here(self) -> int:
        """Return where the boundary is now."""
        return self.boundaries[self.boundary]

    @property
    def best(self) -> int:
        """Return the place of the smallest error."""
        return self.at[int(np.argmin(self.errors))]

    @property
    def better(self) -> bool:
        """Say whether the best place is worth going to."""
        return min(self.errors) < self.error * (1 - WORTH)


def find_places(
    predictions: Predictions, plan: StagePlan, boundary: int, timesteps: list[float]
) -> Places | None:
    """Return the error at about 40 places, or None where no errors are known of such plans.

    None too where stages differ in their guidance halves: with the work held a longer stage of one
    half lets the others keep more, and layer errors do not tell what that does to the guidance.
    """
    if not plan.plain or not any(plan.sparsity) or uneven_halves(plan):
        return None
    here = _error(predictions, plan, timesteps)
    if here is None:
        return None
    found = [
        (place, error)
        for place in _places(plan, boundary)
        if (error := _error_at(predictions, plan, boundary, place, timesteps)) is not None
    ]
    if len(found) < 2:
        return None
    at, errors = zip(*found, strict=True)
    return Places(boundary, plan.boundaries, at, errors, here, plan.num_train_timesteps)


def uneven_halves(plan: StagePlan) -> bool:
    """Say whether some stages of a plan run the guided pair and others one half of it."""
    return len(set(plan.halves(2))) > 1


def moved_to(plan: StagePlan, boundary: int, place: int) -> tuple[int, int]:
    """Return both boundaries with one of them at another place."""
    low, high = plan.boundaries
    return (place, high) if boundary == 0 else (low, place)


def _places(plan: StagePlan, boundary: int) -> list[int]:
    """Return the places to ask about; where the boundary is now is one of them."""
    low, high = plan.boundaries
    total = plan.num_train_timesteps
    margin = max(1, round(MARGIN * total))
    first, last = (margin, high - margin) if boundary == 0 else (low + margin, total - margin)
    if last <= first:
        return [plan.boundaries[boundary]]
    even = np.linspace(first, last, PLACES).round().astype(int).tolist()
    return sorted({*even, plan.boundaries[boundary]})


def _error_at(
    predictions: Predictions, plan: StagePlan, boundary: int, place: int, timesteps: list[float]
) -> float | None:
    try:
        there = moved_to(plan, boundary, place)
        after = with_same_work(predictions.workshop, plan, *there, timesteps)
        return _error(predictions, after, timesteps)
    except StudioError:  # the work cannot be held with the boundary there
        return None


def _error(predictions: Predictions, plan: StagePlan, timesteps: list[float]) -> float | None:
    """Return `Prediction.error` without the costs, which are not drawn."""
    predictor = predictions.workshop.predictor
    steps = [*plan.steps_per_stage(timesteps).values()]
    errors = [predictor.estimate(plan, i) if count else None for i, count in enumerate(steps)]
    return over_steps(steps, errors)


def places_html(places: Places | None) -> str:
    """Draw the curve with its best place and where the boundary is; nothing where unknown."""
    if places is None:
        return ""
    low, high = min(places.errors), float(np.quantile(places.errors, SHOWN))
    high = max(high, places.error)
    span = (high - low) or 1.0
    points = [
        f"{1000 * place / places.total:.1f},{HEIGHT * (0.06 + 0.88 * (high - error) / span):.1f}"
        for place, error in zip(places.at, places.errors, strict=True)
    ]
    marks = "".join(
        f'<i class="{name}" style="left:{100 * place / places.total:.2f}%;'
        f'top:{100 * (0.06 + 0.88 * (high - min(error, high)) / span):.1f}%"></i>'
        for name, place, error in (
            ("best", places.best, low),
            ("here", places.here, places.error),
        )
    )
    low_line, high_line = places.boundaries
    # the number makes two equal answers differ, so that the second too is drawn, and not left old
    return (
        f'<div class="places" data-best="{places.best}" data-here="{places.here}"'
        f' data-boundaries="{low_line},{high_line}" data-answer="{next_edit()}">'
        f'<p class="fine"><span class="said">{sentence(places)}</span>'
        f'<span class="updating">{UPDATING}</span></p>'
        f'<div class="on-axis"><svg viewBox="0 0 1000 {HEIGHT}" preserveAspectRatio="none"'
        f' aria-hidden="true"><polyline points="{" ".join(points)}"/></svg>{marks}</div></div>'
    )


def sentence(places: Places) -> str:
    """Say what the curve shows, and where the boundary would do least to the layers."""
    name = f"boundary {places.boundary + 1}"
    kind = f'<abbr title="{ESTIMATE_HINT}">estimate, about 12 % low</abbr>'
    what = f"Layer error if {name} moves, work held ({kind}): "
    now = f"{percent(places.error, 2)} here"
    if not places.better:
        return f"{what}{now}, and no place is better."
    return f"{what}{now}, {percent(min(places.errors), 2)} at t = {places.best}."


class PlacesView:
    """The curve below the chart, and the button that goes to its best place."""

    def __init__(self, shared: Shared):
        self.shared = shared
        self.moved = gr.State(1)  # the boundary that was moved last, 0 or 1
        with gr.Column(elem_classes="places-panel"):
            self.drawn = gr.HTML("", js_on_load=SCRIPT, elem_id="places")
            self.go = gr.Button(
                "Go to the best place", size="sm", elem_classes="fit", visible=False
            )

    @property
    def event(self) -> Event:
        """Return the event that draws the curve anew; it is quick, and waits for no prediction."""
        inputs = [self.moved, self.shared.plan, *self.shared.sampler]
        return {"fn": self.on_places, "inputs": inputs, "outputs": [self.drawn, self.go], **LIVE}

    def mark_old_on(self, triggers: list[Any]) -> None:
        """Mark the curve as old, in the page alone, on these triggers."""
        gr.on(triggers, None, None, None, js=OLD, **QUIET)

    def find(self, moved: int, asked: Asked) -> Places | None:
        """Return `find_places` for the boundary that was moved last. Raises StudioError."""
        predictions = self.shared.predictions
        visited = predictions.visited(asked.scheduler, asked.steps)
        return find_places(predictions, asked.plan, min(moved, 1), visited)

    @plain_errors
    def on_places(self, moved: int, asked: Asked, request: gr.Request) -> Views:
        """Draw the layer error against the place of the boundary that was moved last.

        Nothing changes when the visitor has moved on meanwhile.
        """
        if not jobs.visit(request.session_hash).is_latest(asked):
            return NOTHING
        try:
            places = self.find(moved, asked)
        except StudioError:  # of the plan, which says so itself
            places = None
        go = gr.update(visible=places is not None and places.better)
        drawn = UNEVEN if places is None and uneven_halves(asked.plan) else places_html(places)
        return {self.drawn: drawn, self.go: go}
