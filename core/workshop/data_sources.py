"""The three places that calibration latents come from: shipped beside the model, a folder of
pictures, or the model's own samples.

Pictures and samples cost a run of the VAE's encoder or of the sampler. What they give is kept in
the cache, part by part, under a key of everything it depends on, and that key is known before the
first latent is: so a `Workshop` can name its folder at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..cache import fingerprint, network_key
from ..calibration.data import FEWEST, CalibrationData, DataOptions, few, kept, kept_in_parts
from ..calibration.picture_folder import (
    Picture,
    caption_of,
    class_of,
    is_place,
    known_names,
    read_folder,
    read_picture,
)
from ..curves.noise import NoiseSchedule, sampling_timesteps
from ..errors import LatentsShipped, Stopped, StudioError
from ..models.checkpoints import Checkpoint
from ..models.families import SDXL, Conditions, DiT, both, each_tensor
from ..models.prompts import PROMPTS, cut_prompts
from ..progress import Progress
from ..sampling.denoise import SEEDS, Denoiser, start_noise

STREAM = 2  # changes with the way in which samplers draw their noise
PROMPTS_AT_ONCE = 8  # SDXL's text encoders keep every hidden state, 13 MB a prompt


class LatentMaker(Protocol):
    """What making latents needs: a dense model with its sampler, and a place to keep them. A
    `Workshop` is one.
    """

    dense: Any  # `core.mosaic.transformer.MosaicTransformer` without a plan
    scheduler: Any
    schedule: NoiseSchedule
    latent_shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    network: str  # hash of the denoiser
    cache: Path


@dataclass(frozen=True)
class DataSource:
    """A place that latents come from. Cheap to make; what is costly waits for `load`."""

    text: str  # "256 of the model's own samples (20 steps each, guidance 1.5)"
    identity: Any  # goes into the key of everything measured on it
    different: int  # latents of different pictures
    load: Callable[[LatentMaker, Progress | None, threading.Event | None], CalibrationData]
    rows: int = 0  # denoiser rows that making them takes, kept ones included
    made: int = 0  # latents that are made first and kept on the disk
    remarks: tuple[str, ...] = ()  # what was passed over or cut, in words

    @property
    def warning(self) -> str | None:
        return "; ".join(text for text in (few(self.different), *self.remarks) if text) or None


def choose_source(
    checkpoint: Checkpoint,
    family: type[DiT] | type[SDXL],
    needed: int,
    options: DataOptions,
    weighs: bool = False,
) -> DataSource:
    """What the options ask for, else the shipped latents, else the model's own samples. `needed`:
    latents that one bin takes.

    weighs: the guidance among the options weighs calibration rows too, so that it is no wish for
    other latents. Raises StudioError for pictures that cannot serve, and for wishes that the
    shipped latents cannot fulfil.
    """
    if options.images is not None:
        return pictures(checkpoint, family, needed, options)
    # shipped latents come with class labels
    if checkpoint.latents is not None and family is DiT and not options.self_calibrate:
        if options != DataOptions(guidance=options.guidance if weighs else None):
            raise LatentsShipped(f"{checkpoint.name} ships calibration latents")
        return shipped(checkpoint)
    return own_samples(checkpoint, family, needed, options)


# ------------------------------------------------------------ shipped


def shipped(checkpoint: Checkpoint) -> DataSource:
    """`calibration/latents.safetensors` in the model's folder: real latents and their labels."""
    latents, labels = checkpoint.latents, checkpoint.labels

    def load(
        maker: LatentMaker, progress: Progress | None, stop: threading.Event | None
    ) -> CalibrationData:
        return CalibrationData(latents, DiT.conditions(labels), labels, text)

    text = f"the {len(latents)} shipped latents"
    return DataSource(text, {"latents": latents, "labels": labels}, len(latents), load)


# ------------------------------------------------------------ pictures


def pictures(
    checkpoint: Checkpoint, family: type[DiT] | type[SDXL], needed: int, options: DataOptions
) -> DataSource:
    """A folder of pictures, encoded by the model's own VAE. Files are listed, labelled and hashed
    here, read in `load`.

    Raises StudioError: no pictures, fewer than 8, a picture without a label, a label that the model
    does not know.
    """
    pipeline, vae = checkpoint.pipeline, checkpoint.pipeline.vae
    count = options.count or max(needed, FEWEST)
    given = read_folder(options.images, count, options.seed, words=family is SDXL)
    found = given.pictures
    text = f"{len(found)} pictures of the given folder"
    if len(found) < FEWEST:
        raise StudioError(
            f"Calibration needs at least {FEWEST} pictures, the folder holds {len(found)}: add more"
            f" (below {needed} some are used twice)."
        )
    channels = vae.config.in_channels
    if channels not in (1, 3):
        raise StudioError(
            f"The model's VAE takes {channels} channels; only grey and RGB pictures can be given."
        )
    if family is SDXL:
        shows = [caption_of(p) for p in found]
    else:
        names = known_names(checkpoint.class_names)
        shows = [class_of(p, names, checkpoint.denoiser.config.num_embeds_ada_norm) for p in found]
    remarks = (*given.remarks, *_said(pipeline, found, shows, family))
    size = pixel_size(checkpoint)
    encoded = [network_key(vae), str(vae.dtype), size, [p.digest() for p in found]]

    def load(
        maker: LatentMaker, progress: Progress | None, stop: threading.Event | None
    ) -> CalibrationData:
        latents = encode_pictures(
            found,
            vae,
            size,
            maker.latent_shape,
            maker.cache / f"latents-{fingerprint(encoded)}",
            progress,
            stop,
        )
        conditions, ids = (
            told(pipeline, shows, progress, stop)
            if family is SDXL
            else (DiT.conditions(torch.tensor(shows)), torch.tensor(shows))
        )
        return CalibrationData(latents, conditions, ids, text)

    identity = ["pictures", encoded, shows, _words(pipeline)]
    return DataSource(text, identity, len(found), load, made=len(found), remarks=remarks)


def _said(
    pipeline: Any, found: list[Picture], shows: list[Any], family: type[DiT] | type[SDXL]
) -> list[str]:
    """Say what a user may not expect: captions cut short, prompts from folders, a class in two."""
    if family is SDXL:
        folders = sorted({prompt for p, prompt in zip(found, shows, strict=True) if p.by_folder})
        names = ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if folders[3:] else "")
        cut = cut_prompts(pipeline, shows, what="caption").rstrip(".")
        by_folder = f"the sub-folders' names are the prompts: {names}" if folders else ""
        return [text for text in (by_folder, cut) if text]
    called: dict[int, set[str]] = {}
    for picture, label in zip(found, shows, strict=True):
        if picture.by_folder and not is_place(str(picture.shows)):
            called.setdefault(label, set()).add(str(picture.shows))
    twice = {label: sorted(names) for label, names in called.items() if len(names) > 1}
    said = [
        f"class {label} is in the folders {' and '.join(names)}" for label, names in twice.items()
    ]
    return said[:3]


def pixel_size(checkpoint: Checkpoint) -> int:
    """Height and width of the model's pictures."""
    return checkpoint.denoiser.config.sample_size * 2 ** (
        len(checkpoint.pipeline.vae.config.block_out_channels) - 1
    )


def encode_pictures(
    found: list[Picture],
    vae: Any,
    size: int,
    shape: tuple[int, int, int],
    folder: Any,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Tensor:
    """Latents (n, *shape) of picture files, a few at a time, kept in `folder` as they come. Raises
    Stopped and StudioError.
    """
    channels = vae.config.in_channels

    def make(first: int, last: int) -> Tensor:
        if stop is not None and stop.is_set():
            raise Stopped
        if progress is not None:
            progress(first, len(found), f"encoding {len(found)} pictures with the model's own VAE")
        return encode(
            vae, torch.stack([read_picture(p, size, channels) for p in found[first:last]])
        )

    return kept_in_parts(folder, len(found), max(1, min(64, 2**20 // size**2)), shape, make)


@torch.inference_mode()
def encode(vae: Any, images: Tensor) -> Tensor:
    """Pictures (n, channels, H, W) in [-1, 1] to latents (n, c, h, w) as the denoiser knows them,
    fp32 on the CPU, undoing `core.sampling.denoise.decode`.

    The mean of the VAE's posterior, whose spread is far below one step of noise; then shift, mean,
    standard deviation and scale as configured.
    """
    weight, config = next(vae.parameters()), vae.config
    latents = vae.encode(images.to(weight.device, weight.dtype)).latent_dist.mode().float().cpu()
    latents = latents - (getattr(config, "shift_factor", None) or 0.0)
    if (
        getattr(config, "latents_mean", None) is not None
        and getattr(config, "latents_std", None) is not None
    ):
        mean, std = (
            torch.tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std)
        )
        latents = (latents - mean) / std
    return latents * config.scaling_factor


# ------------------------------------------------------------ own samples


def own_samples(
    checkpoint: Checkpoint, family: type[DiT] | type[SDXL], needed: int, options: DataOptions
) -> DataSource:
    """The model's own samples ("self-calibration"): its own scheduler, classes or built-in prompts
    in turn, nothing but the checkpoint needed.
    """
    pipeline, count = checkpoint.pipeline, options.count or max(needed, FEWEST)
    guidance = family.guidance if options.guidance is None else float(options.guidance)
    text = f"{count} of the model's own samples ({options.steps} steps each, guidance {guidance:g})"
    recipe = [
        "own samples",
        STREAM,
        options.steps,
        guidance,
        options.seed,
        pipeline.scheduler.to_json_string(),
        _words(pipeline),
    ]
    recipe.append(list(PROMPTS) if family is SDXL else list(checkpoint.class_names))

    def load(
        maker: LatentMaker, progress: Progress | None, stop: threading.Event | None
    ) -> CalibrationData:
        if family is SDXL:
            conditions, ids = told(
                pipeline, [PROMPTS[i % len(PROMPTS)] for i in range(count)], progress, stop
            )
        else:
            ids = classes_in_turn(list(checkpoint.class_names), count, options.seed)
            conditions = DiT.conditions(ids)
        size = samples_at_once(maker)
        # a larger count goes on from a smaller one
        folder = (
            maker.cache / f"latents-{fingerprint(maker.network, str(maker.dtype), recipe, size)}"
        )
        return CalibrationData(
            sample(
                maker,
                conditions,
                options.steps,
                guidance,
                options.seed,
                size,
                folder,
                progress,
                stop,
            ),
            conditions,
            ids,
            text,
        )

    rows = (
        count
        * len(sampling_timesteps(pipeline.scheduler, options.steps))
        * (2 if guidance > 1 else 1)
    )
    return DataSource(text, [*recipe, count], count, load, rows, count)


def classes_in_turn(classes: list[int], n: int, seed: int) -> Tensor:
    """(n,) classes, each once before any comes twice, in an order that `seed` shuffles:
    neighbouring classes of ImageNet are much alike.
    """
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    return torch.tensor(classes)[order][torch.arange(n) % len(classes)]


def samples_at_once(maker: LatentMaker) -> int:
    """Samples in one batch, which is what a stop can lose: small on a CPU, where a batch of a large
    model takes minutes.
    """
    room = 2**18 if maker.device.type == "cuda" else 2**15
    return max(1, min(64, room // torch.Size(maker.latent_shape).numel()))


def sample(
    maker: LatentMaker,
    conditions: Conditions,
    steps: int,
    guidance: float,
    seed: int,
    size: int,
    folder: Any,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Tensor:
    """Final latents (n, c, h, w) of the dense model's sampler, `size` at a time, kept in `folder`
    as they come. Raises Stopped and StudioError.
    """
    n, shape = len(conditions), maker.latent_shape
    side = Denoiser(maker.dense, maker.scheduler, maker.schedule, steps)
    calls, halves, had = len(side.timesteps), 2 if guidance > 1 else 1, kept(folder, n, size, shape)
    rows, done = (n - had) * calls * halves, 0
    text = (
        f"sampling {n - had} latents to calibrate on: {calls} steps each, {rows:,} denoiser rows"
        " in all" + (f" ({had} are kept from before)" if had else "")
    )

    def make(first: int, last: int) -> Tensor:
        nonlocal done
        if progress is not None and not done:
            progress(0, rows, text)

        def note(_: object) -> None:
            nonlocal done
            done += (last - first) * halves
            if progress is not None:
                progress(done, rows, text)

        part = first // size
        own_seed = (seed * 100_003 + part) % SEEDS
        noise = start_noise(size, shape, own_seed)[: last - first]
        if stop is not None and stop.is_set():
            raise Stopped
        return side.run(noise, conditions.rows(slice(first, last)), guidance, own_seed, stop, note)[
            0
        ]

    return kept_in_parts(folder, n, size, shape, make)


# ------------------------------------------------------------ words


def told(
    pipeline: Any,
    prompts: list[str],
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> tuple[Conditions, Tensor]:
    """Conditions of SDXL on n prompts, each different one encoded once, without a negative prompt;
    and which of the different ones each is (n,).
    """
    different, found = list(dict.fromkeys(prompts)), []
    for first in range(0, len(different), PROMPTS_AT_ONCE):
        if stop is not None and stop.is_set():
            raise Stopped("Stopped while reading the prompts; nothing was lost.")
        if progress is not None:
            progress(
                first,
                len(different),
                f"reading {len(different)} prompts with the model's own text encoders",
            )
        found.append(SDXL.conditions(pipeline, different[first : first + PROMPTS_AT_ONCE]))
    together = found[0]
    for more in found[1:]:
        together = Conditions(
            both(together.positive, more.positive), both(together.negative, more.negative)
        )
    ids = torch.tensor([different.index(p) for p in prompts])
    # one row stands for all
    unconditional = each_tensor(
        together.negative, lambda v: v[:1].expand(len(prompts), *v.shape[1:])
    )
    return Conditions(each_tensor(together.positive, lambda v: v[ids]), unconditional), ids


def _words(pipeline: Any) -> list[str]:
    """Return what words become conditions by: encoders, tokenizers, what stands for no words; empty
    without text.
    """
    parts = [getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
    tokenizers = [getattr(pipeline, name, None) for name in ("tokenizer", "tokenizer_2")]
    hashes = [f"{network_key(part)} {part.dtype}" for part in parts if part is not None]
    hashes += [tokenizer_key(part) for part in tokenizers if part is not None]
    return [*hashes, f"unconditional: {SDXL.unconditional(pipeline)}"] if hashes else []


def tokenizer_key(tokenizer: Any) -> str:
    """Hash a tokenizer: its vocabulary with merges and normalisation, its special words, its
    length.
    """
    whole = getattr(tokenizer, "backend_tokenizer", None)
    words = whole.to_str() if whole is not None else sorted(tokenizer.get_vocab().items())
    special = {k: str(v) for k, v in tokenizer.special_tokens_map.items()}
    return fingerprint(type(tokenizer).__name__, words, special, tokenizer.model_max_length)
