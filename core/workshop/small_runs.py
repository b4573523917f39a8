"""Make a few small pictures within seconds, to show what a network and a part of it do.

These are demonstrations on a real model, not measurements: two pictures, few steps, one run.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ..curves.plan import StagePlan
from ..errors import StudioError
from ..guidance import rows_of
from ..mosaic.transformer import MosaicTransformer
from ..pruning.cuts import Cut, kept_columns
from ..sampling.denoise import Denoiser, SamplingStep, decode, start_noise
from ..sampling.metrics import psnr
from .compare import sampler
from .picture_arrays import from_bytes, to_bytes
from .workshop import Workshop

PICTURES, STEPS, SAMPLER = 2, 16, "DDIM"
# multiply-accumulates of one small run that stay within seconds: two CPU cores do some 10^10 in a
# second, a GPU a thousand times as many
MOST_MACS = {"cpu": 2e11, "cuda": 2e14}


@dataclass(frozen=True)
class SmallRun:
    """The pictures of one small run, and its work."""

    images: Tensor  # (n, channels, H, W) in [-1, 1], CPU
    latents: Tensor  # (n, c, h, w) that the pictures were decoded from
    macs: float  # whole run, all images, linear and convolution layers
    timesteps: list[float]
    # per step, (n, channels, H, W): the noisy picture, and the guess of the clean one
    noisy: tuple[Tensor, ...] = ()
    guesses: tuple[Tensor, ...] = ()


def check_small(workshop: Workshop) -> None:
    """Raise StudioError where a small run has no pictures or would not end within seconds."""
    if workshop.vae is None:
        raise StudioError(
            f"{workshop.name} comes without a VAE, so its latents cannot become pictures."
        )
    macs = workshop.forward_macs[0] * _rows(workshop) * STEPS * PICTURES
    if macs > MOST_MACS.get(workshop.device.type, MOST_MACS["cpu"]):
        raise StudioError(
            f"{workshop.name} needs minutes for two pictures on this device"
            f" ({workshop.device_text}), too long to show here."
        )


def run_small(
    workshop: Workshop,
    model: MosaicTransformer,
    row_macs: float | None = None,
    seed: int = 0,
    film: bool = False,
    stop: threading.Event | None = None,
) -> SmallRun:
    """Sample PICTURES pictures in STEPS steps of SAMPLER, from the same noise for the same seed.

    model: of this workshop. row_macs: MACs of one forward of one row, the mean over the steps,
    where they do not follow from the model's plan. film: decode the noisy picture and the guess of
    every step too. Raises StudioError (see `check_small`), Stopped.
    """
    check_small(workshop)
    denoiser = Denoiser(model, sampler(workshop, SAMPLER), workshop.schedule, STEPS)
    steps: list[SamplingStep] = []
    latents, _ = denoiser.run(
        start_noise(PICTURES, workshop.latent_shape, seed),
        workshop.some_conditions(PICTURES),
        workshop.guidance,
        seed,
        stop,
        steps.append if film else None,
    )
    rows = _rows(workshop)
    if row_macs is None:
        work = workshop.work(model.plan, denoiser.timesteps, rows)
        macs = sum(step.rows * step.macs for step in work)
    else:
        macs = row_macs * rows * len(denoiser.timesteps)

    def pictures(stack: list[Tensor]) -> tuple[Tensor, ...]:
        return decode(workshop.vae, torch.cat(stack)).split(PICTURES) if stack else ()

    return SmallRun(
        images=decode(workshop.vae, latents),
        latents=latents,
        macs=macs * PICTURES,
        timesteps=denoiser.timesteps,
        noisy=pictures([step.noisy for step in steps]),
        guesses=pictures([step.clean for step in steps]),
    )


def head_layers(workshop: Workshop) -> list[int]:
    """Return the places, in `Workshop.layers`, of the layers that are made of attention heads."""
    return [i for i, layer in enumerate(workshop.layers) if layer.kind == "heads"]


def without_heads(
    workshop: Workshop, layer: int, heads: Collection[int]
) -> tuple[MosaicTransformer, float]:
    """Return a network that lacks these heads of one layer at every step, and its MACs per row.

    layer: a place in `Workshop.layers`. Nothing makes up for the heads: the output is that of the
    dense model with their columns set to zero, and none of the weights is changed. Raises
    StudioError for a layer without heads, heads that are not there, and for all heads of a layer.
    """
    if isinstance(layer, bool) or layer not in head_layers(workshop):
        raise StudioError("This layer has no attention heads: choose a layer that has.")
    prunable = workshop.layers[layer]
    gone = set(heads)
    if not all(type(head) is int and 0 <= head < prunable.groups for head in gone):
        raise StudioError(f"{prunable.name} has heads 0 to {prunable.groups - 1}.")
    if len(gone) == prunable.groups:
        raise StudioError("One head has to stay.")
    if not gone:
        return workshop.dense, workshop.row_macs(0)
    weight = workshop.pruner.weight(layer)
    kept = torch.tensor([head for head in range(prunable.groups) if head not in gone])
    cuts = [Cut(torch.arange(other.groups), None) for other in workshop.layers]
    cuts[layer] = Cut(kept, weight[:, kept_columns(prunable, kept, weight.device)])
    total = len(workshop.schedule)
    plan = StagePlan((total // 3, 2 * total // 3), (0.0, 0.0, 0.0), num_train_timesteps=total)
    model = MosaicTransformer(workshop.transformer, plan, [cuts] * 3, layers=workshop.layers)
    removed = [0] * len(workshop.layers)
    removed[layer] = len(gone)
    return model, workshop.row_macs(removed)


def mean_decibel(a: Tensor, b: Tensor) -> float | None:
    """Return the mean PSNR over the pairs of 8-bit pictures that differ, None where none does.

    a, b: (n, channels, H, W) in [-1, 1].
    """
    pairs = psnr(*(from_bytes(to_bytes(images)) for images in (a, b)))
    finite = [value for value in pairs.tolist() if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _rows(workshop: Workshop) -> int:
    """Return the denoiser rows per image with the model's own guidance."""
    return rows_of(workshop.guidance)
