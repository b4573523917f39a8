"""Draw results as Plotly figures in plain JSON: {"data": [...], "layout": {...}}.

Pure functions, no Plotly import.

The colour "INK" stands for the page's text colour; the chart's script puts the real one in, so that
a figure serves light and dark. Stage colours come from `theme.STAGE_COLOURS` and mean nothing but
the stage.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.curves.dynamics import Curves, SampledCurves, score
from core.curves.plan import STAGES, Proposal

from .theme import GRID_COLOUR, STAGE_COLOURS

VIEWS = {
    "MSE": ("mse", "MSE (per latent value)"),
    "Gradient": ("gradient", "MSE gained per timestep"),
    "ln SNR": ("log_snr", "ln SNR (nats)"),
    "Score": ("score", "score (no unit)"),
}
MEANING = {  # each quantity in plain words
    "MSE": "how far a noised picture is from its clean one.",
    "Gradient": (
        "how much one more timestep of noise adds to that distance. Where it is high, the model"
        " learned fastest."
    ),
    "ln SNR": "picture against noise. Above 0 the picture is stronger, below 0 the noise.",
    "Score": (
        "gradient and ln SNR weighed together. The rule's middle stage is the stretch above the"
        " dotted line."
    ),
}
FALLBACK_SCORE = (
    "gradient and ln SNR weighed together. The stretch above the dotted line would leave a stage"
    " nearly empty here, so the proposal cuts at equal thirds of the total MSE instead (our"
    " fallback)."
)
ALWAYS_LINEAR = ("ln SNR", "Score")  # both pass through zero; ln SNR is a logarithm already
# crosses may widen the axis by at most this share of what theory and samples take, on either side
PATH_ROOM = 0.5

CROSS = "x-thin"  # marks the model's own path

_AXIS = {
    "fixedrange": True,
    "zeroline": False,
    "gridcolor": GRID_COLOUR,
    "linecolor": GRID_COLOUR,
    "ticks": "",
}


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
) -> dict[str, Any]:
    """Draw one quantity over all training timesteps: theory as a line, samples as points.

    The samples have a band of one standard deviation.
    `path`, the model's own way from noise to picture, is drawn as crosses; `proposed`, of a
    schedule that makes no plan for the model, as dashed lines. `view` is a key of VIEWS; `log` asks
    for a logarithmic y where that can be; `threshold` is M, drawn in the score view. The band
    exists for the MSE only: the other quantities are measured on the mean over all draws.
    """
    field, title = VIEWS[view]
    log = log and view not in ALWAYS_LINEAR
    y = getattr(theory, field)
    data: list[dict[str, Any]] = []
    if sampled is not None:
        data += _sampled_traces(view, field, theory, sampled, log)
    if path is not None:
        data.append(
            _points(
                field, theory, path, f"the model's own path, n = {path.n}, seed {path.seed}", CROSS
            )
        )
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "theory",
            "x": [int(t) for t in theory.timesteps],
            "y": _plain(y),
            "line": {"color": "INK", "width": 2, "simplify": False},
            "hovertemplate": "%{y:.4g}",
        }
    )
    shapes, annotations = [], []
    crosses = [trace for trace in data if trace.get("marker", {}).get("symbol") == CROSS]
    low, high = _limits([trace for trace in data if trace not in crosses], crosses, log)
    if proposed is not None:
        data.insert(0, _cuts(proposed, *((10.0**low, 10.0**high) if log else (low, high))))
    if view == "Score":
        level = threshold * float(y.max())
        shapes.append(
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": level,
                "y1": level,
                "line": {"color": "INK", "width": 1, "dash": "dot"},
            }
        )
        words = f"M · max score = {level:.3g}"
        # away from the peak
        x, anchor = (0.15, "left") if int(y.argmax()) > len(y) / 2 else (1, "right")
        annotations.append(
            {
                "xref": "paper",
                "x": x,
                "y": level,
                "xanchor": anchor,
                "yanchor": "bottom",
                "text": words,
                "showarrow": False,
            }
        )
    ends = (("clean picture", 0, "left"), ("pure noise", 1, "right"))
    for words, x, anchor in ends:
        annotations.append(
            {
                "xref": "paper",
                "yref": "paper",
                "x": x,
                "y": 0,
                "yshift": -40,
                "xanchor": anchor,
                "yanchor": "middle",
                "text": f"<i>{words}</i>",
                "showarrow": False,
                "opacity": 0.75,
            }
        )
    layout = {
        "margin": {"l": 58, "r": 16, "t": 34, "b": 96},
        "legend": {
            "orientation": "h",
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
        "xaxis": {
            **_AXIS,
            "range": [0, len(theory.timesteps)],
            "title": {"text": "timestep t", "standoff": 14, "font": {"size": 12}},
            "hoverformat": "d",
        },
        "yaxis": {
            **_AXIS,
            "title": {"text": title, "standoff": 6, "font": {"size": 12}},
            "automargin": True,
            "type": "log" if log else "linear",
            "range": [low, high],
            "exponentformat": "power",
            "nticks": 7,
        },
    }
    return {"data": data, "layout": layout}


def _cuts(proposal: Proposal, low: float, high: float) -> dict[str, Any]:
    """Draw two upright dashed lines, as a trace so that the legend names them."""
    cuts = proposal.plan.boundaries
    x = [t for boundary in cuts for t in (boundary, boundary, None)]
    name = (
        f"proposed for this schedule: {cuts[0]} and"
        f" {cuts[1]}{' (our fallback)' if proposal.fallback else ''}"
    )
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": [low, high, None] * 2,
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
    return low - 0.05 * (high - low), high + 0.14 * (high - low)


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


def mosaic_height(blocks: int) -> int:
    """Return the mosaic's pixels: every block keeps a row that can be seen."""
    return max(320, 130 + 7 * blocks)


MANY_BLOCKS = 20  # from here on rows are thin: no gaps, and one label for each group of blocks


def _groups(names: list[str]) -> list[tuple[str, int, int]]:
    """Return (name, first, last) of each run of blocks of one place, counted from 1.

    "down 2.1 block 3" belongs to "down 2.1".
    """
    found: list[tuple[str, int, int]] = []
    for i, name in enumerate(names, start=1):
        place = name.rpartition("block")[0].strip()
        if found and found[-1][0] == place:
            found[-1] = (place, found[-1][1], i)
        else:
            found.append((place, i, i))
    return found


def _block_axis(names: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (ticks of the block axis, lines between groups): a UNet's blocks go by places."""
    groups = _groups(names)
    if len(groups) == 1:
        return {
            "dtick": 1 if len(names) <= 14 else 4,
            "title": {"text": "block", "standoff": 6, "font": {"size": 12}},
        }, []
    ticks = {
        "automargin": True,
        "tickvals": [(a + b) / 2 for _, a, b in groups],
        "ticktext": [name for name, _, _ in groups],
        "tickfont": {"size": 10},
    }
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "line": {"color": "INK", "width": 0.6},
        "opacity": 0.5,
    }
    return ticks, [{**line, "y0": last + 0.5, "y1": last + 0.5} for _, _, last in groups[:-1]]


def mosaic_figure(
    kept_share: np.ndarray,
    stages: list[int],
    timesteps: list[float],
    names: list[str] | None = None,
) -> dict[str, Any]:
    """Draw blocks x sampling steps, each tile as strong as the share of the block that runs.

    `kept_share` (3 stages, blocks) in 0..1; `stages` and `timesteps` per sampling step, in sampling
    order; `names` of the blocks. A strip above the tiles names the stage of every step.
    """
    kept_share = np.asarray(kept_share, dtype=np.float64)
    steps, blocks = len(stages), kept_share.shape[1]
    names = names or [f"block {b + 1}" for b in range(blocks)]
    ticks, lines = _block_axis(names)
    # a strip of 26 pixels, whatever the number of rows; 56 are margins
    strip_share = 26.4 / (mosaic_height(blocks) - 56)
    x = list(range(1, steps + 1))
    data: list[dict[str, Any]] = []
    strip: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, stage in enumerate(STAGES):
        colour = STAGE_COLOURS[stage]
        mine = [s == i for s in stages]
        z = [
            [round(float(kept_share[i, b]), 4) if here else None for here in mine]
            for b in range(blocks)
        ]
        words = [
            [
                f"step {k + 1} of {steps}, t = {timesteps[k]:.0f}, {stage} stage<br>{name}"
                for k in range(steps)
            ]
            for name in names
        ]
        gap = 1 if steps <= 100 else 0
        common = {"type": "heatmap", "x": x, "showscale": False, "xgap": gap, "hoverongaps": False}
        data.append(
            {
                **common,
                "y": list(range(1, blocks + 1)),
                "z": z,
                "zmin": 0,
                "zmax": 1,
                "ygap": 2 if blocks <= MANY_BLOCKS else 0,
                "text": words,
                "colorscale": [[0, _alpha(colour, 0.04)], [1, _alpha(colour, 1)]],
                "hovertemplate": "%{text}: %{z:.0%} runs<extra></extra>",
            }
        )
        strip.append(
            {
                **common,
                "y": [0],
                "z": [[1 if here else None for here in mine]],
                "zmin": 0,
                "zmax": 1,
                "yaxis": "y2",
                "xgap": 0,
                "hoverinfo": "skip",
                "colorscale": [[0, colour], [1, colour]],
            }
        )
        count = sum(mine)
        if count:
            middle = 1 + sum(k for k, here in enumerate(mine) if here) / count
            label = f"{stage} · {count}" if count / steps >= 0.14 else str(count)
            annotations.append(
                {
                    "x": middle,
                    "y": 0,
                    "yref": "y2",
                    "text": f"<b>{label}</b>",
                    "showarrow": False,
                    "font": {"color": "#ffffff", "size": 12},
                }
            )
    layout = {
        "margin": {"l": 46, "r": 8, "t": 8, "b": 48},
        "showlegend": False,
        "shapes": lines,
        "annotations": annotations,
        "hoverlabel": {"font": {"color": "#18181b"}, "bgcolor": "#ffffff"},
        "xaxis": {
            **_AXIS,
            "showgrid": False,
            "range": [0.5, steps + 0.5],
            "title": {"text": "sampling step, first to last →", "font": {"size": 12}},
            "anchor": "y",
        },
        "yaxis": {
            **_AXIS,
            "showgrid": False,
            "range": [blocks + 0.5, 0.5],
            "domain": [0, 1 - 1.3 * strip_share],
            **ticks,
        },
        "yaxis2": {
            "domain": [1 - strip_share, 1],
            "anchor": "x",
            "fixedrange": True,
            "visible": False,
            "range": [-0.5, 0.5],
        },
    }
    return {"data": [*data, *strip], "layout": layout}


def _alpha(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
