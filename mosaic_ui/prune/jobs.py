"""The two long jobs of place 2, Calibrate and Prune: waiting for one's turn, progress, Stop, and
one sentence at the end.

A press is noted at once (`jobs.ask`) and worked off when the model is free; until then Stop
withdraws it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from core.curves.plan import StagePlan
from core.errors import Stopped

from .. import answers, jobs, model_facts, tables
from ..answers import plain_errors
from ..events import EDIT, QUIET
from .views import pruned_sentence

KINDS = ("calibrate", "prune")
# Calibrate, Prune, Stop
BUSY = (gr.update(interactive=False), gr.update(interactive=False), gr.update(interactive=True))
IDLE = (gr.update(interactive=True), gr.update(interactive=True), gr.update(interactive=False))


def calibrated_sentence(workshop: Any, seconds: float, kept: int, worked: bool) -> str:
    """How a calibration ended; `kept` bins were there when it began, and it may have had nothing to
    do.
    """
    if not worked:
        return f"Nothing to do, as all of it was measured before: {workshop.calibration_text}"
    took = f"in {tables.seconds_text(seconds)} (measured"
    if kept:
        took += f", without the {kept} of {workshop.settings.bins} bins that an earlier run left"
    return f"Calibrated {took}): {workshop.calibration_text}"


def wire_jobs(shared: Any, tab: Any, exactly: dict[str, Any]) -> None:
    """Connect Calibrate, Prune and Stop of the tab; `exactly` is the event that follows a job."""
    workshop = shared.workshop

    def ask(kind: str) -> Callable:
        @plain_errors
        def ask_job(plan: dict, scheduler: str, steps: Any, request: gr.Request) -> tuple:
            run = StagePlan.from_json(plan).counted(answers.visited(workshop, scheduler, steps))
            jobs.ask(f"{request.session_hash}/{kind}", run.to_json())
            return tables.message(jobs.WAITING), *BUSY

        return ask_job

    def long_job(
        request: gr.Request, name: str, work: Callable, done: Callable[[float], str]
    ) -> Iterator[tuple]:
        """Run a job for the three buttons, the progress place and the status line; ends in one
        sentence whatever happens.
        """
        stop, began = jobs.new_stop(request.session_hash), time.perf_counter()
        yield tables.progress(0, 0, "Starting"), *BUSY, gr.skip()
        words = ""
        try:
            for step in jobs.run_job(lambda report: work(report, stop)):
                if isinstance(step, jobs.Step):
                    words = model_facts.without_paths(workshop, step.text)
                    yield tables.progress(step.done, step.total, words), *BUSY, gr.skip()
            words = tables.message(done(time.perf_counter() - began), "good")
        except Stopped:
            words = tables.message(
                "Stopped. What was measured so far is kept, and nothing is half-written."
            )
        except Exception as error:  # whatever it is, the buttons come back
            words = tables.message(jobs.failure(error, name), "bad")
        finally:
            # also when the visitor closed the page: the thread must not go on for nobody
            stop.set()
            jobs.finish(request.session_hash, stop)
        yield words, *IDLE, tables.status_line(workshop)

    @plain_errors
    def on_calibrate(request: gr.Request) -> Iterator[tuple]:
        if jobs.take(f"{request.session_hash}/calibrate") is None:
            yield (gr.skip(),) * 5  # withdrawn meanwhile
            return
        kept, steps = workshop.bins_kept, []

        def work(report: Callable, stop: Any) -> None:
            workshop.calibrate(lambda *step: (steps.append(step), report(*step)), stop)

        yield from long_job(
            request,
            "The calibration",
            work,
            lambda seconds: calibrated_sentence(workshop, seconds, kept, bool(steps)),
        )

    @plain_errors
    def on_prune(request: gr.Request) -> Iterator[tuple]:
        plan = jobs.take(f"{request.session_hash}/prune")
        if plan is None:
            yield (gr.skip(),) * 5
            return
        checked, steps, built, first = StagePlan.from_json(plan), [], [], []

        def work(report: Callable, stop: Any) -> None:
            if workshop.needs_calibration(checked):
                began = time.perf_counter()
                workshop.calibrate(report, stop)
                first.append(time.perf_counter() - began)
            built.append(
                workshop.build(
                    checked, progress=lambda *step: (steps.append(step), report(*step)), stop=stop
                )
            )

        def done(seconds: float) -> str:
            calibrated = (
                f"Calibrated first, in {tables.seconds_text(*first)} (measured). " if first else ""
            )
            return calibrated + pruned_sentence(
                workshop, checked, seconds - sum(first) if steps else None, *built
            )

        yield from long_job(request, "Pruning", work, done)

    @plain_errors
    def on_stop(request: gr.Request) -> tuple:
        waited, ran = (
            jobs.withdraw(*(f"{request.session_hash}/{kind}" for kind in KINDS)),
            jobs.request_stop(request.session_hash),
        )
        if waited and not ran:
            return tables.message(jobs.WITHDRAWN), *IDLE
        return tables.message("Stopping …") if ran else gr.skip(), *(gr.skip(),) * 3

    buttons = [tab.job, tab.calibrate, tab.prune, tab.stop]
    for kind, button, work in zip(
        KINDS, (tab.calibrate, tab.prune), (on_calibrate, on_prune), strict=True
    ):
        pressed = EDIT | {"trigger_mode": "once"}  # behind the edits made before it
        asked = button.click(
            ask(kind), [shared.plan, shared.scheduler, shared.steps], buttons, **pressed
        )
        asked.then(work, None, [*buttons, shared.status], **QUIET, **jobs.MODEL_JOB).then(**exactly)
    # not behind the job that it is to stop
    tab.stop.click(on_stop, None, buttons, **QUIET, queue=False)
