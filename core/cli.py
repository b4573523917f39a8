"""The verbs of the command line: the studio's work without a browser. One JSON object on stdout,
progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from .errors import StudioError
from .files import why_not_written, write_whole
from .output import note, say


def curves(args: argparse.Namespace) -> int:
    """Theory of one noise schedule: curves, proposed boundaries and sparsities. The model's own
    schedule where a model is given and no other one asked for.
    """
    from .curves.dynamics import curves as theory
    from .curves.plan import STAGES
    from .curves.proposals import propose_plan
    from .curves.samplers import sampling_timesteps

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
    return _say(args, result, text)


def _schedule(args: argparse.Namespace) -> tuple[Any, str, Any]:
    """What `curves` is about: the noise schedule, the name of its betas, and the sampler on it. Of
    a model only the scheduler is loaded.
    """
    from .curves.noise import NoiseSchedule
    from .curves.samplers import SCHEDULERS, make_scheduler

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
    from .models.checkpoints import load_scheduler
    from .workshop.compare import scheduler_like

    own = load_scheduler(args.model, args.revision)
    schedule = NoiseSchedule.from_scheduler(own)
    return schedule, schedule.beta_schedule or schedule.name, scheduler_like(own, args.scheduler)


def prune(args: argparse.Namespace) -> int:
    """Write the subnetworks of a plan as `MosaicTransformer.from_pretrained` reads them:
    safetensors and a readable manifest.
    """
    from .curves.plan import STAGES, StagePlan
    from .curves.samplers import sampling_timesteps
    from .mosaic.damping_report import damping_sentence, with_dampings

    plan = StagePlan.load(args.plan)
    _check_steps(args.steps)
    out = _fresh_folder(args.out)
    workshop = _workshop(args)
    timesteps = sampling_timesteps(workshop.checkpoint.pipeline.scheduler, args.steps)
    plan = plan.counted(timesteps)
    if workshop.calibrated or workshop.needs_calibration(
        plan, errors=True
    ):  # one that is there is checked, and mended where it was damaged
        workshop.calibrate(_progress)
        _warn(workshop)
    start = time.perf_counter()
    mosaic = workshop.build(plan, _progress, measured=True)
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
        out, _finite(subnetwork_facts(workshop, mosaic, result)), progress=_progress
    )
    result |= {"out": str(args.out), "files": files}
    text = [
        f"{s.stage}: {s.steps} steps, {s.macs / 1e9:.2f} of {s.macs_dense / 1e9:.2f} GMACs, layer"
        f" error {s.error:.4f}"
        for s in prediction.stages
    ]
    more = damping_sentence(mosaic)
    text += [] if more is None else [more]
    return _say(
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
    from .curves.plan import StagePlan
    from .workshop.compare import compare as run
    from .workshop.comparison import Comparison, Preview, SampleSettings

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
    out = _folder(args.out) if args.out else None
    if workshop.calibrated or any(map(workshop.needs_calibration, (plan, against))):
        workshop.calibrate(_progress)
        _warn(workshop)
    comparison = None
    for item in run(workshop, against, plan, settings, previews=False):
        if isinstance(item, Preview):
            _progress(item.done, item.total, item.text)
        else:
            comparison = item
    assert isinstance(comparison, Comparison)  # `run` ends with one or raises
    result = comparison.to_json()
    if out is not None:
        write_pictures(comparison, out)
        _write_text(out / "result.json", json.dumps(_finite(result), indent=2))
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
    return _say(args, result, text)


def _check_steps(steps: int) -> None:
    """Refuse sampling steps outside the range that holds everywhere. Raises StudioError."""
    from .curves.plan_checks import MAX_STEPS, MIN_STEPS, short

    if steps < MIN_STEPS:
        raise StudioError(f"--steps must be {MIN_STEPS} or more, not {short(steps)}.")
    if steps > MAX_STEPS:
        raise StudioError(f"--steps must be {MAX_STEPS} or fewer, not {short(steps)}.")


def asked(args: argparse.Namespace, workshop: Any, size: tuple[int, int] | None) -> dict[str, Any]:
    """What `compare` paints, as arguments of `SampleSettings`: the prompts in turn for SDXL, else
    the classes in turn. Raises StudioError.
    """
    if not workshop.family.asks_words:
        if args.prompt or args.negative or size:
            raise StudioError(
                f"{workshop.name} paints classes at one size: leave out --prompt, --negative and"
                " --size, which are for SDXL."
            )
        n, classes = 16 if args.images is None else args.images, list(workshop.class_names)
        return {"labels": tuple(classes[i % len(classes)] for i in range(n))}
    if not args.prompt:
        raise StudioError(
            f"{workshop.name} paints from text: give --prompt TEXT, several times for several"
            " prompts."
        )
    n = len(args.prompt) if args.images is None else args.images
    if len(args.prompt) > n:
        raise StudioError(
            f"There are {len(args.prompt)} prompts for --images {n}: ask for at least"
            f" {len(args.prompt)}."
        )
    return {
        "prompts": tuple(args.prompt[i % len(args.prompt)] for i in range(n)),
        "negative": args.negative or "",
        "size": size,
    }


def pixels(text: str) -> tuple[int, int]:
    """ "768x1024" -> (height, width). Raises StudioError."""
    height, cross, width = text.lower().replace("×", "x").partition("x")
    if not (
        cross
        and height.isascii()
        and width.isascii()
        and height.isdigit()
        and width.isdigit()
        and len(text) < 12
    ):
        raise StudioError("--size must be height x width in pixels, such as 768x1024.")
    return int(height), int(width)


def bench(args: argparse.Namespace) -> int:
    """Measured ratios of the engine on this machine: all of them, or the one part that --only
    names.
    """
    from .bench.suite import Suite, run_all, run_part
    from .bench.table import table
    from .models.checkpoints import BUNDLED

    suite = Suite(
        args.model or BUNDLED, args.device, args.revision, args.dtype, args.quick, _progress
    )
    result = run_part(args.only, suite) if args.only is not None else run_all(suite)
    code = _say(args, result, table(result))
    return 130 if result.get("stopped") else code


def subnetwork_facts(workshop: Any, mosaic: Any, report: dict[str, Any]) -> dict[str, Any]:
    """What the manifest of saved subnetworks says beside them: where they come from, damping and
    errors of every layer, and the verb's own report.
    """
    from .mosaic.damping_report import damping_facts

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


def write_pictures(comparison: Any, out: Path) -> None:
    """Grids of the first hundred images of each side, lossless; small ones twice as large."""
    from PIL import Image

    from .workshop.comparison import grid

    for letter, side in (
        ("dense" if comparison.a.plan is None else "against", comparison.a),
        ("mosaic", comparison.b),
    ):
        try:
            small = max(side.images.shape[-2:]) <= 128
            Image.fromarray(
                grid(side.images[:100], min(10, len(side.images)), scale=2 if small else 1)
            ).save(out / f"{letter}.png")
        except OSError as err:
            raise StudioError(
                f"The pictures could not be written to {out}/ ({why_not_written(err)})."
            ) from err


def _workshop(args: argparse.Namespace) -> Any:
    from .models.checkpoints import BUNDLED
    from .workshop.workshop import get_workshop

    return get_workshop(
        args.model or BUNDLED,
        args.device,
        args.revision,
        args.dtype,
        calibration_settings(args),
        data_options(args),
    )


def data_options(args: argparse.Namespace) -> Any:
    """What the command line says about calibration data, as `core.calibration.data.DataOptions`.
    Raises StudioError.
    """
    from .calibration.data import DataOptions

    given = {
        "images": args.calibration_images,
        "count": args.calibration_count,
        "steps": args.calibration_steps,
        "guidance": args.calibration_guidance,
    }
    return DataOptions(
        self_calibrate=args.self_calibrate,
        **{name: value for name, value in given.items() if value is not None},
    )


def _folder(name: str) -> Path:
    """Make a folder that can be written. Raises StudioError."""
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # permissions do not say that a disk is read-only
            pass
    except OSError as err:
        raise StudioError(
            f"The folder {name} cannot be written ({why_not_written(err)}): name another one for"
            " --out."
        ) from err
    return path


def _fresh_folder(name: str) -> Path:
    """Check that a folder is new or empty and that the one above can be written. Raises
    StudioError.
    """
    path = Path(name).absolute()  # "." has no name to write beside
    try:
        path = path.resolve()
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except (OSError, RuntimeError) as err:  # no permission to look, a loop of links
        raise StudioError(
            f"{name} cannot be looked at ({why_not_written(err)}); name another one for --out."
        ) from err
    if taken:
        raise StudioError(f"{name} exists and is not an empty folder; name another one for --out.")
    _folder(str(path.parent) or ".")
    return path


def _write_text(path: Path, text: str) -> None:
    try:
        write_whole(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    except OSError as err:
        raise StudioError(f"{path} could not be written ({why_not_written(err)}).") from err


def _progress(done: int, total: int, text: str) -> None:
    note(f"[{done}/{total}] {text}")


def _warn(workshop: Any) -> None:
    """What is scarce in the calibration, a line each on stderr: seen with --json and without."""
    for warning in workshop.calibration_warnings:
        note(f"app.py: warning: {warning}.")


def _say(args: argparse.Namespace, result: dict[str, Any], text: list[str]) -> int:
    """JSON has no NaN or infinity: they become null."""
    say(json.dumps(_finite(result)) if args.json else "\n".join(text))
    return 0


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def calibration_settings(args: Any) -> Any:
    """The settings that the command line asks for, with edges on 1000 timesteps
    (`CalibrationSettings.on`). Raises StudioError.
    """
    from .calibration.settings import ENOUGH_TOKENS, CalibrationSettings
    from .curves.noise import NUM_TRAIN_TIMESTEPS

    wanted: dict[str, Any] = {}
    if args.bins is not None:
        if not 2 <= args.bins <= 100:
            raise StudioError(f"--bins must lie between 2 and 100, not {args.bins}.")
        wanted["edges"] = tuple(
            round(i * NUM_TRAIN_TIMESTEPS / args.bins) for i in range(args.bins + 1)
        )
    if args.images_per_bin is not None:
        if not 4 <= args.images_per_bin <= 100_000:
            raise StudioError(
                f"--images-per-bin must lie between 4 and 100000, not {args.images_per_bin}."
            )
        wanted |= {"images": args.images_per_bin, "held_out": max(2, args.images_per_bin // 3)}
    if args.tokens_per_column is not None:
        if args.tokens_per_column < ENOUGH_TOKENS:
            raise StudioError(
                f"--tokens-per-column must be {ENOUGH_TOKENS} or more, not"
                f" {args.tokens_per_column}: with fewer too little is measured."
            )
        wanted["token_cap"] = args.tokens_per_column
    if args.damping is not None:
        if not 0 <= args.damping <= 1:
            raise StudioError(f"--damping must lie between 0 and 1, not {args.damping}.")
        wanted["damping"] = args.damping
    if args.weigh is not None:
        wanted["weighting"] = args.weigh
        if args.calibration_guidance is not None:
            wanted["guidance"] = args.calibration_guidance
    return CalibrationSettings(**wanted)
