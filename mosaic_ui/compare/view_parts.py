"""Small pieces that every view of the Compare tab uses: stage colours, pictures, repeated words.

Pure, no Gradio; number formats are in text.py.
"""

from __future__ import annotations

from html import escape

import numpy as np

from core.curves.guidance_words import rows_words
from core.curves.plan import STAGES
from core.workshop.comparison import Comparison

from ..png import data_address, png_bytes
from ..text import factor_text
from ..theme import DENSE_COLOUR, STAGE_COLOURS

SAMPLING_ORDER = (2, 1, 0)  # early is sampled first


def runs_words(repeats: int) -> str:
    """Say what a measured figure with its ± is, as core.sampling.timing defines it."""
    if not repeats:
        return "not timed"
    if repeats == 1:
        return "one timed run, no spread"
    return (
        f"median of {repeats} ±"
        f" {'half the range' if repeats < 4 else 'half the distance between the quartiles'}"
    )


def ratio_words(comparison: Comparison) -> str:
    """Say why the measured ratio is not that of the two times beside it; nothing where it is."""
    ratio, plain = comparison.speedup_measured, comparison.speedup_of_medians
    if ratio is None or plain is None or factor_text(ratio) == factor_text(plain):
        return ""
    return (
        f"{factor_text(ratio)} is the median of the ratios of {comparison.timed_runs} rounds; the"
        f" two medians alone give {factor_text(plain)}"
    )


def halves_words(comparison: Comparison) -> str:
    """Say which guidance halves figures count, of each side where they differ.

    Begins with a comma; nothing where neither side ran a guided pair, so that there are no halves.
    """
    rows = [comparison.rows_of(side) for side in (comparison.a, comparison.b)]
    if not any(2 in own for own in rows):
        return ""
    a, b = map(rows_words, rows)
    return f", {a}" if a == b else f", A with {a}, B with {b}"


def stage_colour(stage: int | None) -> str:
    """Return the colour of a stage index; grey for the dense model and for whole runs."""
    return DENSE_COLOUR if stage is None or stage < 0 else STAGE_COLOURS[STAGES[stage]]


def picture_html(picture: np.ndarray, text: str, css: str = "cmp-sheet") -> str:
    """Write a picture that carries its own PNG; `text` describes it."""
    return (
        f'<img class="{css}" src="{data_address(png_bytes(picture))}"'
        f' alt="{escape(text, quote=True)}">'
    )
