"""Run the two long jobs of place 2, Calibrate and Prune: waiting, progress, Stop, one sentence.

A press is noted at once (`jobs.Visit.ask`) and worked off when the model is free; until then Stop
withdraws it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import gradio as gr

from core.curves.plan import StagePlan
from core.errors import Stopped
from core.mosaic.transformer import MosaicTransformer
from core.workshop.workshop import Workshop

from .. import jobs, model_facts, tables
from ..events import ASK, NOTHING, QUIET, Views
from ..input_checks import plain_errors
from ..page_state import Shared
from ..predictions import Asked
from ..text import seconds_text
from .views import pruned_sentence

KINDS = ("calibrate", "prune")
STOPPED = "Stopped. What was measured so far is kept, and no file is half-written."


def calibrated_sentence(workshop: Workshop, seconds: float, kept: int, worked: bool) -> str:
    """Say how a calibration ended.

    `kept` bins were there when it began; without `worked` it had nothing to do.
    """
    if not worked:
        return f"Nothing to do, because everything was measured before: {workshop.calibration_text}"
    took = f"in {seconds_text(seconds)} (measured"
    if kept:
        took += f"; {kept} of {workshop.settings.bins} bins kept from an earlier run"
    return f"Calibrated {took}): {workshop.calibration_text}"


class Calibrating:
    """One calibration: whether it had work to do, and how it ended."""

    name = "The calibration"

    def __init__(self, workshop: Workshop):
        self.workshop = workshop
        self.kept = workshop.bins_kept
        self.worked = False

    def work(self, progress: jobs.Progress, stop: threading.Event) -> None:
        """Calibrate; without a report there was nothing to do."""

        def report(done: int, total: int, text: str) -> None:
            self.worked = True
            progress(done, total, text)

        self.workshop.calibrate(report, stop)

    def done(self, seconds: float) -> str:
        """Say how it ended."""
        return calibrated_sentence(self.workshop, seconds, self.kept, self.worked)


class Pruning:
    """One pruning of a plan, with the calibration that it may have to begin with."""

    name = "Pruning"

    def __init__(self, workshop: Workshop, plan: StagePlan):
        self.workshop, self.plan = workshop, plan
        self.calibration_seconds: float | None = None
        self.worked = False
        self.built: MosaicTransformer | None = None

    def work(self, progress: jobs.Progress, stop: threading.Event) -> None:
        """Calibrate if the plan needs it, then build; without a report the networks were kept."""

        def report(done: int, total: int, text: str) -> None:
            self.worked = True
            progress(done, total, text)

        if self.workshop.needs_calibration(self.plan):
            began = time.perf_counter()
            self.workshop.calibrate(progress, stop)
            self.calibration_seconds = time.perf_counter() - began
        self.built = self.workshop.build(self.plan, progress=report, stop=stop)

    def done(self, seconds: float) -> str:
        """Say how it ended, the time of the calibration apart."""
        first, calibrated = self.calibration_seconds, ""
        if first is not None:
            calibrated = f"Calibrated first, in {seconds_text(first)} (measured). "
            seconds -= first
        took = seconds if self.worked else None
        return calibrated + pruned_sentence(self.workshop, self.plan, took, self.built)


class PruneJobs:
    """The buttons Calibrate, Prune and Stop with the place that shows their job."""

    def __init__(
        self,
        shared: Shared,
        job: gr.HTML,
        calibrate: gr.Button,
        prune: gr.Button,
        stop: gr.Button,
    ):
        self.shared, self.workshop = shared, shared.workshop
        self.job, self.calibrate, self.prune, self.stop = job, calibrate, prune, stop

    def wire(self) -> None:
        """Connect the three buttons."""
        shared = self.shared
        buttons = [self.job, self.calibrate, self.prune, self.stop]
        wanted = [shared.plan, *shared.sampler]
        work = {"outputs": [*buttons, shared.status], **QUIET, **jobs.MODEL_JOB}
        self.calibrate.click(self.ask_calibrate, wanted, buttons, **ASK).then(
            self.on_calibrate, None, **work
        )
        self.prune.click(self.ask_prune, wanted, buttons, **ASK).then(self.on_prune, None, **work)
        # not behind the job that it is to stop
        self.stop.click(self.on_stop, None, buttons, **QUIET, queue=False)

    @plain_errors
    def ask_calibrate(self, asked: Asked, request: gr.Request) -> Views:
        """Note that a calibration is wanted."""
        return self._ask("calibrate", asked, request)

    @plain_errors
    def ask_prune(self, asked: Asked, request: gr.Request) -> Views:
        """Note which plan is to be pruned."""
        return self._ask("prune", asked, request)

    @plain_errors
    def on_calibrate(self, request: gr.Request) -> Iterator[Views]:
        """Calibrate, now that the turn has come; nothing where it was withdrawn meanwhile."""
        if jobs.visit(request.session_hash).take("calibrate") is None:
            yield NOTHING
            return
        yield from self._run(Calibrating(self.workshop), request)

    @plain_errors
    def on_prune(self, request: gr.Request) -> Iterator[Views]:
        """Prune, now that the turn has come; nothing where it was withdrawn meanwhile."""
        plan = jobs.visit(request.session_hash).take("prune")
        if plan is None:
            yield NOTHING
            return
        yield from self._run(Pruning(self.workshop, plan), request)

    @plain_errors
    def on_stop(self, request: gr.Request) -> Views:
        """Withdraw what waits and stop what runs."""
        visit = jobs.visit(request.session_hash)
        waited = visit.withdraw(*KINDS)
        if visit.request_stop():
            return NOTHING  # the job itself says that it is stopping
        if waited:
            return {self.job: tables.message(jobs.WITHDRAWN), **self._buttons(busy=False)}
        return NOTHING

    def _buttons(self, busy: bool) -> Views:
        return {
            self.calibrate: gr.update(interactive=not busy),
            self.prune: gr.update(interactive=not busy),
            self.stop: gr.update(interactive=busy),
        }

    def _ask(self, kind: str, asked: Asked, request: gr.Request) -> Views:
        run = asked.plan.counted(self.shared.predictions.visited(asked.scheduler, asked.steps))
        jobs.visit(request.session_hash).ask(kind, run)
        return {self.job: tables.message(jobs.WAITING), **self._buttons(busy=True)}

    def _run(self, job: Calibrating | Pruning, request: gr.Request) -> Iterator[Views]:
        """Show a job from its start to one sentence, and put the buttons back whatever happens."""
        busy, began = self._buttons(busy=True), time.perf_counter()
        yield {self.job: tables.progress(0, 0, "Starting"), **busy}
        with jobs.visit(request.session_hash).stoppable() as stop:
            try:
                for report in jobs.reports(_work(job, stop), stop):
                    words = model_facts.without_paths(self.workshop, report.text)
                    yield {self.job: tables.progress(report.done, report.total, words), **busy}
                said = tables.message(job.done(time.perf_counter() - began), "good")
            except Stopped as stopped:
                withdrawn = isinstance(stopped, jobs.Withdrawn)
                said = tables.message(jobs.WITHDRAWN if withdrawn else STOPPED)
            except Exception as error:  # whatever it is, the buttons come back
                said = tables.message(jobs.failure(error, job.name), "bad")
        yield {
            self.job: said,
            **self._buttons(busy=False),
            self.shared.status: tables.status_line(self.workshop),
        }


def _work(job: Calibrating | Pruning, stop: threading.Event) -> Callable[[jobs.Progress], None]:
    return lambda progress: job.work(progress, stop)
