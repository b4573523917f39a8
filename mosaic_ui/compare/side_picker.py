"""Pick what one side of a comparison runs: a choice by name and, perhaps, an uploaded plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from core.errors import StudioError

from ..events import FILE, QUIET, Views
from ..input_checks import plain_errors
from ..inputs import read_upload
from ..page_state import Shared
from ..remedies import page_sentence
from . import live as live_views
from .sides import UPLOADED, checked_plan


class SidePicker:
    """The picker of one side, and the handler of its upload."""

    def __init__(
        self,
        shared: Shared,
        letter: str,
        offered: Sequence[tuple[str, str]],
        default: str,
        note: str,
    ):
        self.shared = shared
        with gr.Column(elem_classes="cmp-picker"):
            self.choice = gr.Dropdown(
                offered, value=default, label=f"{letter} runs", filterable=False
            )
            with gr.Row(elem_classes="cmp-under"):
                self.note = gr.HTML(note)
                self.file = gr.UploadButton(
                    "Upload plan",
                    type="binary",
                    file_types=[".json"],
                    size="sm",
                    scale=0,
                    min_width=110,
                    elem_classes="cmp-upload",
                    elem_id=f"cmp-upload-{letter.lower()}",
                )
            self.uploaded = gr.State(None)  # dict of a StagePlan, or None

    def wire(self) -> None:
        """Connect the upload."""
        self.file.upload(
            self.upload,
            [self.file, *self.shared.sampler],
            [self.uploaded, self.choice, self.note],
            **QUIET | FILE,
        )

    @plain_errors
    def upload(self, content: bytes | None, scheduler: str, steps: Any) -> Views:
        """Take the plan of an uploaded file for this side, or say below why it cannot be."""
        try:
            plan = checked_plan(
                self.shared.workshop,
                read_upload(content),
                self.shared.predictions.visited(scheduler, steps),
            )  # judged again by what a run asks for
        except StudioError as error:
            return {self.note: live_views.plan_note(None, page_sentence(error))}
        return {
            self.uploaded: plan.to_json(),
            self.choice: UPLOADED,
            self.note: live_views.plan_note(plan),
        }
