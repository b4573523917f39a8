"""Hold what the tabs share: the workshop, its predictions, the plan and common controls."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from core.curves.plan import StagePlan
from core.workshop.workshop import Workshop

from . import jobs
from .events import Views, next_edit
from .predictions import Asked, Predictions


@dataclass(frozen=True)
class Shared:
    """The parts that all tabs read; each tab renders the components that a person looks for there.

    `plan` is the single truth in the page: the JSON form of a `StagePlan`. An edit sets `plan`,
    the views of its own tab and `edited`; `Following` then sets the views of the other tabs.
    """

    workshop: Workshop
    predictions: Predictions
    opening: StagePlan  # the plan that the page opens with
    page: gr.Blocks
    plan: gr.State  # dict: StagePlan.to_json()
    edited: gr.State  # int: another number after every edit, also one that leaves the plan
    scheduler: gr.Dropdown  # the sampler's name, a key of core.curves.noise.SCHEDULERS
    beta: gr.Dropdown  # the noise schedule of the curves, a key of schedules.LABELS
    steps: gr.State  # int: sampling steps as last accepted, which every view and job goes by
    steps_box: gr.Number  # where they are typed
    steps_said: gr.HTML  # why the box was refused
    seed: gr.Number  # of a comparison
    target: gr.Number  # target mean sparsity of suggestions and presets
    status: gr.HTML  # the device and calibration line under the title
    measured: gr.State  # int: counts up when this device's speed has been measured

    @property
    def sampler(self) -> list[gr.components.Component]:
        """Return the inputs `scheduler, steps` of a handler."""
        return [self.scheduler, self.steps]

    def in_hand(self, asked: Asked, request: gr.Request) -> Views:
        """Return what takes a plan in hand, which is then what the visitor asked for last.

        The other tabs follow `edited`.
        """
        jobs.visit(request.session_hash).mark_latest(asked)
        return {self.plan: asked.plan.to_json(), self.edited: next_edit()}

    def in_hand_with_sampler(self, asked: Asked, request: gr.Request) -> Views:
        """Return what takes a plan in hand together with its scheduler and steps."""
        return self.in_hand(asked, request) | {
            self.scheduler: asked.scheduler,
            self.steps: asked.steps,
            self.steps_box: asked.steps,
        }

    @property
    def opening_sampler(self) -> tuple[str, int]:
        """Return the sampler and the steps that the page opens with."""
        return self.scheduler.value, self.steps.value
