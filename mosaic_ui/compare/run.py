"""A comparison as it runs: the stream of views from the first preview to the verdict, and what is
left when it is stopped or fails.

A generator over what the job reports; it knows the values of the tab's components and none of the
components.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.errors import Stopped
from core.workshop.compare import BATCH, IN_STEP, compare
from core.workshop.comparison import Comparison, Preview, SampleSettings

from .. import jobs, model_facts
from . import figures
from . import live as live_views
from . import timing as timing_views
from .inputs import Request

PREVIEW_SECONDS = 0.15  # fastest rate of live pictures; more would only load the page


def result_views(comparison: Comparison, provenance: str = "", judged: bool = True) -> tuple:
    """(verdict, slider, pair, difference, film, timing, metrics, downloads): the values of the
    result's components.
    """
    sheet_a, sheet_b, sheet_d, factor, mean = figures.sheets(comparison)
    return (
        figures.verdict_html(comparison, provenance),
        gr.update(
            value=(sheet_a, sheet_b), label=figures.pair_label(comparison.a.name, comparison.b.name)
        ),
        figures.side_by_side_html(sheet_a, sheet_b, comparison),
        figures.difference_html(sheet_d, factor, mean, comparison),
        figures.film_html(comparison),
        timing_views.timing_html(timing_views.timing_rows(comparison.a, comparison.b), comparison),
        figures.metrics_html(comparison, judged),
        figures.downloads_html(comparison),
    )


NO_RESULT = tuple(gr.skip() for _ in range(8))


def overall(item: Preview, settings: SampleSettings, walked: bool) -> tuple[float, float]:
    """(done, total) of the whole job. A small set is walked once and then timed `repeats` times,
    and each part counts its own steps.
    """
    if settings.n > IN_STEP:
        return item.done, item.total
    # a timing run after the walk, or the walk itself
    before = 1 if walked and item.step is None else 0
    return (
        before + item.done / max(1, item.total) * (settings.repeats if before else 1),
        1 + settings.repeats,
    )


def _stopped_view(
    sentence: str,
    seen: Preview | None,
    last: Preview | None,
    names: tuple[str, str],
    settings: SampleSettings,
) -> str:
    """What a stopped run leaves: a sentence, and the pictures of the preview `seen`; `last` is the
    last report of all.
    """
    sentence = sentence or "Stopped before the first step."
    if seen is None:
        if settings.n > IN_STEP and "step" in sentence:  # not while it calibrated or pruned
            sentence = f"{sentence.rstrip('.')}{_place(last, settings)}."
        return live_views.message_html(f"{sentence} Press Compare to start again.")
    done = seen.done == seen.total
    text, state = (
        ("The pictures are finished, the timing was stopped", "finished")
        if done
        else ("Stopped here", "unfinished")
    )
    pictures = live_views.live_html(
        text, *overall(seen, settings, True), names, (seen.image_a, seen.image_b), seen.stage, state
    )
    if done:
        sentence = (
            "Stopped while timing. The pictures are finished; times and distances are not given, as"
            " no timed run of both sides was complete."
        )
        return live_views.message_html(sentence) + pictures
    return (
        live_views.message_html(
            f"{sentence} The pictures are unfinished, so no time and no distance is given for them."
        )
        + pictures
    )


def _place(last: Preview | None, settings: SampleSettings) -> str:
    """Where in a set of several batches a run was stopped; a batch reports when it is done."""
    total = -(-settings.n // BATCH)
    done = last.done if last is not None and last.total == total else 0
    if done == total:
        return " of a timing run, after all pictures were made"
    kept = f"; {done * BATCH} of {settings.n} images of each side were made" if done else ""
    return f" of batch {done + 1} of {total}{kept}"


def _calibration(workshop: Any, request: Request, stop: threading.Event) -> Iterator[str]:
    """Calibrate with progress if a plan needs it, as live views; `compare` alone would be silent
    all the while.
    """
    if not any(map(workshop.needs_calibration, request.plans)):
        return
    for step in jobs.run_job(lambda progress: workshop.calibrate(progress, stop)):
        if isinstance(step, jobs.Step):
            words = model_facts.without_paths(workshop, step.text)
            yield live_views.live_html(
                f"Calibrating first, once per model: {words}", step.done, step.total, request.names
            )


def stream(workshop: Any, request: Request, stop: threading.Event) -> Iterator[tuple]:
    """Run the comparison; yield (live, results' visibility, *result views) as it goes, partial
    pictures if it is stopped.
    """
    names, settings, shown = request.names, request.settings, 0.0
    # the last preview that had pictures: they stay while the timing runs
    seen: Preview | None = None
    last: Preview | None = None
    # from here on the results of an earlier run are out of sight; before that a refusal leaves them
    sampling = False
    try:
        if stop.is_set():
            raise Stopped
        yield live_views.live_html("Preparing both models", 0, 1, names), gr.skip(), *NO_RESULT
        for view in _calibration(workshop, request, stop):
            yield view, gr.skip(), *NO_RESULT
        for item in compare(workshop, *request.plans, settings, stop=stop):
            if isinstance(item, Comparison):
                item.a.name, item.b.name = names
                yield (
                    gr.update(value="", visible=False),
                    gr.update(visible=True),
                    *result_views(item, judged=workshop.judge is not None),
                )
                continue
            seen, last = item if item.image_a is not None else seen, item
            if item.image_a is None or time.monotonic() - shown >= PREVIEW_SECONDS:
                shown = time.monotonic()
                images = (seen.image_a, seen.image_b) if seen is not None else (None, None)
                stage = item.stage if item.step is not None else None
                yield (
                    live_views.live_html(
                        item.text, *overall(item, settings, seen is not None), names, images, stage
                    ),
                    gr.skip() if sampling else gr.update(visible=False),
                    *NO_RESULT,
                )
                sampling = True
    except Stopped as error:
        yield _stopped_view(str(error), seen, last, names, settings), gr.skip(), *NO_RESULT
    except Exception as error:
        yield (
            live_views.message_html(jobs.failure(error, "The comparison"), bad=True),
            gr.skip(),
            *NO_RESULT,
        )


def opening(workshop: Any) -> tuple[str, bool, tuple]:
    """(live, results visible, result values) on opening: the stored example if there is one, else
    the empty state.
    """
    example = workshop.example()
    if example is None:
        sentences = (
            model_facts.calibration_sentences(workshop) if model_facts.unmeasured(workshop) else []
        )
        return live_views.empty_html(sentences), False, ("", None, "", "", "", "", "", "")
    origin = (
        f"A finished example, {example.model}: measured on {example.device}, {example.when}. Press"
        " Compare to measure on this machine."
    )
    return "", True, result_views(example, origin)
