"""Two sides from the same noise, watched and timed.

Small sets walk in step first (previews, film strip, warm-up), then are timed in whole runs, A and B
in turn. Large sets are cut into batches that are timed as they are made.
"""

from __future__ import annotations

import copy
import inspect
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..curves.dynamics import SampledCurves, sample_trajectory
from ..curves.plan import STAGES, StagePlan
from ..curves.plan_checks import short
from ..curves.samplers import SCHEDULERS, make_scheduler, sampling_timesteps
from ..errors import Stopped, StudioError
from ..models.devices import DTYPES
from ..models.families import Conditions
from ..models.prompts import cut_prompts
from ..mosaic.precision import in_precision
from ..progress import Progress
from ..sampling.denoise import Denoiser, SamplingStep, batch_seed, decode, start_noise
from ..sampling.metrics import latent_mse, psnr, ssim
from .comparison import BATCH, Comparison, Preview, SampleSettings, Side, pictures, side_name
from .workshop import Workshop

TABULATED = (
    "Both sides took their adaLN vectors from a table made at the first step, whose time is"
    " counted; a stock pipeline works them out step by step."
)
IN_STEP = 64  # up to this many images both sides are shown while they run
FRAMES = 8  # of the film strip
PREVIEWS = 16  # at most so many while a run goes on
# deviation of a picture in [-1, 1] below which it is one colour; a grey step of 8 bits is .008
FLAT = 1e-3
# of a scheduler's configuration
BETAS = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas")


def compare(
    workshop: Workshop,
    plan_a: StagePlan | None,
    plan_b: StagePlan | None,
    settings: SampleSettings,
    stop: threading.Event | None = None,
    previews: bool = True,
) -> Iterator[Preview | Comparison]:
    """Yield `Preview`s while running and the `Comparison` last. A plan of None is the dense model.

    previews: decode unfinished pictures for the `Preview`s and the film strip; without, both have
    none, and the VAE runs on final latents only. Raises StudioError for what cannot be sampled and
    Stopped when `stop` is set before anything was timed.
    """
    workshop.check_settings(settings)
    scheduler = sampler(workshop, settings.scheduler)
    # refuses what it cannot do, before anything long starts
    timesteps = sampling_timesteps(scheduler, settings.steps)
    n, plans = settings.n, tuple(plan and plan.counted(timesteps) for plan in (plan_a, plan_b))
    for plan in plans:
        if workshop.needs_calibration(plan):
            yield Preview("calibrating first (once per model)", 0, 1)
    models = [workshop.dense if p is None else workshop.build(p, None, stop) for p in plans]
    if not _as_loaded(workshop, settings):
        models = in_precision(models, DTYPES[settings.dtype])
    size = n if n <= IN_STEP else BATCH
    if settings.tabulate and (
        why := models[0].no_table(len(timesteps), min(size, n) * settings.halves)
    ):
        raise StudioError(f"{why}: leave the table out.")
    sides = [
        Denoiser(m, scheduler, workshop.schedule, settings.steps, tabulate=settings.tabulate)
        for m in models
    ]
    if cut := cut_prompts(workshop.checkpoint.pipeline, settings.prompts, settings.negative):
        yield Preview(cut, 0, 1)
    if _predictable(workshop, settings):
        yield Preview("measuring this device's speed at four widths", 0, 1)
        workshop.measure_latency(
            min(size, n), settings.halves, stop=stop, shape=workshop.shape_for(settings)
        )
    conditions, noise = (
        workshop.conditions(settings),
        start_noise(n, workshop.shape_for(settings), settings.seed),
    )
    if n <= IN_STEP:
        found = yield from _small(workshop, sides, noise, conditions, settings, stop, previews)
    else:
        found = yield from _large(workshop, sides, noise, conditions, settings, stop)
    found.notes = " ".join(text for text in (cut, found.notes) if text)
    yield _result(workshop, plans, sides, found, settings, min(size, n))


def _as_loaded(workshop: Workshop, settings: SampleSettings) -> bool:
    return settings.dtype is None or DTYPES[settings.dtype] == workshop.dtype


def _predictable(workshop: Workshop, settings: SampleSettings) -> bool:
    """Whether the latency table, of plain forwards as the model was loaded, says what these runs
    will take.
    """
    return _as_loaded(workshop, settings) and not settings.tabulate


def sample_path(
    workshop: Workshop,
    scheduler: str = "DDIM",
    steps: int = 50,
    n: int = 32,
    seed: int = 0,
    guidance: float = 1.5,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> SampledCurves:
    """The sampled twin (b) of the curves: MSE, gradient and SNR along the dense model's own path
    from noise, classes in turn.

    Kept in `workshop.paths_walked` under all of its arguments. Raises StudioError and Stopped.
    """
    key = (scheduler, steps, n, seed, guidance)
    if key in workshop.paths_walked:
        return workshop.paths_walked[key]
    side = Denoiser(workshop.dense, sampler(workshop, scheduler), workshop.schedule, steps)
    states: list[tuple[float, Tensor]] = []

    def note(step: SamplingStep) -> None:
        states.append((max(step.timestep, 0.0), step.noisy))
        if progress is not None:
            progress(
                step.index + 1,
                len(side.timesteps),
                f"sampling {n} latents along the model's own path",
            )

    final, _ = side.run(
        start_noise(n, workshop.latent_shape, seed),
        workshop.some_conditions(n),
        guidance,
        seed,
        stop,
        note,
    )
    workshop.paths_walked[key] = found = sample_trajectory(states, final, seed)
    return found


def sampler(workshop: Workshop, name: str) -> Any:
    """`scheduler_like` of the model's own one. Raises StudioError."""
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise StudioError(
            f"The scheduler {short(name)} cannot sample {workshop.name}; "
            f"choose one of {', '.join(SCHEDULERS)}."
        )
    return scheduler_like(workshop.checkpoint.pipeline.scheduler, name)


def scheduler_like(shipped: Any, name: str) -> Any:
    """The named scheduler of SCHEDULERS as diffusers' `from_config` makes it of a model's own one,
    which itself is given as it is configured.

    Carried over is what the model's configuration says and the named class knows: betas, timestep
    spacing and offset, prediction type and so on. What it does not say is `make_scheduler`'s (no
    clipping). Raises StudioError.
    """
    import diffusers

    cls = getattr(diffusers, SCHEDULERS[name])
    learned = str(shipped.config.get("variance_type", "")).startswith("learned")
    if type(shipped) is cls and not learned:
        return copy.deepcopy(shipped)
    config, known = dict(shipped.config), inspect.signature(cls).parameters
    said = {
        k: v
        for k, v in config.items()
        if k in known and k not in (*config.get("_use_default_values", ()), *BETAS)
    }
    if str(said.get("variance_type", "")).startswith("learned"):
        # the loop takes the noise from a learned-variance model and leaves the variance
        del said["variance_type"]
    if config.get("trained_betas") is not None:
        said["trained_betas"] = config["trained_betas"]
    return make_scheduler(
        name,
        config.get("beta_schedule", "linear"),
        config.get("beta_start"),
        config.get("beta_end"),
        config["num_train_timesteps"],
        **said,
    )


@dataclass
class _Found:
    """Latents, times (timed runs x steps) and film of the two sides."""

    latents: list[Tensor | None]
    times: tuple[list[list[float]], list[list[float]]]
    scale: float = 1.0
    film: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    film_timesteps: list[float] = field(default_factory=list)
    notes: str = ""


def _small(
    workshop: Workshop,
    sides: list[Denoiser],
    noise: Tensor,
    conditions: Conditions,
    settings: SampleSettings,
    stop: threading.Event | None,
    previews: bool,
):
    """Both sides in step for pictures and warm-up, then timed runs in turn."""
    total = len(sides[0].timesteps)
    frames, shown = (
        set(np.linspace(0, total - 1, min(most, total)).round().astype(int).tolist())
        for most in (FRAMES if previews else 0, PREVIEWS)
    )
    found = _Found([None, None], ([], []))
    sessions = [s.session(noise, conditions, settings.guidance, settings.seed) for s in sides]
    for i, (a, b) in enumerate(zip(*sessions, strict=True)):
        decoded = (
            [decode(workshop.vae, step.clean) for step in (a, b)]
            if previews and i in frames | shown
            else []
        )
        if i in frames:
            for film, images in zip(found.film, decoded, strict=True):
                film.append(images)
            found.film_timesteps.append(a.timestep)
        if i in shown:
            stage = b.stage if b.stage >= 0 else a.stage
            where = f", {STAGES[stage]} stage" if stage >= 0 else ""
            text = f"step {i + 1} of {total} (timestep {a.timestep:.0f}{where})"
            yield Preview(
                text,
                i + 1,
                total,
                *map(pictures, decoded),
                step=i,
                timestep=a.timestep,
                stage=stage,
            )
        if stop is not None and stop.is_set():
            raise Stopped(f"Stopped at step {i + 1} of {total}, before anything was timed.")
    found.latents = [step.latents.clone() for step in (a, b)]
    _refuse_broken(found.latents, sides)
    for run in range(settings.repeats):
        yield Preview(
            f"timing run {run + 1} of {settings.repeats}, both sides in turn", run, settings.repeats
        )
        try:
            pair: list[list[float]] = [[], []]
            for k in (0, 1) if run % 2 == 0 else (1, 0):
                pair[k] = sides[k].run(noise, conditions, settings.guidance, settings.seed, stop)[1]
        except Stopped:
            if not found.times[0]:
                raise Stopped("Stopped before a timed run of both sides was complete.") from None
            found.notes = f"Stopped after {run} of {settings.repeats} timed runs."
            break
        for times, seconds in zip(found.times, pair, strict=True):
            times.append(seconds)
    return found


def _large(
    workshop: Workshop,
    sides: list[Denoiser],
    noise: Tensor,
    conditions: Conditions,
    settings: SampleSettings,
    stop: threading.Event | None,
):
    """Batch by batch, which side goes first alternating; every full batch is a timed run."""
    n = len(noise)
    found, latents = _Found([None, None], ([], []), scale=n / BATCH), ([], [])
    for side in sides:  # warm-up: two steps of each
        session = side.session(noise[:BATCH], conditions.rows(slice(BATCH)), settings.guidance)
        next(session), next(session, None)
    batches = -(-n // BATCH)
    for k in range(batches):
        rows = slice(k * BATCH, (k + 1) * BATCH)
        seed = settings.seed if batches == 1 else batch_seed(settings.seed, k)
        for j in (0, 1) if k % 2 == 0 else (1, 0):
            result, seconds = sides[j].run(
                noise[rows], conditions.rows(rows), settings.guidance, seed, stop
            )
            latents[j].append(result)
            if len(noise[rows]) == BATCH:
                found.times[j].append(seconds)
        yield Preview(
            f"batch {k + 1} of {batches}, {min(n, (k + 1) * BATCH)} of {n} images of each side",
            k + 1,
            batches,
        )
    if not found.times[0]:  # 65 to 99 images: the one batch is smaller than BATCH
        found.scale = 1.0
        for run in range(settings.repeats):
            for j in (0, 1) if run % 2 == 0 else (1, 0):
                found.times[j].append(
                    sides[j].run(noise, conditions, settings.guidance, settings.seed, stop)[1]
                )
    found.latents = [torch.cat(x) for x in latents]
    _refuse_broken(found.latents, sides)
    return found


def _refuse_broken(latents: list[Tensor], sides: list[Denoiser]) -> None:
    """Raise StudioError when a side's final latents are not finite:
    there is no picture to compare.
    """
    for side, final in zip(sides, latents, strict=True):
        broken = int((~torch.isfinite(final).flatten(1).all(1)).sum())
        if broken:
            who = side_name(side.model.plan if side.stages[0] >= 0 else None)
            raise StudioError(
                f"{who}: {broken} of {len(final)} final latents are NaN or infinite, so there is"
                " nothing to compare. Try another scheduler or number of steps, fp32 or bf16"
                " instead of fp16, or less sparsity."
            )


def _refuse_broken_pictures(images: Tensor, vae: Any, who: str) -> None:
    """Raise StudioError when finite latents decode to NaN, as SDXL's own VAE does in fp16."""
    broken = int((~torch.isfinite(images).flatten(1).all(1)).sum())
    if broken:
        kind = str(vae.dtype).removeprefix("torch.")
        raise StudioError(
            f"{who}: the VAE turned {broken} of {len(images)} finite latents into NaN (it runs in"
            f" {kind}), so there are no pictures to compare. Load the model in fp32 or bf16."
        )


def _flat(side: Side) -> str:
    """Say how many of a side's pictures are one flat colour, or nothing."""
    flat = int((side.images.flatten(2).std(2) < FLAT).all(1).sum())
    if not flat:
        return ""
    return (
        f"{flat} of {len(side.images)} pictures of {side.name} are one flat colour: its times say"
        " nothing about useful pictures."
    )


def _result(
    workshop: Workshop,
    plans: tuple,
    models: list[Denoiser],
    found: _Found,
    settings: SampleSettings,
    size: int,
) -> Comparison:
    n, sides = settings.n, []
    shape = workshop.shape_for(settings)
    table = (
        workshop.latency(size * settings.halves, shape)
        if _predictable(workshop, settings)
        else None
    )
    for plan, model, latents, times, film in zip(
        plans, models, found.latents, found.times, found.film, strict=True
    ):
        macs = workshop.stage_macs(plan, shape)
        row_macs = [macs[s] for s in model.stages]
        images = decode(workshop.vae, latents)
        _refuse_broken_pictures(images, workshop.vae, side_name(plan))
        side = Side(
            side_name(plan),
            plan,
            latents.float().cpu(),
            images,
            times,
            found.scale,
            model.timesteps,
            model.stages,
            int(sum(row_macs) * settings.halves * n),
            table and [table.at(m) * n / size for m in row_macs],
            film,
            found.film_timesteps,
        )
        judge = workshop.judge
        if judge is not None and judge.knows(images):
            side.fid, side.class_accuracy = (
                judge.fid(images),
                judge.class_accuracy(images, torch.tensor(settings.labels)),
            )
        sides.append(side)
    a, b = sides
    if a.name == b.name:
        a.name, b.name = f"{a.name} (A)", f"{b.name} (B)"
    cast = (
        ""
        if _as_loaded(workshop, settings)
        else f"Both sides ran in {settings.dtype}, cast from the weights as they were loaded."
    )
    said = (cast, TABULATED if settings.tabulate else "", found.notes, _flat(a), _flat(b))
    notes = " ".join(text for text in said if text)
    decibel = psnr(a.images, b.images)
    decibel = decibel[torch.isfinite(decibel)]
    return Comparison(
        a,
        b,
        settings,
        workshop.device_text,
        workshop.name,
        time.strftime("%Y-%m-%d %H:%M"),
        float(decibel.mean()) if len(decibel) else None,
        float(ssim(a.images, b.images).mean()),
        float(latent_mse(a.latents, b.latents).mean()),
        n,
        notes,
    )
