"""Numbers as HTML: the stage table, the cost line and the headline. Pure functions; every number
has its unit.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

from core.curves.plan import STAGES, StagePlan

from . import model_facts
from .theme import STAGE_COLOURS, STAGE_MEANING

ESTIMATE = "errors: a quick estimate (from per-bin curves)"
EXACT = "errors: exact for this plan"
UNKNOWN = "errors: not known before a calibration"
BUDGET_WORDS = (
    " (one budget: what the stages ask for sets the work of the whole run, and where it goes"
    " follows)"
)


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits, never in exponent form: 0.123, 1.23, 12.3, 123, 1234."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def macs_text(macs: float) -> str:
    """Multiply-accumulates with a unit a person can read."""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if macs >= size:
            return f"{number(macs / size)} {unit}MACs"
    return f"{macs:.0f} MACs"


def seconds_text(seconds: float | None, beside: float | None = None) -> str:
    """Seconds, or milliseconds below a tenth of one; `beside` is a time read together with it,
    which then has the same unit.
    """
    if seconds is None:
        return "not measured yet"
    return (
        f"{seconds * 1000:.0f} ms"
        if min(seconds, seconds if beside is None else beside) < 0.1
        else f"{number(seconds)} s"
    )


def percent(share: float | None, places: int = 0) -> str:
    """A share as per cent; a dash where it is not known."""
    return "–" if share is None else f"{100 * share:.{places}f} %"


def images_text(n: int) -> str:
    """1 image, 16 images."""
    return "1 image" if n == 1 else f"{n} images"


def times(factor: float | None) -> str:
    """A speed-up factor: ×1.41."""
    return "unknown" if factor is None else f"×{factor:.2f}"


def swatch(stage: str) -> str:
    """The stage's colour as a small square."""
    return f'<i class="swatch" style="background:{STAGE_COLOURS[stage]}"></i>'


def _of_dense(value: str, dense: str | None) -> str:
    return f"{value}<small>dense {dense}</small>" if dense else value


def _time_cell(seconds: float | None, dense: float | None) -> str:
    return "–<small>not measured yet</small>" if seconds is None else seconds_text(seconds, dense)


def _error_cell(error: float | None) -> str:
    return "–<small>not known yet</small>" if error is None else percent(error, 2)


def _cells(parts: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f'<td data-label="{html.escape(label)}">{content}</td>' for label, content in parts
    )


def stage_table(
    plan: StagePlan, prediction: Any, timesteps: list[float], device: str, asked: int | None = None
) -> str:
    """Stage by stage what runs and what it is predicted to cost; the last row is the whole run.

    `prediction` is a core.workshop.Prediction, `asked` the sampler's steps, of which second-order
    samplers make more runs. The table's `data-boundaries` and `data-exact` say what it answers.
    """
    known_time, over_run = prediction.seconds is not None, plan.scope == "run"
    steps = "Sampling steps" if asked in (None, len(timesteps)) else "Runs of the network"
    rows = []
    for i, stage in enumerate(STAGES):
        part, (low, high) = prediction.stages[i], plan.stage_range(i)
        dense_time = (
            seconds_text(part.seconds_dense, part.seconds)
            if known_time and part.seconds_dense is not None
            else None
        )
        name = f"<span>{swatch(stage)}<b>{stage}</b></span><small>{STAGE_MEANING[stage]}</small>"
        cells = [
            ("Timesteps", f"{low} to {high - 1}"),
            (steps, str(part.steps)),
            ("Sparsity", _sparsity_cell(plan.sparsity[i], part.achieved, over_run)),
            (
                "MACs, predicted",
                _of_dense(macs_text(part.macs), macs_text(part.macs_dense)) if part.steps else "–",
            ),
            (
                "Time, predicted",
                (
                    _of_dense(_time_cell(part.seconds, part.seconds_dense), dense_time)
                    if part.steps
                    else "–"
                ),
            ),
            ("Error, predicted", _error_cell(part.error) if part.steps else "–"),
        ]
        rows.append(f'<tr data-stage="{stage}"><th scope="row">{name}</th>{_cells(cells)}</tr>')
    dense_time = (
        seconds_text(prediction.seconds_dense, prediction.seconds)
        if known_time and prediction.seconds_dense is not None
        else None
    )
    total = [
        ("Timesteps", f"0 to {plan.num_train_timesteps - 1}"),
        (steps, str(len(timesteps))),
        ("Mean sparsity", percent(plan.mean_sparsity(timesteps), 1)),
        (
            "MACs, predicted",
            _of_dense(macs_text(prediction.macs), macs_text(prediction.macs_dense)),
        ),
        (
            "Time, predicted",
            _of_dense(_time_cell(prediction.seconds, prediction.seconds_dense), dense_time),
        ),
        ("Error, predicted", _error_cell(prediction.error)),
    ]
    gain = f"predicted {times(prediction.speedup_macs)} fewer MACs"
    if prediction.speedup_seconds is not None:
        gain += f", {times(prediction.speedup_seconds)} faster"
    head = "".join(f'<th scope="col">{h}</th>' for h in ("Stage", "Timesteps", steps, "Sparsity"))
    for what, unit in (
        ("MACs", "per image"),
        ("Time", images_text(prediction.batch)),
        ("Error", "of a layer's output"),
    ):
        head += f'<th scope="col">{what} <em>predicted</em><small>{unit}</small></th>'
    low, high = plan.boundaries
    kind, words = (
        ("exact", EXACT)
        if prediction.exact
        else ("estimate", UNKNOWN if prediction.error is None else ESTIMATE)
    )
    foot = (
        "Sparsity: share of attention heads and MLP neurons"
        f" removed{BUDGET_WORDS if over_run else ''}. MACs: multiply-accumulates of the denoiser,"
        f" both guidance halves. Time: on {html.escape(device)}, from its latency table. Error:"
        " mean relative output error of the pruned layers on calibration"
        f" data.{runs_words(timesteps, asked)}"
    )
    return (
        f'<div class="stage-table-wrap"><p class="table-head"><span class="pill {kind}"'
        f' data-testid="prediction-kind">{words}</span></p>'
        f'<table class="stage-table" data-boundaries="{low},{high}"'
        f' data-exact="{str(prediction.exact).lower()}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        '<tfoot><tr data-stage="total"><th scope="row"><b>Whole'
        f" run</b><small>{gain}</small></th>{_cells(total)}</tr></tfoot></table>"
        f'<p class="fine">{foot}</p></div>'
    )


def _sparsity_cell(asked: float, achieved: float, over_run: bool) -> str:
    """What goes in a stage. Under one budget the stage's own sparsity only says what it pays into
    the budget, so what really goes comes first.
    """
    if over_run:
        return f"{percent(achieved, 1)}<small>of weights go; {percent(asked, 1)} asked for</small>"
    return f"{percent(asked, 1)}<small>{percent(achieved, 1)} of weights go</small>"


def runs_words(timesteps: list[float], asked: int | None) -> str:
    """Why a sampler runs the network more often than its number of steps; begins with a space,
    empty where it does not.
    """
    runs = len(timesteps)
    if asked is None or runs == asked:
        return ""
    if runs == 2 * asked - 1 and asked > 2:
        return (
            " Steps: this sampler is second-order and runs the network twice in each of its"
            f" {asked} steps but the last: {runs} times, all counted here."
        )
    return (
        f" Steps: this sampler runs the network {runs} times in its {asked} steps, all counted"
        " here."
    )


def headline(
    plan: StagePlan,
    prediction: Any,
    timesteps: list[float],
    asked: int | None = None,
    steepest: int | None = None,
) -> str:
    """The plan in one plain sentence. `asked` as above; `steepest`: the timestep at which the
    model's own curve rises fastest, where that is known.
    """
    if not any(plan.sparsity):
        return (
            '<p class="headline">Nothing is pruned yet: every step runs the whole network. Raise a'
            " sparsity or press Suggest.</p>"
        )
    shares = (
        plan.sparsity
        if plan.scope == "stage"
        else tuple(round(part.achieved, 3) for part in prediction.stages)
    )
    gentle = min(range(3), key=lambda i: shares[i])
    faster = (
        ""
        if prediction.speedup_seconds is None
        else f", and to be <b>{times(prediction.speedup_seconds)}</b> faster on this device"
    )
    where = (
        f", least in the {STAGES[gentle]} stage"
        if len(set(shares)) > 1
        else ", the same in every stage"
    )
    fastest = steepest is not None and plan.stage_of(steepest) == gentle and len(set(shares)) > 1
    why = ", where the model learned fastest" if fastest else ""
    over = (
        f"{len(timesteps)} sampling steps"
        if asked in (None, len(timesteps))
        else f"{asked} sampling steps ({len(timesteps)} runs of the network)"
    )
    return (
        f'<p class="headline">This plan removes <b>{percent(plan.mean_sparsity(timesteps))}</b> of'
        f" the network's attention heads and neurons on average{where}{why}. Over {over} it is"
        f" predicted to need <b>{percent(1 - prediction.macs / prediction.macs_dense)}</b> less"
        f" computation{faster}.{shared_words(plan)}</p>"
    )


SHARED_BY = {
    "uniform": "equal shares",
    "log_ramp": "a log ramp",
    "lagrangian": "the Lagrangian",
    "dynamic": "dynamic programming",
}


def shared_words(plan: StagePlan) -> str:
    """How layers share the cut, where that is not the paper's rule; begins with a space."""
    if plan.plain:
        return ""
    menu = f", neurons in multiples of {plan.multiple}" if plan.multiple else ""
    ends = ", first and last block spared" if plan.protect else ""
    run = ", one budget for all stages" if plan.scope == "run" else ""
    time = ", counted in time on this device" if plan.costs == "latency" else ""
    return f" Layers share the cut by {SHARED_BY[plan.allocation]}{run}{time}{menu}{ends}."


def first_step(workshop: Any) -> str:
    """What to do with a model of which nothing is measured yet,
    and what the page shows until then.
    """
    body = "".join(f"<p>{html.escape(s)}</p>" for s in model_facts.calibration_sentences(workshop))
    return (
        '<h3 class="panel-title">First step: let the studio measure this model</h3><p>What you see'
        " now is theory: curves, boundaries, sparsities and MACs need no measurement. The"
        f" predicted error, pruning and the finished networks do.</p>{body}"
    )


def cost_cards(plan: StagePlan, prediction: Any, timesteps: list[float]) -> str:
    """The predicted cost in four short figures."""
    if prediction.seconds is None:
        time_main, time_note = "–", "not measured yet on this device"
    else:
        time_main = f"≈ {seconds_text(prediction.seconds, prediction.seconds_dense)}"
        time_note = (
            f"for {images_text(prediction.batch)} on this device; dense ≈"
            f" {seconds_text(prediction.seconds_dense, prediction.seconds)}"
        )
    kind = (
        "exact on calibration data"
        if prediction.exact
        else "not known before a calibration"
        if prediction.error is None
        else "estimate"
    )
    cards = [
        (
            "Mean sparsity",
            percent(plan.mean_sparsity(timesteps), 1),
            f"over {len(timesteps)} runs of the network",
        ),
        (
            "MACs, predicted",
            f"{times(prediction.speedup_macs)} fewer",
            f"{macs_text(prediction.macs)} of {macs_text(prediction.macs_dense)} per image",
        ),
        ("Time, predicted", time_main, time_note),
        ("Layer error, predicted", percent(prediction.error, 2), kind),
    ]
    body = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd><small>{note}</small></div>"
        for name, value, note in cards
    )
    return f'<dl class="cards" data-testid="cost">{body}</dl>'


def stage_legend() -> str:
    """The three stages in sampling order, each with its colour and its meaning."""
    return (
        '<p class="stage-legend">'
        + "".join(f"<span>{swatch(s)}{s}: {STAGE_MEANING[s]}</span>" for s in reversed(STAGES))
        + "</p>"
    )


def notes(sentences: list[str]) -> str:
    """Short remarks below a control; nothing at all when there are none."""
    return "".join(f'<p class="note">{html.escape(s)}</p>' for s in sentences)


def progress(done: int, total: int, text: str) -> str:
    """A bar with words; `total` 0 means unknown."""
    share = min(1.0, done / total) if total else 0.0
    label = html.escape(text)
    return (
        '<div class="job" role="progressbar" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{100 * share:.0f}" aria-label="{label}"><p>{label}'
        f' <span>{100 * share:.0f} %</span></p><div class="rail"><div'
        f' style="width:{100 * share:.1f}%"></div></div></div>'
    )


def status_line(workshop: Any) -> str:
    """Which model, which device, calibrated or not: one line of HTML, what was measured one click
    away.
    """
    items = (
        f"<span><b>Model</b> {html.escape(workshop.name)}</span><details><summary><b>Device</b>"
        f" {html.escape(workshop.device_text)}, {model_facts.precision(workshop)}</summary>The"
        " model is loaded once, in one precision, for everybody who has this page open: start the"
        " studio with --dtype float32, bfloat16 or float16, or with --device, to change it;"
        " Compare can run copies in another precision.</details>"
    )
    state = html.escape(workshop.calibration_text)
    if workshop.calibrated:
        state = (
            "<details><summary><b>Calibration</b> done</summary>What pruning has to know of this"
            f" model, measured once: {state}.</details>"
        )
    else:
        state = f"<span><b>Calibration</b> {state}</span>"
    return f'<div class="status-line" data-testid="status">{items}{state}</div>'


def message(text: str, kind: str = "") -> str:
    """How a job ended, in one sentence."""
    return f'<p class="job-message {kind}" role="status">{html.escape(text)}</p>'
