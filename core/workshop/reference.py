"""Hold the dense model's pictures of some settings, drawn once for many comparisons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..curves.plan import StagePlan
from ..errors import StudioError
from ..sampling.denoise import decode
from .sample_settings import SampleSettings
from .workshop import Workshop


@dataclass(frozen=True)
class Judged:
    """Finished pictures with what a feature network says of them."""

    latents: Tensor  # (n, c, h, w), final, where the sampler left them
    images: Tensor  # (n, channels, H, W) in [-1, 1], CPU
    fid: float | None  # None without a feature network, or of too few images
    class_accuracy: float | None  # 0 to 1


@dataclass(frozen=True)
class Reference(Judged):
    """The dense model's pictures, and the settings that they were drawn with."""

    settings: SampleSettings

    def check(self, plan: StagePlan | None, settings: SampleSettings) -> None:
        """Raise StudioError where side A of a comparison would not draw just these pictures.

        plan: of side A.
        """
        if plan is not None or drawn_alike(settings) != drawn_alike(self.settings):
            raise StudioError(
                "These reference pictures are of other settings: draw them anew for this"
                " comparison."
            )


def drawn_alike(settings: SampleSettings) -> SampleSettings:
    """Return settings that are equal where side A draws the same pictures: steps, noise and so on.

    What only the timing or side B depends on is left out.
    """
    return replace(settings, steps=settings.steps_of(0), side_steps=None, repeats=0)


def judged_pictures(
    workshop: Workshop, latents: Tensor, settings: SampleSettings, who: str
) -> Judged:
    """Decode final latents (n, c, h, w) and judge the pictures where the model has a judge.

    who: the side's name, for the StudioError where pictures are NaN.
    """
    images = decode(workshop.vae, latents)
    _refuse_broken_pictures(images, workshop.vae, who)
    judge = workshop.judge
    if judge is None or not judge.knows(images):
        return Judged(latents, images, None, None)
    right = judge.class_accuracy(images, torch.tensor(settings.labels))
    return Judged(latents, images, judge.fid(images), right)


def _refuse_broken_pictures(images: Tensor, vae: Any, who: str) -> None:
    """Raise StudioError when finite latents decode to NaN, as SDXL's own VAE does in fp16."""
    broken = int((~torch.isfinite(images).flatten(1).all(1)).sum())
    if broken:
        kind = str(vae.dtype).removeprefix("torch.")
        raise StudioError(
            f"{who}: the VAE turned {broken} of {len(images)} finite latents into NaN (it runs in"
            f" {kind}), so there are no pictures to compare. Load the model in fp32 or bf16."
        )
