"""Write the stage table, the cost line and messages as HTML.

Pure functions; every number has its unit (text.py).
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from core.curves.dynamics import Curves
from core.curves.plan import STAGES, StagePlan
from core.mosaic.found import device_line
from core.workshop.prediction import Prediction, StagePrediction
from core.workshop.workshop import Workshop

from . import model_facts
from .figures import VIEWS
from .guidance_words import (
    guidance_cell,
    half_cell,
    half_note,
    half_time_words,
    macs_words,
)
from .hover import explained
from .methods import METHOD_WORDS
from .text import fast_text, macs_text, percent, plural, seconds_text
from .theme import STAGE_COLOURS, STAGE_MEANING

ESTIMATE = "errors: a quick estimate"
EXACT = "errors: exact for this plan"
UNKNOWN = "errors: not known before a calibration"
BUDGET_WORDS = (
    " (one budget: the three sparsities set the total; the split over stages is computed)"
)


def swatch(stage: str) -> str:
    """Return the stage's colour as a small square."""
    return f'<i class="swatch" style="background:{STAGE_COLOURS[stage]}"></i>'


def _of_dense(value: str, dense: str | None) -> str:
    return f"{value}<small>dense {dense}</small>" if dense else value


def _macs_cell(part: StagePrediction | Prediction, largest: float) -> str:
    """Write the MACs with the dense model's under them, in the unit of the whole column."""
    return _of_dense(*(macs_text(macs, beside=[largest]) for macs in (part.macs, part.macs_dense)))


def _time_cell(part: StagePrediction | Prediction, known: bool) -> str:
    """Write the time with the dense model's under it, both in one unit."""
    if part.seconds is None:
        return "–<small>not measured yet</small>"
    dense = None
    if known and part.seconds_dense is not None:
        dense = seconds_text(part.seconds_dense, beside=[part.seconds])
    return _of_dense(seconds_text(part.seconds, beside=[part.seconds_dense]), dense)


def _error_cell(error: float | None) -> str:
    return "–<small>not known yet</small>" if error is None else percent(error, 2)


def _cells(parts: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f'<td data-label="{html.escape(label)}">{content}</td>' for label, content in parts
    )


def _stage_row(
    plan: StagePlan, stage: int, prediction: Prediction, steps_label: str, known_time: bool
) -> str:
    """Write one stage's row; a stage without steps costs nothing and has dashes."""
    name, part, (low, high) = STAGES[stage], prediction.stages[stage], plan.stage_range(stage)
    runs = part.steps > 0
    cells = [
        ("Timesteps", f"{low} to {high - 1}"),
        (steps_label, str(part.steps)),
        ("Sparsity", _sparsity_cell(plan.sparsity[stage], part.achieved, plan.scope == "run")),
        *_guidance(plan, guidance_cell(plan.guidance[stage], part.rows)),
        ("MACs, predicted", _macs_cell(part, prediction.macs_dense) if runs else "–"),
        ("Time, predicted", _time_cell(part, known_time) if runs else "–"),
        ("Error, predicted", _error_cell(part.error) if runs else "–"),
    ]
    head = f"<span>{swatch(name)}<b>{name}</b></span><small>{STAGE_MEANING[name]}</small>"
    return f'<tr data-stage="{name}"><th scope="row">{head}</th>{_cells(cells)}</tr>'


def _guidance(plan: StagePlan, cell: str) -> list[tuple[str, str]]:
    """Return the cell of the column that only plans with their own guidance have."""
    return [("Guidance", cell)] if plan.sets_guidance else []


def _saved(prediction: Prediction) -> float:
    """Return the share of the dense model's MACs that the plan saves."""
    return 1 - prediction.macs / prediction.macs_dense if prediction.macs_dense else 0.0


def _total_row(
    plan: StagePlan, prediction: Prediction, timesteps: list[float], steps_label: str
) -> str:
    """Write the row of the whole run, with what it gains."""
    cells = [
        ("Timesteps", f"0 to {plan.num_train_timesteps - 1}"),
        (steps_label, str(len(timesteps))),
        ("Mean sparsity", percent(plan.mean_sparsity(timesteps), 1)),
        *_guidance(plan, half_cell(prediction)),
        ("MACs, predicted", _macs_cell(prediction, prediction.macs_dense)),
        ("Time, predicted", _time_cell(prediction, known=True)),
        ("Error, predicted", _error_cell(prediction.error)),
    ]
    gain = f"predicted {percent(_saved(prediction))} fewer MACs"
    if prediction.speedup_seconds is not None:
        gain += f", {fast_text(prediction.speedup_seconds)}"
    return (
        '<tr data-stage="total"><th scope="row"><b>Whole'
        f" run</b><small>{gain}</small></th>{_cells(cells)}</tr>"
    )


def _table_head(plan: StagePlan, steps_label: str, batch: int) -> str:
    own = [name for name, _ in _guidance(plan, "")]
    names = ("Stage", "Timesteps", steps_label, "Sparsity", *own)
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    for what, unit in (
        ("MACs", "per image"),
        ("Time", plural(batch, "image")),
        ("Error", "of a layer's output"),
    ):
        head += f'<th scope="col">{what} <em>predicted</em><small>{unit}</small></th>'
    return head


def _prediction_kind(prediction: Prediction) -> tuple[str, str]:
    """Return (CSS class, words) that say how good the predicted errors are."""
    if prediction.exact:
        return "exact", EXACT
    return "estimate", UNKNOWN if prediction.error is None else ESTIMATE


def stage_table(
    plan: StagePlan,
    prediction: Prediction,
    timesteps: list[float],
    device: str,
    asked: int | None = None,
    half_timed: bool = False,
) -> str:
    """Write per stage what runs and what it is predicted to cost; the last row is the whole run.

    Stages stand in the order of sampling: early, middle, late. `half_timed`: the batch of one
    guidance half was timed on this device.
    `asked` are the sampler's steps, of which second-order samplers make more runs. The table's
    `data-boundaries` and `data-exact` tell which plan and which prediction it shows.
    """
    steps_label = "Sampling steps" if asked in (None, len(timesteps)) else "Runs of the network"
    known_time = prediction.seconds is not None
    rows = "".join(
        _stage_row(plan, i, prediction, steps_label, known_time) for i in reversed(range(3))
    )
    (low, high), (kind, words) = plan.boundaries, _prediction_kind(prediction)
    foot = (
        "Sparsity: share of attention heads and MLP neurons"
        f" removed{BUDGET_WORDS if plan.scope == 'run' else ''}. MACs: multiply-accumulates of the"
        f" denoiser, {macs_words(plan, prediction)}. Time: on {html.escape(device)}, from its"
        f" latency table.{half_time_words(plan, half_timed)}"
        " Error: how far the outputs of pruned layers are from the unpruned ones, squared and"
        " relative, mean over layers on calibration data. It does not say how far the pictures"
        f" move: Compare measures that.{extra_runs_words(timesteps, asked)}"
    )
    return (
        f'<div class="stage-table-wrap"><p class="table-head"><span class="pill {kind}"'
        f' data-testid="prediction-kind">{words}</span></p>'
        f'<table class="stage-table" data-boundaries="{low},{high}"'
        f' data-exact="{str(prediction.exact).lower()}">'
        f"<thead><tr>{_table_head(plan, steps_label, prediction.batch)}</tr></thead>"
        f"<tbody>{rows}</tbody><tfoot>{_total_row(plan, prediction, timesteps, steps_label)}"
        f'</tfoot></table><p class="fine">{foot}</p></div>'
    )


def _sparsity_cell(asked: float, achieved: float, over_run: bool) -> str:
    """Write what is removed from a stage.

    Under one budget the stage's own sparsity is only what it pays into the budget, so what is
    really removed comes first.
    """
    if over_run:
        wish = f"{percent(asked, 1)} asked for"
        return f"{percent(achieved, 1)}<small>of weights removed; {wish}</small>"
    return f"{percent(asked, 1)}<small>{percent(achieved, 1)} of weights</small>"


def extra_runs_words(timesteps: list[float], asked: int | None) -> str:
    """Explain why a sampler runs the network more often than its number of steps.

    Begins with a space; empty where it does not.
    """
    runs = len(timesteps)
    if asked is None or runs == asked:
        return ""
    if runs == 2 * asked - 1 and asked > 2:
        return (
            " Steps: this sampler is second-order and runs the network twice in every step except"
            f" the last: {runs} times in {asked} steps, all counted here."
        )
    return (
        f" Steps: this sampler runs the network {runs} times in its {asked} steps, all counted"
        " here."
    )


def shared_words(plan: StagePlan) -> str:
    """Say how layers share the cut where that is not the paper's rule; begins with a space."""
    if plan.plain:
        return ""
    menu = f", neurons in multiples of {plan.multiple}" if plan.multiple else ""
    ends = ", first and last block protected" if plan.protect else ""
    run = ", one budget for all stages" if plan.scope == "run" else ""
    time = ", counted in time on this device" if plan.costs == "latency" else ""
    by = METHOD_WORDS[plan.allocation].phrase
    return f" Layers share the cut by {by}{run}{time}{menu}{ends}."


def first_step(workshop: Workshop) -> str:
    """Write what to do with an unmeasured model, and what the page shows until then."""
    body = "".join(f"<p>{html.escape(s)}</p>" for s in model_facts.calibration_sentences(workshop))
    return (
        '<h2 class="panel-title">First step: let the studio measure this model</h2><p>What you see'
        " now is theory: curves, boundaries, sparsities and MACs need no measurement. The"
        f" predicted error and pruning need one.</p>{body}"
    )


def cost_cards(plan: StagePlan, prediction: Prediction, timesteps: list[float]) -> str:
    """Write the predicted cost in four short figures."""
    time_main, time_note = "–", "not measured yet on this device"
    if prediction.seconds is not None:
        dense = seconds_text(prediction.seconds_dense, beside=[prediction.seconds])
        time_main = f"≈ {seconds_text(prediction.seconds, beside=[prediction.seconds_dense])}"
        time_note = f"for {plural(prediction.batch, 'image')} on this device; dense ≈ {dense}"
    kind = "not known before a calibration" if prediction.error is None else "estimate"
    if prediction.exact:
        kind = "exact on calibration data"
    cards = [
        (
            "Mean sparsity",
            percent(plan.mean_sparsity(timesteps), 1),
            f"over {len(timesteps)} runs of the network",
        ),
        (
            "MACs, predicted",
            f"{percent(_saved(prediction))} fewer",
            f"{macs_text(prediction.macs)} of {macs_text(prediction.macs_dense)} per image"
            + half_note(prediction),
        ),
        ("Time, predicted", time_main, time_note),
        ("Layer error, predicted", percent(prediction.error, 2), kind),
    ]
    body = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
        for name, value, note in cards
    )
    return f'<dl class="cards" data-testid="cost">{body}</dl>'


def stage_legend() -> str:
    """Write the three stages in sampling order, each with its colour and its meaning."""
    return (
        '<p class="stage-legend">'
        + "".join(f"<span>{swatch(s)}{s}: {STAGE_MEANING[s]}</span>" for s in reversed(STAGES))
        + "</p>"
    )


def notes(sentences: list[str]) -> str:
    """Write short remarks below a control; nothing at all when there are none."""
    return "".join(f'<p class="note">{html.escape(s)}</p>' for s in sentences)


def fine(sentences: list[str]) -> str:
    """Write what will happen, a small paragraph per sentence."""
    return "".join(f'<p class="fine">{html.escape(sentence)}</p>' for sentence in sentences)


def progress(done: int, total: int, text: str) -> str:
    """Write a progress bar with words; `total` 0 means unknown."""
    share = min(1.0, done / total) if total else 0.0
    label = html.escape(text)
    return (
        '<div class="job" role="progressbar" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{100 * share:.0f}" aria-label="{label}"><p>{label}'
        f' <span>{100 * share:.0f} %</span></p><div class="rail"><div'
        f' style="width:{100 * share:.1f}%"></div></div></div>'
    )


def status_line(workshop: Workshop) -> str:
    """Write the line with model, device and calibration; one click opens what was measured."""
    found = html.escape(device_line(workshop.device))
    items = (
        f"<span><b>Model</b> {html.escape(workshop.name)}</span><details><summary><b>Device</b>"
        f" {html.escape(workshop.device_text)}, {model_facts.precision(workshop)}</summary>Found:"
        f" {found}. The model is loaded once, in one precision, for all visitors of this page. To"
        " change that, start the studio with --dtype float32, bfloat16 or float16, or with"
        " --device. Compare can run copies in another precision.</details>"
    )
    state = html.escape(workshop.calibration_text)
    if workshop.calibrated:
        state = (
            "<details><summary><b>Calibration</b> done</summary>What pruning needs to know about"
            f" this model, measured once: {state}.</details>"
        )
    else:
        state = f"<span><b>Calibration</b> {state}</span>"
    return f'<div class="status-line" data-testid="status">{items}{state}</div>'


def message(text: str, kind: str = "", place: str = "job-message") -> str:
    """Write one sentence: how a job ended, or why it cannot begin.

    `kind` is "good", "bad" or empty; `place` are the CSS classes of where the sentence stands.
    """
    css = f"{place} is-{kind}" if kind else place
    role = "alert" if kind == "bad" else "status"
    return f'<p class="{css}" role="{role}">{html.escape(text)}</p>'


def boundary_numbers(
    theory: Curves, boundaries: tuple[int, int], lam: float, agreement: str
) -> str:
    """Write theory at both boundaries as a table, with its formulas and `agreement` under it."""
    rows = ""
    for i, t in enumerate(boundaries, start=1):
        values = (theory.mse[t], theory.gradient[t], theory.log_snr[t], theory.score[t])
        cells = _cells((name, f"{v:.4g}") for name, v in zip(VIEWS, values, strict=True))
        rows += f'<tr><th scope="row">Boundary {i}, t = {t}</th>{cells}</tr>'
    head = "".join(f'<th scope="col">{explained(name)}</th>' for name in ("At", *VIEWS))
    return (
        '<table class="stage-table'
        f' plain"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        '<p class="fine">MSE(t) = (1 − a)² v + s² for x_t = a x_0 + s e, per'
        f" {explained('latent')} value."
        " Gradient = MSE(t) − MSE(t − 1). "
        f"Score = gradient / max gradient + λ ln SNR, λ = {lam:g}. t is the scheduler's timestep,"
        f" counted from 0. {agreement}</p>"
    )
