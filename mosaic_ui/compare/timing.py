"""Draw the time per stage of both sides as bars, measured beside predicted (no Gradio).

A measured number is a solid bar and says "measured"; a predicted one is a hatched bar with a dashed
edge and says "predicted".
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from core.curves.plan import STAGES
from core.workshop.comparison import Comparison, Side

from ..text import plural, seconds_text
from .view_parts import SAMPLING_ORDER, halves_words, ratio_words, runs_words, stage_colour

OFF = 1.2  # times a prediction, from which on a measured time is called off
ALIKE = 0.1  # share by which the sides may differ in that and still be off alike


@dataclass(frozen=True)
class StageTime:
    """One side in one stage (or its whole run): seconds for all images, denoiser only."""

    steps: int
    measured: float | None
    spread: float | None
    predicted: float | None


@dataclass(frozen=True)
class TimingRow:
    """A stage, or the whole run, of both sides."""

    name: str
    stage: int | None  # index into STAGES, None for the whole run
    a: StageTime
    b: StageTime


def timing_rows(side_a: Side, side_b: Side) -> list[TimingRow]:
    """Return the rows early, middle, late and the whole run.

    A dense side is cut where the other side's plan cuts, so that the rows compare like with like.
    """
    cuts_a, cuts_b = side_a.cut_like(side_b), side_b.cut_like(side_a)
    rows = []
    for stage in (*SAMPLING_ORDER, None):
        times = [
            _stage_time(side, cuts, stage) for side, cuts in ((side_a, cuts_a), (side_b, cuts_b))
        ]
        if times[0].steps or times[1].steps:
            rows.append(
                TimingRow(
                    "Whole run" if stage is None else STAGES[stage].capitalize(), stage, *times
                )
            )
    return rows


def _stage_time(side: Side, cuts: list[int], stage: int | None) -> StageTime:
    steps = [i for i, cut in enumerate(cuts) if stage is None or cut == stage]
    if not steps:
        return StageTime(0, None, None, None)
    predicted = (
        None if side.predicted_seconds is None else sum(side.predicted_seconds[i] for i in steps)
    )
    return StageTime(len(steps), *side.stage_seconds(steps), predicted)


def _bar(
    value: float | None, width: float | None, scale: float, colour: str, kind: str, text: str
) -> str:
    if value is None:
        return f'<div class="cmp-bar {kind}"><span class="cmp-value">{text}</span></div>'
    wide = 100 * value / scale
    whisker = ""
    if width:
        left, size = 100 * max(0.0, value - width) / scale, 100 * 2 * width / scale
        whisker = f'<i class="cmp-whisker" style="left:{left:.2f}%;width:{size:.2f}%"></i>'
    return (
        f'<div class="cmp-bar {kind}"><span class="cmp-track"><span class="cmp-fill"'
        f' style="--c:{colour};width:{wide:.2f}%"></span>{whisker}</span><span'
        f' class="cmp-value">{text}</span></div>'
    )


def timing_html(rows: list[TimingRow], comparison: Comparison) -> str:
    """Draw the bars per stage, with the numbers in words beside them.

    A measured bar is solid and has its spread, a predicted one is hatched.
    """
    peak, repeats = _longest(rows), comparison.timed_runs
    blocks = "".join(_stage_block(row, peak, comparison) for row in rows)
    key = (
        '<p class="cmp-note"><span class="cmp-part"><span class="cmp-key'
        ' is-measured"><i></i></span>'
        f"measured: {runs_words(repeats)}{'' if repeats == 1 else ', the line on the bar'}</span>"
        '<span class="cmp-part"><span class="cmp-key is-predicted"><i></i></span>predicted before'
        " the run</span></p>"
    )
    foot = (
        f"Seconds of the denoiser alone, for all {comparison.n}"
        f" images{halves_words(comparison)}; on {comparison.device}, A and B in"
        " turns."
    )
    ratio = ratio_words(comparison)
    if ratio:
        foot += f" Speed-up of the whole run: {ratio}."
    off = off_words(comparison)
    said = f'<p class="cmp-note cmp-off">{escape(off)}</p>' if off else ""
    return (
        f'<div class="cmp">{key}{said}<div class="cmp-stages">{blocks}</div><p'
        f' class="cmp-sub">{escape(foot)}</p></div>'
    )


def off_words(comparison: Comparison) -> str:
    """Say where both sides took the same multiple of their predicted time; else nothing."""
    a, b = comparison.a, comparison.b
    if not (a.seconds and b.seconds and a.predicted_seconds and b.predicted_seconds):
        return ""
    predicted = sum(a.predicted_seconds), sum(b.predicted_seconds)
    off_a, off_b = a.seconds / predicted[0], b.seconds / predicted[1]
    lower, upper = sorted((off_a, off_b))
    if upper > lower * (1 + ALIKE) or (1 / OFF < upper and lower < OFF):
        return ""
    slower = "slower" if lower > 1 else "faster"
    factor = (a.seconds + b.seconds) / sum(predicted)
    return (
        f"Both sides took {factor:.2f} × the predicted time: the machine was {slower} than when its"
        " speed was measured. The ratio of A and B is not touched by that."
    )


def _longest(rows: list[TimingRow]) -> float:
    """Return the seconds of the longest bar, its spread included."""
    longest = 0.0
    for row in rows:
        for time in (row.a, row.b):
            measured = 0.0 if time.measured is None else time.measured + (time.spread or 0)
            longest = max(longest, measured, time.predicted or 0.0)
    return longest or 1.0


def _stage_block(row: TimingRow, peak: float, comparison: Comparison) -> str:
    """Draw both sides of one row."""
    beside = [row.a.measured, row.b.measured, row.a.predicted, row.b.predicted]
    settings = comparison.settings
    unknown = "no prediction for this device yet"
    if settings.dtype is not None:
        unknown = "not predicted for another precision"
    colour = stage_colour(row.stage)
    lines = ""
    for letter, side, time in (("A", comparison.a, row.a), ("B", comparison.b, row.b)):
        measured, predicted = "no step in this stage" if not time.steps else "not timed", unknown
        if time.measured is not None:
            measured = f"<b>{seconds_text(time.measured, time.spread, beside)}</b> measured"
        if time.predicted is not None:
            predicted = f"{seconds_text(time.predicted, beside=beside)} predicted"
        bars = _bar(time.measured, time.spread, peak, colour, "is-measured", measured)
        bars += _bar(time.predicted, None, peak, colour, "is-predicted", predicted)
        lines += (
            f'<div class="cmp-side"><span class="cmp-who"><b>{letter}</b> {escape(side.name)}'
            f" <small>{plural(time.steps, 'step')}</small></span>"
            f'<div class="cmp-bars">{bars}</div></div>'
        )
    dot = f'<span class="cmp-dot" style="background:{colour}"></span>'
    name = row.name if row.stage is None else f"{row.name} stage"
    return f'<div class="cmp-stage"><h3>{dot}{name}</h3>{lines}</div>'
