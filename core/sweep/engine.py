"""Run the cells of a sweep, one after the other, and say how long the rest will take.

The dense pictures of equal steps, solver, guidance and mode are drawn once and serve all their
cells. Times are taken in turn with dense in every cell all the same: a ratio of times from two
different minutes would not be an honest one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutOfMemory, Stopped, StudioError, out_of_memory
from ..runs.processes import has_ended, process_mark
from ..runs.run import Run
from ..runs.store import RunStore
from ..words import percent
from ..workshop.compare import compare
from ..workshop.comparison import Comparison, Preview, side_name
from ..workshop.drawing import draw_reference
from ..workshop.reference import Reference
from ..workshop.workshop import Workshop
from .cells import Cell, Grid, denoiser_seconds, shared_seconds
from .record import PICTURES, CellRecord, SweepRecord, numbers_of, question
from .results import write_results

MAX_SAID = 300  # characters of an error that nobody foresaw


@dataclass(frozen=True)
class Report:
    """How far a sweep is. `inside` is what the running cell shows."""

    text: str
    done: int  # cells that need nothing more
    total: int  # cells that can run
    seconds_left: float | None  # None: nothing was timed here yet
    measured: bool  # the time left follows from the pace of this sweep, not from a prediction
    inside: Preview | None = None


@dataclass(frozen=True)
class CellDone:
    """A cell that has just run, or failed, with its picture."""

    cell: Cell
    record: CellRecord
    picture: bytes | None  # PNG of its first pictures
    report: Report


@dataclass(frozen=True)
class Swept:
    """The end of a sweep: everything that is known, and whether cells are left to run."""

    record: dict[str, Any]
    stopped: bool
    files: tuple[str, ...]  # written in the folder


class Sweep:
    """One sweep in a folder. `run` yields what happens; the same question goes on in it.

    seconds: after so many no new cell begins. stop: ends the running cell, too, which is not kept.
    Raises StudioError for a folder that cannot be used or holds another sweep.
    """

    def __init__(
        self,
        workshop: Workshop,
        grid: Grid,
        folder: Path,
        store: RunStore,
        stop: threading.Event | None = None,
        seconds: float | None = None,
    ):
        self.workshop, self.grid, self.store = workshop, grid, store
        self.stop = threading.Event() if stop is None else stop
        self.side_by_side = 1  # cells that run at the same time
        self.until = None if seconds is None else time.monotonic() + seconds
        facts = {
            "model": workshop.name,
            "device": workshop.device_text,
            "n": grid.base.settings.n,
            "seed": grid.base.settings.seed,
        }
        self.record = SweepRecord(folder, question(workshop, grid), grid, facts)
        self._adopt()
        self._reference: Reference | StudioError | None = None
        self._of: object = None  # settings of `_reference`
        self._predicted: dict[int, float | None] = {}

    # ------------------------------------------------------------ what was begun before

    def _adopt(self) -> None:
        """Take over cells whose run was kept just before a kill. Raises StudioError.

        Refused where another process that lives runs this sweep.
        """
        for index, cell in enumerate(self.record.cells):
            if cell.state != "running":
                continue
            try:
                run = self.store.get(cell.run)
            except StudioError:  # deleted, or another data folder
                self.record.change(index, state="waiting", run="")
                continue
            if run.timed_runs is not None and run.status == "finished":
                self._kept(index, run, None)
                continue
            if run.status == "running" and run.process != process_mark():
                if has_ended(run.process) is False:
                    raise StudioError(
                        f"Another process runs the sweep in {self.record.folder}/: stop it first,"
                        " or give another folder."
                    )
            self._drop(run.id)
            self.record.change(index, state="waiting", run="")

    def _drop(self, id: str) -> None:
        """Leave nothing of a run that came to no end: the cell runs again under a new id."""
        with suppress(StudioError):
            self.store.end(id, "stopped", "The sweep was stopped.")
            self.store.delete([id])

    def _kept(self, index: int, run: Run, took: float | None) -> CellRecord:
        """Record that a cell's run is kept, with its pictures in the folder of the sweep."""
        picture, dense = f"{PICTURES}/cell-{index:03d}.png", self._dense_name(index)
        for name, side in ((picture, "b"), (dense, "a")):
            data = self.store.thumbnail(run.id, side)
            if data is not None and (side == "b" or self.record.picture(name) is None):
                self.record.write_file(name, data)
        return self.record.change(
            index,
            state="done",
            sentence="",
            run=run.id,
            picture=picture,
            dense=dense,
            took=took,
            numbers=numbers_of(run),
        )

    def _dense_name(self, index: int) -> str:
        """Return the file of the dense pictures that a cell is compared with."""
        own = self.grid.cells[index].reference
        first = next(cell.index for cell in self.grid.cells if cell.reference == own)
        return f"{PICTURES}/dense-{first:03d}.png"

    # ------------------------------------------------------------ time

    @property
    def waiting(self) -> list[Cell]:
        """Return the cells that still have to run, in the order in which they will."""
        return [cell for cell in self.grid.possible if self.record.cells[cell.index].open]

    def predicted(self, cell: Cell) -> float | None:
        """Return the predicted seconds of a cell's denoiser, or None; worked out once."""
        if cell.index not in self._predicted:
            self._predicted[cell.index] = denoiser_seconds(self.workshop, cell)
        return self._predicted[cell.index]

    def seconds_left(self) -> tuple[float | None, bool]:
        """Return the seconds that the waiting cells will take, and whether by measured pace.

        Predicted before the first cell is done; then scaled by what the done cells took.
        """
        left = [self.predicted(cell) for cell in self.waiting]
        done = [
            (one.took, self.predicted(cell))
            for cell, one in zip(self.grid.cells, self.record.cells, strict=True)
            if one.state == "done" and one.took is not None
        ]
        took = sum(seconds for seconds, _ in done)
        known = [p for p in left if p is not None]
        said = [p for _, p in done if p is not None]
        if done and len(known) == len(left) and len(said) == len(done) and sum(said) > 0:
            beside = (took - sum(said)) / len(done)  # building, decoding, scores: as long per cell
            if beside > 0:
                return sum(known) + beside * len(left), True
            return took / sum(said) * sum(known), True
        if done:
            return took / len(done) * len(left), True
        if len(known) < len(left):
            return None, False
        return sum(known) + shared_seconds(self.workshop, self.waiting), False

    def _report(self, text: str, inside: Preview | None = None) -> Report:
        """Return how far the sweep is."""
        left, measured = self.seconds_left()
        if left is not None:
            left /= min(self.side_by_side, max(1, len(self.waiting)))
        total = len(self.grid.possible)
        return Report(text, total - len(self.waiting), total, left, measured, inside)

    # ------------------------------------------------------------ the run

    def run(self) -> Iterator[Report | CellDone | Swept]:
        """Yield a report, every cell as it ends, and the end last.

        Stop, and the end of the time, keep what is done. Raises StudioError where a result cannot
        be kept.
        """
        yield self.opening()
        for cell in self.waiting:
            if self.enough:
                break
            try:
                yield from self._one(cell)
            except Stopped:
                break
        yield self.end()

    def end(self) -> Swept:
        """Write the results of what is done, and return them. Raises StudioError."""
        self.record.stopped = bool(self.waiting) and self.enough
        self.record.write()
        files = write_results(self.record, self.grid)
        return Swept(self.record.to_json(), self.record.stopped, files)

    @property
    def enough(self) -> bool:
        """Say whether no further cell may begin."""
        late = self.until is not None and time.monotonic() >= self.until
        return late or self.stop.is_set()

    def opening(self) -> Report:
        """Return what a sweep says before it starts: its cells, and the time they will take."""
        cells, left = len(self.grid.cells), len(self.waiting)
        parts = [f"{left} of {cells} cells to run"]
        if self.record.count("impossible"):
            parts.append(f"{self.record.count('impossible')} cannot be")
        if self.record.count("done"):
            parts.append(f"{self.record.count('done')} are done")
        return self._report(", ".join(parts))

    def _one(self, cell: Cell) -> Iterator[Report | CellDone]:
        """Run one cell and keep it. Raises Stopped, and StudioError where it cannot be kept."""
        start = time.monotonic()
        title = self.grid.title(cell)
        run = self.store.begin(
            (None, cell.plan),
            (side_name(None), side_name(cell.plan)),
            cell.settings,
            model=self.workshop.name,
            model_key=self.workshop.model_key,
            device=self.workshop.device_text,
        )
        self.record.change(cell.index, state="running", run=run.id, predicted=self.predicted(cell))
        self.store.rename(run.id, name_of(title))
        try:
            found: Comparison | None = None
            for item in self._drawn(cell):
                if isinstance(item, Preview):
                    yield self._report(f"{title}: {item.text}", item)
                else:
                    found = item
            assert found is not None  # `compare` ends with one, or raises
        except Stopped:
            self._drop(run.id)
            self.record.change(cell.index, state="waiting", run="")
            raise
        except GeneratorExit:  # the page has gone
            self._drop(run.id)
            self.record.change(cell.index, state="waiting", run="")
            raise
        except Exception as err:
            yield self.failed(cell, sentence_of(err), run.id)
            return
        kept = self.store.finish(run.id, found)
        one = self._kept(cell.index, kept, time.monotonic() - start)
        yield self.done(cell, one)

    def done(self, cell: Cell, one: CellRecord) -> CellDone:
        """Return a cell that has just been kept, with its picture."""
        report = self._report(f"{self.grid.title(cell)}: {words_of(one)}")
        return CellDone(cell, one, self.record.picture(one.picture), report)

    def failed(self, cell: Cell, sentence: str, run: str = "") -> CellDone:
        """Mark a cell that failed, with its sentence; its run is kept as failed."""
        if run:
            self.store.end(run, "failed", sentence)
        one = self.record.change(cell.index, state="failed", sentence=sentence, run=run)
        return CellDone(
            cell, one, None, self._report(f"{self.grid.title(cell)} failed: {sentence}")
        )

    def keep(self, cell: Cell, found: Comparison, took: float) -> CellDone:
        """Keep what another machine found for a cell. Raises StudioError."""
        name = name_of(self.grid.title(cell))
        run = self.store.add(found, self.workshop.model_key, name=name)
        return self.done(cell, self._kept(cell.index, run, took))

    def _drawn(self, cell: Cell) -> Iterator[Preview | Comparison]:
        """Yield what a cell shows as it runs, and its comparison last. Raises Stopped."""
        reference = None
        if cell.shares_pictures:
            yield Preview("drawing dense", 0, 1)
            reference = self._shared(cell)
        for item in compare(
            self.workshop,
            None,
            cell.plan,
            cell.settings,
            self.stop,
            previews=False,
            reference=reference,
        ):
            if isinstance(item, Comparison) and self.stop.is_set():
                raise Stopped("Stopped while a cell was timed.")  # fewer timed runs than asked for
            yield item

    def _shared(self, cell: Cell) -> Reference:
        """Return the dense pictures of a cell, drawn once. Raises Stopped, StudioError.

        Only the latest are held: cells that share pictures run one after the other.
        """
        if self._of != cell.reference:
            self._reference = None
            try:
                self._reference = draw_reference(self.workshop, cell.reference, self.stop)
            except StudioError as err:  # all cells of these pictures fail alike
                self._reference = err
            self._of = cell.reference
        if isinstance(self._reference, StudioError):
            raise self._reference
        assert self._reference is not None  # drawn above
        return self._reference


def sentence_of(error: Exception) -> str:
    """Return why a cell failed, in a sentence."""
    if isinstance(error, StudioError):
        return str(error)
    if out_of_memory(error):
        return str(OutOfMemory.instead_of(error))
    said = " ".join(str(error).split())[:MAX_SAID]
    return f"This cell ended in an error that nobody foresaw ({type(error).__name__}: {said})."


def name_of(title: str) -> str:
    """Return the name of a cell's run; what tells it from its neighbours comes first."""
    return f"{title[:190]} (sweep)"


def words_of(one: CellRecord) -> str:
    """Return the main numbers of a cell in a line."""
    numbers = one.numbers
    parts = [f"{percent(numbers['macs_saved'])} of the MACs saved"]
    measured, spread = numbers["speedup_measured"], numbers["speedup_spread"]
    if measured is not None:
        parts.append(
            f"×{measured:.2f}{' (1 round)' if spread is None else f' ± {spread:.2f}'} measured"
        )
    if numbers["psnr"] is not None:
        parts.append(f"PSNR {numbers['psnr']:.1f} dB")
    return ", ".join([*parts, f"n = {numbers['n']}"])
