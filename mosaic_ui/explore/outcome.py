"""Write the outcome of a plan beside the chart: time, MACs, error, and what each stage does.

Pure functions. The strip is short enough to be answered while a boundary is dragged; the stage
table below has every number of it in full.
"""

from __future__ import annotations

import html

from core.curves.plan import STAGES, StagePlan
from core.workshop.prediction import Prediction, StagePrediction

from ..guidance_words import guidance_mark, guidance_sentence
from ..predictions import Predicted
from ..tables import swatch
from ..text import factor_text, fast_text, macs_text, percent, plural, seconds_text
from ..theme import STAGE_COLOURS

MACS_HINT = "Multiply-accumulates: the multiplications of a run, whatever the device."
ERROR_HINT = (
    "How far the output of a pruned layer is from the unpruned layer's, squared and relative,"
    " averaged over layers and steps. It says little about pictures: Compare measures those."
)


def outcome(found: Predicted, held: str = "") -> str:
    """Write the strip; `held` says what stays the same while a boundary moves."""
    prediction, (low, high) = found.prediction, found.plan.boundaries
    kind = "exact" if prediction.exact else "estimate"
    rows = "".join(_stage_row(found, stage) for stage in reversed(range(3)))
    lock = f'<p class="held">{html.escape(held)}</p>' if held else ""
    return (
        f'<section class="outcome" data-boundaries="{low},{high}" data-kind="{kind}">'
        '<h2 class="panel-title">Predicted outcome</h2>'
        f'<dl class="figures">{_figures(found)}</dl>'
        '<table class="outcome-stages"><thead><tr><th scope="col">Stage</th>'
        f'<th scope="col">Steps</th><th scope="col">Removed</th><th scope="col">{_macs_word()}'
        f"</th></tr></thead><tbody>{rows}</tbody></table>{lock}</section>"
    )


def _macs_word() -> str:
    return f'<abbr title="{MACS_HINT}">Share of MACs</abbr>'


def _figures(found: Predicted) -> str:
    """Write the three figures of the whole run: against the dense model, and what that is."""
    prediction = found.prediction
    less = 1 - prediction.macs / prediction.macs_dense if prediction.macs_dense else 0.0
    work = macs_text(prediction.macs, beside=[prediction.macs_dense])
    factor = prediction.speedup_seconds
    figures = (
        ("Speed-up", "–" if factor is None else factor_text(factor), _time(prediction)),
        (f'Fewer <abbr title="{MACS_HINT}">MACs</abbr>', percent(less), f"{work} an image"),
        (
            f'<abbr title="{ERROR_HINT}">Layer error</abbr>',
            percent(prediction.error, 2),
            _error_kind(found),
        ),
    )
    return "".join(
        f'<div><dt>{name}</dt><dd class="value">{value}</dd><dd class="beside">{beside}</dd></div>'
        for name, value, beside in figures
    )


def _error_kind(found: Predicted) -> str:
    """Say how good the error is; beside an exact one stands what the estimate of it was.

    The curve below the chart is estimated, and shows that value for the same plan.
    """
    if found.prediction.error is None:
        return "not known yet"
    if not found.prediction.exact:
        return "quick estimate"
    return f"exact; estimate {percent(found.estimated, 2)}"


def _time(prediction: Prediction) -> str:
    """Return the time of the batch that is predicted."""
    if prediction.seconds is None:
        return "not measured yet"
    seconds = seconds_text(prediction.seconds, beside=[prediction.seconds_dense])
    return f"{seconds}, {plural(prediction.batch, 'image')}"


def _stage_row(found: Predicted, stage: int) -> str:
    """Write one stage: its steps, what goes, and its share of the run's work as a bar."""
    name, part = STAGES[stage], found.prediction.stages[stage]
    share = part.macs / found.prediction.macs if found.prediction.macs else 0.0
    mark = guidance_mark(found.plan.guidance[stage], part.rows)
    bar = f'<i style="width:{100 * share:.1f}%;background:{STAGE_COLOURS[name]}"></i>'
    return (
        f'<tr data-stage="{name}"><th scope="row">{swatch(name)}{name}{mark}</th>'
        f"<td>{part.steps}</td>"
        f'<td>{_removed(found.plan, stage, part)}</td><td class="share"><span class="rail">{bar}'
        f'</span><span class="figure">{percent(share)}</span></td></tr>'
    )


def _removed(plan: StagePlan, stage: int, part: StagePrediction) -> str:
    """Return the stage's sparsity; under one budget what is really removed."""
    share = part.achieved if plan.scope == "run" else plan.sparsity[stage]
    return percent(share, 1) if part.steps else "–"


def spoken(before: StagePlan, found: Predicted) -> str:
    """Return what an edit did, for people who hear the page: one or two short sentences."""
    moved = [
        f"Boundary {i} is at timestep {now}."
        for i, (was, now) in enumerate(
            zip(before.boundaries, found.plan.boundaries, strict=True), start=1
        )
        if was != now
    ]
    prediction = found.prediction
    steps = ", ".join(f"{part.stage} {part.steps}" for part in reversed(prediction.stages))
    less = percent(1 - prediction.macs / prediction.macs_dense) if prediction.macs_dense else "0 %"
    words = f"Steps: {steps}. Predicted: {less} fewer multiply-accumulates"
    if prediction.speedup_seconds is not None:
        words += f", {fast_text(prediction.speedup_seconds)}"
    if prediction.error is not None:
        words += f", layer error {percent(prediction.error, 2)}"
    own = guidance_sentence(found.plan, prediction)
    return " ".join([*moved, f"{words}.", *([own] if own else [])])
