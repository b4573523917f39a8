"""Draw the pictures of a configuration and say how good they are: one number, lower is better."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..errors import StudioError
from ..mosaic.modes import PLAIN
from ..mosaic.transformer import MosaicTransformer
from ..sampling.denoise import decode
from ..sampling.metrics import MIN_IMAGES_FOR_FID, Judge, frechet_distance, gaussian, latent_mse
from ..sampling.timing import measure_alternating
from ..workshop.drawing import draw_latents
from ..workshop.workshop import Workshop
from .configuration import Configuration
from .encoder import ImageEncoder

BATCH = 128  # images that are drawn together
HALF = (torch.bfloat16, torch.float16)
QUICKER = 1.3  # times that a precision must be faster to be worth it
PRODUCTS = (128, 1024)  # columns of the products that are timed
HOPELESS = 4  # times slower at the small one, after which the large one is not tried


@dataclass
class Drawn:
    """Final latents of one configuration, and their pictures once somebody asked for them."""

    latents: Tensor  # (n, c, h, w) fp32 on the CPU
    workshop: Workshop
    dtype: torch.dtype | None = None  # that the VAE computes in where it can; None: its own
    _images: Tensor | None = field(default=None, repr=False)

    @property
    def images(self) -> Tensor:
        """Return the pictures (n, channels, H, W) in [-1, 1]."""
        if self._images is None:
            kind = self.workshop.device.type
            with torch.autocast(kind, self.dtype, enabled=self.dtype in HALF):
                self._images = decode(self.workshop.vae, self.latents)
        return self._images


def networks_of(
    workshop: Workshop, what: Configuration, stop: threading.Event | None = None
) -> MosaicTransformer:
    """Return the networks that a configuration runs. Raises Stopped, StudioError."""
    plan = what.plan and what.plan.counted(what.timesteps(workshop))
    return workshop.dense if plan is None else workshop.build(plan, None, stop)


def draw(
    workshop: Workshop,
    what: Configuration,
    n: int,
    seed: int,
    stop: threading.Event | None = None,
    dtype: torch.dtype | None = None,
    mode: str = PLAIN,
    model: MosaicTransformer | None = None,
) -> Drawn:
    """Draw n seeded pictures, classes (or built-in prompts) in turn. Raises Stopped, StudioError.

    Every configuration starts from the same noise. dtype: of the denoiser, where it is another
    than the model's. mode: that the networks run in. model: what `networks_of` returned; None: it
    is built, or found where it was built lately.
    """
    model = model or networks_of(workshop, what, stop)
    latents = draw_latents(
        workshop,
        model.in_mode(mode),
        what.scheduler,
        what.steps,
        what.guidance,
        n,
        seed,
        BATCH,
        dtype,
        stop,
    )
    if not torch.isfinite(latents).all():
        raise StudioError(f"{what.text}: final latents are NaN or infinite.")
    return Drawn(latents, workshop, dtype)


def quick_dtype(workshop: Workshop) -> torch.dtype | None:
    """Return bfloat16 where it clearly beats the model's fp32 on this device, else None.

    By matrix products of both, timed in turn: a processor may have no units for it, and then a
    large product takes seconds.
    """
    if workshop.dtype != torch.float32:
        return None
    for size in PRODUCTS:
        random = torch.randn(size, size, device=workshop.device)
        calls = [partial(torch.matmul, x, x) for x in (random, random.bfloat16())]
        full, half = measure_alternating(calls, workshop.device, repeats=5)
        if workshop.device.type == "cpu" and min(half) > HOPELESS * min(full):
            return None
    return torch.bfloat16 if min(full) > QUICKER * min(half) else None


class Quality(ABC):
    """How good drawn pictures are. Lower is better; numbers of one n and seed compare."""

    name: str  # in words, with what it is a distance to
    moves: bool  # whether pictures may move: guidance other than the reference's makes sense
    least = 1  # images that it needs

    @abstractmethod
    def score(self, drawn: Drawn, seed: int) -> float:
        """Return the number for pictures of `draw` with this seed."""

    def keep(self, drawn: Drawn, seed: int) -> None:
        """Take pictures of the reference, where they are drawn before they are needed."""
        del drawn, seed


class FeatureQuality(Quality):
    """Fréchet distance of the model's own feature network to its reference pictures."""

    moves, least = True, MIN_IMAGES_FOR_FID

    def __init__(self, judge: Judge):
        self.judge = judge
        self.name = "FID on the model's own feature network"

    def score(self, drawn: Drawn, seed: int) -> float:
        """Return the Fréchet distance to the reference statistics."""
        del seed
        found = self.judge.fid(drawn.images)
        assert found is not None  # there are `least` pictures
        return found


class EncoderQuality(Quality):
    """Fréchet distance, in the features of a named encoder, to calibration pictures."""

    moves, least = True, MIN_IMAGES_FOR_FID

    def __init__(self, encoder: ImageEncoder, workshop: Workshop, reference: int = 2000):
        self.encoder = encoder
        latents = workshop.data().latents[:reference]
        self.mean, self.covariance = gaussian(encoder.features(decode(workshop.vae, latents)))
        self.name = f"Fréchet distance on {encoder.name}, to {len(latents)} calibration pictures"

    def score(self, drawn: Drawn, seed: int) -> float:
        """Return the Fréchet distance to the calibration pictures through the VAE."""
        del seed
        mean, covariance = gaussian(self.encoder.features(drawn.images))
        return frechet_distance(mean, covariance, self.mean, self.covariance)


class LatentQuality(Quality):
    """Mean squared distance of the final latents to the reference's from the same noise."""

    moves = False

    def __init__(self, workshop: Workshop, reference: Configuration):
        self.workshop, self.reference = workshop, reference
        self.name = f"distance of the final latents to {reference.text}"
        self._drawn: dict[tuple[int, int], Tensor] = {}

    def keep(self, drawn: Drawn, seed: int) -> None:
        """Take the latents of the reference, which need not be drawn again."""
        self._drawn[len(drawn.latents), seed] = drawn.latents

    def score(self, drawn: Drawn, seed: int) -> float:
        """Return the mean squared difference of final latents; 2 means unrelated."""
        n = len(drawn.latents)
        if (n, seed) not in self._drawn:
            self._drawn[n, seed] = draw(self.workshop, self.reference, n, seed).latents
        return float(latent_mse(drawn.latents, self._drawn[n, seed]).mean())


def usual_quality(
    workshop: Workshop, reference: Configuration, kind: str = "auto", encoder: str | None = None
) -> Quality:
    """Return how pictures of this model are judged.

    kind: "features", "latents", or "auto": features where the model ships a feature network.
    encoder: folder or hub id of an image encoder, which makes it features of that. Raises
    StudioError.
    """
    if encoder is not None:
        return EncoderQuality(ImageEncoder.load(encoder), workshop)
    judge = workshop.judge
    if kind == "features" and judge is None:
        raise StudioError(
            f"{workshop.name} ships no feature network: name an image encoder, or judge by latents."
        )
    if kind == "latents" or judge is None:
        return LatentQuality(workshop, reference)
    return FeatureQuality(judge)
