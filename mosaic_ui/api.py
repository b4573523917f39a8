"""Offer the studio's work to other programs, as the named endpoints of Gradio's API.

They run the core code of the command line's verbs of the same names, and answer with the JSON that
`--json` prints. All wait in the queue of the page's own model jobs. Gradio's description of the
API, /gradio_api/info, has their docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.utils import get_function_description

from core.workshop.workshop import Workshop

from .api_calls import Models
from .api_files import Downloads
from .api_plans import PlanCalls
from .api_runs import RunCalls
from .events import Event
from .jobs import MODEL_JOB


class Api:
    """The endpoints of a page for its models, the first of which is meant where none is named."""

    def __init__(self, workshops: Sequence[Workshop], downloads: Downloads | None = None):
        models, downloads = Models(workshops), downloads or Downloads()
        self.plans, self.runs = PlanCalls(models, downloads), RunCalls(models, downloads)

    @property
    def endpoints(self) -> dict[str, Callable[..., Any]]:
        """Return the functions by their names in the API."""
        plans, runs = self.plans, self.runs
        handlers = (plans.curves, plans.predict, plans.prune, runs.compare, runs.sweep, runs.tune)
        return {one.__name__: one for one in handlers}

    def wire(self, page: gr.Blocks) -> None:
        """Add the endpoints to a page. Its /gradio_api/info says what arguments and results are."""
        queue: Event = {**MODEL_JOB}
        with page:
            for name, handler in self.endpoints.items():
                added = page.fns[gr.api(handler, api_name=name, **queue)["id"]]
                _, arguments, results = get_function_description(handler)
                words = (*arguments.values(), *results)
                for component, one in zip((*added.inputs, *added.outputs), words, strict=True):
                    assert isinstance(component, gr.components.Component)  # of `gr.api`
                    component.label = one  # Gradio's own is a number: 1st, 2nd
