"""Draw what a tune evaluated: cost across, quality up, the front as a line. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from core.tuner.kept import KeptTune
from core.tuner.record import Evaluation

from ..figures import BESIDE, plot_axis
from ..text import PREFIXES, plural
from . import words

EMPTY: dict[str, Any] = {"data": [], "layout": {"xaxis": plot_axis(""), "yaxis": plot_axis("")}}
QUIET = "rgba(128,128,128,.75)"
ROOM = 0.07  # of an axis, on either side, for the markers
LOG_FROM = 6.0  # of the largest quality over the smallest, from which the axis is logarithmic


class Kind(NamedTuple):
    """How the points of one kind are drawn."""

    legend: str
    symbol: str
    colour: str  # as in the chart of the study, apart from the stages
    size: int = 10


KINDS = {
    "front": Kind("found, nobody beats it", "circle", "INK"),
    "tried": Kind("tried", "circle-open", QUIET, 8),
    "dense": Kind("dense, the reference", "star", "INK", 14),
    "fewer": Kind("dense, fewer steps", "triangle-up-open", "INK", 11),
    "formula": Kind("the paper's formula", "diamond", "#CC79A7", 11),
    "uniform": Kind("uniform", "square", "#56B4E9"),
}
STARTS = {"dense, fewer": "fewer", "formula": "formula", "uniform": "uniform"}  # of a label


def kind_of(one: Evaluation, tune: KeptTune, front: Sequence[Evaluation]) -> str:
    """Return the kind of an evaluation, a key of KINDS."""
    what = one.configuration
    if what == tune.reference:
        return "dense"
    for start, kind in STARTS.items():
        if what.label.startswith(start):
            return kind
    return "front" if one in front else "tried"


def front_figure(tune: KeptTune, images: int) -> dict[str, Any]:
    """Draw everything that was evaluated, the front and the budget.

    images: that predicted seconds are of.
    """
    if not tune.evaluations:
        return EMPTY
    unit, title = _unit(tune, images)
    front = tune.front
    data = [_front_line(front, tune, unit)]
    for kind in reversed(KINDS):
        own = [e for e in tune.evaluations if kind_of(e, tune, front) == kind]
        if own:
            data.append(_points(own, tune, KINDS[kind], unit, images))
    if tune.best is not None:
        data.insert(1, _ring(tune.best, tune, unit))
    layout = {
        "margin": {"l": 64, "r": 16, "t": 26, "b": 92},
        "showlegend": True,
        "xaxis": plot_axis(title) | _cost_axis(tune, unit),
        "yaxis": _quality_axis(tune),
        "hovermode": "closest",
        **BESIDE,
        **_budget(tune, unit),
    }
    return {"data": data, "layout": layout}


def _unit(tune: KeptTune, images: int) -> tuple[float, str]:
    """Return what one on the axis of costs is, and its title."""
    if tune.goal.counts == "seconds":
        return 1.0, f"predicted seconds of the denoiser, {plural(images, 'image')}"
    largest = max(e.macs for e in tune.evaluations)
    size, prefix = next(((s, p) for s, p in PREFIXES if largest >= s), (1.0, ""))
    return size, f"{prefix}MACs per image, whole run, counted"


def _cost(one: Evaluation, tune: KeptTune, unit: float) -> float:
    return float(f"{one.cost(tune.goal.counts) / unit:.5g}")


def _points(
    own: list[Evaluation], tune: KeptTune, kind: Kind, unit: float, images: int
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": kind.legend,
        "x": [_cost(e, tune, unit) for e in own],
        "y": [float(f"{e.quality:.5g}") for e in own],
        "customdata": [f"{tune.id}:{tune.place(e)}" for e in own],
        "hovertext": [_hover(e, tune, images) for e in own],
        "hoverinfo": "text",
        "marker": {
            "symbol": kind.symbol,
            "size": kind.size,
            "color": kind.colour,
            "line": {"width": 1.5, "color": kind.colour},
        },
    }


def _hover(one: Evaluation, tune: KeptTune, images: int) -> str:
    """Write what a point is, on several lines."""
    lines = [f"<b>{escape(words.title(one.configuration))}</b>"]
    lines += map(escape, words.plan_parts(one.configuration))
    lines.append(f"{words.short_quality(tune)} {escape(words.quality_words(one, tune))}")
    cost = words.cost_words(one, tune.goal.counts, images)
    ratio = words.ratio_words(one, tune)
    if ratio:
        cost += f", {ratio}"
    return "<br>".join([*lines, escape(cost)])


def _front_line(front: list[Evaluation], tune: KeptTune, unit: float) -> dict[str, Any]:
    """Draw the front as steps: between two points nothing better is known than the left one."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "showlegend": False,
        "x": [_cost(e, tune, unit) for e in front],
        "y": [float(f"{e.quality:.5g}") for e in front],
        "line": {"color": "INK", "width": 1.5, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _ring(best: Evaluation, tune: KeptTune, unit: float) -> dict[str, Any]:
    """Draw a ring around the best."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "best" if tune.end is not None else "best so far",
        "x": [_cost(best, tune, unit)],
        "y": [float(f"{best.quality:.5g}")],
        "marker": {"symbol": "circle-open", "size": 20, "color": "INK", "line": {"width": 2}},
        "hoverinfo": "skip",
    }


def _budget(tune: KeptTune, unit: float) -> dict[str, Any]:
    """Draw the budget as an upright line with its name; nothing where there is none."""
    budget = tune.budget
    if not math.isfinite(budget):
        return {}
    line = {
        "type": "line",
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "x0": budget / unit,
        "x1": budget / unit,
        "line": {"color": "INK", "width": 1.5, "dash": "dash"},
    }
    name = {
        "x": math.log10(budget / unit),  # as a logarithmic axis wants it of a note
        "yref": "paper",
        "y": 1,
        "yanchor": "bottom",
        "text": f"budget: {tune.goal.text}",
        "showarrow": False,
        "font": {"size": 12},
    }
    return {"shapes": [line], "annotations": [name]}


def _cost_axis(tune: KeptTune, unit: float) -> dict[str, Any]:
    """Return a logarithmic axis around all costs and the budget."""
    costs = [_cost(e, tune, unit) for e in tune.evaluations]
    if math.isfinite(tune.budget):
        costs.append(tune.budget / unit)
    return _log_axis(costs)


def _quality_axis(tune: KeptTune) -> dict[str, Any]:
    """Return the axis of quality: logarithmic where the numbers lie far apart, else plain.

    By distance dense itself is at 0, which a logarithm cannot show.
    """
    values = [e.quality for e in tune.evaluations]
    title = f"{_wrapped(tune.quality)}<br>n = {tune.images}, lower is better"
    axis = {**plot_axis(title), "automargin": True, "exponentformat": "none"}
    axis["title"] |= {"standoff": 8}
    if min(values) > 0 and max(values) > LOG_FROM * min(values):
        return axis | _log_axis(values)
    room = ROOM * (max(values) - min(values)) or 0.1 * max(values) or 1.0
    return axis | {"range": [min(values) - room, max(values) + room]}


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis with ticks at 1, 2 and 5 of each power of ten."""
    low, high = math.log10(min(values)), math.log10(max(values))
    room = ROOM * max(high - low, 0.3)
    low, high = low - room, high + room
    ticks = [
        digit * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for digit in (1, 2, 5)
        if low <= power + math.log10(digit) <= high
    ]
    return {
        "type": "log",
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _wrapped(text: str, most: int = 44) -> str:
    """Write a title on as many lines as it needs."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(escape(line, quote=False) for line in lines)
