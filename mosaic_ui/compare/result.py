"""The places of a comparison's result: verdict, pictures, film strip, times, figures, downloads."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.blocks import Block

from core.workshop.workshop import Workshop

from ..recipes import COPY
from . import at_hand
from .run import Named
from .viewer import SCRIPT

DOWNLOADS = COPY + (Path(__file__).parent / "downloads.js").read_text(encoding="utf-8")


class ResultPanel:
    """The components of a result, hidden until there is one; `first` are their opening values."""

    def __init__(self, first: Named, workshop: Workshop, page: gr.Blocks):
        asked = at_hand.server_functions(workshop)
        texts = at_hand.recipe_texts(workshop, page)
        with gr.Column(visible=bool(first), elem_id="cmp-results") as self.results:
            self.about = gr.HTML("", elem_id="cmp-about")
            with gr.Row(elem_classes="cmp-top"):
                self.viewer = gr.HTML(
                    first.get("viewer", ""),
                    js_on_load=SCRIPT,
                    server_functions=asked,
                    apply_default_css=False,
                    elem_id="cmp-viewer",
                )
                self.verdict = gr.HTML(first.get("verdict", ""))
            self.film = gr.HTML(first.get("film", ""))
            with gr.Tabs():
                with gr.Tab("Time per stage"):
                    self.timing = gr.HTML(first.get("timing", ""))
                with gr.Tab("All figures"):
                    self.metrics = gr.HTML(first.get("metrics", ""))
            self.downloads = gr.HTML(
                first.get("downloads", ""),
                js_on_load=DOWNLOADS,
                server_functions=[*asked, texts],
                apply_default_css=False,
            )
            self.earlier = gr.HTML("", elem_id="cmp-earlier")
        self.made = gr.State(None)  # see `run.made_facts`
        self.past = gr.State(first.get("past"))  # see `run.remembered`

    @property
    def places(self) -> dict[str, Block]:
        """Return the components by the names that `run.stream` gives their values."""
        return {
            "results": self.results,
            "about": self.about,
            "verdict": self.verdict,
            "viewer": self.viewer,
            "film": self.film,
            "timing": self.timing,
            "metrics": self.metrics,
            "downloads": self.downloads,
            "earlier": self.earlier,
            "made": self.made,
            "past": self.past,
        }
