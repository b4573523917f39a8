"""Run a tune and stream its views, from the calibration to the best; it outlives its page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from core.errors import Stopped
from core.tuner.found import Report, Tuned
from core.tuner.kept import End, KeptTune
from core.tuner.search import Tune
from core.workshop.workshop import Workshop

from .. import background, jobs, tables
from ..background import Ongoing, followed
from ..long_work import progress_html, ticking, to_the_end, told
from ..stage_chart import figure_text
from ..text import plural, seconds_text
from ..visitors import tune_shelf
from .figure import front_figure
from .inputs import Wanted, kept_before
from .table import points_html, verdict_html

Named = dict[str, Any]  # name of a component -> its value or `gr.update`
KEPT = "What was evaluated is kept: the same question goes on from it."
STAYS = "Plans and comparisons that were made of its points stay in Runs."
ALREADY = "The same was asked before and had its time: here is what it found. Allow more to go on."


@dataclass(eq=False)
class OngoingTune(Ongoing):
    """One tune that goes on in this process, with what any page may show of it."""

    kind: str = "tune"
    model_key: str = ""
    tune: KeptTune | None = None


def ongoing(workshop: Workshop) -> OngoingTune | None:
    """Return the tune of a model that runs in this process, None where none does."""
    own = [one for one in background.ongoing() if isinstance(one, OngoingTune)]
    return next((one for one in own if one.model_key == workshop.model_key), None)


def board_views(workshop: Workshop, tune: KeptTune) -> Named:
    """Return the views of what a tune evaluated, whether it goes on or not."""
    images = workshop.usual_images
    return {
        "results": gr.update(visible=bool(tune.evaluations)),
        "empty": gr.update(visible=not tune.evaluations),
        "verdict": verdict_html(tune, images),
        "plot": gr.update(figure=figure_text(front_figure(tune, images))),
        "points": points_html(tune, images),
    }


def ended_sentence(tune: KeptTune) -> str:
    """Say how a kept tune stands."""
    count = plural(len(tune.evaluations), "configuration")
    if tune.end is None:
        return f"This tune was not finished: {count} evaluated. {KEPT}"
    if tune.end.stopped:
        return f"Stopped: this is the best of {count} until then. {KEPT}"
    return f"Done in {seconds_text(tune.end.seconds)}: {count} evaluated."


def shelf_words(tune: KeptTune) -> str:
    """Return what the menu of earlier tunes says of one."""
    return f"{tune.goal.text}, {plural(len(tune.evaluations), 'point')}"


class Run:
    """One tune while it runs: what it is at, and what is in sight."""

    def __init__(self, workshop: Workshop, wanted: Wanted, one: OngoingTune):
        self.workshop, self.wanted, self.one = workshop, wanted, one
        self.search: Tune | None = None
        self.shelf = tune_shelf()
        self.id = self.shelf.id_of(wanted.question, workshop.device_text)
        one.id = f"{background.TUNE}{self.id}"

    def all_views(self) -> Iterator[Named]:
        """Run; yield the views to the end, whatever the end is."""
        yield from to_the_end(self._views(), self._broken_off, "The tune")

    def _broken_off(self, job: str) -> Named:
        """Return the views of a tune that ended without a best, with what it evaluated."""
        if self.search is None or not self._show(self.search, None).evaluations:
            return {"job": job}
        return {**self._board(), "job": f"{job}{tables.message(KEPT)}"}

    def _views(self) -> Iterator[Named]:
        if self.one.stop.is_set():
            raise Stopped("Stopped before it began.")
        allowed = self.wanted.effort.seconds
        before = kept_before(self.workshop, self.wanted)
        if before is not None and before.has_ended(allowed):
            self.shelf.touch(self.id)
            yield board_views(self.workshop, before) | {"job": tables.message(ALREADY)}
            return
        yield from self._prepare()
        self.search = search = Tune(
            self.workshop,
            self.wanted.goal,
            self.wanted.space,
            self.wanted.quality,
            self.wanted.effort,
            self.shelf.folder_of(self.id),
            self.one.stop,
        )
        yield from self._search(search)

    def _prepare(self) -> Iterator[Named]:
        """Calibrate and time what is not known yet; yield how far that is."""
        workshop, stop = self.workshop, self.one.stop
        if not workshop.calibrated:
            yield from self._told(
                "Calibrating first, once per model and not counted",
                lambda progress: workshop.calibrate(progress, stop),
            )
        for halves in (2, 1):
            if workshop.latency(halves * workshop.usual_images) is None:
                yield from self._told(
                    "Measuring this device's speed first, once and not counted",
                    partial(self._measure, halves),
                )

    def _measure(self, halves: int, progress: jobs.Progress) -> None:
        workshop = self.workshop
        workshop.measure_latency(workshop.usual_images, halves, progress, self.one.stop)

    def _told(self, what: str, work: Callable[[jobs.Progress], object]) -> Iterator[Named]:
        """Do something before the tune; yield its progress."""
        for shown in told(self.workshop, self.one, what, work):
            yield {"job": shown}

    def _search(self, search: Tune) -> Iterator[Named]:
        """Search; yield every new point, and the time between them."""
        said = "begins"

        def body(put: Callable[[Report | Tuned], None]) -> None:
            for item in search.run():
                put(item)

        if self._show(search, None).evaluations:
            yield self._board()
        for item in ticking(body):
            if isinstance(item, Tuned):
                yield self._finished(search, item)
                return
            if item is not None:
                said = item.text
                self._show(search, None)
            stopping = self.one.stop.is_set()
            self._tell(search, jobs.STOPPING if stopping else said)
            job = {"job": progress_html(self.one)}
            yield job if item is None else {**self._board(), **job}

    def _finished(self, search: Tune, found: Tuned) -> Named:
        """Keep the end of a tune and return its views."""
        end = End.of(found, self.wanted.effort.seconds, self.workshop.device_text)
        end = self.shelf.keep_end(self.id, end)
        tune = self._show(search, end)
        kind = "" if found.stopped else "good"
        return {**self._board(), "job": tables.message(ended_sentence(tune), kind)}

    def _show(self, search: Tune, end: End | None) -> KeptTune:
        """Take what a tune knows as what is in sight."""
        evaluations = search.journal.evaluations
        self.one.tune = KeptTune.asked(self.id, self.wanted.question, evaluations, end)
        return self.one.tune

    def _board(self) -> Named:
        assert self.one.tune is not None  # shown before
        return board_views(self.workshop, self.one.tune)

    def _tell(self, search: Tune, said: str) -> None:
        """Tell every page how far the tune is, in the time that it is allowed."""
        allowed = self.wanted.effort.seconds
        spent = min(search.spent, allowed)
        count = len(self.one.tune.evaluations) if self.one.tune else 0
        words = f"{spent:.0f} of {allowed:.0f} s, {count} evaluated; {said}"
        self._say(words, spent, allowed)

    def _say(self, said: str, done: float, total: float) -> None:
        self.one.said, self.one.done, self.one.total = said, done, total


def stream(workshop: Workshop, wanted: Wanted, stop: threading.Event) -> Iterator[Named]:
    """Run a tune; yield its views as it goes. It goes on where the reader leaves."""
    one = OngoingTune(wanted.goal.text, workshop.name, model_key=workshop.model_key)
    return followed(one, Run(workshop, wanted, one).all_views, stop)
