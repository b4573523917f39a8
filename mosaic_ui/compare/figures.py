"""Write a finished comparison as HTML: verdict, pairs, film strip, measures, downloads.

Pure functions, no Gradio.
Every text that came from outside (plan names above all) is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from core.curves.guidance_words import with_own_guidance
from core.curves.plan import STAGES
from core.sampling.metrics import MIN_IMAGES_FOR_FID
from core.workshop.closeness import SCALE_WORDS
from core.workshop.comparison import Comparison, SampleSettings, Side
from core.workshop.sample_settings import IN_STEP
from core.workshop.study import Finding

from ..hover import explained
from ..text import factor_text, fewer_text, macs_text, percent, plural, seconds_text, timed_text
from .between import differences_html, result_unequal
from .pictures import (
    MAX_SHOWN,
    PAGE_PIXELS,
    SAMPLE_PIXELS,
    amplified_difference,
    contact_sheet,
    sheet_columns,
    shrunk,
    to_uint8,
)
from .rival import rival_html
from .view_parts import (
    SAMPLING_ORDER,
    halves_words,
    picture_html,
    ratio_words,
    runs_words,
    stage_colour,
)

FILM_SAMPLES = 2  # samples shown in each frame of the film strip
FRAME_PIXELS = 96  # side of one of them


def steps_words(settings: SampleSettings) -> str:
    """Write the sampling steps, of both sides where they differ."""
    if settings.side_steps is None:
        return str(settings.steps)
    a, b = settings.side_steps
    return f"{a} (A) and {b} (B)"


def settings_line(comparison: Comparison) -> str:
    s = comparison.settings
    size = "" if s.size is None else f" of {s.size[1]} × {s.size[0]} pixels"
    words = (
        f"{plural(comparison.n, 'image')}{size}, seed {s.seed}, {steps_words(s)} {s.scheduler}"
        f" steps, guidance {s.guidance:g}, on {comparison.device}"
    )
    words += f", in {s.dtype}" if s.dtype else ""
    if not s.prompts:
        return words
    different = list(dict.fromkeys(s.prompts))
    asked = (
        f"“{different[0]}”"
        if len(different) == 1
        else f"{len(different)} prompts, “{different[0]}” first"
    )
    return f"{words}; {asked}" + (f", not “{s.negative}”" if s.negative else "")


def _side_words(side: Side) -> str:
    """Write a side's name and what it leaves out, in sampling order."""
    if side.plan is None:
        return f"{escape(side.name)} (the full model)"
    removed = ", ".join(
        f"{STAGES[i]} {100 * side.plan.sparsity[i]:.0f}&nbsp;%" for i in SAMPLING_ORDER
    )
    removed = with_own_guidance(removed, side.plan)
    if side.plan.scope == "run":
        return f"{escape(side.name)} (heads and neurons asked for, as one budget: {removed})"
    return f"{escape(side.name)} (heads and neurons removed: {removed})"


def verdict_html(
    comparison: Comparison, provenance: str = "", study: Sequence[Finding] = ()
) -> str:
    """Write how fast and how far in two sentences, then three speed-ups.

    They are measured (solid), counted, and predicted (dashed); a measured one that is no number to
    go by is dashed too. study: of this model, for what it says of fewer dense steps.
    """
    cards = (
        _measured_card(comparison),
        (
            "is-counted",
            "By MACs",
            factor_text(comparison.speedup_macs),
            "MACs of A / MACs of B, counted, not timed",
        ),
        (
            "is-predicted",
            "Predicted",
            factor_text(comparison.speedup_predicted),
            "before measuring",
        ),
    )
    tiles = "".join(
        '<div class="cmp-tile'
        f' {css}"><span>{title}</span><strong>{value}</strong><small>{note}</small></div>'
        for css, title, value, note in cards
    )
    remarks = " ".join(text for text in (provenance, comparison.notes) if text)
    origin = f'<p class="cmp-origin">{escape(remarks)}</p>' if remarks else ""
    return (
        '<section class="cmp cmp-verdict" role="status"><div'
        f' class="cmp-say"><h2>{escape(comparison.verdict)}</h2><p class="cmp-distance"'
        f' title="{SCALE_WORDS}">{escape(comparison.distance)}</p>{result_unequal(comparison)}'
        f"{rival_html(comparison, study)}"
        '</div><div class="cmp-tiles" role="group" aria-label="Speed-up of B over A">'
        f'{tiles}</div>{origin}<details class="cmp-ran"><summary>What ran, and what differs'
        f'</summary><p class="cmp-sub">A is {_side_words(comparison.a)}, B is'
        f" {_side_words(comparison.b)}. {escape(settings_line(comparison))}.</p>"
        f'{differences_html(comparison)}<p class="cmp-sub">{SCALE_WORDS}</p></details></section>'
    )


def _measured_card(comparison: Comparison) -> tuple[str, str, str, str]:
    """Return the card of the measured speed-up, which looks doubtful where it is."""
    judged, off = comparison.judged, comparison.speedup_spread
    if judged.ratio is None:
        return "is-measured is-doubtful", "Measured", "not timed", "pictures only"
    runs = (
        "1 round, no spread"
        if off is None
        else f"median of {comparison.timed_runs} rounds, ± {off:.2f} is their spread"
    )
    if judged.doubtful:
        return "is-measured is-doubtful", "Measured, doubtful", factor_text(judged.ratio), runs
    css = "is-measured is-once" if off is None else "is-measured"
    return css, "Measured", factor_text(judged.ratio), runs


def sheets(
    comparison: Comparison, ground: int = 128
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, float]:
    """Return (sheet A, sheet B, sheet of the amplified difference, its factor, mean difference).

    They show the first `MAX_SHOWN` samples on a grey level `ground`; the mean is in levels of 255,
    over all channels.
    """
    a, b = to_uint8(comparison.a.images)[:MAX_SHOWN], to_uint8(comparison.b.images)[:MAX_SHOWN]
    difference, factor, mean = amplified_difference(a, b)
    columns = sheet_columns(len(a))
    a, b, difference = (shrunk(x, PAGE_PIXELS // columns) for x in (a, b, difference))
    return (
        contact_sheet(a, columns, ground=ground),
        contact_sheet(b, columns, ground=ground),
        contact_sheet(difference, columns, ground=ground),
        factor,
        mean,
    )


def sheet_css(comparison: Comparison) -> str:
    """Return the CSS classes: small pictures show their pixels, photographs are scaled smoothly."""
    return (
        "cmp-sheet"
        if max(comparison.a.images.shape[-2:]) <= SAMPLE_PIXELS
        else "cmp-sheet cmp-photo"
    )


def side_by_side_html(sheet_a: np.ndarray, sheet_b: np.ndarray, comparison: Comparison) -> str:
    """Write both sheets, aligned, each under its name."""
    shown = min(comparison.n, MAX_SHOWN)
    count = (
        f"{plural(shown, 'sample')}"
        if shown == comparison.n
        else f"the first {shown} of {comparison.n} samples"
    )
    css = sheet_css(comparison)
    figures = "".join(
        f"<figure><figcaption><b>{letter}</b> {escape(side.name)}</figcaption>"
        f"{picture_html(sheet, f'{letter}, {side.name}: {count}', css)}</figure>"
        for letter, side, sheet in (("A", comparison.a, sheet_a), ("B", comparison.b, sheet_b))
    )
    what = "prompt" if comparison.settings.prompts else "class"
    words = f"{count.capitalize()}; the same place in A and B means the same noise and {what}."
    wide = comparison.a.images.shape[-1]
    if sheet_a.shape[1] < wide * sheet_columns(shown):
        words += f" Shown smaller than their {wide} pixels; the downloads have full size."
    return f'<div class="cmp cmp-pair">{figures}</div><p class="cmp-sub cmp-centre">{words}</p>'


def film_html(comparison: Comparison) -> str:
    """Write the finished pictures that each model predicts at about eight steps.

    They stand in sampling order, with the stage's colour above.
    """
    if not comparison.a.film:
        return (
            '<div class="cmp"><h2 class="cmp-title">Film strip</h2><p class="cmp-sub">Large sets'
            f" are run in batches and keep no film strip; ask for at most {IN_STEP} images to see"
            " one.</p></div>"
        )
    strips = "".join(
        f'<div class="cmp-strip"><h3><b>{letter}</b>'
        f" {escape(side.name)}</h3><ol>{_frames(letter, side, sheet_css(comparison))}</ol></div>"
        for letter, side in (("A", comparison.a), ("B", comparison.b))
    )
    legend = "".join(
        '<span class="cmp-part"><span class="cmp-dot"'
        f' style="background:{stage_colour(i)}"></span>{name}</span>'
        for i, name in ((2, "early stage"), (1, "middle"), (0, "late"), (-1, "full model"))
    )
    shown = min(FILM_SAMPLES, comparison.n)
    which = "The first sample" if comparison.n == 1 else f"The first {shown} samples"
    words = (
        "Left to right in sampling order: the finished picture as each model predicts it at"
        f" timestep t. {which} of the grids."
    )
    return (
        f'<div class="cmp"><h2 class="cmp-title">Film strip</h2><p class="cmp-sub">{words}</p><p'
        f' class="cmp-note">{legend}</p><div class="cmp-film" role="group" tabindex="0"'
        f' aria-label="Film strip">{strips}</div></div>'
    )


def _frames(letter: str, side: Side, css: str) -> str:
    """Write the frames of one side's film strip."""
    frames = ""
    for t, images in zip(side.film_timesteps, side.film, strict=False):
        stage = -1 if side.plan is None else side.plan.stage_of(t)
        word = "full" if stage < 0 else STAGES[stage]
        samples = shrunk(to_uint8(images)[:FILM_SAMPLES], 2 * FRAME_PIXELS)
        picture = picture_html(
            contact_sheet(samples, columns=1, pixels=FRAME_PIXELS),
            f"{letter} at timestep {t:.0f}, {word} stage",
            css.replace("cmp-sheet", "cmp-frame"),
        )
        band = f'<span class="cmp-band" style="background:{stage_colour(stage)}"></span>'
        frames += (
            f'<li>{band}{picture}<span class="cmp-t">t {t:.0f}</span><small>{word}</small></li>'
        )
    return frames


def _fid_text(value: float | None, n: int) -> str:
    if value is not None:
        return f"{value:.2f}"
    return (
        f"needs {MIN_IMAGES_FOR_FID} images, you have {n}"
        if n < MIN_IMAGES_FOR_FID
        else "not available for this model"
    )


def _number_text(value: float | None, digits: str) -> str:
    if value is None:
        return "not available"
    if not math.isfinite(value):
        return "not a number"
    return format(value, digits)


UNJUDGED = (
    "Not measured: this model comes without a feature network that could judge its pictures. Look"
    " at the pictures, and read the distances to A below."
)


def metrics_html(comparison: Comparison, judged: bool = True) -> str:
    """Write every measure with its unit and n; a cell without a figure gives the reason.

    `judged`: the model ships a feature network.
    """
    a, b, e = comparison.a, comparison.b, escape
    both_rows = _cost_rows(comparison)
    if judged:
        both_rows += _quality_rows(comparison)
    both = "".join(
        "<tr><th"
        f' scope="row">{name}<small>{e(note)}</small></th><td>{e(x)}</td><td>{e(y)}</td></tr>'
        for name, x, y, note in both_rows
    )
    if not judged:
        both += f'<tr><th scope="row">Quality</th><td colspan="2">{UNJUDGED}</td></tr>'
    pair = "".join(
        f'<tr><th scope="row">{explained(name)}<small>{e(note)}</small></th>'
        f'<td colspan="2">{e(x)}</td></tr>'
        for name, x, note in _pair_rows(comparison)
    )
    repeats = plural(comparison.timed_runs, "timing repeat")
    return (
        '<div class="cmp"><table class="cmp-table"><thead><tr><th scope="col">Measure</th><th'
        f' scope="col">A · {e(a.name)}</th><th scope="col">B ·'
        f' {e(b.name)}</th></tr></thead><tbody>{both}<tr class="cmp-split"><th scope="rowgroup"'
        f' colspan="3">B against A</th></tr>{pair}</tbody></table><p'
        f' class="cmp-sub">{e(settings_line(comparison))}, {repeats}. One seed:'
        " another seed changes these figures.</p></div>"
    )


def _cost_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Return (measure, A, B, note) of time and work."""
    a, b = comparison.a, comparison.b
    beside = (a.seconds, b.seconds)
    runs = f"denoiser, whole run, {runs_words(comparison.timed_runs)}"
    halves = halves_words(comparison)
    return [
        (
            "Time, measured",
            seconds_text(a.seconds, a.seconds_spread, beside),
            seconds_text(b.seconds, b.seconds_spread, beside),
            runs,
        ),
        (
            "Work, counted",
            macs_text(a.macs),
            macs_text(b.macs),
            f"all {comparison.n} images{halves}",
        ),
    ]


def _quality_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Return (measure, A, B, note) of what the model's own feature network judges."""
    a, b, n = comparison.a, comparison.b, comparison.n
    return [
        (
            "FID",
            _fid_text(a.fid, n),
            _fid_text(b.fid, n),
            f"lower is better; small feature network of this model, n = {n}",
        ),
        (
            "Class accuracy",
            percent(a.class_accuracy, 1, "not available"),
            percent(b.class_accuracy, 1, "not available"),
            f"a classifier sees the class that was asked for, n = {n}",
        ),
    ]


def _pair_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return (measure, value, note) of B against A."""
    c, n = comparison, comparison.n
    return [
        (
            "PSNR",
            "identical pictures" if c.psnr is None else f"{_number_text(c.psnr, '.2f')} dB",
            f"higher is closer, mean over those of n = {n} that differ",
        ),
        ("SSIM", _number_text(c.ssim, ".4f"), f"1 is identical, mean over n = {n}"),
        ("Latent MSE", _number_text(c.latent_mse, ".4g"), f"0 is identical, mean over n = {n}"),
        (
            "Speed-up, measured",
            "not timed"
            if c.speedup_measured is None
            else timed_text(c.speedup_measured, c.speedup_spread),
            ratio_words(c) or f"time A / time B, {runs_words(c.timed_runs)}",
        ),
        ("Work of B", fewer_text(c.speedup_macs, "MACs"), "than A, counted"),
        (
            "Speed-up, predicted",
            factor_text(c.speedup_predicted),
            "from this device's latency table, before measuring",
        ),
    ]
