"""Show on every page which comparison, tune or sweep goes on, also after a reload, and stop it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import gradio as gr

from core.errors import StudioError

from .. import background, jobs
from ..events import NOTHING, QUIET, Event, Views
from ..input_checks import plain_errors
from ..page_state import Shared
from .record import store
from .tab import RunsTab
from .table import rows_html

LOOK_SECONDS = 1.0
PATIENCE = 20  # looks without a run, for which the line on the last one stands
AT_FIRST = PATIENCE - 3  # a page that opens finds a run at once or not at all
LOOK: Event = {**QUIET, "queue": False}


@dataclass(frozen=True)
class Seen:
    """A comparison, a tune or a sweep that goes on, as the page shows it."""

    id: str
    title: str
    share: float
    said: str
    here: bool  # in this program, so that it can be stopped
    kind: str = "comparison"


def going_on() -> list[Seen]:
    """Return what goes on in this program, then the comparisons of others."""
    # before what is known here, so that a run that a sweep begins meanwhile is not another one's
    try:
        running = store().running()
    except StudioError:  # a store that cannot be read has its sentence in Runs
        running = []
    own = background.ongoing()
    found = [
        Seen(o.id, f"{o.title}, {o.model}", o.done / (o.total or 1), o.said, True, o.kind)
        for o in own
    ]
    known = {id for one in own for id in one.runs}
    others = [run for run in running if run.id not in known]
    return found + [
        Seen(
            run.id,
            f"{run.a.name} against {run.b.name}, {run.model}",
            run.done / run.total if run.total else 0.0,
            run.said or "Preparing both models",
            False,
        )
        for run in others
    ]


def strip_html(found: list[Seen]) -> str:
    """Write one line on the comparison that goes on; nothing where there is none."""
    if not found:
        return ""
    first, *more = found
    percent = f"{100 * min(1.0, first.share):.0f}"
    others = f" {len(more)} more after it." if more else ""
    where = "" if first.here else " It runs in another program, which alone can stop it."
    said = first.said[:1].upper() + first.said[1:]
    return (
        f'<div class="job ongoing" data-of="{first.kind}" role="progressbar" aria-valuemin="0"'
        f' aria-valuemax="100"'
        f' aria-valuenow="{percent}" aria-label="A {first.kind} goes on"><p><span><b>A {first.kind}'
        f" goes on</b>: {escape(first.title)}. {escape(said)}.{others}{where}</span>"
        f' <span>{percent}&nbsp;%</span></p><div class="rail"><div style="width:{percent}%"></div>'
        "</div></div>"
    )


ENDED = '<p class="job-message ongoing-ended" data-of="{}" role="status">{} It is kept in {}.</p>'


class RunsWatch:
    """The line about what goes on, its Stop, and the timer behind it."""

    def __init__(self, shared: Shared):
        self.shared = shared
        with gr.Row(visible=False, elem_id="ongoing", elem_classes="ongoing-row") as self.row:
            self.strip = gr.HTML("")
            self.stop = gr.Button(
                "Stop", variant="stop", size="sm", scale=0, min_width=80, elem_id="ongoing-stop"
            )
        self.timer = gr.Timer(LOOK_SECONDS, active=False)
        self.going = gr.Textbox(visible="hidden")  # changes when a run begins or ends anywhere
        self.ids = gr.State([])  # runs that went on at the last look
        self.idle = gr.State(AT_FIRST)  # looks without one

    def wire(self, starts: list[gr.Button], runs: RunsTab) -> None:
        """Connect the timer, which ticks only while something waits or goes on.

        starts: the buttons that begin something.
        """
        self.table = runs.table
        views = [self.row, self.strip, self.stop, self.timer, self.ids, self.idle, self.table]
        views.append(self.going)
        seen = [self.ids, self.idle]
        gr.on([self.shared.page.load, self.timer.tick], self.on_look, seen, views, **LOOK)
        gr.on([b.click for b in starts], self.on_start, None, [self.timer, self.idle], **LOOK)
        self.stop.click(self.on_stop, self.ids, self.stop, **LOOK)

    @plain_errors
    def on_start(self) -> Views:
        """Begin to look."""
        return {self.timer: gr.Timer(active=True), self.idle: 0}

    @plain_errors
    def on_look(self, ids: list[str], idle: int, request: gr.Request) -> Views:
        """Show how far it is; when it has ended, say so and list it in Runs."""
        found = going_on()
        now = [one.id for one in found]
        views: Views = {self.ids: now}
        if found:
            views |= {
                self.row: gr.update(visible=True),
                self.strip: strip_html(found),
                self.stop: gr.update(visible=found[0].here),
                self.timer: gr.Timer(active=True),
                self.idle: 0,
            }
        elif not ids:
            visit = jobs.visit(request.session_hash)
            waits = any(map(visit.waits, jobs.GO_ON))
            if idle > PATIENCE and not waits:  # the line of what has ended goes, too
                return {self.timer: gr.Timer(active=False), self.row: gr.update(visible=False)}
            return {self.idle: 0 if waits else idle + 1}
        else:
            views |= {
                self.strip: ENDED.format(*_end_of(ids[0])),
                self.stop: gr.update(visible=False),
                self.idle: 0,
            }
        if set(ids) != set(now):
            views |= {self.going: " ".join(now), **self._listed()}
        return views

    @plain_errors
    def on_stop(self, ids: list[str]) -> Views:
        """Stop what is shown."""
        if ids:
            background.stop_ongoing(ids[0])
        return NOTHING

    def _listed(self) -> Views:
        try:
            return {self.table: rows_html(store().runs())}
        except StudioError:
            return {}


def _end_of(id: str) -> tuple[str, str, str]:
    """Return the tab that tells of it itself, how something ended, and where it is kept."""
    if id.startswith(background.TUNE):
        return "tune", "The tune has ended.", "Tune"
    if id.startswith(background.SWEEP):
        return "sweep", "The sweep has ended.", "Sweep"
    try:
        run = store().get(id)
    except StudioError:
        return "", "The comparison has ended.", "4 Runs"
    why = run.verdict if run.status == "finished" else run.sentence
    return "", f"The comparison has ended: {escape(why)}", "4 Runs"
