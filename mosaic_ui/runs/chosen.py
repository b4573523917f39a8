"""Show what is ticked: only what differs, the pictures side by side, and the front of the plot.

Pure functions; every text of a user is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from core.errors import StudioError
from core.runs.differences import differences
from core.runs.pareto import pareto
from core.runs.run import Run

from ..figures import BESIDE, plot_axis
from ..png import data_address
from .table import title_of

MOST_COMPARED = 12  # runs whose differences and pictures have room
AXES = ("PSNR", "FID")
EMPTY: dict[str, Any] = {"data": [], "layout": {"xaxis": plot_axis(""), "yaxis": plot_axis("")}}


def picture_address(content: bytes | None) -> str:
    """Return a PNG as a data address, or nothing where there is none."""
    return "" if content is None else data_address(content)


def differences_html(runs: Sequence[Run]) -> str:
    """Write a table of what differs from the first run, a column per run."""
    first, *others = runs
    rows: dict[str, list[str]] = {}
    for place, other in enumerate(others, start=1):
        try:
            found = differences(first, other)
        except StudioError as error:  # a plan of a newer version
            return f'<p class="note">{escape(str(error))}</p>'
        for one in found:
            cells = rows.setdefault(one.what, [one.a] * len(runs))
            cells[place] = one.b
    if not rows:
        return '<p class="note">Nothing differs between these runs: they asked for the same.</p>'
    heads = "".join(f'<th scope="col">{escape(title_of(run))}</th>' for run in runs)
    lines = "".join(
        f'<tr><th scope="row">{escape(what)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for what, cells in rows.items()
    )
    return (
        '<div class="runs-differ"><table><thead><tr><th scope="col">Only what differs</th>'
        f"{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def pictures_html(runs: Sequence[Run], thumbnail: Callable[[str, str], bytes | None]) -> str:
    """Write the small sheets of each run, A beside B."""
    return f'<div class="runs-pictures">{"".join(_pictures(r, thumbnail) for r in runs)}</div>'


def _pictures(run: Run, thumbnail: Callable[[str, str], bytes | None]) -> str:
    sides = ""
    for letter, side in (("a", run.a), ("b", run.b)):
        address = picture_address(thumbnail(run.id, letter))
        name = f"{letter.upper()} {escape(side.name)}"
        shown = (
            f'<img src="{address}" alt="Pictures of {name}">'
            if address
            else "no pictures were kept"
        )
        sides += f"<p><span>{name}</span>{shown}</p>"
    head = f"<figcaption><b>{escape(title_of(run))}</b></figcaption>"
    return f"<figure>{head}<div>{sides}</div></figure>"


def front(runs: Sequence[Run], axis: str) -> list[int]:
    """Return the indices of the runs whose B no other run beats in time and distance."""
    return pareto([_point(run, axis) for run in runs])


def _point(run: Run, axis: str) -> tuple[float | None, float | None]:
    """Return seconds per image of B, and its loss: lower is better on both."""
    seconds = None if run.b.seconds is None else run.b.seconds / run.n
    if axis == "FID":
        return seconds, run.b.fid
    return seconds, None if run.psnr is None else -run.psnr


def front_figure(runs: Sequence[Run], axis: str) -> dict[str, Any]:
    """Draw measured time against distance; what nobody beats is filled and joined."""
    best = front(runs, axis)
    placed = [i for i, run in enumerate(runs) if None not in _point(run, axis)]
    rest = [i for i in placed if i not in best]
    data = [_trace(runs, best, axis, True), _trace(runs, rest, axis, False)]
    title = (
        "FID of B (lower is better)" if axis == "FID" else "PSNR of B to A, dB (higher is nearer)"
    )
    layout = {
        "margin": {"l": 62, "r": 16, "t": 16, "b": 78},
        "showlegend": True,
        "xaxis": plot_axis("time of B per image, ms, measured"),
        "yaxis": plot_axis(title),
        **BESIDE,
    }
    return {"data": [trace for trace in data if trace["x"]], "layout": layout}


def _trace(runs: Sequence[Run], places: Sequence[int], axis: str, best: bool) -> dict[str, Any]:
    shown = [runs[i] for i in places]
    points = [_point(run, axis) for run in shown]
    return {
        "type": "scatter",
        "mode": "lines+markers" if best else "markers",
        "name": "nobody beats these" if best else "beaten in both",
        "x": [1e3 * x for x, _ in points if x is not None],
        "y": [y if axis == "FID" else -y for _, y in points if y is not None],
        # plotly reads a little HTML in texts
        "text": [escape(title_of(run)) for run in shown],
        "customdata": [run.id for run in shown],
        "marker": {
            "size": 12,
            "symbol": "circle" if best else "circle-open",
            "color": "INK",
            "line": {"width": 2, "color": "INK"},
        },
        "line": {"color": "INK", "width": 1, "dash": "dot"},
        "hovertemplate": "%{text}<br>%{x:.1f} ms, %{y:.1f}<extra></extra>",
    }


def front_words(runs: Sequence[Run], axis: str) -> str:
    """Name the runs on the front as buttons, and say what the plot cannot show."""
    best = front(runs, axis)
    remarks = []
    missing = sum(None in _point(run, axis) for run in runs)
    if missing:
        why = {"FID": "FID needs 200 images", "PSNR": "no result, or equal pictures"}[axis]
        remarks.append(f"{missing} of {len(runs)} are not in the plot ({why}).")
    if len({run.device for run in runs}) > 1:
        remarks.append("They ran on different devices: their times do not compare.")
    if len({(run.model_key, run.n) for run in runs}) > 1:
        remarks.append("They are of different models or numbers of images: read times with care.")
    said = f'<p class="fine">{escape(" ".join(remarks))}</p>' if remarks else ""
    if not best:
        return said
    names = "".join(
        f'<button type="button" data-show-run="{runs[i].id}">{escape(title_of(runs[i]))}</button>'
        for i in best
    )
    return f'<div class="runs-front-names"><span>Nobody beats</span>{names}</div>{said}'
