"""Draw measured time against distance as SVG, for a page without any script.

Pure functions, no Gradio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from core.runs.run import Run

from ..text import number
from .chosen import KINDS, axis_title, loss_range, point_of, standing, time_range
from .table import title_of

WIDTH, HEIGHT = 760, 420  # of the drawing, in units of its own
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 16, 56  # margins
SIZE = 6  # of a marker
TICKS = 5


class Scale(NamedTuple):
    """A straight way from values to places on the drawing."""

    low: float
    high: float
    start: float  # place of `low`
    end: float  # place of `high`

    def at(self, value: float) -> float:
        """Return the place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values within the range, about `TICKS` of them."""
        rough = (self.high - self.low) / TICKS
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough)
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, math.floor(self.high / step) + 1)]


def plot_svg(runs: Sequence[Run], axis: str) -> str:
    """Draw a point per run, with its place among `runs` beside it, counted from 1.

    axis: "PSNR" or "FID". Empty where no run has a place in it. Bars are the spread of the times;
    a point on the front is filled.
    """
    found = standing(runs, axis)
    places = [i for i, stands in enumerate(found) if stands is not None]
    points = [point_of(runs[i], axis) for i in places]
    if not points:
        return ""
    low, high = time_range(points)["range"]
    x = Scale(low, high, LEFT, WIDTH - RIGHT)
    low, high = loss_range(points, axis)["range"]
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    marks = []
    for i, point in zip(places, points, strict=True):
        cost, doubt, loss = 1e3 * (point.cost or 0), 1e3 * point.doubt, abs(point.loss or 0)
        bar = (
            f'<path class="bar" d="M{x.at(cost - doubt):.1f} {y.at(loss):.1f}'
            f'H{x.at(cost + doubt):.1f}"/>'
            if runs[i].b.seconds_spread is not None
            else ""
        )
        words = f"{i + 1}. {title_of(runs[i])}: {number(cost)} ms per image, {axis} {number(loss)}"
        marks.append(
            f"<g><title>{escape(words)}</title>{bar}{_mark(found[i] or '', x.at(cost), y.at(loss))}"
            f'<text x="{x.at(cost) + 9:.1f}" y="{y.at(loss) - 7:.1f}">{i + 1}</text></g>'
        )
    label = "Measured time of B per image against its distance, one point per run"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{_axes(x, y, axis)}{''.join(marks)}</svg>"
    )


def legend_words() -> str:
    """Say what the markers mean."""
    signs = {"front": "●", "within": "◇", "beaten": "○"}
    return ", ".join(f"{signs[kind]} {KINDS[kind].legend}" for kind in KINDS)


def _mark(kind: str, x: float, y: float) -> str:
    """Draw the marker of a standing."""
    if kind == "within":
        corners = [(x, y - SIZE - 1), (x + SIZE + 1, y), (x, y + SIZE + 1), (x - SIZE - 1, y)]
        return f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}"/>'
    filled = ' class="front"' if kind == "front" else ""
    return f'<circle{filled} cx="{x:.1f}" cy="{y:.1f}" r="{SIZE}"/>'


def _axes(x: Scale, y: Scale, axis: str) -> str:
    """Draw grid, numbers and titles of both axes."""
    parts = []
    for value in x.ticks():
        at = f"{x.at(value):.1f}"
        parts.append(f'<path class="grid" d="M{at} {TOP}V{HEIGHT - BOTTOM}"/>')
        place = f'x="{at}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle"'
        parts.append(f"<text {place}>{value:g}</text>")
    for value in y.ticks():
        at = f"{y.at(value):.1f}"
        parts.append(f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>')
        place = f'x="{LEFT - 8}" y="{y.at(value) + 4:.1f}" text-anchor="end"'
        parts.append(f"<text {place}>{value:g}</text>")
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">time of B per image, ms,'
        " measured; bar: spread</text>"
    )
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(16 {height}) rotate(-90)" text-anchor="middle">'
        f"{escape(axis_title(axis))}</text>"
    )
    return "".join(parts)
