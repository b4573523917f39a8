"""Show what is ticked: only what differs, the pictures side by side, and the front of the plot.

Pure functions; every text of a user is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

from core.errors import StudioError
from core.runs.differences import differences
from core.runs.pareto import Point, Standing, standings
from core.runs.run import Run
from core.workshop.verdict import ONE_RUN_DOUBT

from ..compare.rival import NOT_BETTER
from ..figures import BESIDE, plot_axis
from ..png import data_address
from .table import title_of

MOST_COMPARED = 12  # runs whose differences and pictures have room
AXES = ("PSNR", "FID")
SPREADS = 8  # of the widest bar, that the axis of times is wide at least
LEAST_WIDTH = 0.05  # share of the largest value, that an axis is wide at least
LEAST_DECIBELS = 2.0  # that the axis of PSNR is wide at least
ROOM = 0.08  # of an axis, on either side, for the markers


class Kind(NamedTuple):
    """How the points of one standing are drawn."""

    legend: str
    symbol: str


KINDS = {
    "front": Kind("nobody beats these", "circle"),
    "within": Kind("within the spread", "diamond-open"),
    "beaten": Kind("beaten in both", "circle-open"),
}
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


def standing(runs: Sequence[Run], axis: str) -> list[Standing | None]:
    """Return where each run's B stands in time and distance, None where it has no place."""
    return standings([point_of(run, axis) for run in runs])


def point_of(run: Run, axis: str) -> Point:
    """Return seconds per image of B with their doubt, and its loss."""
    seconds, spread = run.b.seconds, run.b.seconds_spread
    loss = run.b.fid if axis == "FID" else run.psnr and -run.psnr
    if seconds is None:
        return Point(None, 0.0, loss)
    # two single timed runs differ from ONE_RUN_DOUBT on
    doubt = seconds * ONE_RUN_DOUBT / 2 if spread is None else spread
    return Point(seconds / run.n, doubt / run.n, loss)


def front_figure(runs: Sequence[Run], axis: str) -> dict[str, Any]:
    """Draw measured time, with its spread, against distance; what nobody beats is joined.

    The axes are never so narrow that a difference below the spread looks like one.
    """
    found = standing(runs, axis)
    points = [point_of(run, axis) for run in runs]
    data = []
    for kind in KINDS:
        places = [i for i, stands in enumerate(found) if stands == kind]
        data.append(_trace(runs, sorted(places, key=lambda i: points[i].cost or 0), axis, kind))
    placed = [p for p, stands in zip(points, found, strict=True) if stands is not None]
    layout = {
        "margin": {"l": 62, "r": 16, "t": 16, "b": 78},
        "showlegend": True,
        "xaxis": plot_axis("time of B per image, ms, measured; bar: spread") | time_range(placed),
        "yaxis": plot_axis(axis_title(axis)) | loss_range(placed, axis),
        **BESIDE,
    }
    return {"data": [trace for trace in data if trace["x"]], "layout": layout}


def axis_title(axis: str) -> str:
    """Return what the upright axis says."""
    return (
        "FID of B (lower is better)" if axis == "FID" else "PSNR of B to A, dB (higher is nearer)"
    )


def time_range(points: Sequence[Point]) -> dict[str, Any]:
    """Return the range in ms: all bars, and SPREADS times the widest of them at least."""
    if not points:
        return {}
    costs = [(p.cost or 0.0, p.doubt) for p in points]
    low, high = min(c - d for c, d in costs), max(c + d for c, d in costs)
    least = max(SPREADS * max(d for _, d in costs), LEAST_WIDTH * high)
    return _range(1e3 * low, 1e3 * high, 1e3 * least)


def loss_range(points: Sequence[Point], axis: str) -> dict[str, Any]:
    """Return the range of the distance: LEAST_DECIBELS, or a share of the largest FID, at least."""
    if not points:
        return {}
    values = [abs(p.loss or 0.0) for p in points]
    least = LEAST_WIDTH * max(values) if axis == "FID" else LEAST_DECIBELS
    return _range(min(values), max(values), least)


def _range(low: float, high: float, least: float) -> dict[str, Any]:
    """Return a range around both ends, at least so wide, with room for the markers."""
    more = max(0.0, least - (high - low)) / 2
    room = ROOM * max(high - low, least)
    return {"range": [low - more - room, high + more + room]}


def _trace(runs: Sequence[Run], places: Sequence[int], axis: str, kind: str) -> dict[str, Any]:
    shown = [runs[i] for i in places]
    points = [point_of(run, axis) for run in shown]
    spreads = [run.b.seconds_spread for run in shown]
    bars = [None if s is None else 1e3 * s / r.n for s, r in zip(spreads, shown, strict=True)]
    return {
        "type": "scatter",
        "mode": "lines+markers" if kind == "front" else "markers",
        "name": KINDS[kind].legend,
        "x": [1e3 * p.cost for p in points if p.cost is not None],
        "y": [p.loss if axis == "FID" else -p.loss for p in points if p.loss is not None],
        "error_x": {"type": "data", "array": bars, "color": "INK", "thickness": 1, "width": 4},
        # plotly reads a little HTML in texts
        "text": [f"{escape(title_of(r))}<br>{_hover(r)}" for r in shown],
        "customdata": [run.id for run in shown],
        "marker": {
            "size": 12,
            "symbol": KINDS[kind].symbol,
            "color": "INK",
            "line": {"width": 2, "color": "INK"},
        },
        "line": {"color": "INK", "width": 1, "dash": "dot"},
        "hovertemplate": "%{text}, %{y:.1f}<extra></extra>",
    }


def _hover(run: Run) -> str:
    """Write the time of B per image with its spread."""
    if run.b.seconds is None:
        return ""
    spread = run.b.seconds_spread
    one = "one timed run" if spread is None else f"± {1e3 * spread / run.n:.2g}"
    return f"{1e3 * run.b.seconds / run.n:.1f} ms ({one})"


def _copy_words(runs: Sequence[Run]) -> str:
    """Say what it means where fewer dense steps stay nearer to dense than a pruned side as quick.

    Both runs have the dense model in the same steps as A, and the same noise and images.
    """
    fewer = [r for r in runs if r.b.plan_json is None and (r.b.calls or 0) < (r.a.calls or 0)]
    for copy in fewer:
        for run in runs:
            if _same_race(copy, run) and run.b.plan_json is not None and run.psnr is not None:
                ours, theirs = point_of(run, "PSNR"), point_of(copy, "PSNR")
                if ours.cost is None or theirs.cost is None or copy.psnr is None:
                    continue
                if theirs.cost <= ours.cost + ours.doubt + theirs.doubt and copy.psnr > run.psnr:
                    return (
                        f"“{title_of(copy)}” takes no more time than “{title_of(run)}” and is"
                        f" nearer to the dense pictures, {copy.psnr:.1f} against"
                        f" {run.psnr:.1f} dB."
                        f" {NOT_BETTER} For that, compare them by FID."
                    )
    return ""


def _same_race(one: Run, other: Run) -> bool:
    """Say whether two runs held their B against the same dense pictures."""
    dense = one.a.plan_json is None and other.a.plan_json is None
    shared = ("model_key", "images_key", "seed", "scheduler", "guidance", "dtype", "device")
    same = all(getattr(one, name) == getattr(other, name) for name in shared)
    return dense and same and one.a.calls == other.a.calls


def front_words(runs: Sequence[Run], axis: str) -> str:
    """Name the runs on the front as buttons, and say what the plot cannot show."""
    found = standing(runs, axis)
    remarks = []
    missing = found.count(None)
    if "within" in found:
        remarks.append(
            f"{found.count('within')} of {len(runs)} within the spread: another one is nearer, and"
            " their times differ by less than the spread of both, so neither is called faster."
        )
    if any(s is not None and r.b.seconds_spread is None for s, r in zip(found, runs, strict=True)):
        remarks.append("One timed run has no spread: times under 10 % apart are not told apart.")
    copies = _copy_words(runs) if axis == "PSNR" else ""
    if copies:
        remarks.append(copies)
    if missing:
        why = {"FID": "FID needs 200 images", "PSNR": "no result, or equal pictures"}[axis]
        remarks.append(f"{missing} of {len(runs)} are not in the plot ({why}).")
    if len({run.device for run in runs}) > 1:
        remarks.append("They ran on different devices: their times do not compare.")
    if len({(run.model_key, run.n) for run in runs}) > 1:
        remarks.append("They are of different models or numbers of images: read times with care.")
    said = f'<p class="fine">{escape(" ".join(remarks))}</p>' if remarks else ""
    best = [run for run, stands in zip(runs, found, strict=True) if stands == "front"]
    if not best:
        return said
    names = "".join(
        f'<button type="button" data-show-run="{run.id}">{escape(title_of(run))}</button>'
        for run in sorted(best, key=lambda run: (run.b.seconds or 0) / run.n)
    )
    return f'<div class="runs-front-names"><span>Nobody beats</span>{names}</div>{said}'
