"""Show the shipped study: sentences, a chart of FID against work, and the whole table.

Pure functions.
"""

from __future__ import annotations

import html
from typing import Any

from core.workshop.study import Finding, verdicts

from ..figures import BESIDE, plot_axis
from ..hover import explained
from ..text import percent, spaced

# Okabe-Ito, apart from the stages
SHOWN = {
    "dense": ("circle", "INK"),
    "MosaicDiff": ("diamond", "#CC79A7"),
    "uniform OBS": ("square", "#56B4E9"),
}
WORDS = {
    "dense": "dense, with fewer and fewer steps",
    "MosaicDiff": "MosaicDiff",
    "uniform OBS": "uniform pruning",
}
TICKS = [5, 7, 10, 15, 20, 30, 50, 70, 100]


def study_sentences(found: list[Finding]) -> str:
    """Say where pruning pays and where fewer steps do, one line each, with what was measured."""
    facts = sorted({(f.n, f.seeds) for f in found})
    note = "; ".join(f"n = {n} images, {k} seed{'s' if k > 1 else ''}" for n, k in facts)
    items = "".join(f"<li>{html.escape(spaced(s))}</li>" for s in verdicts(found))
    return (
        f'<ul class="study-list">{items}</ul><p class="fine">Measured on this model: {note}.'
        " FID, a distance to real pictures (lower is better), on its own small feature network."
        " ± of FID: half the range over the seeds. Latent MSE: distance to what the dense model"
        " draws from the same noise.</p>"
    )


def study_figure(found: list[Finding]) -> dict[str, Any]:
    """Draw FID against work; lower and further left is better."""
    data = []
    for family, (symbol, colour) in SHOWN.items():
        points = sorted({(f.work, f.fid, f.steps, f.saved) for f in found if f.family == family})
        if not points:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if family == "dense" else "markers",
                "name": WORDS[family],
                "x": [100 * p[0] for p in points],
                "y": [p[1] for p in points],
                "text": [f"{p[2]} steps" for p in points],
                "marker": {"symbol": symbol, "size": 10, "color": colour},
                "line": {"color": colour, "width": 1, "dash": "dot"},
                "hovertemplate": "%{text}: FID %{y:.2f} at %{x:.0f} % of the work",
            }
        )
    most = max(f.base_steps for f in found)
    layout = {
        "margin": {"l": 58, "r": 16, "t": 20, "b": 96},
        "xaxis": {
            **plot_axis(f"work per image, % of dense at {most} steps (MACs)"),
            "type": "log",
            "tickvals": TICKS,
        },
        "yaxis": plot_axis("FID (lower is better)"),
        **BESIDE,
    }
    return {"data": data, "layout": layout}


def study_table(found: list[Finding]) -> str:
    """Write every row of the study."""
    head = "".join(
        f"<th>{explained(h)}</th>"
        for h in (
            "steps",
            "method",
            "MACs saved",
            "FID",
            "latent MSE to dense",
            "class accuracy",
            "n × seeds",
        )
    )
    rows = []
    for f in found:
        pm = f" ± {f.fid_spread:.2f}" if f.seeds > 1 else ""
        cells = (
            f.base_steps,
            f.method,
            percent(f.saved),
            f"{f.fid:.2f}{pm}",
            f"{f.latent_mse:.4f}",
            f"{f.class_accuracy:.3f}",
            f"{f.n} × {f.seeds}",
        )
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in cells) + "</tr>")
    return (
        '<div class="study-wrap"><table class="study-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
