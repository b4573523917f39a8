"""Show from clean to noise, on the axis of the chart, what the model meets at its timesteps.

One of the model's own latents is noised as in training and decoded, once for a page. A model that
ships no latents has no thumbnails.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from PIL import Image

from core.errors import StudioError, plain_memory_errors
from core.sampling.denoise import decode
from core.workshop.picture_arrays import pictures
from core.workshop.workshop import Workshop

from ..png import data_address, png_bytes

log = logging.getLogger(__name__)

COUNT = 9
LARGEST = 64  # pixels of a thumbnail's side; the page shows it smaller
SAMPLE = 7  # of the model's latents
SEED = 0
ENDS = (
    '<p class="ends"><span>clean picture</span><span class="way">◂ sampling runs this way, from'
    " noise to picture: early, middle, late</span><span>pure noise</span></p>"
)


def levels(total: int) -> list[int]:
    """Return the timesteps of the thumbnails: the middles of equal stretches of the axis."""
    return [round((i + 0.5) * total / COUNT) for i in range(COUNT)]


def noised(workshop: Workshop) -> list[tuple[int, str]]:
    """Return (timestep, PNG as a data address) of each thumbnail; nothing where there are none."""
    if workshop.latents is None:
        return []
    steps = levels(len(workshop.schedule))
    try:
        with plain_memory_errors():
            images = _decoded(workshop, steps)
    # whatever a VAE cannot do here, the page is whole without
    except (StudioError, RuntimeError, ValueError) as error:
        log.warning("no thumbnails below the chart: %s", error)
        return []
    return list(zip(steps, images, strict=True))


@torch.inference_mode()
def _decoded(workshop: Workshop, steps: list[int]) -> list[str]:
    assert workshop.latents is not None
    clean = workshop.latents[SAMPLE % len(workshop.latents)].float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(SEED))
    mixes = [workshop.schedule.at(t) for t in steps]
    noisy = torch.stack([a * clean + s * noise for a, s in mixes])  # (COUNT, c, h, w)
    parameter = next(workshop.vae.parameters())
    images = decode(workshop.vae, noisy.to(parameter.device, parameter.dtype))
    return [_address(picture) for picture in pictures(images)]


def _address(picture) -> str:
    image = Image.fromarray(picture)
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    return data_address(png_bytes(np.asarray(image)))


def thumbnails_html(workshop: Workshop) -> str:
    """Write the row below the axis, in the axis' own direction, and the way that sampling takes."""
    images = "".join(
        f'<img src="{address}" alt="the same picture with the noise of timestep {t}" title="t ='
        f' {t}">'
        for t, address in noised(workshop)
    )
    row = f'<div class="thumbnails">{images}</div>' if images else ""
    return f'<div class="on-axis">{row}{ENDS}</div>'
