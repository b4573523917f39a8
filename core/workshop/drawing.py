"""Draw seeded pictures with one network, batch by batch; nothing is timed."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from ..curves.samplers import sampling_timesteps
from ..mosaic.precision import in_precision
from ..mosaic.transformer import MosaicTransformer
from ..sampling.denoise import Denoiser, start_noise
from .adaln_choice import as_it_runs
from .compare import as_asked, sampler
from .comparison import side_name
from .paired_runs import Pair, refuse_broken
from .reference import Reference, judged_pictures
from .sample_settings import SampleSettings
from .workshop import Workshop


def draw_latents(
    workshop: Workshop,
    model: MosaicTransformer,
    scheduler: str,
    steps: int,
    guidance: float,
    n: int,
    seed: int,
    batch: int,
    dtype: torch.dtype | None = None,
    stop: threading.Event | None = None,
) -> Tensor:
    """Return final latents (n, c, h, w), fp32 on the CPU; classes or built-in prompts in turn.

    Every model starts from the same noise. batch: images that are drawn together. dtype: of the
    denoiser, where it is another than the model's. Raises Stopped, StudioError.
    """
    if dtype is not None and dtype != workshop.dtype:
        (model,) = in_precision([model], dtype)
    side = Denoiser(model, sampler(workshop, scheduler), workshop.schedule, steps)
    noise, conditions = start_noise(n, workshop.latent_shape, seed), workshop.some_conditions(n)
    parts = []
    for first in range(0, n, batch):
        rows = slice(first, first + batch)
        final, _ = side.run(noise[rows], conditions.rows(rows), guidance, seed, stop)
        parts.append(final.float().cpu())
    return torch.cat(parts)


def draw_reference(
    workshop: Workshop, settings: SampleSettings, stop: threading.Event | None = None
) -> Reference:
    """Return the dense model's pictures of these settings, for `compare` of many plans.

    They have the bits that side A of a comparison would have. Raises Stopped, StudioError.
    """
    workshop.check_settings(settings)
    scheduler = sampler(workshop, settings.scheduler)
    (model,) = as_asked(workshop, [workshop.dense], settings)
    timesteps = [sampling_timesteps(scheduler, settings.steps_of(k)) for k in (0, 1)]
    runs, _ = as_it_runs(model, settings, timesteps)
    pair = Pair(
        sides=[
            Denoiser(
                model,
                scheduler,
                workshop.schedule,
                settings.steps_of(0),
                tabulate=runs.tabulate,
            )
        ],
        noise=start_noise(settings.n, workshop.shape_for(settings), settings.seed),
        conditions=workshop.conditions(settings),
        settings=runs,
        batch=settings.batch,
        stop=stop,
    )
    latents = pair.draw(0)
    refuse_broken([latents], pair.sides)
    judged = judged_pictures(workshop, latents, settings, side_name(None))
    return Reference(**vars(judged), settings=settings)
