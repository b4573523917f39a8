"""Encode pictures with a model's own VAE into latents to calibrate on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import Stopped
from ..models.checkpoints import Checkpoint
from ..progress import Progress
from .data import kept_in_parts
from .picture_folder import Picture, read_picture


def pixel_size(checkpoint: Checkpoint) -> int:
    """Return height and width of the model's pictures."""
    halvings = len(checkpoint.pipeline.vae.config.block_out_channels) - 1
    config: Any = checkpoint.denoiser.config
    return config.sample_size * 2**halvings


def encode_pictures(
    pictures: list[Picture],
    vae: Any,
    size: int,
    shape: tuple[int, int, int],
    folder: Path,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Tensor:
    """Return latents (n, *shape) of picture files. Raises Stopped, StudioError.

    Encoded a few at a time, and kept in `folder` as they come.

    size: height and width in pixels that the pictures are brought to.
    """
    channels, total = vae.config.in_channels, len(pictures)

    def make(first: int, last: int) -> Tensor:
        if stop is not None and stop.is_set():
            raise Stopped
        if progress is not None:
            progress(first, total, f"encoding {total} pictures with the model's own VAE")
        images = [read_picture(picture, size, channels) for picture in pictures[first:last]]
        return encode(vae, torch.stack(images))

    at_once = max(1, min(64, 2**20 // size**2))
    return kept_in_parts(folder, total, at_once, shape, make)


@torch.inference_mode()
def encode(vae: Any, images: Tensor) -> Tensor:
    """Turn pictures (n, channels, H, W) in [-1, 1] into the denoiser's latents (n, c, h, w).

    fp32 on the CPU; undoes `core.sampling.denoise.decode`. The mean of the VAE's posterior, whose
    spread is far below one step of noise; then shift, mean, standard deviation and scale as
    configured.
    """
    weight, config = next(vae.parameters()), vae.config
    latents = vae.encode(images.to(weight.device, weight.dtype)).latent_dist.mode().float().cpu()
    latents = latents - (getattr(config, "shift_factor", None) or 0.0)
    means = getattr(config, "latents_mean", None)
    deviations = getattr(config, "latents_std", None)
    if means is not None and deviations is not None:
        mean = torch.tensor(means).view(1, -1, 1, 1)
        deviation = torch.tensor(deviations).view(1, -1, 1, 1)
        latents = (latents - mean) / deviation
    return latents * config.scaling_factor
