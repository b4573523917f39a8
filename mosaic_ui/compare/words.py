"""Small pieces that every view of the Compare tab uses: numbers with units, stage colours, pictures
in a page (pure, no Gradio).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

import numpy as np

from core.curves.plan import STAGES

from ..theme import DENSE_COLOUR, STAGE_COLOURS
from .pictures import data_address, png_bytes

SAMPLING_ORDER = (2, 1, 0)  # early is sampled first


def _decimals(value: float, width: float = 0.0) -> int:
    """Decimals that show three figures of the value, and at least one figure of its spread."""
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    if width > 0:
        digits = max(digits, min(4, -math.floor(math.log10(width))))
    return digits


def seconds_text(
    value: float | None, width: float | None = None, beside: Iterable[float | None] = ()
) -> str:
    """'1.23 s', '45.6 ms', or with a spread in the same unit '1.230 ± 0.004 s'; a dash where the
    value is not known.

    `beside`: the times it is read together with; the smallest of all gives the unit, so that they
    can be compared at a glance.
    """
    if value is None or not math.isfinite(value):
        return "–"
    smallest = min([abs(value), *(abs(v) for v in beside if v is not None and math.isfinite(v))])
    scale, unit = (1e3, "ms") if smallest < 0.1 else (1.0, "s")
    value *= scale
    if width is None or not math.isfinite(width):
        return f"{value:.{_decimals(value)}f} {unit}"
    width *= scale
    digits = _decimals(value, width)
    return f"{value:.{digits}f} ± {width:.{digits}f} {unit}"


def runs_words(repeats: int) -> str:
    """What a measured figure with its ± is, in core.timing's definition; one run has no ±."""
    if repeats == 1:
        return "one timed run, no spread"
    return (
        f"median of {repeats} ±"
        f" {'half the range' if repeats < 4 else 'half the distance between the quartiles'}"
    )


def halves_words(halves: int) -> str:
    """With guidance the denoiser sees every image twice, and the figures say so."""
    return ", both guidance halves" if halves == 2 else ""


def macs_text(value: float | None) -> str:
    """Multiply-accumulates with an SI prefix."""
    if value is None:
        return "–"
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {prefix}MACs"
    return f"{value:.0f} MACs"


def factor_text(value: float | None, width: float | None = None) -> str:
    """A speed-up: ×1.23, or with its spread ×1.23 ± 0.04."""
    if value is None or not math.isfinite(value):
        return "not known"
    return f"×{value:.2f}" + ("" if width is None else f" ± {width:.2f}")


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def stage_colour(stage: int | None) -> str:
    """The colour of a stage index; grey for the dense model and for whole runs."""
    return DENSE_COLOUR if stage is None or stage < 0 else STAGE_COLOURS[STAGES[stage]]


def picture_html(picture: np.ndarray, text: str, css: str = "cmp-sheet") -> str:
    return (
        f'<img class="{css}" src="{data_address(png_bytes(picture))}"'
        f' alt="{escape(text, quote=True)}">'
    )
