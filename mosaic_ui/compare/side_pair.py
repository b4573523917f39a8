"""The pickers of A and B with what stands between them: swap, what differs, and what is offered."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.guidance import is_guidance, rows_of, run_scale
from core.workshop.same_work import run_macs

from ..events import LIVE, NEWEST, QUIET, Event, Views
from ..input_checks import plain_errors
from ..page_state import Shared
from ..predictions import Asked
from ..remedies import page_sentence
from . import live as live_views
from .between import between_html
from .inputs import Sides
from .kept_sides import foreign_model, is_kept
from .side_picker import SidePicker
from .sides import CURRENT, DENSE, SideRun, picker_choices, resolve_side

FOREIGN = (
    "Made on {}, which its boundaries and sparsities were chosen for. It fits this model, as both"
    " have as many timesteps."
)


class SidePair:
    """Both pickers, inside the caller's column, and their handlers as methods."""

    def __init__(self, shared: Shared):
        self.shared, self.predictions = shared, shared.predictions
        offered, note = picker_choices(shared.workshop), live_views.plan_note
        self.a = SidePicker(shared, "A", offered, DENSE, note(None))
        self.swap = gr.Button("⇅ Swap with A", size="sm", elem_id="cmp-swap")
        self.b = SidePicker(shared, "B", offered, CURRENT, note(shared.opening))
        steps, plan = shared.steps.value, shared.opening
        opening = SideRun(None, steps, DENSE), SideRun(plan, steps, CURRENT)
        self.between = gr.HTML(between_html(*opening, None))

    @property
    def inputs(self) -> list[Block]:
        """Return the inputs of a handler's `Sides`."""
        a, b = self.a, self.b
        return [a.choice, a.uploaded, b.choice, b.uploaded, self.shared.plan]

    def wire(self, scheduler: gr.Dropdown, steps: gr.Number, guidance: gr.Number) -> Dependency:
        """Connect the pickers, Compare's sampler and guidance; return what follows a change."""
        a, b = self.a, self.b
        a.wire()
        b.wire()
        notes = [a.note, b.note, self.between]
        asked = [*self.inputs, scheduler, steps, guidance]
        describe: Event = {"fn": self.describe, "inputs": asked, "outputs": notes, **NEWEST}
        listed = [a.choice, b.choice, *notes]
        self.describing = describe  # for what sets the pickers from elsewhere
        self.offering: Event = {"fn": self.offer, "inputs": asked, "outputs": listed, **LIVE}
        sides = [a.choice.input, b.choice.input, a.uploaded.change, b.uploaded.change]
        swapped = [a.choice, a.uploaded, b.choice, b.uploaded]
        self.swap.click(self.swap_sides, self.inputs, swapped, **QUIET).then(**describe)
        numbers = [steps.change, scheduler.change, guidance.change]
        return gr.on([*sides, self.shared.plan.change, *numbers], **describe)

    def offer_on(self, triggers: list[Any], behind: Iterable[Dependency]) -> None:
        """Offer anew what is kept on these triggers, and when these events are done."""
        gr.on(triggers, **self.offering)
        for event in behind:
            event.then(**self.offering)

    @plain_errors
    def offer(self, sides: Sides, scheduler: str, steps: Any, guidance: Any) -> Views:
        """List what can be chosen now; both choices stay, also where their plan was deleted.

        That is said at once in their notes.
        """
        chosen = sides.choice_a, sides.choice_b
        offered = picker_choices(self.shared.workshop, chosen)
        views: Views = {side.choice: gr.update(choices=offered) for side in (self.a, self.b)}
        if not any(map(is_kept, chosen)):
            return views
        return views | self._notes(sides, scheduler, steps, guidance)

    @plain_errors
    def describe(self, sides: Sides, scheduler: str, steps: Any, guidance: Any) -> Views:
        """Write below the pickers what each side runs, or why it cannot, and what differs."""
        return self._notes(sides, scheduler, steps, guidance)

    @plain_errors
    def swap_sides(self, sides: Sides) -> Views:
        """Let A run what B ran, and B what A ran."""
        a, b = self.a, self.b
        return {
            a.choice: sides.choice_b,
            b.choice: sides.choice_a,
            a.uploaded: sides.uploaded_b and sides.uploaded_b.to_json(),
            b.uploaded: sides.uploaded_a and sides.uploaded_a.to_json(),
        }

    def _notes(self, sides: Sides, scheduler: str, steps: Any, guidance: Any) -> Views:
        asked = Asked(sides.current, scheduler, steps)
        a, note_a = self._side(sides.choice_a, sides.uploaded_a, asked)
        b, note_b = self._side(sides.choice_b, sides.uploaded_b, asked)
        between = ""
        if a is not None and b is not None:
            halves = rows_of(run_scale(guidance)) if is_guidance(guidance) else 2
            between = between_html(a, b, self._work(a, b, scheduler, halves))
        return {self.a.note: note_a, self.b.note: note_b, self.between: between}

    def _side(
        self, choice: str, uploaded: StagePlan | None, asked: Asked
    ) -> tuple[SideRun | None, str]:
        """Return what a side runs, if it can, and the note below its picker."""
        try:
            run = resolve_side(choice, uploaded, asked, self.predictions)
        except StudioError as error:
            return None, live_views.plan_note(None, page_sentence(error))
        shared = self.predictions.whole_steps(asked.steps)
        own = None if run.steps == shared else run.steps
        note = live_views.plan_note(run.plan, steps=own)
        origin = foreign_model(choice, self.shared.workshop) if is_kept(choice) else ""
        if origin:
            note += f'<p class="cmp-note">{escape(FOREIGN.format(origin))}</p>'
        return run, note

    def _work(
        self, a: SideRun, b: SideRun, scheduler: str, halves: int
    ) -> tuple[float, float] | None:
        """Return the MACs of both sides, None where they are not known before a calibration.

        halves: rows per image where the guidance of the comparison holds.
        """

        def work(side: SideRun) -> float:
            timesteps = self.predictions.visited(scheduler, side.steps)
            return run_macs(self.shared.workshop, side.plan, timesteps, halves)

        try:
            return work(a), work(b)
        except StudioError:
            return None
