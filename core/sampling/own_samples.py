"""Make calibration latents with the model itself, and the conditions that they are made under."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..cache import fingerprint, network_key
from ..calibration.data import kept, kept_in_parts
from ..curves.noise import NoiseSchedule
from ..errors import Stopped
from ..models.families import SDXL, Conditions
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..seeds import SEEDS
from .denoise import Denoiser, SamplingStep, start_noise

STREAM = 2  # changes with the way in which samplers draw their noise


class LatentMaker(Protocol):
    """A dense model with its sampler, and a folder to keep latents in. A `Workshop` is one."""

    dense: MosaicTransformer  # without a plan
    scheduler: Any  # the model's own diffusers scheduler
    schedule: NoiseSchedule
    latent_shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    cache: Path

    @property
    def network(self) -> str:
        """Return the hash of the denoiser."""


def classes_in_turn(classes: list[int], n: int, seed: int) -> Tensor:
    """Return (n,) classes, each once before any comes twice, in an order that `seed` shuffles.

    Shuffled because neighbouring classes of ImageNet are much alike.
    """
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    return torch.tensor(classes)[order][torch.arange(n) % len(classes)]


def samples_at_once(maker: LatentMaker) -> int:
    """Return the samples in one batch, which is what a stop can lose.

    Small on a CPU, where a batch of a large model takes minutes.
    """
    numbers = 2**18 if maker.device.type == "cuda" else 2**15
    return max(1, min(64, numbers // torch.Size(maker.latent_shape).numel()))


def sample(
    maker: LatentMaker,
    conditions: Conditions,
    steps: int,
    guidance: float,
    seed: int,
    size: int,
    folder: Path,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Tensor:
    """Return final latents (n, c, h, w) of the dense model's sampler. Raises Stopped, StudioError.

    They are made `size` at a time and kept in `folder` as they come.
    """
    n, shape = len(conditions), maker.latent_shape
    denoiser = Denoiser(maker.dense, maker.scheduler, maker.schedule, steps)
    calls = len(denoiser.timesteps)
    halves = 2 if guidance > 1 else 1
    had = kept(folder, n, size, shape)
    rows, done = (n - had) * calls * halves, 0
    text = (
        f"sampling {n - had} latents to calibrate on: {calls} steps each, {rows:,} denoiser rows"
        " in all" + (f" ({had} are kept from before)" if had else "")
    )

    def make(first: int, last: int) -> Tensor:
        nonlocal done
        if progress is not None and not done:
            progress(0, rows, text)

        def count(_: SamplingStep) -> None:
            nonlocal done
            done += (last - first) * halves
            if progress is not None:
                progress(done, rows, text)

        part = first // size
        own_seed = (seed * 100_003 + part) % SEEDS
        noise = start_noise(size, shape, own_seed)[: last - first]
        if stop is not None and stop.is_set():
            raise Stopped
        rows_of_part = conditions.rows(slice(first, last))
        latents, _ = denoiser.run(noise, rows_of_part, guidance, own_seed, stop, count)
        return latents

    return kept_in_parts(folder, n, size, shape, make)


def text_identity(pipeline: Any) -> list[str]:
    """Return what turns prompts into conditions: encoders, tokenizers, what stands for no prompt.

    Empty for a model without text.
    """
    parts = [getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
    tokenizers = [getattr(pipeline, name, None) for name in ("tokenizer", "tokenizer_2")]
    hashes = [f"{network_key(part)} {part.dtype}" for part in parts if part is not None]
    hashes += [tokenizer_key(part) for part in tokenizers if part is not None]
    return [*hashes, f"unconditional: {SDXL.unconditional(pipeline)}"] if hashes else []


def tokenizer_key(tokenizer: Any) -> str:
    """Hash a tokenizer: vocabulary with merges and normalisation, special tokens, length."""
    whole = getattr(tokenizer, "backend_tokenizer", None)
    words = whole.to_str() if whole is not None else sorted(tokenizer.get_vocab().items())
    special = {k: str(v) for k, v in tokenizer.special_tokens_map.items()}
    return fingerprint(type(tokenizer).__name__, words, special, tokenizer.model_max_length)
