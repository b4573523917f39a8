"""The places of a comparison's result: verdict, pictures, film strip, times, figures, downloads."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.blocks import Block

from .run import Named


class ResultPanel:
    """The components of a result, hidden until there is one; `first` are their opening values."""

    def __init__(self, first: Named, photographs: bool):
        with gr.Column(visible=bool(first), elem_id="cmp-results") as self.results:
            self.verdict = gr.HTML(first.get("verdict", ""))
            with gr.Tabs(elem_id="cmp-views"):
                with gr.Tab("Side by side"):
                    self.pair = gr.HTML(first.get("pair", ""))
                with gr.Tab("Slider"):
                    self.slider = _slider(first.get("slider") or {}, photographs)
                with gr.Tab("Difference"):
                    self.difference = gr.HTML(first.get("difference", ""))
            self.film = gr.HTML(first.get("film", ""))
            with gr.Tabs():
                with gr.Tab("Time per stage"):
                    self.timing = gr.HTML(first.get("timing", ""))
                with gr.Tab("All figures"):
                    self.metrics = gr.HTML(first.get("metrics", ""))
            self.downloads = gr.HTML(first.get("downloads", ""))

    @property
    def places(self) -> dict[str, Block]:
        """Return the components by the names that `run.stream` gives their values."""
        return {
            "results": self.results,
            "verdict": self.verdict,
            "slider": self.slider,
            "pair": self.pair,
            "difference": self.difference,
            "film": self.film,
            "timing": self.timing,
            "metrics": self.metrics,
            "downloads": self.downloads,
        }


def _slider(first: dict[str, Any], photographs: bool) -> gr.ImageSlider:
    return gr.ImageSlider(
        first.get("value"),
        format="png",
        type="numpy",
        interactive=False,
        max_height=620,
        label=first.get("label", "Left: A   |   Right: B"),
        elem_id="cmp-slider",
        elem_classes="cmp-photo" if photographs else None,
    )
