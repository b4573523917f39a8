"""Hold what a calibration is measured on: clean latents, each with its conditions.

`core.calibration.measure` adds the noise. A bin wants `images + held_out` latents. Where there are
fewer different ones they are used again with another timestep and other noise: at 64 or more that
costs little, since each gives many tokens; under 64 a warning is given, and under 8 the data are
refused (ours, not the paper's).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import ParameterError, Stopped, StudioError
from ..files import cache_trouble, write_whole
from ..models.families import Conditions
from ..seeds import SEEDS

FEWEST = 8  # different latents without which nothing is measured
ENOUGH = 64  # with fewer different ones a warning is given


@dataclass(frozen=True)
class DataOptions:
    """The place that calibration latents come from.

    Without a choice: the latents shipped with the model, else the model's own samples. `images` is
    a path on this machine: never pass one that a visitor of a public page has typed.
    """

    images: str | None = None  # folder of pictures, see core.calibration.picture_folder
    self_calibrate: bool = False  # the model's own samples, even where latents are shipped
    # different latents; None: as many as one bin takes, so that none is used twice in it
    count: int | None = None
    steps: int = 20  # of the sampler that makes own samples
    guidance: float | None = None  # of that sampler; None: the family's, see core.models.families
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images is not None and self.self_calibrate:
            raise ParameterError("Give {images} or {self_calibrate}, not both.")
        if self.images is not None and not Path(self.images).is_dir():
            raise ParameterError("{images} {given} is not a folder.", given=self.images)
        if self.count is not None and not FEWEST <= self.count <= 100_000:
            raise ParameterError(
                "{count} must lie between {fewest} and 100000, not {given}.",
                fewest=FEWEST,
                given=self.count,
            )
        if not 1 <= self.steps <= 1000:
            raise ParameterError(
                "{steps} must lie between 1 and 1000, not {given}.", given=self.steps
            )
        if not 0 <= self.seed < SEEDS:
            raise StudioError(
                f"The seed of calibration data must lie between 0 and 2^32 - 1, not {self.seed}."
            )
        if self.guidance is not None and not (
            math.isfinite(self.guidance) and 0 <= self.guidance <= 20
        ):
            raise ParameterError(
                "{guidance} must be a number from 0 to 20, not {given}.", given=self.guidance
            )


@dataclass(frozen=True)
class CalibrationData:
    """Clean latents in the model's own scale, on the CPU."""

    latents: Tensor  # (n, c, h, w) fp32
    conditions: Conditions  # of n rows
    ids: Tensor  # (n,) the class, or which of the different prompts
    # in words: "the shipped latents", "the pictures in cats/", "the model's own samples (...)"
    source: str

    def __post_init__(self) -> None:
        if not len(self.latents) == len(self.conditions) == len(self.ids):
            raise StudioError(
                f"{len(self.latents)} calibration latents need as many conditions, not"
                f" {len(self.conditions)} and {len(self.ids)} labels."
            )
        if len(self.latents) < FEWEST:
            raise StudioError(
                f"Calibration on {self.source} needs at least {FEWEST} different latents, there are"
                f" {len(self.latents)}: give more."
            )

    def __len__(self) -> int:
        return len(self.latents)


def scarcity_warning(different: int) -> str | None:
    """Return the warning that goes with few different latents; None at 64 and more."""
    if different >= ENOUGH:
        return None
    return f"only {different} different latents, {ENOUGH} or more are better"


def repeated(rows: Tensor, n: int, random: torch.Generator) -> Tensor:
    """Return n of these rows, shuffled; none comes again before all have come."""
    rounds = [rows[torch.randperm(len(rows), generator=random)] for _ in range(-(-n // len(rows)))]
    return torch.cat(rounds)[:n]


def draw_latents(n: int, fit: int, held_out: int, seed: int, random: torch.Generator) -> Tensor:
    """Return which of n latents one bin measures: (fit + held_out,), the fitted ones first.

    A latent that is held out is held out in every bin (`seed` decides, `random` differs from bin to
    bin): else its tokens at neighbouring timesteps, nearly the same for small t, would stand on
    both sides of the honest error.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    apart = min(n - 1, max(1, round(n * held_out / (fit + held_out)))) if held_out else 0
    fitted = repeated(order[apart:], fit, random)
    if not held_out:
        return fitted
    return torch.cat([fitted, repeated(order[:apart], held_out, random)])


def kept_in_parts(
    folder: Path, count: int, size: int, shape: tuple[int, ...], make: Callable[[int, int], Tensor]
) -> Tensor:
    """Return latents (count, *shape), made in parts that are kept on the disk one by one.

    `make(first, last + 1)` makes `size` at a time. A stop, a kill or a full disk loses one part at
    most. `make` may raise Stopped; its sentence then names what was kept. Raises StudioError for
    latents that are not finite and files that cannot be written.
    """
    parts = []
    for k, first in enumerate(range(0, count, size)):
        last = min(first + size, count)
        path = folder / f"latents-{k:05d}.safetensors"
        found = read_part(path, last - first, shape)
        if found is None:
            try:
                found = make(first, last).float().cpu()
            except Stopped:
                raise Stopped(
                    f"Stopped: {first} of {count} calibration latents are kept, the next run goes"
                    " on from there."
                ) from None
            if not found.isfinite().all():
                raise StudioError(
                    "The calibration latents contain NaN or infinity: the model or its VAE"
                    " overflows; load it in float32."
                )
            _write(path, found)
        parts.append(found)
    return torch.cat(parts)


def kept(folder: Path, count: int, size: int, shape: tuple[int, ...]) -> int:
    """Return how many of the latents of `kept_in_parts` are on the disk already."""
    total = 0
    for k, first in enumerate(range(0, count, size)):
        n = min(size, count - first)
        if read_part(folder / f"latents-{k:05d}.safetensors", n, shape) is not None:
            total += n
    return total


def read_part(path: Path, n: int, shape: tuple[int, ...]) -> Tensor | None:
    """Read the first n latents of a part.

    None where the part is missing, damaged or too short; it is then made again.
    """
    try:
        found = load_file(path)["latents"]
    # safetensors raises its own kind; whatever is wrong with the file, it is made again
    except Exception:
        return None
    return found[:n] if len(found) >= n and tuple(found.shape[1:]) == tuple(shape) else None


def _write(path: Path, latents: Tensor) -> None:
    """Write latents, whole or not at all. Raises StudioError."""
    try:
        write_whole(path, lambda part: save_file({"latents": latents.contiguous()}, part))
    except Exception as err:  # safetensors wraps OSError in its own error
        raise StudioError(
            f"Calibration latents could not be written ({cache_trouble(err)}; what is done is kept."
        ) from err
