"""Stream the views of a running comparison, from the first preview to the verdict or a stop.

The views go by the names of the tab's components; no component is known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from html import escape
from typing import Any

import gradio as gr

from core.errors import Stopped, StudioError
from core.runs.recipe import recipe_of
from core.workshop.comparison import Comparison, Preview, SampleSettings
from core.workshop.sample_settings import BATCH
from core.workshop.workshop import Workshop

from .. import jobs, lent, model_facts
from ..background import Ongoing, followed
from ..recipes import text_of
from ..remedies import page_sentence
from ..runs.record import Record
from . import figures
from . import live as live_views
from . import timing as timing_views
from .at_hand import EXAMPLE
from .downloads import carried_html, downloads_html
from .inputs import Request
from .pace import Countdown, learn, overall, promise
from .viewer import viewer_html

Named = dict[str, Any]  # name of a component -> its value or `gr.update`
KEPT = 4  # results that the tab remembers, the one in sight included
PREVIEW_SECONDS = 0.15  # fastest rate of live pictures; more would only load the page


def result_views(
    workshop: Workshop, comparison: Comparison, id: str, provenance: str = ""
) -> Named:
    """Return the values of the result's components by their names.

    id: by which `at_hand` finds the comparison; empty where it is kept nowhere.
    """
    return {
        **timed_views(workshop, comparison, id, provenance),
        "viewer": viewer_html(comparison, workshop.class_names, id),
        "film": figures.film_html(comparison),
    }


def timed_views(workshop: Workshop, comparison: Comparison, id: str, provenance: str = "") -> Named:
    """Return the values of those components that change when the times are known."""
    judged = workshop.judge is not None
    rows = timing_views.timing_rows(comparison.a, comparison.b)
    return {
        "verdict": figures.verdict_html(comparison, provenance, workshop.study()),
        "timing": timing_views.timing_html(rows, comparison),
        "metrics": figures.metrics_html(comparison, judged),
        "downloads": downloads_html(comparison, id) if id else _carried(workshop, comparison),
    }


def carried_views(workshop: Workshop, comparison: Comparison) -> Named:
    """Return those components of a result that carry more where it is kept nowhere."""
    return {
        "viewer": viewer_html(comparison, workshop.class_names),
        "downloads": _carried(workshop, comparison),
    }


def _carried(workshop: Workshop, comparison: Comparison) -> str:
    """Return the downloads of a result that is kept nowhere; its texts name no path."""
    texts, recipe = {}, recipe_of(comparison, workshop)
    for kind, title in (("command", "As a command line"), ("python", "As Python")):
        with suppress(StudioError):  # a calibration that the command line cannot say
            texts[title] = text_of(recipe, kind, here=False)
    return carried_html(comparison, workshop.class_names, workshop.judge is not None, texts)


def remembered(comparison: Comparison) -> dict[str, str]:
    """Return what stays of a result when a newer one takes its place: a sentence and pictures."""
    sheet_a, sheet_b, *_ = figures.sheets(comparison)
    body = figures.side_by_side_html(sheet_a, sheet_b, comparison)
    distance = f'<p class="cmp-sub">{escape(comparison.distance)}</p>'
    facts = f'<p class="cmp-sub">{escape(figures.settings_line(comparison))}</p>'
    return {"title": escape(comparison.verdict), "body": distance + body + facts}


def earlier_html(past: list[dict[str, str]]) -> str:
    """Write the results that stood here before, folded up; the first of `past` is in sight."""
    older = past[1:]
    if not older:
        return ""
    folded = "".join(
        f"<details><summary>{entry['title']}</summary>{entry['body']}</details>" for entry in older
    )
    return f'<section class="cmp cmp-older"><h2 class="cmp-title">Earlier</h2>{folded}</section>'


def _stopped_view(
    sentence: str,
    seen: Preview | None,
    last: Preview | None,
    request: Request,
    earlier: bool,
) -> str:
    """Write what a stopped run leaves: a sentence, and the pictures of the preview `seen`.

    `last` is the last report of all. earlier: the result of another run stands below.
    """
    settings = request.settings
    below = " The result below is the earlier one." if earlier else ""
    sentence = sentence or "Stopped before the first step."
    batches = not settings.in_step
    if batches and "step" in sentence:  # not while it calibrated or pruned
        sentence = f"{sentence.rstrip('.')}{_place(last, settings)}."
    if seen is None:
        return live_views.message(f"{sentence} Press Compare to start again.{below}")
    if not batches:
        sentence += " The pictures are unfinished, so no time and no distance is given for them."
    pictures = live_views.live_html(
        "Stopped here",
        *overall(seen, settings),
        request.names,
        (seen.image_a, seen.image_b),
        seen.stage if seen.step is not None else None,
        "finished" if batches else "unfinished",
    )
    return live_views.message(sentence + below) + pictures


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


STOPPED_TIMING = (
    "Stopped while timing. The pictures and their distance are finished; times are not given, as no"
    " timed run of both sides was complete."
)


class Run:
    """One comparison while it runs: what was reported last, and what is in sight.

    past: what is remembered of earlier results, the newest first.
    """

    def __init__(
        self,
        workshop: Workshop,
        request: Request,
        one: Ongoing,
        skip: threading.Event | None = None,
        past: list[dict[str, str]] | None = None,
    ):
        self.workshop, self.request, self.skip = workshop, request, skip
        self.one, self.stop = one, one.stop
        self.record = Record(workshop, request)
        self.settings, self.names, self.past = request.settings, request.names, past or []
        self.untimed: Comparison | None = None  # the pictures, while their times are measured
        # the last preview that had pictures: they stay while the next ones are drawn
        self.seen: Preview | None = None
        self.last: Preview | None = None
        self.shown_at = 0.0  # seconds, of the last live view
        # what is predicted is this machine's time
        said = None if lent.lends() else promise(workshop, request.plans, request.settings)
        self.countdown = Countdown(request.settings, said)

    def views(self) -> Iterator[Named]:
        """Run; yield the views to the end. Raises Stopped and whatever the comparison raises."""
        if self.stop.is_set():
            raise Stopped
        yield {"live": live_views.live_html("Preparing both models", 0, 1, self.names)}
        self.record.begin()
        self.one.id = self.record.id
        for view in _calibration(self.workshop, self.request, self.stop):
            yield {"live": view}
        plans, settings = self.request.plans, self.settings
        for item in lent.compared(self.workshop, *plans, settings, stop=self.stop, skip=self.skip):
            if isinstance(item, Comparison):
                yield self._finished(item)
            elif item.found is not None:
                yield self._result(item.found) | {"skip": gr.update(visible=True)}
            else:
                yield from self._preview(item)

    def stopped(self, sentence: str) -> Named:
        """Return what a run that was stopped leaves: nothing that was there is taken away."""
        if self.untimed is not None:
            said = self.record.finish(self.untimed, "stopped", STOPPED_TIMING)
            live = live_views.message(f"{STOPPED_TIMING} {said}".strip())
            return {"live": live, **self._carried(self.untimed, said)}
        self.record.end("stopped", sentence)
        earlier = bool(self.past)
        view = _stopped_view(sentence, self.seen, self.last, self.request, earlier)
        return {"live": view}

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
        """Return the views of the whole result, which is kept."""
        views = self._result(comparison)
        self.untimed = None
        learn(self.workshop, comparison, self.countdown.walk)
        said = self.record.finish(comparison)
        shown = live_views.message(said, bad=True) if said else ""
        live = gr.update(value=shown, visible=bool(said))
        return {**views, **self._carried(comparison, said), "live": live}

    def _carried(self, comparison: Comparison, said: str) -> Named:
        """Return the views that carry all files, if the result could not be kept (`said`)."""
        return carried_views(self.workshop, comparison) if said and self.record.id else {}

    def _result(self, comparison: Comparison) -> Named:
        """Return the views of a result, only what is new in it where its pictures stand already."""
        comparison.a.name, comparison.b.name = self.names
        self.one.found = comparison
        if self.untimed is not None:
            self.past = [remembered(comparison), *self.past[1:]]
            views = timed_views(self.workshop, comparison, self.record.id)
            return {**views, "past": self.past}
        self.untimed = comparison
        self.past = [remembered(comparison), *self.past][:KEPT]
        in_hand = self.request.in_hand
        return {
            "results": gr.update(visible=True),
            **result_views(self.workshop, comparison, self.record.id),
            "past": self.past,
            "earlier": earlier_html(self.past),
            "about": "",
            "made": in_hand and {"plan": in_hand.to_json(), "when": time.strftime("%H:%M")},
        }

    def _tell(self, item: Preview) -> None:
        """Tell how far the run is, to every page that looks."""
        done, total = overall(item, self.settings)
        self.one.done, self.one.total, self.one.said = done, total, item.text
        self.record.beat(done / max(total, 1e-9), item.text)

    def _preview(self, item: Preview) -> Iterator[Named]:
        """Yield a live view of a report, unless its pictures come too soon after the last ones."""
        self.last = item
        self._tell(item)
        now = time.monotonic()
        text = item.text + self.countdown.words(item, now)
        if item.image_a is not None:
            self.seen = item
            if now - self.shown_at < PREVIEW_SECONDS:
                return
        self.shown_at = now
        seen = None if self.untimed is not None else self.seen
        done, total = overall(item, self.settings)
        if self.untimed is not None:
            yield {"live": live_views.timing_html(text, done, total)}
            return
        view = live_views.live_html(
            text,
            done,
            total,
            self.names,
            images=(None, None) if seen is None else (seen.image_a, seen.image_b),
            stage=None if item.step is None else item.stage,
        )
        yield {"live": view}


def stream(
    workshop: Workshop,
    request: Request,
    stop: threading.Event,
    skip: threading.Event | None = None,
    past: list[dict[str, str]] | None = None,
) -> Iterator[Named]:
    """Run the comparison; yield its views as it goes, partial pictures if it is stopped.

    It goes on where the reader leaves, as with a page that is reloaded, and is kept either way.
    """
    one = Ongoing(" against ".join(request.names), workshop.name)
    return followed(one, Run(workshop, request, one, skip, past).all_views, stop)


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
    views = result_views(workshop, example, EXAMPLE, origin)
    return "", views | {"past": [remembered(example)]}
