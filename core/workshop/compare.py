"""Compare two sides from the same noise: pictures, times and distances.

Small sets run step by step first (previews, film strip, warm-up), then whole runs are timed, A and
B in turn. Large sets are cut into batches that are timed as they are made.
"""

from __future__ import annotations

import copy
import inspect
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..curves.dynamics import SampledCurves, sample_trajectory
from ..curves.plan import StagePlan
from ..curves.plan_checks import short
from ..curves.samplers import make_scheduler, sampling_timesteps
from ..curves.scheduler_tables import SCHEDULERS
from ..errors import StudioError
from ..models.devices import DTYPES
from ..models.prompts import cut_prompts
from ..mosaic.modes import PLAIN, WORDS, check_runs
from ..mosaic.precision import in_precision
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..sampling.denoise import Denoiser, SamplingStep, start_noise
from ..sampling.metrics import latent_mse, psnr, ssim
from .adaln_choice import as_it_runs, labels_of
from .circumstances import circumstances
from .comparison import Comparison, Preview, Side, side_name
from .paired_runs import Pair, PairedRuns, run_in_batches, run_in_step
from .preparing import mode_note, prepare, seconds_prepared
from .reference import Reference, judged_pictures
from .sample_settings import SampleSettings
from .workshop import Workshop

VISITED_KEPT = 128  # runs whose timesteps are kept
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
    skip: threading.Event | None = None,
    reference: Reference | None = None,
) -> Iterator[Preview | Comparison]:
    """Yield `Preview`s while running and the `Comparison` last. A plan of None is the dense model.

    The pictures come first: a `Preview` carries them, finished and judged, before they are timed.
    skip: set to end the timing early; what was timed by then counts.

    previews: decode unfinished pictures for the `Preview`s and the film strip; without, both have
    none, and the VAE runs on final latents only. Raises StudioError for what cannot be sampled and
    Stopped when `stop` is set before anything was timed.

    reference: the dense side's pictures, drawn before (`core.workshop.drawing.draw_reference`);
    there are no previews then. Both sides are timed in turn all the same.
    """
    if reference is not None:
        reference.check(plan_a, settings)
    workshop.check_settings(settings)
    check_runs(settings.mode, workshop.device)
    scheduler = sampler(workshop, settings.scheduler)
    # refuses what it cannot do, before anything long starts
    timesteps = [sampling_timesteps(scheduler, settings.steps_of(k)) for k in (0, 1)]
    plans = [
        plan and workshop.built(plan.counted(own))
        for plan, own in zip((plan_a, plan_b), timesteps, strict=True)
    ]
    for plan in plans:
        if workshop.needs_calibration(plan):
            yield Preview("calibrating first (once per model)", 0, 1)
    models = [workshop.dense if p is None else workshop.build(p, None, stop) for p in plans]
    models = as_asked(workshop, models, settings)
    before = seconds_prepared(models)
    n, batch = settings.n, settings.batch
    at_once = min(n, batch)
    settings, no_table = as_it_runs(models[0], settings, timesteps)
    sides = [
        Denoiser(m, scheduler, workshop.schedule, settings.steps_of(k), tabulate=settings.tabulate)
        for k, m in enumerate(models)
    ]
    cut = cut_prompts(workshop.checkpoint.pipeline, settings.prompts, settings.negative)
    if cut:
        yield Preview(cut, 0, 1)
    shape = workshop.shape_for(settings)
    if _as_loaded(workshop, settings):
        yield Preview("measuring this device's speed at four widths", 0, 1)
        for rows in sorted({rows for plan in plans for rows in rows_per_image(plan, settings)}):
            workshop.measure_latency(
                at_once,
                rows,
                stop=stop,
                shape=shape,
                mode=settings.mode,
                tabulated=settings.tabulate,
            )
    pair = Pair(
        sides=sides,
        noise=start_noise(n, shape, settings.seed),
        conditions=workshop.conditions(settings),
        settings=settings,
        batch=batch,
        stop=stop,
        skip=skip,
        drawn=None if reference is None else reference.latents,
    )
    if settings.mode != PLAIN:
        yield Preview(f"preparing both sides to run {WORDS[settings.mode]}", 0, 1)
        prepare(pair)
        pair = replace(pair, prepared=seconds_prepared(models) - before)
    said = " ".join(text for text in (cut, no_table) if text)
    yield from _sample(workshop, plans, pair, at_once, said, previews, reference)


def _sample(
    workshop: Workshop,
    plans: list[StagePlan | None],
    pair: Pair,
    batch: int,
    said: str,
    previews: bool,
    reference: Reference | None,
) -> Iterator[Preview | Comparison]:
    """Yield what the two sides of a pair show as they run, and the comparison last.

    said: sentences on what could not be as it was asked for.
    """
    way = run_in_step if pair.settings.in_step else run_in_batches
    found: Comparison | None = None
    for item in way(pair, workshop.vae, previews):
        if isinstance(item, Preview):
            yield item
            continue
        if found is None:
            notes = " ".join(text for text in (said, item.notes) if text)
            found = _result(workshop, plans, pair, replace(item, notes=notes), batch, reference)
            if not item.times[0] and pair.settings.repeats:
                yield Preview("the pictures are finished", 1, 1, found=found)
        else:
            found = _with_times(found, item)
    assert found is not None  # both ways end with one, or raise
    yield found


def rows_per_image(plan: StagePlan | None, settings: SampleSettings) -> list[int]:
    """Return the denoiser rows per image in each stage, and of the dense model last."""
    own = (settings.halves,) * 3 if plan is None else plan.halves(settings.halves)
    return [*own, settings.halves]


def _with_times(found: Comparison, runs: PairedRuns) -> Comparison:
    """Return a comparison with the times that were measured after its pictures."""
    a, b = (
        replace(side, step_seconds=times)
        for side, times in zip((found.a, found.b), runs.times, strict=True)
    )
    return replace(found, a=a, b=b, notes=" ".join(x for x in (found.notes, runs.notes) if x))


def as_asked(
    workshop: Workshop, models: list[MosaicTransformer], settings: SampleSettings
) -> list[MosaicTransformer]:
    """Return twins of networks in the precision and mode of these settings. Raises StudioError."""
    if settings.dtype is not None and not _as_loaded(workshop, settings):
        models = in_precision(models, DTYPES[settings.dtype])
    return [model.in_mode(settings.mode) for model in models]


def _as_loaded(workshop: Workshop, settings: SampleSettings) -> bool:
    """Say whether the networks run in the precision that the model was loaded in.

    Times are predicted from forwards in that precision.
    """
    return settings.dtype is None or DTYPES[settings.dtype] == workshop.dtype


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
    """Return MSE, gradient and SNR along the dense model's own path from noise, classes in turn.

    The sampled counterpart (b) of the theoretical curves. Kept in `workshop.paths_walked` under all
    of its arguments. Raises StudioError, Stopped.
    """
    key = (scheduler, steps, n, seed, guidance)
    if key in workshop.paths_walked:
        return workshop.paths_walked[key]
    side = Denoiser(workshop.dense, sampler(workshop, scheduler), workshop.schedule, steps)
    states: list[tuple[float, Tensor]] = []  # (timestep, noisy latents)

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


def visited(workshop: Workshop, scheduler: str, steps: int) -> list[float]:
    """Return the timesteps of every denoiser call of a run, in turn. Raises StudioError.

    Kept in `workshop.timesteps_visited`: a page and a search ask for the same ones again and again.
    """
    key = (scheduler, steps)
    found = workshop.timesteps_visited.find(key)
    if found is None:
        found = tuple(sampling_timesteps(sampler(workshop, scheduler), steps))
        workshop.timesteps_visited.keep(key, found, VISITED_KEPT)
    return list(found)


def sampler(workshop: Workshop, name: str) -> Any:
    """Return the named scheduler, configured like the model's own one. Raises StudioError."""
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise StudioError(
            f"The scheduler {short(name)} cannot sample {workshop.name}; "
            f"choose one of {', '.join(SCHEDULERS)}."
        )
    return scheduler_like(workshop.checkpoint.pipeline.scheduler, name)


def scheduler_like(shipped: Any, name: str) -> Any:
    """Return the named scheduler of SCHEDULERS, as diffusers' `from_config` makes it of another.

    Where the model's own scheduler is of this class, the result is a copy of it.

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
    carried = {
        k: v
        for k, v in config.items()
        if k in known and k not in (*config.get("_use_default_values", ()), *BETAS)
    }
    if str(carried.get("variance_type", "")).startswith("learned"):
        # the loop takes the noise from a learned-variance model and leaves the variance
        del carried["variance_type"]
    if config.get("trained_betas") is not None:
        carried["trained_betas"] = config["trained_betas"]
    return make_scheduler(
        name,
        config.get("beta_schedule", "linear"),
        config.get("beta_start"),
        config.get("beta_end"),
        config["num_train_timesteps"],
        **carried,
    )


def _flat(side: Side) -> str:
    """Return a sentence on the pictures of a side that are one flat colour, or an empty text."""
    flat = int((side.images.flatten(2).std(2) < FLAT).all(1).sum())
    if not flat:
        return ""
    return (
        f"{flat} of {len(side.images)} pictures of {side.name} are one flat colour: its times say"
        " nothing about useful pictures."
    )


def _result(
    workshop: Workshop,
    plans: list[StagePlan | None],
    pair: Pair,
    runs: PairedRuns,
    batch: int,
    reference: Reference | None,
) -> Comparison:
    """Return what the runs of two sides found: pictures, times, distances, and notes.

    batch: images of a timed forward, for which times are predicted.
    """
    settings = pair.settings
    a = _side(workshop, plans[0], pair, runs, batch, 0, reference)
    b = _side(workshop, plans[1], pair, runs, batch, 1)
    if a.name == b.name:
        a.name, b.name = f"{a.name} (A)", f"{b.name} (B)"
    cast = ""
    if not _as_loaded(workshop, settings):
        cast = f"Both sides ran in {settings.dtype}, cast from the weights as they were loaded."
    mode = mode_note(pair)
    decibel = psnr(a.images, b.images)
    decibel = decibel[torch.isfinite(decibel)]
    return Comparison(
        a=a,
        b=b,
        settings=settings,
        device=workshop.device_text,
        model=workshop.name,
        when=time.strftime("%Y-%m-%d %H:%M"),
        psnr=float(decibel.mean()) if len(decibel) else None,
        ssim=float(ssim(a.images, b.images).mean()),
        latent_mse=float(latent_mse(a.latents, b.latents).mean()),
        n=settings.n,
        where=circumstances(workshop, plans[1], settings, batch, _as_loaded(workshop, settings)),
        notes=" ".join(text for text in (cast, mode, runs.notes, _flat(a), _flat(b)) if text),
    )


def _side(
    workshop: Workshop,
    plan: StagePlan | None,
    pair: Pair,
    runs: PairedRuns,
    batch: int,
    k: int,
    drawn: Reference | None = None,
) -> Side:
    """Return one side's pictures, times, MACs and scores. Raises StudioError for NaN pictures."""
    settings, model = pair.settings, pair.sides[k]
    shape = workshop.shape_for(settings)
    labels = labels_of(settings)
    work = workshop.work(plan, model.timesteps, settings.halves, shape, labels)
    predicted = None
    if _as_loaded(workshop, settings):
        tables = {
            rows: workshop.latency(batch * rows, shape, settings.mode, settings.tabulate)
            for rows in {step.rows for step in work}
        }
        known = {rows: table for rows, table in tables.items() if table is not None}
        if len(known) == len(tables):
            predicted = [
                step.seconds(known[step.rows], batch) * settings.n / batch for step in work
            ]
    latents = runs.latents[k]
    judged = drawn or judged_pictures(workshop, latents, settings, side_name(plan))
    return Side(
        name=side_name(plan),
        plan=plan,
        latents=latents.float().cpu(),
        images=judged.images,
        step_seconds=list(runs.times[k]),
        scale=runs.scale,
        timesteps=model.timesteps,
        stages=model.stages,
        macs=round(sum(step.total for step in work) * settings.n),
        predicted_seconds=predicted,
        film=runs.film[k],
        film_timesteps=runs.film_timesteps[k],
        fid=judged.fid,
        class_accuracy=judged.class_accuracy,
    )
