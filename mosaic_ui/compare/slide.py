"""Draw a comparison as one picture for slides: both sides, the one number, the plan as bars.

Pure functions, no Gradio.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from core.curves.guidance_words import scale_words
from core.curves.plan import STAGES, StagePlan
from core.workshop.comparison import Comparison, Side

from ..text import factor_text, percent, plural
from .figures import settings_line
from .lettering import INK, PAPER, QUIET, font, wrapped, write
from .pictures import contact_sheet, sheet_columns, to_uint8
from .view_parts import SAMPLING_ORDER, stage_colour

SIZE = (1920, 1080)  # pixels, width and height
MARGIN = 80
SIDE = 560  # pixels of the square that holds the pictures of one side
SHOWN = 16  # samples of each side
TOP = 352  # of the pictures
COLUMN = 1330  # left edge of number and bars
WIDE = SIZE[0] - MARGIN - COLUMN  # of a bar
PALE = (228, 228, 231)  # what a stage loses


def slide(comparison: Comparison) -> np.ndarray:
    """Return the picture, (1080, 1920, 3) uint8.

    The one number is the measured ratio of the times, marked as doubtful where the sentence doubts
    it, else the counted ratio of the MACs, which says that nothing was timed.
    """
    canvas = Image.new("RGB", SIZE, PAPER)
    draw = ImageDraw.Draw(canvas)
    below = _lines(draw, (MARGIN, 60), comparison.verdict, 44, INK, SIZE[0] - 2 * MARGIN, 3)
    _lines(draw, (MARGIN, below + 14), comparison.distance, 30, QUIET, SIZE[0] - 2 * MARGIN, 1)
    for k, (letter, side) in enumerate((("A", comparison.a), ("B", comparison.b))):
        left = MARGIN + k * (SIDE + 50)
        _lines(draw, (left, TOP - 46), f"{letter}: {side.name}", 32, INK, SIDE, 1)
        canvas.paste(_pictures(side.images), (left, TOP))
    shown = min(SHOWN, comparison.n)
    if shown < comparison.n:
        words = f"the first {shown} of {plural(comparison.n, 'image')}"
        _lines(draw, (MARGIN, TOP + SIDE + 12), words, 24, QUIET, SIDE, 1)
    number, about = _number(comparison)
    write(draw, (COLUMN, TOP - 56), number, font(150), INK)
    _lines(draw, (COLUMN, TOP + 116), about, 28, QUIET, WIDE, 2)
    _bars(draw, comparison)
    foot = f"{comparison.model}; {settings_line(comparison)}; {comparison.when}."
    _lines(draw, (MARGIN, 962), foot, 26, QUIET, SIZE[0] - 2 * MARGIN, 2)
    return np.asarray(canvas)


def _lines(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    ink: tuple[int, int, int],
    width: int,
    most: int,
) -> int:
    """Draw a text in at most so many lines of so many pixels; return where the next may begin."""
    face, high = font(size), round(1.25 * size)
    lines = wrapped(text, face, width, most)
    for k, line in enumerate(lines):
        write(draw, (place[0], place[1] + k * high), line, face, ink)
    return place[1] + len(lines) * high


def _pictures(images: Tensor) -> Image.Image:
    """Return the first samples in a square; small ones are enlarged by whole pixels."""
    shown = to_uint8(images[:SHOWN])
    cell = SIDE // sheet_columns(len(shown))
    sheet = Image.fromarray(contact_sheet(shown, pixels=cell - 4, ground=255))
    if max(sheet.size) > SIDE:
        sheet.thumbnail((SIDE, SIDE))
    return sheet


def _number(comparison: Comparison) -> tuple[str, str]:
    """Return the one number, and what it is."""
    judged, off = comparison.judged, comparison.speedup_spread
    if judged.ratio is None:
        ratio = comparison.speedup_macs
        return factor_text(ratio), "MACs of A / MACs of B: counted, nothing was timed"
    rounds = plural(comparison.timed_runs, "round")
    spread = "1 round, no spread" if off is None else f"median of {rounds} ± {off:.2f}"
    doubt = ", doubtful" if judged.doubtful else ""
    return factor_text(judged.ratio), f"time of A / time of B, measured{doubt}: {spread}"


def _bars(draw: ImageDraw.ImageDraw, comparison: Comparison) -> None:
    """Draw what each stage of the plan keeps, in sampling order; early comes first."""
    side = comparison.a if comparison.b.plan is None else comparison.b
    if side.plan is None:
        _lines(draw, (COLUMN, TOP + 240), "Both sides are the whole model.", 30, INK, WIDE, 2)
        return
    letter = "A" if side is comparison.a else "B"
    title = f"What {letter} keeps of heads and neurons"
    _lines(draw, (COLUMN, TOP + 206), title, 30, INK, WIDE, 1)
    for k, stage in enumerate(SAMPLING_ORDER):
        top = TOP + 262 + k * 108
        kept = 1 - side.plan.sparsity[stage]
        _lines(draw, (COLUMN, top), _stage_words(side, side.plan, stage), 26, INK, WIDE, 1)
        draw.rectangle((COLUMN, top + 38, COLUMN + WIDE, top + 78), PALE)
        colour = ImageColor.getrgb(stage_colour(stage))
        draw.rectangle((COLUMN, top + 38, COLUMN + round(WIDE * kept), top + 78), colour)


def _stage_words(side: Side, plan: StagePlan, stage: int) -> str:
    """Write a stage with its steps, what it removes, and its own guidance and reuse."""
    words = f"{STAGES[stage]}, {plural(side.stages.count(stage), 'step')}: "
    words += f"{percent(plan.sparsity[stage])} removed"
    if plan.guidance[stage] is not None:
        words += f", guidance {scale_words(plan.guidance[stage])}"
    if plan.reuse[stage] > 1:
        words += f", 1 of {plan.reuse[stage]} in full"
    return words
