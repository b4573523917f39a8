"""Offer to measure this device's speed where it is not known, and measure it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import gradio as gr

from core.curves.plan import StagePlan
from core.errors import StudioError

from .. import jobs, model_facts, tables
from ..events import QUIET, Views
from ..input_checks import plain_errors
from ..page_state import Shared
from ..predictions import Asked


class DeviceSpeed:
    """The button and the progress of the measurement; `table` is the stage table, which has times.

    The button is offered where the device's speed is not known: on page load, and after an edit
    that sets guidance where the half batch was not timed.
    """

    def __init__(self, shared: Shared, table: gr.HTML):
        self.shared, self.table = shared, table
        self.workshop, self.predictions = shared.workshop, shared.predictions
        self.job = gr.HTML("")
        self.measure = gr.Button(
            "Measure this device's speed", size="sm", visible=False, elem_classes="fit"
        )

    def wire(self) -> None:
        """Connect the button."""
        shared, asked = self.shared, [self.shared.plan, *self.shared.sampler]
        shared.page.load(self.on_load, asked, self.measure, **QUIET, queue=False)
        self.measure.click(
            self.before_measure, None, [self.job, self.measure], **QUIET, queue=False
        ).then(
            self.on_measure,
            [*asked, shared.measured],
            [self.job, self.table, self.measure, shared.measured],
            **QUIET,
            **jobs.MODEL_JOB,
        )

    @plain_errors
    def on_load(self, asked: Asked) -> Views:
        """Offer to measure the device where its speed is not known."""
        return self.offer(asked.plan)

    def offer(self, plan: StagePlan) -> Views:
        """Show the button where a plan needs times that are not known."""
        return {self.measure: gr.update(visible=not self.predictions.knows_time(plan))}

    def before_measure(self) -> Views:
        """Announce the measurement, which may have to wait for another visitor's run."""
        waiting = tables.message(jobs.WAITING)
        return {self.job: waiting, self.measure: gr.update(interactive=False)}

    @plain_errors
    def on_measure(self, asked: Asked, measured: int, request: gr.Request) -> Iterator[Views]:
        """Measure this device's speed; the table then has times."""
        with jobs.visit(request.session_hash).stoppable() as stop:
            try:
                for report in jobs.reports(
                    lambda progress: self._measure(asked.plan, progress, stop)
                ):
                    yield {self.job: tables.progress(report.done, report.total, report.text)}
            except Exception as error:  # whatever it is, the button comes back
                said = tables.message(jobs.failure(error, "The measurement"), "bad")
                yield {self.job: said, self.measure: gr.update(interactive=True)}
                return
        views: Views = {
            self.job: "",
            self.measure: gr.update(visible=False, interactive=True),
            self.shared.measured: measured + 1,
        }
        try:
            views[self.table] = self.predictions.table(self.predictions.predict(*asked))
        except StudioError:  # of the plan, which says so itself
            pass
        yield views

    def _measure(self, plan: StagePlan, progress: jobs.Progress, stop: threading.Event) -> None:
        """Measure this device at a few widths of the whole model, and of its single layers.

        The half batch too, where a stage of the plan runs one guidance half.
        """
        batch = model_facts.batch(self.workshop)
        for rows in model_facts.rows_timed(plan):
            self.workshop.measure_latency(batch, rows, progress=progress, stop=stop)
        self.workshop.measure_layers(progress, stop)
