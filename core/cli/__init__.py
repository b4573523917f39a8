"""Run the verbs of the command line: the studio's work without a browser.

One JSON object goes to standard output, progress goes to standard error. Every verb imports what it
needs when it runs.
"""

from __future__ import annotations

import argparse
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import StudioError
from ..output import note
from .output import report_progress, write_result


def curves(args: argparse.Namespace) -> int:
    """Write curves, proposed boundaries and sparsities of one noise schedule.

    The model's own schedule where a model is given and no other one is asked for.
    """
    from ..curves.guidance_words import own_guidance, rows_words
    from ..curves.plan import STAGES
    from ..curves.report import CurvesAsked, curves_report, proposal_for
    from ..curves.samplers import sampling_timesteps
    from .plan_options import guided
    from .settings import check_steps

    if not math.isfinite(args.variance) or args.variance <= 0:
        raise StudioError(f"--variance must be a positive number, not {args.variance}.")
    check_steps(args.steps)
    asked = CurvesAsked(args.scheduler, args.steps, args.target, args.variance, args.preset)
    schedule, name, scheduler = _schedule(args)
    timesteps = sampling_timesteps(scheduler, args.steps)
    proposal = proposal_for(schedule, timesteps, asked)
    plan = guided(proposal.plan, args.stage_guidance)
    result = curves_report(schedule, name, timesteps, asked, replace(proposal, plan=plan))
    low, high = plan.boundaries
    text = [proposal.rule, f"boundaries {low} and {high}"]
    stages = list(zip(STAGES, result["steps_per_stage"].values(), plan.sparsity, strict=True))
    text += [
        f"{s}: {n} of {len(timesteps)} steps, sparsity {v:.2f}" for s, n, v in reversed(stages)
    ]
    if plan.sets_guidance:
        text.append(f"guidance {own_guidance(plan)}: {rows_words(plan.halves(2))}")
    return write_result(args, result, text)


def _schedule(args: argparse.Namespace) -> tuple[Any, str, Any]:
    """Return the noise schedule of `curves`, the name of its betas, and the sampler on it.

    Of a model only the scheduler is loaded. Raises StudioError.
    """
    from ..curves.noise import NoiseSchedule
    from ..curves.samplers import make_scheduler
    from ..curves.scheduler_tables import SCHEDULERS

    betas = args.beta_start, args.beta_end
    if args.model is None or args.beta_schedule is not None:
        name = args.beta_schedule or "linear"
        return (
            NoiseSchedule.from_betas(name, *betas),
            name,
            make_scheduler(args.scheduler, name, *betas),
        )
    if betas != (None, None):
        raise StudioError(
            "--beta-start and --beta-end change a --beta-schedule: name one, or leave them out to"
            " see the model's own."
        )
    if args.scheduler not in SCHEDULERS:
        raise StudioError(
            f"The scheduler {args.scheduler!r} cannot sample {args.model}; choose one of"
            f" {', '.join(SCHEDULERS)}."
        )
    from ..models.checkpoints import load_scheduler
    from ..workshop.compare import scheduler_like

    own = load_scheduler(args.model, args.revision)
    schedule = NoiseSchedule.from_scheduler(own)
    return schedule, schedule.beta_schedule or schedule.name, scheduler_like(own, args.scheduler)


def prune(args: argparse.Namespace) -> int:
    """Write the subnetworks of a plan: safetensors and a readable manifest."""
    from .prune_verb import prune as run

    return run(args, _workshop)


def compare(args: argparse.Namespace) -> int:
    """Sample the dense model (or --against) and a plan from the same noise, and time both."""
    from .compare_verb import compare as run

    return run(args, _workshop)


def tune(args: argparse.Namespace) -> int:
    """Search for steps, solver and plan with the best pictures within a budget."""
    from .tune_verb import tune as run

    return run(args, _workshop)


def sweep(args: argparse.Namespace) -> int:
    """Compare dense with a plan in every cell of a grid over one or two settings."""
    from .sweep_verb import sweep as run

    return run(args, _workshop)


def bench(args: argparse.Namespace) -> int:
    """Measure ratios of the engine on this machine: all, or the one part that --only names."""
    from ..bench.kept import KeptParts
    from ..bench.suite import Suite, in_order, run_all, run_part
    from ..bench.table import table
    from ..models.bundled import BUNDLED

    if args.seconds is not None and not 0 < args.seconds < math.inf:
        raise StudioError(f"--seconds must be a number above 0, not {args.seconds}.")
    stop = threading.Event()
    suite = Suite(
        args.model or BUNDLED,
        args.device,
        args.revision,
        args.dtype,
        args.quick,
        report_progress,
        stop,
    )
    if args.only is not None:
        result = run_part(args.only, suite)
        return write_result(args, result, table(result))
    settings = {"model": str(suite.model), "dtype": args.dtype, "quick": args.quick}
    kept = KeptParts(Path(args.keep), suite.where, settings) if args.keep else None
    timer = threading.Timer(args.seconds or 0.0, stop.set)
    if args.seconds is not None:
        timer.start()
    try:
        show = None if args.json else _show
        result = run_all(suite, in_order(suite.where), kept, show)
    finally:
        timer.cancel()
    code = write_result(args, result, table(result))
    return 130 if result["stopped"] and args.seconds is None else code


def _show(part: dict[str, Any]) -> None:
    """Print a finished part on standard error, before the whole table is there."""
    from ..bench.table import part_lines

    for line in part_lines(part):
        note(line)


def _workshop(args: argparse.Namespace) -> Any:
    """Load the model that the options name. Raises StudioError."""
    from .settings import open_workshop

    return open_workshop(args)
