"""Turn parsed options into a workshop and into the settings of calibrations and comparisons."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from ..calibration.data import DataOptions
from ..calibration.settings import ENOUGH_TOKENS, CalibrationSettings
from ..curves.betas import NUM_TRAIN_TIMESTEPS
from ..curves.plan import StagePlan
from ..curves.plan_checks import MAX_STEPS, MIN_STEPS, short
from ..errors import StudioError
from ..models.bundled import BUNDLED
from ..models.families import SDXL
from ..workshop.sample_settings import SampleSettings
from ..workshop.workshop import Workshop, get_workshop
from .output import report_progress, warn_of_scarcity


def calibration_settings(args: argparse.Namespace) -> CalibrationSettings:
    """Return the calibration settings that the options ask for, with edges on 1000 timesteps.

    `CalibrationSettings.on` puts them on the model's own schedule. Raises StudioError.
    """
    wanted: dict[str, Any] = {}
    if args.bins is not None:
        wanted["edges"] = _edges(args.bins)
    if args.images_per_bin is not None:
        if not 4 <= args.images_per_bin <= 100_000:
            raise StudioError(
                f"--images-per-bin must lie between 4 and 100000, not {args.images_per_bin}."
            )
        wanted["images"] = args.images_per_bin
        wanted["held_out"] = max(2, args.images_per_bin // 3)
    if args.tokens_per_column is not None:
        wanted["token_cap"] = _token_cap(args.tokens_per_column)
    if args.damping is not None:
        if not 0 <= args.damping <= 1:
            raise StudioError(f"--damping must lie between 0 and 1, not {args.damping}.")
        wanted["damping"] = args.damping
    if args.weigh is not None:
        wanted["weighting"] = args.weigh
        if args.calibration_guidance is not None:
            wanted["guidance"] = args.calibration_guidance
    return CalibrationSettings(**wanted)


def _edges(bins: int) -> tuple[int, ...]:
    """Return the edges of so many timestep bins of equal width. Raises StudioError."""
    if not 2 <= bins <= 100:
        raise StudioError(f"--bins must lie between 2 and 100, not {bins}.")
    return tuple(round(i * NUM_TRAIN_TIMESTEPS / bins) for i in range(bins + 1))


def _token_cap(tokens: int) -> int:
    """Return the most tokens per column and bin that a layer takes. Raises StudioError."""
    if tokens < ENOUGH_TOKENS:
        raise StudioError(
            f"--tokens-per-column must be {ENOUGH_TOKENS} or more, not {tokens}: with fewer too"
            " little is measured."
        )
    return tokens


def data_options(args: argparse.Namespace) -> DataOptions:
    """Return what the options say about calibration data. Raises StudioError."""
    given = {
        "images": args.calibration_images,
        "count": args.calibration_count,
        "steps": args.calibration_steps,
        "guidance": args.calibration_guidance,
    }
    return DataOptions(
        self_calibrate=args.self_calibrate,
        **{name: value for name, value in given.items() if value is not None},
    )


def asked(
    args: argparse.Namespace, workshop: Workshop, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Return what `compare` samples, as arguments of `SampleSettings`. Raises StudioError.

    The prompts in turn for SDXL, else the classes in turn.
    """
    if workshop.family is not SDXL:
        if args.prompt or args.negative or size:
            raise StudioError(
                f"{workshop.name} paints classes at one size: leave out --prompt, --negative and"
                " --size, which are for SDXL."
            )
        n, classes = 16 if args.images is None else args.images, list(workshop.class_names)
        if args.classes is not None:
            classes = _classes(args.classes, workshop)
        return {"labels": tuple(classes[i % len(classes)] for i in range(n))}
    if args.classes is not None:
        raise StudioError(f"{workshop.name} paints from text: leave out --classes, for DiT.")
    if not args.prompt:
        raise StudioError(
            f"{workshop.name} paints from text: give --prompt TEXT, several times for several"
            " prompts."
        )
    n = len(args.prompt) if args.images is None else args.images
    if len(args.prompt) > n:
        raise StudioError(
            f"There are {len(args.prompt)} prompts for --images {n}: ask for at least"
            f" {len(args.prompt)}."
        )
    return {
        "prompts": tuple(args.prompt[i % len(args.prompt)] for i in range(n)),
        "negative": args.negative or "",
        "size": size,
    }


def checked_size(args: argparse.Namespace) -> tuple[int, int] | None:
    """Return (height, width) of --size, None where it is not given.

    Raises StudioError, also for --images and --steps that cannot be, before a model is loaded.
    """
    if args.images is not None and not 1 <= args.images <= 10_000:
        raise StudioError(f"--images must lie between 1 and 10000, not {args.images}.")
    check_steps(args.steps)
    return None if args.size is None else pixels(args.size)


def run_settings(
    args: argparse.Namespace,
    workshop: Workshop,
    size: tuple[int, int] | None,
    side_steps: tuple[int, int] | None = None,
) -> SampleSettings:
    """Return what both sides share, as the options of `compare` and `sweep` say it.

    side_steps: of A and of B, where these differ. Raises StudioError.
    """
    settings = SampleSettings(
        **asked(args, workshop, size),
        steps=args.steps,
        guidance=workshop.guidance if args.guidance is None else args.guidance,
        seed=args.seed,
        scheduler=args.scheduler,
        repeats=args.repeats,
        tabulate=args.adaln_table,
        dtype=args.precision,
        mode=args.mode,
        side_steps=side_steps,
    )
    workshop.check_settings(settings)
    return settings


def calibrate_for(workshop: Workshop, plans: Iterable[StagePlan | None]) -> None:
    """Calibrate where a plan needs it, and say what is scarce. Raises StudioError, Stopped."""
    if workshop.calibrated or any(map(workshop.needs_calibration, plans)):
        workshop.calibrate(report_progress)
        warn_of_scarcity(workshop.calibration_warnings)


def _classes(text: str, workshop: Workshop) -> list[int]:
    """Return the classes of a text like "3,5". Raises StudioError for any that the model lacks."""
    words = [word.strip() for word in text.split(",")]
    known = {str(label): label for label in workshop.class_names}
    strange = next((word for word in words if word not in known), None)
    if strange is not None:
        raise StudioError(
            f"--classes must be numbers from {min(workshop.class_names)} to"
            f" {max(workshop.class_names)} such as 0,3, not {short(strange)}."
        )
    return [known[word] for word in words]


def both_steps(text: str | None) -> tuple[int, int] | None:
    """Return the steps of A and of B of a text like "50,34", None for none. Raises StudioError."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if len(words) != 2 or not all(w.isascii() and w.isdigit() and len(w) < 10 for w in words):
        raise StudioError(f"--side-steps must be two whole numbers, 50,34, not {short(text)}.")
    for word in words:
        check_steps(int(word))
    return int(words[0]), int(words[1])


def pixels(text: str) -> tuple[int, int]:
    """Return (height, width) of a text like "768x1024". Raises StudioError."""
    height, cross, width = text.lower().replace("×", "x").partition("x")
    if not (
        cross
        and height.isascii()
        and width.isascii()
        and height.isdigit()
        and width.isdigit()
        and len(text) < 12
    ):
        raise StudioError("--size must be height x width in pixels, such as 768x1024.")
    return int(height), int(width)


def check_steps(steps: int) -> None:
    """Refuse sampling steps outside the range that holds everywhere. Raises StudioError."""
    if steps < MIN_STEPS:
        raise StudioError(f"--steps must be {MIN_STEPS} or more, not {short(steps)}.")
    if steps > MAX_STEPS:
        raise StudioError(f"--steps must be {MAX_STEPS} or fewer, not {short(steps)}.")


def open_workshop(args: argparse.Namespace) -> Workshop:
    """Load the model that the options name. Raises StudioError."""
    return get_workshop(
        args.model or BUNDLED,
        args.device,
        args.revision,
        args.dtype,
        calibration_settings(args),
        data_options(args),
    )
