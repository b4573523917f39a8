"""Draw a Plotly chart with two stage boundaries that can be dragged, or without them.

`stage_chart(...)` is a `gr.HTML` with two events: `input` while a line moves (throttled) and
`release` when it is let go or the arrow keys rest. Its value is the list `[low, high]` of 0-based
scheduler timesteps, its one property `figure` the Plotly JSON as text: Gradio copies a component's
values one by one whenever its state changes, and one drag copied 450,000 numbers. The markup, style
and script are the files of the same name.

Plain functions on purpose: a subclass of a Gradio component writes a `.pyi` file beside its source
at import. And one property only: an update of one property of a chart in a tab not yet opened drops
its other properties, so the options are written into the script. What the browser sends is checked
by `StagePlan`, like any other input.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
from plotly.io.json import to_json_plotly

from core.curves.betas import NUM_TRAIN_TIMESTEPS
from core.curves.plan import STAGES

from .theme import STAGE_COLOURS

HERE = Path(__file__).parent
# plotly.js without maps, 3-D and the like: a third of what a page has to read and run. As
# `npm pack plotly.js-cartesian-dist-min` brings it; the version is that of the plotly package.
PLOTLY_JS = HERE / "plotly-cartesian.min.js"


def _read(suffix: str) -> str:
    return (HERE / f"stage_chart.{suffix}").read_text(encoding="utf-8")


def figure_text(figure: dict[str, Any]) -> str:
    """Return a figure as the text that a chart takes; what is not finite becomes null."""
    return to_json_plotly(figure)


def stage_chart(
    value: list[int],
    figure: dict[str, Any],
    *,
    label: str,
    height: int = 380,
    total: int = NUM_TRAIN_TIMESTEPS,
    **kwargs: Any,
) -> gr.HTML:
    """Draw curves with draggable boundaries `value` = [low, high] on `total` timesteps.

    `figure` is {"data": [...], "layout": {...}}.
    """
    gr.set_static_paths(PLOTLY_JS)  # this one file, not its folder
    colours = [STAGE_COLOURS[name] for name in STAGES]
    options = {
        "lower": 0,
        "upper": total,
        "label": label,
        "names": list(STAGES),
        "colours": colours,
        "height": height,
    }
    return gr.HTML(
        value=value,
        figure=figure_text(figure),
        html_template=_read("html"),
        css_template=_read("css").replace("0HEIGHT", str(height)),
        js_on_load=_read("js").replace("OPTIONS;", json.dumps(options) + ";", 1),
        # relative: works under a mount path too
        head=f'<script src="gradio_api/file={PLOTLY_JS}"></script>',
        apply_default_css=False,
        **kwargs,
    )


def plot_panel(figure: dict[str, Any], *, label: str, height: int = 320, **kwargs: Any) -> gr.HTML:
    """Draw the same chart without boundaries, for pictures that are only looked at.

    Update it with `gr.update(figure=figure_text(...))`.
    """
    return stage_chart([], figure, label=label, height=height, **kwargs)
