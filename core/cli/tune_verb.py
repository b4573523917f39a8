"""Find a plan for a budget from the command line."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import Stopped
from ..mosaic.modes import check_runs
from ..output import finite, note
from ..tuner.configuration import Configuration
from ..tuner.found import Report, Tuned
from ..tuner.goal import Effort, Goal, checked_fixed
from ..tuner.quality import usual_quality
from ..tuner.record import Evaluation
from ..tuner.report import as_plan, tune_report
from ..tuner.search import Tune
from ..tuner.space import Space
from ..words import percent
from ..workshop.workshop import Workshop
from .output import report_progress, warn_of_scarcity, write_result, write_text
from .stopping import stopped_by_interrupt

OpenWorkshop = Callable[[argparse.Namespace], Workshop]


def tune(args: argparse.Namespace, open_workshop: OpenWorkshop) -> int:
    """Search for steps, solver and plan with the best pictures within a budget."""
    goal = Goal(
        speedup=args.speedup,
        run_seconds=args.run_seconds,
        match_dense=args.match_dense,
        cost=args.cost,
    )
    effort = Effort(
        seconds=args.seconds,
        evaluations=args.evaluations,
        images=args.images,
        held_out=args.held_out,
        seed=args.seed,
    )
    workshop = open_workshop(args)
    checked_fixed(args.steps, args.scheduler, len(workshop.schedule))
    mode = check_runs(args.mode, workshop.device)
    calibrating = _prepared(workshop, mode)
    guidance = workshop.guidance if args.guidance is None else args.guidance
    steps = 50 if args.steps is None else args.steps
    reference = Configuration(None, args.scheduler or "DDIM", steps, guidance, label="dense")
    quality = usual_quality(workshop, reference, args.quality, args.encoder)
    space = Space(
        workshop,
        reference,
        cost=goal.counts,
        steps=args.steps,
        scheduler=args.scheduler,
        moves=quality.moves,
        batch=workshop.usual_images,
        mode=mode,
    )
    stop = threading.Event()
    search = Tune(workshop, goal, space, quality, effort, Path(args.out), stop)
    try:
        with stopped_by_interrupt(stop):
            found = _run(search)
    except Stopped as end:
        note(f"app.py: {end} What was evaluated is kept in {args.out}.")
        return 130
    result = tune_report(workshop, found, space.batch)
    result |= {"seconds_calibration": calibrating, "mode": mode}
    write_text(Path(args.out) / "result.json", json.dumps(finite(result), indent=2) + "\n")
    write_text(Path(args.out) / "plan.json", as_plan(workshop, found.best).dumps())
    return write_result(args, result, _text(found, args.out))


def _prepared(workshop: Workshop, mode: str) -> float:
    """Calibrate and time what is not known yet; return the seconds that this took."""
    start = time.perf_counter()
    workshop.calibrate(report_progress)
    warn_of_scarcity(workshop.calibration_warnings)
    for halves in (2, 1):
        workshop.measure_latency(workshop.usual_images, halves, report_progress, mode=mode)
    return time.perf_counter() - start


def _run(search: Tune) -> Tuned:
    """Run a search to its end, or to Ctrl-C, which keeps the best so far."""
    found: Tuned | None = None
    for item in search.run():
        if isinstance(item, Report):
            report_progress(item.done, item.total, item.text)
        else:
            found = item
    assert found is not None  # `run` ends with one, or raises
    return found


def _text(found: Tuned, out: str) -> list[str]:
    """Return the lines that sum a tune up."""
    best, reference = found.best, found.reference
    lines = [
        f"{best.configuration.text}: {percent(1 - 1 / found.speedup_macs)} fewer MACs than"
        f" {reference.configuration.text}",
        f"{found.quality}: {best.quality:.2f} against {reference.quality:.2f}, n = {best.n}, one"
        f" seed{_held_out(best)}",
        f"{len(found.front)} configurations on the front of {len(found.evaluations)}; plan in"
        f" {out}/plan.json",
    ]
    if found.speedup is not None:
        middle, around = found.speedup
        lines.insert(1, f"measured ×{middle:.2f} ± {around:.2f} as fast, whole runs in turn")
    return [*lines, *found.notes]


def _held_out(one: Evaluation) -> str:
    """Return what held-out noises say, in words."""
    return "" if one.held_out is None else f"; {one.held_out:.2f} on held-out noises"
