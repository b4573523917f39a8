"""Draw many seeded pictures with one network, batch by batch; nothing is timed."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from ..mosaic.precision import in_precision
from ..mosaic.transformer import MosaicTransformer
from ..sampling.denoise import Denoiser, start_noise
from .compare import sampler
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
