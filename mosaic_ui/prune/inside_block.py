"""Look inside a block of the mosaic: its layers per stage, and what the picture loses by one alone.

A click on a tile, Enter on a row, or the list of blocks opens it. The panel follows every edit of
the plan. The question about the picture is a job of the model like all others: asked, worked off
when the model is free, stopped by its own button.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from core.curves.plan import StagePlan
from core.errors import Stopped, StudioError
from core.lru_cache import Recent
from core.workshop.inside_block import inside
from core.workshop.layer_alone import LayerLoss, layer_loss

from .. import jobs, model_facts, tables
from ..events import ASK, NOTHING, QUIET, Event, Views
from ..input_checks import plain_errors
from ..page_state import Shared
from ..predictions import Asked
from ..remedies import page_sentence
from .block_view import Loss, block_html, loss_of
from .views import block_names

HERE = Path(__file__).parent
KIND = "layer alone"  # of its jobs, and the place of its Stop
NO_BLOCK = 0  # in the list of blocks, which are counted from 1
LOSSES_KEPT = 32
STOPPED = "Stopped. Nothing was changed."
INVITATION = (
    '<p class="fine">Click a tile, or choose a block: which heads and how many neurons stay in each'
    " stage, and the exact error of every layer.</p>"
)
PICKED = "(...given) => [window.mosaicBlock ?? 0, ...given.slice(1)]"
PRESSED = "(...given) => [window.mosaicLayer ?? 0, ...given.slice(1)]"
TO_PANEL = """() => {
  document.dispatchEvent(new Event('mosaic-inside'));
  document.querySelector('#inside-block')?.scrollIntoView({ block: 'nearest' });
}"""


class LayerAsked(NamedTuple):
    """One question of a visitor: what the pictures lose if only this layer is cut."""

    plan: StagePlan
    place: int  # in `Workshop.layers`


class InsideBlock:
    """The panel below the mosaic, and its handlers."""

    def __init__(self, shared: Shared):
        self.shared, self.workshop = shared, shared.workshop
        self.names = block_names(self.workshop)
        self._losses: Recent[tuple[Any, ...], Loss] = Recent()
        style = (HERE / "inside_block.css").read_text(encoding="utf-8")
        gr.HTML(f"<style>{style}</style>", elem_classes="inside-style")
        gr.HTML('<h2 class="panel-title">Inside a block</h2>')
        with gr.Row(elem_classes="inside-row"):
            self.block = gr.Dropdown(
                [("none", NO_BLOCK), *((name, i) for i, name in enumerate(self.names, start=1))],
                value=NO_BLOCK,
                label="Block",
                filterable=False,
                min_width=160,
            )
            self.stop = gr.Button("Stop", variant="stop", visible=False, elem_id="inside-stop")
        script = (HERE / "inside_block.js").read_text(encoding="utf-8")
        self.view = gr.HTML(
            INVITATION,
            html_template='<div class="inside-place"></div>',
            js_on_load=script.replace("NAMES;", json.dumps(self.names) + ";", 1),
            apply_default_css=False,
            elem_id="inside-block",
        )
        self.job = gr.HTML("")

    def wire(self) -> None:
        """Connect the list of blocks, the tiles, the question of a layer and Stop."""
        shared = self.shared
        asked = [shared.plan, *shared.sampler]
        shown: Event = {"outputs": self.view, **QUIET, "trigger_mode": "always_last"}
        self.block.input(self.on_block, [self.block, *asked], **shown)
        picked = {"outputs": [self.block, self.view], **QUIET, "trigger_mode": "always_last"}
        self.view.input(self.on_tile, [self.block, *asked], js=PICKED, **picked).then(
            None, None, None, js=TO_PANEL, **QUIET
        )
        buttons = [self.job, self.stop]
        # the list stands for the pressed layer, which the script puts in its place
        self.view.submit(self.ask_loss, [self.block, *asked], buttons, js=PRESSED, **ASK).then(
            self.on_loss, None, buttons, **QUIET, **jobs.MODEL_JOB
        ).then(self.on_block, [self.block, *asked], **shown)
        self.stop.click(self.on_stop, None, buttons, **QUIET, queue=False)

    @plain_errors
    def on_block(self, block: int, asked: Asked) -> Views:
        """Show the inside of a chosen block, counted from 1; 0 closes the panel."""
        return {self.view: self._panel(block, self._plan(asked))}

    @plain_errors
    def on_tile(self, block: int, asked: Asked) -> Views:
        """Show the inside of the block whose tile was pressed, and choose it in the list."""
        return {self.block: block, self.view: self._panel(block, self._plan(asked))}

    @plain_errors
    def ask_loss(self, layer: int, asked: Asked, request: gr.Request) -> Views:
        """Note which layer is to be cut alone: a place in `Workshop.layers`."""
        if layer >= len(self.workshop.layers):
            raise StudioError(f"{self.workshop.name} has no layer of this number.")
        jobs.visit(request.session_hash).ask(KIND, LayerAsked(self._plan(asked), layer))
        return {self.job: tables.message(jobs.WAITING), self.stop: gr.update(visible=True)}

    @plain_errors
    def on_loss(self, request: gr.Request) -> Iterator[Views]:
        """Measure, now that the turn has come; nothing where it was withdrawn meanwhile."""
        wanted = jobs.visit(request.session_hash).take(KIND)
        if wanted is None:
            yield NOTHING
            return
        busy: Views = {self.stop: gr.update(visible=True)}
        yield {self.job: tables.progress(0, 0, "Starting"), **busy}
        said = ""
        with jobs.visit(request.session_hash).stoppable(KIND) as stop:
            try:
                for report in jobs.run_job(self._work(wanted, stop), stop):
                    if isinstance(report, jobs.JobReport):
                        bar = tables.progress(report.done, report.total, report.text)
                        yield {self.job: bar, **busy}
                    else:
                        self._keep(wanted, report)
            except Stopped as stopped:
                withdrawn = isinstance(stopped, jobs.Withdrawn)
                said = tables.message(jobs.WITHDRAWN if withdrawn else STOPPED)
            except Exception as error:  # whatever it is, Stop goes and the reason stands there
                said = tables.message(jobs.failure(error, "The measurement"), "bad")
        yield {self.job: said, self.stop: gr.update(visible=False)}

    @plain_errors
    def on_stop(self, request: gr.Request) -> Views:
        """Withdraw what waits and stop what runs."""
        visit = jobs.visit(request.session_hash)
        waited = visit.withdraw(KIND)
        if visit.request_stop(KIND) or not waited:
            return NOTHING  # the job itself says that it is stopping
        return {self.job: tables.message(jobs.WITHDRAWN), self.stop: gr.update(visible=False)}

    def follow(self, block: int, run: StagePlan) -> Views:
        """Return the panel for another plan, counted for its run; nothing where none is open."""
        return {self.view: self._panel(block, run)} if block else {}

    def _plan(self, asked: Asked) -> StagePlan:
        """Return the plan for the run that is asked for."""
        return asked.plan.counted(self.shared.predictions.visited(asked.scheduler, asked.steps))

    def _panel(self, block: int, run: StagePlan) -> str:
        """Write the inside of a block, counted from 1, or how to open one."""
        if block == NO_BLOCK:
            return INVITATION
        if block > len(self.names):
            raise StudioError(f"{self.workshop.name} has blocks 1 to {len(self.names)}.")
        exact = model_facts.exact_in_time(self.workshop, block - 1)
        try:
            layers = inside(self.workshop, run, block - 1, exact)
        except StudioError as error:  # a plan whose shares follow from a calibration
            return tables.message(page_sentence(error), "bad")
        known = {one.place: self._losses.find(self._key(run, one.place)) for one in layers}
        losses = {place: loss for place, loss in known.items() if loss is not None}
        return block_html(block, self.names[block - 1], layers, self._missing(exact), losses)

    def _missing(self, exact: bool) -> str:
        """Say what is not known of a block; nothing where all is."""
        if not self.workshop.calibrated:
            ordered = self.workshop.predictor.calibration.pruner.known_orders is not None
            what = "the error curves" if ordered else "which heads stay, and at what error,"
            return (
                f"Not calibrated on this machine yet, so {what} cannot be shown: press Calibrate."
            )
        return "" if exact else "Layers of this size take too long for exact error curves here."

    def _work(self, wanted: LayerAsked, stop: threading.Event) -> Any:
        def work(progress: jobs.Progress) -> LayerLoss:
            return layer_loss(self.workshop, *wanted, progress=progress, stop=stop)

        return work

    def _keep(self, wanted: LayerAsked, found: LayerLoss) -> None:
        """Keep a measured loss for whoever looks at this layer under this plan."""
        key = self._key(*wanted)
        self._losses.keep(key, loss_of(found, self.workshop.device_text), LOSSES_KEPT)

    def _key(self, run: StagePlan, place: int) -> tuple[Any, ...]:
        """Return what a loss depends on: the cut, the layer and the removal orders."""
        orders = self.workshop.predictor.calibration.pruner.known_orders
        return run.cut, place, None if orders is None else orders.digest
