"""Run a grid of comparisons from the command line."""

from __future__ import annotations

import argparse
import math
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..curves.proposals import propose_plan
from ..errors import StudioError
from ..models.bundled import BUNDLED, bundled_name
from ..models.checkpoints import local_folder
from ..runs.store import RunStore
from ..sweep.ahead import measure_speed, time_left
from ..sweep.axes import check_axes, parse_axis
from ..sweep.cells import Base, grid_of
from ..sweep.engine import CellDone, Report, Sweep, Swept
from ..sweep.metrics import METRICS
from ..sweep.remote import ModelSource, ray_module, run_on_ray
from ..workshop.compare import visited
from ..workshop.workshop import Workshop
from .output import make_folder, report_progress, write_result
from .plan_options import guided, named_plan
from .settings import (
    calibrate_for,
    calibration_settings,
    checked_size,
    data_options,
    run_settings,
)
from .stopping import stopped_by_interrupt

OpenWorkshop = Callable[[argparse.Namespace], Workshop]


def sweep(args: argparse.Namespace, open_workshop: OpenWorkshop) -> int:
    """Compare dense with a plan in every cell of a grid over one or two settings."""
    x = parse_axis(args.x)
    y = None if args.y is None else parse_axis(args.y)
    check_axes(x, y)
    if args.seconds is not None and not 0 < args.seconds < math.inf:
        raise StudioError(f"--seconds must be a number above 0, not {args.seconds}.")
    if args.ray is not None:
        ray_module()  # a refusal before anything is loaded
    size = checked_size(args)
    named = named_plan(args) if args.plan else None
    workshop = open_workshop(args)
    settings = run_settings(args, workshop, size)
    if named is None:
        timesteps = visited(workshop, settings.scheduler, settings.steps)
        named = guided(
            propose_plan(workshop.schedule, timesteps=timesteps).plan, args.stage_guidance
        )
    base = Base(named, settings)
    grid = grid_of(workshop, base, x, y)
    out = make_folder(args.out)
    calibrate_for(workshop, (cell.plan for cell in grid.possible))
    grid = grid_of(workshop, base, x, y)  # a calibration may know of more that cannot be
    stop = threading.Event()
    with stopped_by_interrupt(stop):
        measure_speed(workshop, grid, report_progress, stop)
        job = Sweep(workshop, grid, out, RunStore(), stop, args.seconds)
        found = _run(_steps(job, args))
    code = write_result(args, found.record, _text(found, args.out))
    return 130 if stop.is_set() else code


def _steps(job: Sweep, args: argparse.Namespace) -> Iterable[Report | CellDone | Swept]:
    """Return what happens in a sweep, here or on the cluster of --ray. Raises StudioError."""
    if args.ray is None:
        return job.run()
    source = ModelSource(
        model=_elsewhere(args.model or BUNDLED),
        device=args.device,
        revision=args.revision,
        dtype=args.dtype,
        calibration=calibration_settings(args),
        data=data_options(args),
    )
    return run_on_ray(job, source, args.ray)


def _elsewhere(model: str | Path) -> str:
    """Return a model as another machine finds it: a bundled name, a hub id, else a whole path."""
    folder = local_folder(model)
    return str(model) if folder is None else bundled_name(folder) or str(folder.resolve())


def _run(steps: Iterable[Report | CellDone | Swept]) -> Swept:
    """Run a sweep to its end, with a line per cell on standard error."""
    found: Swept | None = None
    for item in steps:
        if isinstance(item, Swept):
            found = item
        elif isinstance(item, CellDone):
            _say(item.report)
        elif item.inside is None:
            _say(item)
    assert found is not None  # a sweep ends with one, or raises
    return found


def _say(report: Report) -> None:
    """Write how far a sweep is, and how long the rest will take."""
    report_progress(report.done, report.total, f"{report.text}; {time_left(report)}")


def _text(found: Swept, out: str) -> list[str]:
    """Return the lines that sum a sweep up: a table of the cells, and where the files are."""
    record: dict[str, Any] = found.record
    asked = record["asked"]
    names = [axis["name"] for axis in (asked["x"], asked["y"]) if axis is not None]
    lines = []
    for cell in record["cells"]:
        place = ", ".join(
            f"{name} {'own' if value is None else value}"
            for name, value in zip(names, (cell["x"], cell["y"]), strict=False)
        )
        numbers = cell["numbers"]
        said = cell["sentence"] or cell["state"]
        if cell["state"] == "done":
            known = [(m.words, m.text(numbers)) for m in METRICS]
            said = ", ".join(f"{words} {text}" for words, text in known if text)
        lines.append(f"{place}: {said}")
    counts = record["counts"]
    lines.append(
        f"{counts['done']} of {len(record['cells'])} cells done (n = {record['n']}, seed"
        f" {record['seed']}, {record['device']}); {', '.join(found.files)} in {out}/"
    )
    if found.stopped:
        lines.append("Stopped: the same command goes on from what is done.")
    return lines
