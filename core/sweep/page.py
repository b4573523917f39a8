"""Write a sweep as one self-contained page: pictures, and a heat map of a metric to choose.

Labels stay in sight while the page scrolls. Nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import json
from html import escape
from typing import Any

from .axes import KINDS
from .cells import Grid
from .metrics import METRICS
from .page_parts import SCRIPT, STYLE
from .record import CellRecord, SweepRecord

STATE_WORDS = {
    "waiting": "not run yet",
    "running": "not finished",
    "failed": "failed",
    "impossible": "cannot be",
}


def page_of(record: SweepRecord, grid: Grid) -> str:
    """Return the page of a sweep as HTML."""
    facts = record.facts
    title = f"Sweep of {grid.x.name}" + ("" if grid.y is None else f" and {grid.y.name}")
    known = [
        m for m in METRICS if any(m.key in c.numbers and m.text(c.numbers) for c in record.cells)
    ]
    options = "".join(f'<option value="{m.key}">{escape(m.words)}</option>' for m in known)
    about = (
        f"{facts['model']}, n = {facts['n']} images, seed {facts['seed']}, {facts['device']}."
        f" {_counts(record)}"
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1><p>{escape(about)}</p>
<p><label>Metric <select id="metric">{options}</select></label>
<span id="legend"></span></p>
<h2>Heat map</h2><div class="scroll" tabindex="0">{_table(record, grid, pictures=False)}</div>
<h2>Pictures</h2>{_dense(record)}
<div class="scroll" tabindex="0">{_table(record, grid, pictures=True)}</div>
<script type="application/json" id="cells">{_data(record)}</script>
<script>{SCRIPT}</script></body></html>
"""


def _counts(record: SweepRecord) -> str:
    """Return how many cells are in which state, in words."""
    said = [f"{record.count('done')} of {len(record.cells)} cells are done"]
    for state, words in STATE_WORDS.items():
        number = sum(cell.state == state for cell in record.cells)
        said += [f"{number} {words}"] if number else []
    return ", ".join(said) + "."


def _table(record: SweepRecord, grid: Grid, pictures: bool) -> str:
    """Return one table over both axes: x from left to right, y from top to bottom."""
    corner = f"{grid.x.name} →" if grid.y is None else f"{grid.y.name} ↓ {grid.x.name} →"
    about = "; ".join(
        f"{axis.name}: {KINDS[axis.name].about}" for axis in (grid.x, grid.y) if axis is not None
    )
    head = "".join(f'<th scope="col">{escape(word)}</th>' for word in grid.x.labels)
    first_head = f'<th class="corner" title="{escape(about)}">{escape(corner)}</th>'
    lines = [f"<thead><tr>{first_head}{head}</tr></thead>"]
    for row, word in enumerate([""] if grid.y is None else grid.y.labels):
        first = row * grid.columns
        cells = "".join(
            _cell(record, first + column, grid, pictures) for column in range(grid.columns)
        )
        lines.append(f'<tr><th scope="row">{escape(word)}</th>{cells}</tr>')
    kind = "pictures" if pictures else "heat"
    return f'<table class="{kind}">{"".join(lines)}</table>'


def _cell(record: SweepRecord, index: int, grid: Grid, pictures: bool) -> str:
    """Return one cell of a table; the script puts number and colour in."""
    one = record.cells[index]
    title = grid.title(grid.cells[index])
    said = one.numbers.get("verdict", "") if one.state == "done" else one.sentence
    hint = escape(f"{title}. {said}")
    if one.state != "done":
        words = escape(STATE_WORDS[one.state])
        return f'<td class="{one.state}" title="{hint}">{words}</td>'
    image = ""
    if pictures:
        image = _image(record.picture(one.picture), title)
    return f'<td title="{hint}" data-cell="{index}">{image}<span></span></td>'


def _dense(record: SweepRecord) -> str:
    """Return the dense pictures that cells are compared with, each once."""
    shown: dict[str, CellRecord] = {}
    for one in record.cells:
        if one.state == "done":
            shown.setdefault(one.dense, one)
    figures = []
    for name, one in shown.items():
        run = one.settings
        words = (
            f"Dense, {run['steps']} steps, {run['scheduler']}, guidance {run['guidance']:g},"
            f" {run['mode']}"
        )
        image = _image(record.picture(name), words)
        figures.append(f"<figure>{image}<figcaption>{escape(words)}</figcaption></figure>")
    return f'<div class="dense">{"".join(figures)}</div>'


def _image(data: bytes | None, words: str) -> str:
    """Return a picture as part of the page, empty where there is none."""
    if data is None:
        return ""
    code = base64.b64encode(data).decode()
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{code}">'


def _data(record: SweepRecord) -> str:
    """Return numbers and texts of all cells for the script, safe inside a page."""
    plain: dict[str, Any] = {
        metric.key: [
            None
            if one.state != "done" or one.numbers.get(metric.key) is None
            else [one.numbers[metric.key], metric.text(one.numbers)]
            for one in record.cells
        ]
        for metric in METRICS
    }
    return json.dumps(plain).replace("<", "\\u003c")
