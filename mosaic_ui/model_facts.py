"""Find out of the loaded model what the page offers: words or classes, sizes, precisions, work.

No components here, so it is tested without a browser.
"""

from __future__ import annotations

import re

from core.calibration.preflight import calibration_disk
from core.curves.plan import StagePlan
from core.curves.scheduler_tables import SCHEDULERS
from core.errors import StudioError
from core.models.devices import DTYPES
from core.mosaic.modes import COMPILED, GRAPHS, MODES, PLAIN, why_not
from core.workshop.predict import usual_images
from core.workshop.workshop import Workshop

from .text import bytes_text

SMALL_MACS = 2e10  # of one forward of one image; larger models are asked for little at a time
# of solving every layer of three stages: the exact answer has to come within about 3 s
EXACT_FLOPS = {"cpu": 3e11, "cuda": 1e13}
# height and width on offer, of the model's own size
SHARES = ((1, 1), (0.75, 0.75), (0.5, 0.5), (0.75, 1), (1, 0.75))
STEPS_OF_WORDS = 30  # usual for SDXL with its own scheduler
AS_LOADED = "as loaded"  # a precision to compare in


def asks_words(workshop: Workshop) -> bool:
    """Say whether pictures are asked for in words (SDXL), not by class (DiT)."""
    return workshop.family.asks_words


def large(workshop: Workshop) -> bool:
    """Say whether a picture takes so long that a few of them are enough to ask for."""
    return asks_words(workshop) or workshop.forward_macs[0] > SMALL_MACS


def images_offered(workshop: Workshop) -> tuple[int, int]:
    """Return the (default, most) number of pictures of a comparison in the page."""
    return (2, 16) if large(workshop) else (16, 512)


def batch(workshop: Workshop) -> int:
    """Return the images that predicted times are for.

    They are 16, or fewer where one forward of 16 would take minutes.
    """
    return usual_images(workshop.device, workshop.forward_macs[0])


def rows_timed(plan: StagePlan | None) -> list[int]:
    """Return the rows per image that a plan's predicted times are of, the dense model's last.

    The page predicts runs with guidance: two rows, one where a stage needs one half alone.
    """
    return sorted({2} if plan is None else {2, *plan.halves(2)})


def exact_in_time(workshop: Workshop, block: int | None = None) -> bool:
    """Say whether exact errors can follow an edit: those of all layers, or of one block from 0.

    They can where the model is calibrated and small enough to solve these layers at once.
    """
    if not workshop.calibrated:
        return False
    layers = [layer for layer in workshop.layers if block in (None, layer.block)]
    flops = 3 * sum(layer.width**3 for layer in layers)
    return flops <= EXACT_FLOPS.get(workshop.device.type, EXACT_FLOPS["cpu"])


def path_images(workshop: Workshop) -> int:
    """Return the number of latents that the model's own sampling path is averaged over."""
    return 2 if large(workshop) else 32


def default_guidance(workshop: Workshop) -> float:
    """Return the guidance that this model is usually sampled with."""
    return workshop.guidance


def default_sampler(workshop: Workshop) -> tuple[str, int]:
    """Return the sampler's name and the steps that the page opens with.

    They are DDIM at 50 as in the paper's tables, or a text model's own.
    """
    own = type(workshop.checkpoint.pipeline.scheduler).__name__
    names = [name for name, kind in SCHEDULERS.items() if kind == own]
    name, steps = (names[0], STEPS_OF_WORDS) if asks_words(workshop) and names else ("DDIM", 50)
    return name, min(steps, len(workshop.schedule))


def own_size(workshop: Workshop) -> int:
    """Return the height and width in pixels of a text model's own pictures."""
    pipeline = workshop.checkpoint.pipeline
    return pipeline.unet.config.sample_size * pipeline.vae_scale_factor


def sizes(workshop: Workshop) -> dict[str, tuple[int, int] | None]:
    """Return the sizes on offer for a text model, as `sizes_beside`."""
    return sizes_beside(own_size(workshop))


def sizes_beside(own: int) -> dict[str, tuple[int, int] | None]:
    """Return the sizes on offer, in words -> (height, width) in pixels, multiples of 64.

    None is the model's own size, `own` pixels square.
    """
    found: dict[str, tuple[int, int] | None] = {f"{own} × {own} (the model's own)": None}
    for high, wide in SHARES[1:]:
        height, width = (max(64, 64 * round(share * own / 64)) for share in (high, wide))
        if (height, width) != (own, own):
            square = height == width
            words = f"{width} × {height}" if square else f"{width} wide × {height} high"
            found[words] = (height, width)
    return found


def precisions(workshop: Workshop) -> list[tuple[str, str]]:
    """Return what Compare can run in, as (label, value): the model's own precision first."""
    own = precision(workshop)
    return [(f"{AS_LOADED} ({own})", AS_LOADED), *((name, name) for name in DTYPES if name != own)]


def modes(workshop: Workshop) -> list[tuple[str, str]]:
    """Return how networks can run on this device, as (label, value)."""
    names = {PLAIN: "plain", GRAPHS: "captured", COMPILED: "compiled"}
    return [(names[mode], mode) for mode in MODES if not why_not(mode, workshop.device)]


def modes_info(workshop: Workshop) -> str:
    """Return what the modes are, and why some cannot be had here."""
    refused = [why_not(mode, workshop.device) for mode in MODES]
    return " ".join(
        [
            "Compiled: blocks are compiled first, which takes seconds to minutes and is not timed.",
            *(why for why in refused if why),
        ]
    )


def precision(workshop: Workshop) -> str:
    """Return the floating type of the denoiser's weights: float32, bfloat16 or float16."""
    return next(
        (name for name, kind in DTYPES.items() if kind == workshop.dtype), str(workshop.dtype)
    )


def unmeasured(workshop: Workshop) -> bool:
    """Say whether nothing is known of the layers yet.

    It is known of a model that is calibrated here or shipped with curves.
    """
    if workshop.calibrated:
        return False
    try:
        return workshop.orders is None
    except StudioError:
        return True


def without_paths(workshop: Workshop, text: str) -> str:
    """Write a report of the work as the page shows it, without the server's paths.

    What a calibration takes is one short clause; the page says the rest before it begins.
    """
    text = re.sub(
        r"^calibration will write (\d+ MB) to .*", r"making room for \1 on the disk", text
    )
    return text.replace(str(workshop.folder), "this server's cache")


def calibration_sentences(workshop: Workshop) -> list[str]:
    """Say what pressing Calibrate does: data, denoiser rows at most, disk, what a stop loses."""
    settings, source = workshop.settings, workshop.source
    if workshop.bins_kept == settings.bins:
        return [
            f"All {settings.bins} timestep bins are measured. Calibrate now only computes the"
            f" removal order of {len(workshop.layers)} layers."
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
        f"It runs the network on one picture {made} to measure (a picture with and without its"
        " condition counts as two)."
    )
    need = bytes_text(calibration_disk(workshop.layers, settings))
    disk = (
        f"The measurements take {need} on the disk; free space is checked first. Stop loses nothing"
        " that is finished."
    )
    return [first, work, disk]
