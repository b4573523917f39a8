"""Say how long a sweep takes, and time this device first so that it can be said."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..mosaic.modes import PLAIN
from ..words import duration
from ..workshop.adaln_choice import labels_of
from ..workshop.compare import rows_per_image
from ..workshop.workshop import Workshop
from .cells import Grid
from .engine import Report

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


def time_left(report: Report) -> str:
    """Return the time that the waiting cells will take, in words."""
    seconds = report.seconds_left
    if report.done >= report.total:
        return "nothing left to run"
    if seconds is None:
        return "how long it takes is known after the first cell"
    source = "by the pace so far" if report.measured else "predicted, for the denoiser alone"
    return f"about {duration(seconds)} left, {source}"
