"""Draw the curves as a Plotly figure in plain JSON: {"data": [...], "layout": {...}}.

Pure functions, no Plotly import.

The colour "INK" stands for the page's text colour; the chart's script puts the real one in, so that
a figure serves light and dark. Stage colours come from `theme.STAGE_COLOURS` and mean nothing but
the stage.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.curves.dynamics import Curves, SampledCurves, score
from core.curves.proposals import Proposal

from .theme import GRID_COLOUR

VIEWS = {
    "MSE": ("mse", "MSE (per latent value)"),
    "Gradient": ("gradient", "MSE gained per timestep"),
    "ln SNR": ("log_snr", "ln SNR (nats)"),
    "Score": ("score", "score (no unit)"),
}
MEANING = {  # each quantity in plain words
    "MSE": "how far a noised picture is from its clean one.",
    "Gradient": (
        "what one more timestep of noise adds to that distance: the model learned fastest where it"
        " is high."
    ),
    "ln SNR": (
        "picture against noise, as a logarithm. Above 0 the picture is stronger, below 0 the noise."
    ),
    "Score": (
        "learning speed, corrected by ln SNR. The rule's middle stage is what lies above the dotted"
        " line."
    ),
}
FALLBACK_SCORE = (
    "learning speed, corrected by ln SNR. The stretch above the dotted line would leave"
    " a stage nearly empty here, so the proposal cuts at equal thirds of the total MSE instead (our"
    " fallback)."
)
ALWAYS_LINEAR = ("ln SNR", "Score")  # both pass through zero; ln SNR is a logarithm already
# crosses may widen the axis by at most this share of what theory and samples take, on either side
PATH_ROOM = 0.5
BELOW_NAMES = 0.12  # of the height: dashed lines end below the names of the stages
ROOM_ABOVE = 0.2  # of the height, for the names of the stages

CROSS = "x-thin"  # marks the model's own path

AXIS = {
    "fixedrange": True,
    "zeroline": False,
    "gridcolor": GRID_COLOUR,
    "linecolor": GRID_COLOUR,
    "ticks": "",
}


SMALL = {"size": 12}
# the layout of a plot beside the curves: its legend below, its labels dark on white
BESIDE: dict[str, Any] = {
    "legend": {
        "orientation": "h",
        "x": 0.5,
        "xanchor": "center",
        "y": 0,
        "yref": "container",
        "yanchor": "bottom",
    },
    "hoverlabel": {"font": {"color": "#18181b"}, "bgcolor": "#ffffff"},
}


def plot_axis(title: str) -> dict[str, Any]:
    """Return an axis of a plot beside the curves."""
    quiet = {"zeroline": False, "gridcolor": GRID_COLOUR, "linecolor": GRID_COLOUR}
    return {**quiet, "fixedrange": True, "title": {"text": title, "font": SMALL}}


def _plain(values: np.ndarray) -> list[float]:
    """Round to five significant digits: finer than a pixel, a third of the bytes."""
    return [float(f"{v:.5g}") for v in np.asarray(values, dtype=np.float64)]


def curve_figure(
    view: str,
    log: bool,
    theory: Curves,
    sampled: SampledCurves | None,
    threshold: float,
    path: SampledCurves | None = None,
    proposed: Proposal | None = None,
    own: bool = False,
) -> dict[str, Any]:
    """Draw one quantity over all training timesteps: theory as a line, samples as points.

    The samples have a band of one standard deviation.
    `path`, the model's own way from noise to picture, is drawn as crosses; `proposed`, what the
    rule makes of these curves, as dashed lines, and in the score view with the two crossings that
    it cuts at. `own`: the curves are the model's own. `view` is a key of VIEWS; `log` asks
    for a logarithmic y where that can be; `threshold` is M, drawn in the score view. The band
    exists for the MSE only: the other quantities are measured on the mean over all draws.
    """
    field, _ = VIEWS[view]
    log = log and view not in ALWAYS_LINEAR
    data: list[dict[str, Any]] = []
    if sampled is not None:
        data += _sampled_traces(view, field, theory, sampled, log)
    crosses = []
    if path is not None:
        words = f"the model's own path, n = {path.n}, seed {path.seed}"
        crosses = [_points(field, theory, path, words, CROSS)]
    line = _theory_line(theory, field)
    low, high = _limits([*data, line], crosses, log)
    data += [*crosses, line]
    if proposed is not None:
        top = high - BELOW_NAMES * (high - low)
        ends = (10.0**low, 10.0**top) if log else (low, top)
        data.insert(0, _cuts(proposed, ends, own))
        if view == "Score" and not proposed.fallback:
            data.insert(-1, _crossings(proposed, theory))
    shapes, annotations = _threshold_marks(theory, threshold) if view == "Score" else ([], [])
    layout = {
        "margin": {"l": 58, "r": 18, "t": 28, "b": 74},
        "legend": {
            "orientation": "h",
            "traceorder": "normal",
            "x": 0.5,
            "xanchor": "center",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
        },
        "hovermode": "x unified",
        "hoverlabel": {"font": {"color": "#18181b"}, "bgcolor": "#ffffff"},
        "shapes": shapes,
        "annotations": annotations,
        **_curve_axes(view, log, len(theory.timesteps), [low, high]),
    }
    return {"data": data, "layout": layout}


def _theory_line(theory: Curves, field: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "theory",
        "legendrank": 1,
        "x": [int(t) for t in theory.timesteps],
        "y": _plain(getattr(theory, field)),
        "line": {"color": "INK", "width": 2, "simplify": False},
        "hovertemplate": "%{y:.4g}",
    }


def _threshold_marks(
    theory: Curves, threshold: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (shapes, annotations): a dotted line at M times the largest score, with words."""
    level = threshold * float(theory.score.max())
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": level,
        "y1": level,
        "line": {"color": "INK", "width": 1, "dash": "dot"},
    }
    # away from the peak
    late_peak = int(theory.score.argmax()) > len(theory.score) / 2
    words = {
        "xref": "paper",
        "x": 0.15 if late_peak else 1,
        "y": level,
        "xanchor": "left" if late_peak else "right",
        "yanchor": "bottom",
        "text": f"M · max score = {level:.3g}",
        "showarrow": False,
    }
    return [line], [words]


def _curve_axes(view: str, log: bool, timesteps: int, limits: list[float]) -> dict[str, Any]:
    """Return both axes of the curves."""
    return {
        "xaxis": {
            **AXIS,
            "range": [0, timesteps],
            "title": {"text": "timestep t", "standoff": 4, "font": {"size": 12}},
            "hoverformat": "d",
            "ticks": "outside",  # room for the steps of the sampler, which the script draws
            "ticklen": 10,
            "tickcolor": "rgba(0,0,0,0)",
        },
        "yaxis": {
            **AXIS,
            "title": {"text": VIEWS[view][1], "standoff": 6, "font": {"size": 12}},
            "automargin": True,
            "type": "log" if log else "linear",
            "range": limits,
            "exponentformat": "none",
            "nticks": 7,
            **({"dtick": max(1, round((limits[1] - limits[0]) / 6))} if log else {}),
        },
    }


def _crossings(proposal: Proposal, theory: Curves) -> dict[str, Any]:
    """Mark where the score crosses the dotted line: there the rule cuts."""
    at = proposal.plan.boundaries
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "crossings",
        "showlegend": False,
        "x": list(at),
        "y": _plain(theory.score[list(at)]),
        "marker": {"color": "INK", "size": 9},
        "hoverinfo": "skip",
    }


def _cuts(proposal: Proposal, ends: tuple[float, float], own: bool) -> dict[str, Any]:
    """Draw two upright dashed lines, as a trace so that the legend names them."""
    cuts = proposal.plan.boundaries
    x = [t for boundary in cuts for t in (boundary, boundary, None)]
    what = "suggested" if own else "proposed for this schedule"
    name = f"{what}: {cuts[0]} and {cuts[1]}{' (our fallback)' if proposal.fallback else ''}"
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": [*ends, None] * 2,
        "line": {"color": "INK", "width": 1.5, "dash": "dash"},
        "hoverinfo": "skip",
    }


def _limits(
    data: list[dict[str, Any]], crosses: list[dict[str, Any]], log: bool
) -> tuple[float, float]:
    """Return the axis limits, with room above for the stage names.

    They are in Plotly's units: powers of ten on a logarithmic axis.
    The model's own path widens them by at most PATH_ROOM: it may lie far away, and theory would be
    flattened to nothing.
    """
    low, high = _ends(data, log)
    room = PATH_ROOM * (high - low)
    if crosses:
        least, most = _ends(crosses, log)
        low, high = max(min(low, least), low - room), min(max(high, most), high + room)
    return low - 0.05 * (high - low), high + ROOM_ABOVE * (high - low)


def _ends(data: list[dict[str, Any]], log: bool) -> tuple[float, float]:
    values = np.concatenate([trace["y"] for trace in data])
    values = np.log10(values[values > 0]) if log else values
    return (float(values.min()), float(values.max())) if len(values) else (np.inf, -np.inf)


def _sampled_traces(
    view: str, field: str, theory: Curves, sampled: SampledCurves, log: bool
) -> list[dict[str, Any]]:
    x = _plain(sampled.timesteps)
    y = _measured(field, theory, sampled)
    traces: list[dict[str, Any]] = []
    if view == "MSE":
        low, high = y - sampled.mse_spread, y + sampled.mse_spread
        if log:
            low = np.maximum(low, y / 10)  # a logarithm has no place for a band that reaches zero
        edge = {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
        traces.append({**edge, "y": _plain(low), "showlegend": False})
        traces.append(
            {
                **edge,
                "y": _plain(high),
                "fill": "tonexty",
                "fillcolor": "rgba(128,128,128,.28)",
                "name": "± 1 std over latents",
            }
        )
    traces.append(
        _points(field, theory, sampled, f"sampled, n = {sampled.n}, seed {sampled.seed}", "circle")
    )
    return traces


def _measured(field: str, theory: Curves, sampled: SampledCurves) -> np.ndarray:
    return (
        score(sampled.gradient, sampled.log_snr, theory.lam)
        if field == "score"
        else getattr(sampled, field)
    )


def _points(
    field: str, theory: Curves, sampled: SampledCurves, name: str, symbol: str
) -> dict[str, Any]:
    """Draw measured values as open markers."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": _plain(sampled.timesteps),
        "y": _plain(_measured(field, theory, sampled)),
        "marker": {
            "symbol": symbol,
            "color": "rgba(128,128,128,0)",
            "size": 7,
            "line": {"color": "INK", "width": 1.4},
        },
        "hovertemplate": "%{y:.4g}",
    }
