"""Write the Compare tab before and while it runs: a side's plan, progress, the empty state.

Pure functions, no Gradio.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from core.curves.guidance_words import own_guidance
from core.curves.plan import STAGES, StagePlan

from .. import tables
from ..text import about_seconds
from ..theme import DENSE_COLOUR
from .pace import Foreseen
from .pictures import LIVE_PIXELS, MAX_SHOWN, contact_sheet, sheet_columns, shrunk
from .view_parts import SAMPLING_ORDER, picture_html, stage_colour


def plan_note(plan: StagePlan | None, error: str = "", steps: int | None = None) -> str:
    """Write one line under a side's picker: what this side runs, in sampling order.

    steps: the side's own number of steps, None where it has the shared one.
    """
    if error:
        return f'<p class="cmp-note cmp-bad" role="alert">{escape(error)}</p>'
    if plan is None:
        return (
            '<p class="cmp-note"><span class="cmp-part"><span class="cmp-dot"'
            f' style="background:{DENSE_COLOUR}"></span>The full model in every step'
            f"{', nothing removed' if steps is None else f'; {steps} steps'}.</span></p>"
        )
    low, high = plan.boundaries
    spans = {2: f"t ≥ {high}", 1: f"{low} ≤ t < {high}", 0: f"t < {low}"}
    parts = "".join(
        '<span class="cmp-part cmp-stage-part"><span class="cmp-dot"'
        f' style="background:{stage_colour(i)}"></span>{STAGES[i]}'
        f" <b>{plan.sparsity[i] * 100:.0f}&nbsp;%</b> <small>{escape(spans[i])}</small></span>"
        for i in SAMPLING_ORDER
    )
    shared = (
        f'<span class="cmp-part"><small>{escape(tables.shared_words(plan).strip())}</small></span>'
        if not plan.plain
        else ""
    )
    # one budget takes it where it hurts least
    said = "Removed" if plan.scope == "stage" else "Asked for"
    own = "" if steps is None else f'<span class="cmp-part"><small>{steps} steps</small></span>'
    guided = own_guidance(plan)
    if guided:
        guided = f'<span class="cmp-part"><small>guidance {escape(guided)}</small></span>'
    return f'<p class="cmp-note"><span>{said}:</span>{parts}{guided}{own}{shared}</p>'


def stage_chip(stage: int | str | None) -> str:
    """Write the present stage with its colour, from an index, a stage name or nothing."""
    index = STAGES.index(stage) if isinstance(stage, str) and stage in STAGES else stage
    if not isinstance(index, int):
        return ""
    word = "full model" if index < 0 else f"{STAGES[index]} stage"
    return (
        f'<span class="cmp-chip" style="--c:{stage_colour(index)}"><span class="cmp-dot"'
        f' style="background:{stage_colour(index)}"></span>{word}</span>'
    )


def live_sheet(images: np.ndarray) -> np.ndarray:
    """Return a preview's samples, uint8 (n, h, w) or (n, h, w, 3), as one small sheet.

    The page enlarges it.
    """
    samples = images[:MAX_SHOWN]
    samples = shrunk(samples, LIVE_PIXELS // sheet_columns(len(samples)))
    return contact_sheet(
        np.repeat(samples[..., None], 3, axis=3) if samples.ndim == 3 else samples,
        pixels=max(samples.shape[1:3]),
        gap=1,
    )


def live_html(
    text: str,
    done: float,
    total: float,
    names: tuple[str, str],
    images: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    stage: int | str | None = None,
    state: str = "unfinished",
) -> str:
    """Write progress, the present stage and both grids as they are now.

    `state` describes the grids to those who do not see them.
    """
    share = 100 * min(1.0, done / total) if total else 0.0
    text = text[:1].upper() + text[1:]
    figures = "".join(
        f"<figure><figcaption><b>{letter}</b> {escape(name)}</figcaption>"
        + (
            picture_html(live_sheet(image), f"{letter}, {name}, {state}")
            if image is not None
            else '<div class="cmp-wait"></div>'
        )
        + "</figure>"
        for letter, name, image in zip("AB", names, images, strict=True)
    )
    colour = stage_colour(stage if isinstance(stage, int) else None)
    return (
        '<section class="cmp cmp-live"><div class="cmp-head"><span class="cmp-text"'
        f' role="status">{escape(text)}</span>{stage_chip(stage)}</div><div class="cmp-progress"'
        ' role="progressbar" aria-label="Comparison" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%;--c:{colour}"></i></div>'
        f'<div class="cmp-pair">{figures}</div></section>'
    )


def timing_html(text: str, done: float, total: float) -> str:
    """Write the progress of the timing, while the pictures stand below as a result."""
    share = 100 * min(1.0, done / total) if total else 0.0
    return (
        '<section class="cmp cmp-live cmp-timing"><div class="cmp-head"><span class="cmp-text"'
        f' role="status">The pictures are below; {escape(text)}</span></div><div'
        ' class="cmp-progress" role="progressbar" aria-label="Timing" aria-valuemin="0"'
        f' aria-valuemax="100" aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%;'
        f'--c:{DENSE_COLOUR}"></i></div></section>'
    )


def ahead_html(
    foreseen: Foreseen | None, measures: bool, calibrates: bool, prepares: bool = False
) -> str:
    """Say how long a comparison will take before it starts, and what that is predicted from.

    measures: this device's speed is measured first. calibrates: the model is calibrated first.
    prepares: networks are compiled or captured first.
    """
    first = "Calibrates first, once per model. " if calibrates else ""
    first += "Prepares both sides first; the times below do not count that. " if prepares else ""
    if foreseen is None:
        said = "How long it takes is known once this device's speed is measured, as the run begins."
        return f'<p class="cmp-note">{first}{said}</p>' if measures else ""
    found = foreseen.found
    timing = f", then {about_seconds(found.timing)} of timing" if found.timing else ", no timing"
    scaled = "" if found.measured else ", scaled from another number of images"
    when = f", measured {found.when}" if found.when else ""
    beyond = "; decoding the pictures and other work of the machine come on top"
    if foreseen.learned:
        beyond = ", and from how long the last comparison took"
    words = (
        f"Pictures in {about_seconds(found.pictures)}{timing}. Predicted from this device's"
        f" speed{when}{scaled}{beyond}."
    )
    return f'<p class="cmp-note">{first}{words}</p>'


def message(sentence: str, bad: bool = False) -> str:
    """Write one sentence in a frame: an error, or what a stopped run left."""
    return tables.message(sentence, "bad" if bad else "", place="cmp cmp-message")


EMPTY = "<h2>Nothing compared yet</h2>"


def empty_html(before: Sequence[str] = ()) -> str:
    """Write what stands there before the first run: what will appear and what to press.

    `before` are sentences about what has to be measured first.
    """
    first = (
        "<p>A plan needs a calibration, once per model; Compare begins with it."
        f" {escape(' '.join(before))}</p>"
        if before
        else ""
    )
    bars = "".join(
        f'<i style="background:{stage_colour(i)};flex:{grow}"></i>'
        for i, grow in ((2, 9), (1, 9), (0, 2))
    )
    return (
        '<section class="cmp cmp-empty"><div class="cmp-sketch"'
        ' aria-hidden="true"><span>A</span><em></em><span>B</span></div><div class="cmp-ribbon"'
        f' aria-hidden="true">{bars}</div>{EMPTY}<p>Press <b>Compare</b>: both sides start from the'
        " same noise and are timed in turns. Then their pictures stand here side by side, with one"
        " sentence on whether B is really faster, and how much its pictures"
        f" changed.</p>{first}</section>"
    )
