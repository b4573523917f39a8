"""Make the boxes in which a visitor says what is to be drawn: classes, or prompts."""

from __future__ import annotations

import gradio as gr

from core.models.prompts import PROMPTS
from core.workshop.workshop import Workshop

from .. import model_facts
from .inputs import all_classes


def prompts_box() -> gr.Textbox:
    """Make the box of prompts, rendered by the caller."""
    return gr.Textbox(
        "\n".join(PROMPTS[:2]),
        lines=2,
        max_lines=8,
        label="Prompts",
        info="One per line, used in turn",
        scale=2,
        min_width=260,
        render=False,
    )


def classes_box(workshop: Workshop) -> gr.Dropdown:
    """Make the list of classes, rendered by the caller."""
    everything = all_classes(workshop.class_names)
    return gr.Dropdown(
        [everything, *workshop.class_names.values()],
        value=[everything],
        multiselect=True,
        label="Classes",
        info="One per image, in turn",
        scale=2,
        min_width=220,
        render=False,
    )


def images_info(workshop: Workshop) -> str:
    """Say what more pictures are for."""
    if workshop.judge is not None:
        return "The quality score FID needs 200"
    return (
        "A large model is slow; app.py compare can draw more"
        if model_facts.large(workshop)
        else "The first 36 are shown"
    )
