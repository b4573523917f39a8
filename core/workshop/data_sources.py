"""Choose where calibration latents come from: shipped beside the model, pictures, or own samples.

Pictures and samples cost a run of the VAE's encoder or of the sampler. The latents are kept in the
cache, part by part, under a key of everything they depend on. That key is known before the first
latent is made, so that a `Workshop` can name its folder at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cache import fingerprint, network_key
from ..calibration.data import FEWEST, CalibrationData, DataOptions, scarcity_warning
from ..calibration.picture_folder import (
    Picture,
    caption_of,
    class_of,
    is_place,
    known_names,
    read_folder,
)
from ..calibration.picture_latents import encode_pictures, pixel_size
from ..curves.samplers import sampling_timesteps
from ..errors import LatentsShipped, StudioError
from ..models.checkpoints import Checkpoint
from ..models.families import DiT, Family
from ..models.prompts import PROMPTS, cut_prompts
from ..progress import Progress
from ..sampling.own_samples import (
    STREAM,
    LatentMaker,
    classes_in_turn,
    sample,
    samples_at_once,
    text_identity,
)


@dataclass(frozen=True)
class DataSource:
    """A place that latents come from. Cheap to make: the expensive work waits for `load`."""

    text: str  # "256 of the model's own samples (20 steps each, guidance 1.5)"
    identity: Any  # goes into the key of everything measured on it
    different: int  # latents of different pictures
    load: Callable[[LatentMaker, Progress | None, threading.Event | None], CalibrationData]
    rows: int = 0  # denoiser rows that making them takes, kept ones included
    made: int = 0  # latents that are made first and kept on the disk
    remarks: tuple[str, ...] = ()  # sentences on what was passed over or cut

    @property
    def warning(self) -> str | None:
        """Return what is scarce or was passed over, or None."""
        return (
            "; ".join(text for text in (scarcity_warning(self.different), *self.remarks) if text)
            or None
        )


def choose_source(
    checkpoint: Checkpoint,
    family: Family,
    needed: int,
    options: DataOptions,
    weighs: bool = False,
) -> DataSource:
    """Return the source that the options ask for, else the shipped latents, else own samples.

    needed: latents that one bin takes.
    weighs: the guidance among the options weighs calibration rows too, so that it asks for no
        other latents.
    Raises StudioError for pictures that cannot serve, LatentsShipped for options that the shipped
    latents cannot fulfil.
    """
    if options.images is not None:
        return pictures(checkpoint, family, needed, options, Path(options.images))
    # shipped latents come with class labels
    if checkpoint.latents is not None and not family.asks_words and not options.self_calibrate:
        if options != DataOptions(guidance=options.guidance if weighs else None):
            raise LatentsShipped(f"{checkpoint.name} ships calibration latents")
        return shipped(checkpoint)
    return own_samples(checkpoint, family, needed, options)


# ------------------------------------------------------------ shipped


def shipped(checkpoint: Checkpoint) -> DataSource:
    """Return the source of a model folder's `calibration/latents.safetensors`.

    Real latents and their labels.
    """
    latents, labels = checkpoint.latents, checkpoint.labels
    assert latents is not None and labels is not None  # `choose_source` asks before
    text = f"the {len(latents)} shipped latents"

    def load(*_: object) -> CalibrationData:
        return CalibrationData(latents, DiT.conditions(labels), labels, text)

    return DataSource(text, {"latents": latents, "labels": labels}, len(latents), load)


# ------------------------------------------------------------ pictures


def pictures(
    checkpoint: Checkpoint, family: Family, needed: int, options: DataOptions, folder: Path
) -> DataSource:
    """Return the source of a folder of pictures, encoded by the model's own VAE.

    Files are listed, labelled and hashed here, and read in `load`. Raises StudioError: no pictures,
    fewer than 8, a picture without a label, a label that the model does not know.
    """
    pipeline, vae = checkpoint.pipeline, checkpoint.pipeline.vae
    channels = vae.config.in_channels
    if channels not in (1, 3):
        raise StudioError(
            f"The model's VAE takes {channels} channels; only grey and RGB pictures can be given."
        )
    count = options.count or max(needed, FEWEST)
    given = read_folder(folder, count, options.seed, words=family.asks_words)
    found = given.pictures
    text = f"{len(found)} pictures of the given folder"
    if len(found) < FEWEST:
        raise StudioError(
            f"Calibration needs at least {FEWEST} pictures, the folder holds {len(found)}: add more"
            f" (below {needed} some are used twice)."
        )
    shows = _shown(checkpoint, family, found)
    size = pixel_size(checkpoint)
    encoded = [network_key(vae), str(vae.dtype), size, [p.digest() for p in found]]

    def load(
        maker: LatentMaker, progress: Progress | None, stop: threading.Event | None
    ) -> CalibrationData:
        kept_in = maker.cache / f"latents-{fingerprint(encoded)}"
        latents = encode_pictures(found, vae, size, maker.latent_shape, kept_in, progress, stop)
        conditions, ids = family.source_conditions(pipeline, shows, progress, stop)
        return CalibrationData(latents, conditions, ids, text)

    return DataSource(
        text,
        identity=["pictures", encoded, shows, text_identity(pipeline)],
        different=len(found),
        load=load,
        made=len(found),
        remarks=(*given.remarks, *_remarks(pipeline, found, shows, family)),
    )


def _shown(checkpoint: Checkpoint, family: Family, found: list[Picture]) -> list[Any]:
    """Return what each picture shows: prompts for SDXL, else class numbers. Raises StudioError."""
    if family.asks_words:
        return [caption_of(picture) for picture in found]
    names = known_names(checkpoint.class_names)
    config: Any = checkpoint.denoiser.config
    return [class_of(picture, names, config.num_embeds_ada_norm) for picture in found]


def _remarks(pipeline: Any, found: list[Picture], shows: list[Any], family: Family) -> list[str]:
    """Return what a user may not expect: captions cut short, prompts from folders, a class in two.

    At most three sentences.
    """
    if family.asks_words:
        folders = sorted({prompt for p, prompt in zip(found, shows, strict=True) if p.by_folder})
        names = ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if folders[3:] else "")
        cut = cut_prompts(pipeline, shows, what="caption").rstrip(".")
        by_folder = f"the sub-folders' names are the prompts: {names}" if folders else ""
        return [text for text in (by_folder, cut) if text]
    folders_of: dict[int, set[str]] = {}
    for picture, label in zip(found, shows, strict=True):
        if picture.by_folder and not is_place(str(picture.shows)):
            folders_of.setdefault(label, set()).add(str(picture.shows))
    remarks = [
        f"class {label} is in the folders {' and '.join(sorted(names))}"
        for label, names in folders_of.items()
        if len(names) > 1
    ]
    return remarks[:3]


# ------------------------------------------------------------ own samples


def own_samples(
    checkpoint: Checkpoint, family: Family, needed: int, options: DataOptions
) -> DataSource:
    """Return the source of the model's own samples ("self-calibration").

    Its own scheduler, classes or built-in prompts in turn; nothing but the checkpoint is needed.
    """
    pipeline, count = checkpoint.pipeline, options.count or max(needed, FEWEST)
    guidance = checkpoint.guidance if options.guidance is None else float(options.guidance)
    text = f"{count} of the model's own samples ({options.steps} steps each, guidance {guidance:g})"
    recipe = [
        "own samples",
        STREAM,
        options.steps,
        guidance,
        options.seed,
        pipeline.scheduler.to_json_string(),
        text_identity(pipeline),
        list(PROMPTS) if family.asks_words else list(checkpoint.class_names),
    ]

    def load(
        maker: LatentMaker, progress: Progress | None, stop: threading.Event | None
    ) -> CalibrationData:
        shows: list[Any] = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
        if not family.asks_words:
            shows = classes_in_turn(list(checkpoint.class_names), count, options.seed).tolist()
        conditions, ids = family.source_conditions(pipeline, shows, progress, stop)
        size = samples_at_once(maker)
        # a larger count goes on from a smaller one
        key = fingerprint(maker.network, str(maker.dtype), recipe, size)
        latents = sample(
            maker,
            conditions,
            options.steps,
            guidance,
            options.seed,
            size,
            maker.cache / f"latents-{key}",
            progress,
            stop,
        )
        return CalibrationData(latents, conditions, ids, text)

    calls = len(sampling_timesteps(pipeline.scheduler, options.steps))
    rows = count * calls * (2 if guidance > 1 else 1)
    return DataSource(text, [*recipe, count], count, load, rows=rows, made=count)
