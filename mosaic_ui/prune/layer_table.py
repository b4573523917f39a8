"""Write the table per layer, dense against pruned: sorted by any heading, shares as bars.

Pure functions and one component; the frame and the script are `layer_table.html` and
`layer_table.js`, the sorting is that of the table of runs.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..sorted_table import SCRIPT, STYLE, head_cell, sorted_by
from ..theme import STAGE_COLOURS
from .views import LAYER_HEADERS

HERE = Path(__file__).parent
# places of the columns with a bar -> place of what the bar is a share of; None: of the largest
BARS: dict[int, int | None] = {2: 3, 5: 4, 7: 6, 8: None}
FORMS = {6: "{:.3f}", 7: "{:.3f}", 8: "{:.2f}"}  # place of a column -> how numbers are written
SAMPLED = ("early", "middle", "late")  # how stages are sorted


def layer_table() -> gr.HTML:
    """Return the empty table; its value is what `table_rows` writes."""
    heads = "".join(
        head_cell(i, title, number=i > 1, first=i > 1) for i, title in enumerate(LAYER_HEADERS)
    )
    frame = (HERE / "layer_table.html").read_text(encoding="utf-8")
    return gr.HTML(
        "",
        html_template=STYLE + frame.replace("HEADS", heads),
        js_on_load=SCRIPT + (HERE / "layer_table.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="layer-table",
    )


def table_rows(rows: list[list[Any]]) -> str:
    """Write the rows of `views.layer_rows`, each with bars in the colour of its stage."""
    largest = max((row[8] or 0 for row in rows), default=0)
    names = list(dict.fromkeys(row[0] for row in rows))  # "block 10" comes after "block 9"
    return "".join(_row(row, names.index(row[0]), largest) for row in rows)


def _row(row: list[Any], place: int, largest: float) -> str:
    """Write one row; `place`: of its layer in the model, by which layers are sorted."""
    layer, stage = row[0], row[1]
    cells = [
        f"<td{sorted_by(float(place))}>{escape(layer)}</td>",
        f'<td{sorted_by(float(SAMPLED.index(stage)))}><i class="swatch"></i>{stage}</td>',
    ]
    for i, value in enumerate(row[2:], start=2):
        whole = None if i not in BARS else _whole(row, i, largest)
        shown = "–" if value is None else FORMS.get(i, "{:,}").format(value)
        bar = ""
        if whole and value is not None:
            bar = f'<i class="bar" style="width:{100 * value / whole:.1f}%"></i>'
        key = None if value is None else float(value)
        cells.append(f'<td class="num"{sorted_by(key)}>{shown}{bar}</td>')
    return f'<tr style="--stage:{STAGE_COLOURS[stage]}">{"".join(cells)}</tr>'


def _whole(row: list[Any], column: int, largest: float) -> float:
    """Return what a full bar of a column stands for."""
    beside = BARS[column]
    return largest if beside is None else row[beside]
