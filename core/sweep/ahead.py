"""Say how long a sweep takes, and time this device first so that it can be said."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterable

from ..mosaic.modes import PLAIN
from ..words import duration
from ..workshop.adaln_choice import labels_of
from ..workshop.compare import rows_per_image
from ..workshop.workshop import Workshop
from .cells import Grid
from .engine import Report
from .record import SweepRecord

MOST_CELLS = 60  # that `beside_denoiser` reads
NOT_IN_IT = "building networks, decoding and scores come on top"
Progress = Callable[[int, int, str], None]  # done, total, words


def measure_speed(
    workshop: Workshop, grid: Grid, progress: Progress, stop: threading.Event
) -> None:
    """Time the forwards that the cells of a sweep are predicted from, each once per device.

    Raises Stopped.
    """
    settings = grid.base.settings
    at_once = min(settings.n, settings.batch)
    shape = workshop.shape_for(settings)
    tabulated = {labels_of(cell.settings) is not None for cell in grid.possible}
    rows = {row for cell in grid.possible for row in rows_per_image(cell.plan, cell.settings)}
    for halves in sorted(rows):
        for table in sorted(tabulated):
            workshop.measure_latency(at_once, halves, progress, stop, shape, PLAIN, tabulated=table)


def beside_denoiser(records: Iterable[SweepRecord], device: str) -> float | None:
    """Return the seconds that a cell took beside its predicted denoiser; None where none is known.

    That is building networks, decoding pictures and scoring them: the median over cells of sweeps
    on the same device, MOST_CELLS at most, and never less than nothing.
    """
    beside: list[float] = []
    for record in records:
        if record.facts["device"] != device:
            continue
        beside += [
            cell.took - cell.predicted
            for cell in record.cells
            if cell.state == "done" and cell.took is not None and cell.predicted is not None
        ]
        if len(beside) >= MOST_CELLS:
            break
    return max(0.0, statistics.median(beside)) if beside else None


def time_left(report: Report) -> str:
    """Return the time that the waiting cells will take, in words."""
    seconds = report.seconds_left
    if report.done >= report.total:
        return "nothing left to run"
    if seconds is None:
        return "how long it takes is known after the first cell"
    if report.measured:
        return f"about {duration(seconds)} left, by the pace so far"
    return f"about {duration(seconds)} of the denoiser left, predicted; {NOT_IN_IT}"
