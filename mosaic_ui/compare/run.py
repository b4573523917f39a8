"""Stream the views of a running comparison, from the first preview to the verdict or a stop.

The views go by the names of the tab's components; no component is known here.
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
from core.workshop.workshop import Workshop

from .. import jobs, model_facts
from ..background import Ongoing, followed
from ..remedies import page_sentence
from ..runs.record import Record
from . import figures
from . import live as live_views
from . import timing as timing_views
from .inputs import Request

Named = dict[str, Any]  # name of a component -> its value or `gr.update`
PREVIEW_SECONDS = 0.15  # fastest rate of live pictures; more would only load the page


def result_views(comparison: Comparison, provenance: str = "", judged: bool = True) -> Named:
    """Return the values of the result's components by their names."""
    sheet_a, sheet_b, sheet_d, factor, mean = figures.sheets(comparison)
    label = figures.pair_label(comparison.a.name, comparison.b.name)
    rows = timing_views.timing_rows(comparison.a, comparison.b)
    return {
        "verdict": figures.verdict_html(comparison, provenance),
        "slider": gr.update(value=(sheet_a, sheet_b), label=label),
        "pair": figures.side_by_side_html(sheet_a, sheet_b, comparison),
        "difference": figures.difference_html(sheet_d, factor, mean, comparison),
        "film": figures.film_html(comparison),
        "timing": timing_views.timing_html(rows, comparison),
        "metrics": figures.metrics_html(comparison, judged),
        "downloads": figures.downloads_html(comparison),
    }


def overall(item: Preview, settings: SampleSettings, walked: bool) -> tuple[float, float]:
    """Return (done, total) of the whole job.

    A small set is walked once and then timed `repeats` times, and each part counts its own steps.
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
    """Write what a stopped run leaves: a sentence, and the pictures of the preview `seen`.

    `last` is the last report of all.
    """
    sentence = sentence or "Stopped before the first step."
    if seen is None:
        if settings.n > IN_STEP and "step" in sentence:  # not while it calibrated or pruned
            sentence = f"{sentence.rstrip('.')}{_place(last, settings)}."
        return live_views.message(f"{sentence} Press Compare to start again.")
    done = seen.done == seen.total
    text, state = "Stopped here", "unfinished"
    if done:
        text, state = "The pictures are finished, the timing was stopped", "finished"
    pictures = live_views.live_html(
        text, *overall(seen, settings, True), names, (seen.image_a, seen.image_b), seen.stage, state
    )
    if done:
        sentence = (
            "Stopped while timing. The pictures are finished; times and distances are not given, as"
            " no timed run of both sides was complete."
        )
        return live_views.message(sentence) + pictures
    return (
        live_views.message(
            f"{sentence} The pictures are unfinished, so no time and no distance is given for them."
        )
        + pictures
    )


def _place(last: Preview | None, settings: SampleSettings) -> str:
    """Say where in a set of several batches a run was stopped; a batch reports when it is done."""
    total = -(-settings.n // BATCH)
    done = last.done if last is not None and last.total == total else 0
    if done == total:
        return " of a timing run, after all pictures were made"
    kept = f"; {done * BATCH} of {settings.n} images of each side were made" if done else ""
    return f" of batch {done + 1} of {total}{kept}"


def _calibration(workshop: Workshop, request: Request, stop: threading.Event) -> Iterator[str]:
    """Calibrate if a plan needs it; yield live views, as `compare` alone would report nothing."""
    if not any(map(workshop.needs_calibration, request.plans)):
        return
    for report in jobs.reports(lambda progress: workshop.calibrate(progress, stop)):
        words = model_facts.without_paths(workshop, report.text)
        yield live_views.live_html(
            f"Calibrating first, once per model: {words}",
            report.done,
            report.total,
            request.names,
        )


class Run:
    """One comparison while it runs: what was reported last, and what is in sight."""

    def __init__(self, workshop: Workshop, request: Request, one: Ongoing):
        self.workshop, self.request = workshop, request
        self.one, self.stop = one, one.stop
        self.record = Record(workshop, request)
        self.settings, self.names = request.settings, request.names
        # the last preview that had pictures: they stay while the timing runs
        self.seen: Preview | None = None
        self.last: Preview | None = None
        self.shown_at = 0.0  # seconds, of the last live view
        # from here on the results of an earlier run are out of sight; before, a refusal leaves them
        self.sampling = False

    def views(self) -> Iterator[Named]:
        """Run; yield the views to the end. Raises Stopped and whatever the comparison raises."""
        if self.stop.is_set():
            raise Stopped
        yield {"live": live_views.live_html("Preparing both models", 0, 1, self.names)}
        self.record.begin()
        self.one.id = self.record.id
        for view in _calibration(self.workshop, self.request, self.stop):
            yield {"live": view}
        for item in compare(self.workshop, *self.request.plans, self.settings, stop=self.stop):
            if isinstance(item, Comparison):
                yield self._finished(item)
            else:
                yield from self._preview(item)

    def stopped(self, sentence: str) -> Named:
        """Return what a run that was stopped leaves."""
        self.record.end("stopped", sentence)
        return {"live": _stopped_view(sentence, self.seen, self.last, self.names, self.settings)}

    def failed(self, error: Exception) -> Named:
        """Return the sentence of a run that could not go on."""
        sentence = jobs.failure(error, "The comparison")
        self.record.end("failed", sentence)
        return {"live": live_views.message(sentence, bad=True)}

    def all_views(self) -> Iterator[Named]:
        """Run; yield the views to the end, whatever the end is. The run is kept as it goes."""
        try:
            yield from self.views()
        except Stopped as error:
            yield self.stopped(page_sentence(error))
        except Exception as error:
            yield self.failed(error)
        finally:
            self.record.end("failed", "It broke off before it was done.")

    def _finished(self, comparison: Comparison) -> Named:
        comparison.a.name, comparison.b.name = self.names
        said = self.record.finish(comparison)
        return {
            "live": gr.update(
                value=live_views.message(said, bad=True) if said else "", visible=bool(said)
            ),
            "results": gr.update(visible=True),
            **result_views(comparison, judged=self.workshop.judge is not None),
        }

    def _tell(self, item: Preview) -> None:
        """Tell how far the run is, to every page that looks."""
        done, total = overall(item, self.settings, self.seen is not None)
        self.one.done, self.one.total, self.one.said = done, total, item.text
        self.record.beat(done / max(total, 1e-9), item.text)

    def _preview(self, item: Preview) -> Iterator[Named]:
        """Yield a live view of a report, unless its pictures come too soon after the last ones."""
        self.last = item
        self._tell(item)
        if item.image_a is not None:
            self.seen = item
            if time.monotonic() - self.shown_at < PREVIEW_SECONDS:
                return
        self.shown_at = time.monotonic()
        seen = self.seen
        view = live_views.live_html(
            item.text,
            *overall(item, self.settings, seen is not None),
            self.names,
            images=(None, None) if seen is None else (seen.image_a, seen.image_b),
            stage=None if item.step is None else item.stage,
        )
        earlier = {} if self.sampling else {"results": gr.update(visible=False)}
        yield {"live": view, **earlier}
        self.sampling = True


def stream(workshop: Workshop, request: Request, stop: threading.Event) -> Iterator[Named]:
    """Run the comparison; yield its views as it goes, partial pictures if it is stopped.

    It goes on where the reader leaves, as with a page that is reloaded, and is kept either way.
    """
    one = Ongoing(" against ".join(request.names), workshop.name)
    return followed(one, Run(workshop, request, one).all_views, stop)


def opening(workshop: Workshop) -> tuple[str, Named]:
    """Return (live, result values by name) on opening: the stored example, else the empty state."""
    example = workshop.example()
    if example is None:
        sentences = (
            model_facts.calibration_sentences(workshop) if model_facts.unmeasured(workshop) else []
        )
        return live_views.empty_html(sentences), {}
    origin = (
        f"A finished example, {example.model}: measured on {example.device}, {example.when}. Press"
        " Compare to measure on this machine."
    )
    return "", result_views(example, origin)
