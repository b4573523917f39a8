"""Run a sweep and stream its views, from the calibration to the last cell; it outlives its page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from core.errors import Stopped, StudioError
from core.sweep.ahead import measure_speed, time_left
from core.sweep.cells import Grid, grid_of
from core.sweep.engine import CellDone, Report, Sweep, Swept
from core.sweep.kept import KeptSweep, runs_elsewhere
from core.workshop.workshop import Workshop

from .. import background, jobs, tables
from ..background import Ongoing, followed
from ..long_work import progress_html, ticking, to_the_end, told
from ..runs.record import store
from ..text import plural
from ..visitors import sweep_shelf
from .inputs import foreseen, id_of, needs_calibration

Named = dict[str, Any]  # name of a component -> its value, or of "kept" the sweep to show
KEPT = "Every cell that is done is kept, here and under Runs."
STAYS = "Its runs stay in Runs."
GO_ON = "Go on runs what is left."


@dataclass(eq=False)
class OngoingSweep(Ongoing):
    """One sweep that goes on in this process, with what any page may show of it."""

    kind: str = "sweep"
    model_key: str = ""
    sweep: Sweep | None = None

    @property
    def runs(self) -> set[str]:
        """Return its id, and the id of the run of the cell that runs now."""
        cells = [] if self.sweep is None else self.sweep.record.cells
        return {self.id, *(cell.run for cell in cells if cell.state == "running")}


def ongoing(workshop: Workshop) -> OngoingSweep | None:
    """Return the sweep of a model that runs in this process, None where none does."""
    own = [one for one in background.ongoing() if isinstance(one, OngoingSweep)]
    return next((one for one in own if one.model_key == workshop.model_key), None)


def ended_sentence(kept: KeptSweep) -> str:
    """Say how a kept sweep stands, while it does not run."""
    record = kept.record
    done, cells = record.count("done"), plural(len(record.cells), "cell")
    failed, impossible = record.count("failed"), record.count("impossible")
    others = f", {failed} failed" if failed else ""
    others += f", {impossible} cannot be" if impossible else ""
    if kept.left > failed:
        head = "Stopped" if record.stopped else "Not finished"
        return f"{head}: {done} of {cells} done{others}. {KEPT} {GO_ON}"
    again = " Go on tries the failed ones again." if failed else ""
    return f"Done: {done} of {cells}{others}. {KEPT}{again}"


def shelf_words(kept: KeptSweep) -> str:
    """Return what the menu of earlier sweeps says of one."""
    return f"{kept.title}, {kept.record.count('done')} of {plural(len(kept.record.cells), 'cell')}"


def busy_elsewhere(kept: KeptSweep) -> str:
    """Say that another program runs a sweep; nothing where none does. Raises StudioError."""
    if runs_elsewhere(kept, store()):
        return "Another program runs this sweep: stop it there first."
    return ""


class Run:
    """One sweep while it runs: what it is at, and what is in sight."""

    def __init__(self, workshop: Workshop, grid: Grid, one: OngoingSweep):
        self.workshop, self.grid, self.one = workshop, grid, one
        self.shelf, self.store = sweep_shelf(), store()
        self.id = id_of(workshop, grid)
        one.id = f"{background.SWEEP}{self.id}"

    def all_views(self) -> Iterator[Named]:
        """Run; yield the views to the end, whatever the end is."""
        yield from to_the_end(self._views(), self._broken_off, "The sweep")

    def _broken_off(self, job: str) -> Named:
        """Return the views of a sweep that came to no end, with the cells that are done."""
        try:
            return {"job": job, "kept": self.shelf.get(self.id)}
        except StudioError:  # nothing was written yet
            return {"job": job}

    def _views(self) -> Iterator[Named]:
        if self.one.stop.is_set():
            raise Stopped("Stopped before it began.")
        yield from self._prepare()
        folder = self.shelf.folder_of(self.id)
        sweep = Sweep(self.workshop, self.grid, folder, self.store, self.one.stop)
        self.one.sweep = sweep
        yield self._board()

        def body(put: Callable[[Report | CellDone | Swept], None]) -> None:
            for item in sweep.run():
                put(item)

        for item in ticking(body):
            if isinstance(item, Swept):
                kept = self.shelf.get(self.id)
                good = "" if kept.left else "good"
                yield {**self._board(), "job": tables.message(ended_sentence(kept), good)}
                return
            if isinstance(item, CellDone):
                self._tell(item.report)
                yield self._board()
            elif item is not None:
                self._tell(item)
            yield {"job": progress_html(self.one)}

    def _prepare(self) -> Iterator[Named]:
        """Calibrate and time what is not known yet; yield how far that is."""
        found, workshop, stop = foreseen(self.workshop, self.grid), self.workshop, self.one.stop
        if not found.waiting:
            return
        if needs_calibration(workshop, self.grid):
            yield from self._told(
                "Calibrating first, once per model",
                lambda progress: workshop.calibrate(progress, stop),
            )
            # a calibration may know of more that cannot be
            self.grid = grid_of(workshop, self.grid.base, self.grid.x, self.grid.y)
            found = foreseen(workshop, self.grid)
        if found.seconds is None:
            yield from self._told(
                "Measuring this device's speed first, once",
                lambda progress: measure_speed(workshop, self.grid, progress, stop),
            )

    def _told(self, what: str, work: Callable[[jobs.Progress], object]) -> Iterator[Named]:
        for shown in told(self.workshop, self.one, what, work):
            yield {"job": shown}

    def _board(self) -> Named:
        return {"kept": self.shelf.get(self.id)}

    def _tell(self, report: Report) -> None:
        """Tell every page how far the sweep is."""
        inside, share = report.inside, 0.0
        if inside is not None and inside.total:
            share = min(1.0, inside.done / inside.total)
        self.one.done, self.one.total = report.done + share, report.total or 1
        text = jobs.STOPPING if self.one.stop.is_set() else report.text
        counted = f"{report.done} of {plural(report.total, 'cell')}"
        self.one.said = f"{counted}, {time_left(report)}; {text}"


def stream(workshop: Workshop, grid: Grid, stop: threading.Event) -> Iterator[Named]:
    """Run a sweep; yield its views as it goes. It goes on where the reader leaves."""
    title = f"{grid.x.name}" if grid.y is None else f"{grid.x.name} × {grid.y.name}"
    one = OngoingSweep(title, workshop.name, model_key=workshop.model_key)
    return followed(one, Run(workshop, grid, one).all_views, stop)
