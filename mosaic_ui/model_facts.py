"""What the page has to know of the loaded model before it asks or promises anything: words or
classes, how large, what a calibration takes.

No components here, so it is tested without a browser.
"""

from __future__ import annotations

from typing import Any

from core.calibration.preflight import calibration_disk
from core.curves.samplers import SCHEDULERS
from core.errors import StudioError
from core.models.devices import DTYPES
from core.workshop.predict import usual_images

SMALL_MACS = 2e10  # of one forward of one image; larger models are asked for little at a time
# of solving every layer of three stages: the exact answer has to come within about 3 s
EXACT_FLOPS = {"cpu": 3e11, "cuda": 1e13}
# height and width on offer, of the model's own size
SHARES = ((1, 1), (0.75, 0.75), (0.5, 0.5), (0.75, 1), (1, 0.75))
STEPS_OF_WORDS = 30  # usual for SDXL with its own scheduler
AS_LOADED = "as loaded"  # a precision to compare in


def asks_words(workshop: Any) -> bool:
    """Whether pictures are asked for in words (SDXL), not by class (DiT)."""
    return bool(getattr(getattr(workshop, "family", None), "asks_words", False))


def large(workshop: Any) -> bool:
    """Whether a picture takes so long that a few of them are enough to ask for."""
    return asks_words(workshop) or getattr(workshop, "forward_macs", (0, 0))[0] > SMALL_MACS


def images_offered(workshop: Any) -> tuple[int, int]:
    """(default, most) number of pictures of a comparison in the page; the command line takes any
    number.
    """
    return (2, 16) if large(workshop) else (16, 512)


def batch(workshop: Any) -> int:
    """Images that predicted times are for: 16,
    or fewer where one forward of 16 would take minutes.
    """
    return usual_images(workshop.device, workshop.forward_macs[0])


def exact_in_time(workshop: Any) -> bool:
    """Whether exact errors can follow an edit: calibrated, and small enough to solve every layer at
    once.
    """
    if not workshop.calibrated:
        return False
    flops = 3 * sum(layer.width**3 for layer in workshop.layers)
    return flops <= EXACT_FLOPS.get(workshop.device.type, EXACT_FLOPS["cpu"])


def path_images(workshop: Any) -> int:
    """Latents that the model's own sampling path is averaged over."""
    return 2 if large(workshop) else 32


def default_guidance(workshop: Any) -> float:
    """What this kind of model is usually sampled with."""
    return workshop.family.guidance


def default_sampler(workshop: Any) -> tuple[str, int]:
    """(name of the sampler, steps) that the page opens with: DDIM at 50 as in the paper's tables,
    or a text model's own.
    """
    own = type(workshop.checkpoint.pipeline.scheduler).__name__
    names = [name for name, kind in SCHEDULERS.items() if kind == own]
    name, steps = (names[0], STEPS_OF_WORDS) if asks_words(workshop) and names else ("DDIM", 50)
    return name, min(steps, len(workshop.schedule))


def own_size(workshop: Any) -> int:
    """Height and width in pixels of a text model's own pictures."""
    return workshop.transformer.config.sample_size * workshop.checkpoint.pipeline.vae_scale_factor


def sizes(workshop: Any) -> dict[str, tuple[int, int] | None]:
    """Sizes on offer, in words -> (height, width) in pixels, multiples of 64; None is the model's
    own.
    """
    own = own_size(workshop)
    found: dict[str, tuple[int, int] | None] = {f"{own} × {own} (the model's own)": None}
    for high, wide in SHARES[1:]:
        size = tuple(max(64, 64 * round(share * own / 64)) for share in (high, wide))
        if size != (own, own):
            found[
                (
                    f"{size[1]} wide × {size[0]} high"
                    if size[0] != size[1]
                    else f"{size[1]} × {size[0]}"
                )
            ] = size
    return found


def precisions(workshop: Any) -> list[tuple[str, str]]:
    """What Compare can run in, as (label, value): the model's own precision first."""
    own = precision(workshop)
    return [(f"{AS_LOADED} ({own})", AS_LOADED), *((name, name) for name in DTYPES if name != own)]


def precision(workshop: Any) -> str:
    """The floating type of the denoiser's weights: float32, bfloat16 or float16."""
    return next(
        (name for name, kind in DTYPES.items() if kind == workshop.dtype), str(workshop.dtype)
    )


def unmeasured(workshop: Any) -> bool:
    """Whether nothing is known of the layers yet:
    neither calibrated here nor shipped with curves.
    """
    if workshop.calibrated:
        return False
    try:
        return workshop.orders is None
    except StudioError:
        return True


def without_paths(workshop: Any, text: str) -> str:
    """Say a report of the work without the server's paths: a place goes by what it is for."""
    return text.replace(str(workshop.folder), "this server's cache")


def bytes_text(count: float) -> str:
    """Bytes with a unit a person can read."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def calibration_sentences(workshop: Any) -> list[str]:
    """What pressing Calibrate does: where the data come from, the denoiser rows it takes at most,
    the disk, what a stop loses.
    """
    settings, source = workshop.settings, workshop.source
    if workshop.bins_kept == settings.bins:
        return [
            f"All {settings.bins} timestep bins are measured; Calibrate works out from them in"
            f" which order {len(workshop.layers)} layers lose their parts."
        ]
    measured = 2 * settings.bins * (settings.images + settings.held_out)
    first = (
        f"Calibrate measures {len(workshop.layers)} layers in {settings.bins} timestep bins on"
        f" {source.text}."
    )
    made = (
        f"{source.rows:,} times to make the samples and {measured:,} times"
        if source.rows
        else f"{measured:,} times"
    )
    work = (
        f"It runs the network on one picture {made} to measure (denoiser rows: a picture with its"
        " unconditional twin is two)."
    )
    need = bytes_text(calibration_disk(workshop.layers, settings))
    disk = (
        f"The measurements take {need} on the disk, checked before it starts; a stop loses nothing"
        " that was finished."
    )
    return [first, work, disk]
