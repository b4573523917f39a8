"""Run the verbs of the command line: the studio's work without a browser.

One JSON object goes to standard output, progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

from ..errors import StudioError
from .output import (
    finite,
    fresh_folder,
    make_folder,
    report_progress,
    warn_of_scarcity,
    write_pictures,
    write_result,
    write_text,
)


def curves(args: argparse.Namespace) -> int:
    """Theory of one noise schedule: curves, proposed boundaries and sparsities. The model's own
    schedule where a model is given and no other one asked for.
    """
    from ..curves.dynamics import curves as theory
    from ..curves.noise import sampling_timesteps
    from ..curves.plan import STAGES, propose_plan

    if not math.isfinite(args.variance) or args.variance <= 0:
        raise StudioError(f"--variance must be a positive number, not {args.variance}.")
    _check_steps(args.steps)
    schedule, name, scheduler = _schedule(args)
    timesteps = sampling_timesteps(scheduler, args.steps)
    proposal = propose_plan(schedule, args.target, timesteps, variance=args.variance)
    found = theory(schedule, args.variance)
    plan = proposal.plan
    result = {
        "timesteps": [int(t) for t in found.timesteps],
        "mse": found.mse.tolist(),
        "gradient": found.gradient.tolist(),
        "log_snr": found.log_snr.tolist(),
        "score": found.score.tolist(),
        "boundaries": list(plan.boundaries),
        "sparsity": dict(zip(STAGES, plan.sparsity, strict=True)),
        "steps_per_stage": plan.steps_per_stage(timesteps),
        "rule": proposal.rule,
        "threshold": proposal.threshold,
        "lambda": proposal.lam,
        "fallback": proposal.fallback,
        "beta_schedule": name,
        "scheduler": args.scheduler,
        "steps": args.steps,
        "target": args.target,
    }
    low, high = plan.boundaries
    text = [proposal.rule, f"boundaries {low} and {high}"]
    text += [
        f"{s}: {n} of {len(timesteps)} steps, sparsity {v:.2f}"
        for s, n, v in zip(STAGES, result["steps_per_stage"].values(), plan.sparsity, strict=True)
    ]
    return write_result(args, result, text)


def _schedule(args: argparse.Namespace) -> tuple[Any, str, Any]:
    """What `curves` is about: the noise schedule, the name of its betas, and the sampler on it. Of
    a model only the scheduler is loaded.
    """
    from ..curves.noise import SCHEDULERS, NoiseSchedule, make_scheduler

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
    """Write the subnetworks of a plan as `MosaicTransformer.from_pretrained` reads them:
    safetensors and a readable manifest.
    """
    from ..curves.noise import sampling_timesteps
    from ..curves.plan import STAGES, StagePlan
    from ..mosaic.damping_report import damping_sentence, with_dampings

    plan = StagePlan.load(args.plan)
    _check_steps(args.steps)
    out = fresh_folder(args.out)
    workshop = _workshop(args)
    timesteps = sampling_timesteps(workshop.checkpoint.pipeline.scheduler, args.steps)
    plan = plan.counted(timesteps)
    if workshop.calibrated or workshop.needs_calibration(
        plan, errors=True
    ):  # one that is there is checked, and mended where it was damaged
        workshop.calibrate(report_progress)
        warn_of_scarcity(workshop)
    start = time.perf_counter()
    mosaic = workshop.build(plan, report_progress, measured=True)
    seconds = time.perf_counter() - start
    prediction = workshop.predict(plan, timesteps, exact=True)
    layers = with_dampings(workshop.layer_table(plan, exact=True), mosaic)
    result = {
        "plan": plan.to_json(),
        "model": workshop.name,
        "device": workshop.device_text,
        "calibration": workshop.calibration_text,
        "macs": {
            s.stage: {"steps": s.steps, "dense": s.macs_dense, "pruned": s.macs}
            for s in prediction.stages
        },
        "macs_unit": (
            f"one image, {args.steps} steps, both guidance halves, linear and convolution layers"
        ),
        "speedup_macs": prediction.speedup_macs,
        "error": {s.stage: s.error for s in prediction.stages},
        "error_held_out": {s.stage: s.error_held_out for s in prediction.stages},
        "layers": layers,
        "seconds": seconds,
    }
    files = mosaic.save_pretrained(
        out, finite(subnetwork_facts(workshop, mosaic, result)), progress=report_progress
    )
    result |= {"out": str(args.out), "files": files}
    text = [
        f"{s.stage}: {s.steps} steps, {s.macs / 1e9:.2f} of {s.macs_dense / 1e9:.2f} GMACs, layer"
        f" error {s.error:.4f}"
        for s in prediction.stages
    ]
    more = damping_sentence(mosaic)
    text += [] if more is None else [more]
    return write_result(
        args,
        result,
        [
            *text,
            (
                f"×{prediction.speedup_macs:.2f} fewer MACs over the whole run; {len(STAGES)}"
                f" subnetworks in {args.out}"
            ),
        ],
    )


def compare(args: argparse.Namespace) -> int:
    """Dense (or --against) and a plan from the same noise."""
    from ..curves.plan import StagePlan
    from ..workshop.compare import compare as run
    from ..workshop.comparison import Comparison, Preview, SampleSettings
    from .settings import asked, pixels

    plan = StagePlan.load(args.plan)
    against = StagePlan.load(args.against) if args.against else None
    if args.images is not None and not 1 <= args.images <= 10_000:
        raise StudioError(f"--images must lie between 1 and 10000, not {args.images}.")
    _check_steps(args.steps)
    size = None if args.size is None else pixels(args.size)
    workshop = _workshop(args)
    settings = SampleSettings(
        **asked(args, workshop, size),
        steps=args.steps,
        guidance=workshop.family.guidance if args.guidance is None else args.guidance,
        seed=args.seed,
        scheduler=args.scheduler,
        repeats=args.repeats,
        tabulate=args.tabulate,
    )
    workshop.check_settings(settings)
    out = make_folder(args.out) if args.out else None
    if workshop.calibrated or any(map(workshop.needs_calibration, (plan, against))):
        workshop.calibrate(report_progress)
        warn_of_scarcity(workshop)
    comparison = None
    for item in run(workshop, against, plan, settings, previews=False):
        if isinstance(item, Preview):
            report_progress(item.done, item.total, item.text)
        else:
            comparison = item
    assert isinstance(comparison, Comparison)  # `run` ends with one or raises
    result = comparison.to_json()
    if out is not None:
        write_pictures(comparison, out)
        write_text(out / "result.json", json.dumps(finite(result), indent=2))
    fid = (
        f", FID {comparison.a.fid:.2f} -> {comparison.b.fid:.2f}"
        if comparison.b.fid is not None
        else ""
    )
    said = [comparison.verdict, comparison.notes] if comparison.notes else [comparison.verdict]
    text = [
        *said,
        (
            f"latent MSE {comparison.latent_mse:.4f}, SSIM {comparison.ssim:.3f}{fid} (n ="
            f" {comparison.n}, {comparison.device})"
        ),
    ]
    return write_result(args, result, text)


def bench(args: argparse.Namespace) -> int:
    """Measured ratios of the engine on this machine: all of them, or the one part that --only
    names.
    """
    from ..bench.suite import Suite, run_all, run_part
    from ..bench.table import table
    from ..models.checkpoints import BUNDLED

    suite = Suite(
        args.model or BUNDLED, args.device, args.revision, args.dtype, args.quick, report_progress
    )
    result = run_part(args.only, suite) if args.only is not None else run_all(suite)
    code = write_result(args, result, table(result))
    return 130 if result.get("stopped") else code


def _check_steps(steps: int) -> None:
    """Refuse sampling steps outside the range that holds everywhere. Raises StudioError."""
    from ..curves.plan_checks import MAX_STEPS, MIN_STEPS, short

    if steps < MIN_STEPS:
        raise StudioError(f"--steps must be {MIN_STEPS} or more, not {short(steps)}.")
    if steps > MAX_STEPS:
        raise StudioError(f"--steps must be {MAX_STEPS} or fewer, not {short(steps)}.")


def _workshop(args: argparse.Namespace) -> Any:
    from ..models.checkpoints import BUNDLED
    from ..workshop.workshop import get_workshop
    from .settings import calibration_settings, data_options

    return get_workshop(
        args.model or BUNDLED,
        args.device,
        args.revision,
        args.dtype,
        calibration_settings(args),
        data_options(args),
    )


def subnetwork_facts(workshop: Any, mosaic: Any, report: dict[str, Any]) -> dict[str, Any]:
    """What the manifest of saved subnetworks says beside them: where they come from, damping and
    errors of every layer, and the verb's own report.
    """
    from ..mosaic.damping_report import damping_facts

    damping = (
        damping_facts(mosaic, workshop.orders)
        if mosaic.plan.method == "obs" and workshop.calibrated
        else None
    )
    errors: dict[str, dict[str, Any]] = {}
    for row in report["layers"]:
        errors.setdefault(row["stage"], {})[row["layer"]] = {
            "calibration": row["error"],
            "held_out": row["error_held_out"],
        }
    calibration = {"hash": workshop.key, "text": workshop.calibration_text}
    return {
        "model": workshop.name,
        "calibration": calibration,
        "damping": damping,
        "errors": errors,
        "report": report,
    }
