"""Show the front of a model: how good the pictures of every contender are for what they cost.

The rows come from `python -m core.bench front`; a model without them has no such card.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import StudioError
from core.tuner.front_rows import (
    FILE,
    Row,
    duels,
    guidance_of,
    kind_of,
    prunes,
    read_rows,
    reuses,
    shown,
    unbeaten_rows,
)
from core.workshop.workshop import Workshop

from .events import QUIET, Views
from .figures import BESIDE, plot_axis
from .input_checks import plain_errors
from .stage_chart import figure_text, plot_panel
from .tables import message
from .text import percent

TITLE = "Where does pruning pay? Every way to draw with this model, by work and by pictures"
COLOURS = {  # Okabe-Ito, apart from the stages
    "UniPC": "#CC79A7",
    "DPM-Solver++": "#56B4E9",
    "DDIM": "#E69F00",
}
DENSE, PRUNED, REUSED = "circle-open", "diamond", "cross"
WORK, TIME = "work", "measured time"
GIGA = 1e9
EMPTY: dict[str, Any] = {"data": [], "layout": {"xaxis": plot_axis(""), "yaxis": plot_axis("")}}


def front_rows(workshop: Workshop) -> list[Row]:
    """Return one row per contender of a model's study, none without one. Raises StudioError."""
    folder = workshop.checkpoint.folder
    return shown(read_rows(Path(folder) / FILE)) if folder else []


def front_figure(rows: Sequence[Row], cost: str = "macs") -> dict[str, Any]:
    """Draw FID against cost ("macs" or "seconds"), solver by solver, and the front as steps."""
    rows = [r for r in rows if r.get(cost) is not None]
    if not rows:
        return EMPTY
    unit = GIGA if cost == "macs" else 1.0
    front = unbeaten_rows(rows, cost)
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "front: nothing beats it in both",
            "x": [_plain(r[cost] / unit) for r in front],
            "y": [_plain(r["fid"]) for r in front],
            "line": {"color": "INK", "width": 1.5, "shape": "hv"},
            "hoverinfo": "skip",
        }
    ]
    for solver, colour in COLOURS.items():
        own = [r for r in rows if kind_of(r)[1] == solver]
        if own:
            data.append(_points(solver, colour, own, cost, unit) | _numbers(own, front))
    title = (
        "GMACs per picture, whole run, counted"
        if cost == "macs"
        else "seconds of the whole run, 16 pictures, measured"
    )
    layout = {
        "margin": {"l": 62, "r": 16, "t": 16, "b": 92},
        "showlegend": True,
        "hovermode": "closest",
        "xaxis": plot_axis(title) | {"type": "log", "exponentformat": "none"},
        "yaxis": plot_axis("FID (lower: nearer to real pictures)")
        | {"type": "log", "exponentformat": "none"},
        **BESIDE,
    }
    return {"data": data, "layout": layout}


def _points(
    solver: str, colour: str, rows: Sequence[Row], cost: str, unit: float
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": solver,
        "x": [_plain(r[cost] / unit) for r in rows],
        "y": [_plain(r["fid"]) for r in rows],
        "hovertext": [_hover(r) for r in rows],
        "hoverinfo": "text",
        "marker": {
            "symbol": [_symbol(r) for r in rows],
            "size": 10,
            "color": colour,
            "line": {"width": 1.5, "color": colour},
        },
    }


def _numbers(rows: Sequence[Row], front: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers that points on the front have in the list below the plot."""
    places = {id(row): str(i) for i, row in enumerate(front, 1)}
    return {
        "mode": "markers+text",
        "text": [places.get(id(row), "") for row in rows],
        "textposition": "bottom left",
        "textfont": {"color": "INK"},
    }


def _symbol(row: Row) -> str:
    if prunes(row):
        return PRUNED
    return REUSED if reuses(row) else DENSE


def _plain(value: float) -> float:
    return float(f"{value:.4g}")


def _name(row: Row) -> str:
    label, solver, steps = kind_of(row)
    return f"{label}, {solver} in {steps} steps"


def _hover(row: Row) -> str:
    """Write what a point is, on several lines."""
    around = f" ± {row['fid_spread']:.1f}" if row.get("seeds", 1) > 1 else ""
    lines = [
        f"<b>{escape(_name(row))}</b>",
        f"guidance {guidance_of(row)}",
        f"FID {row['fid']:.1f}{around}, {row['macs'] / GIGA:.2f} GMACs per picture",
    ]
    if row.get("seconds") is not None:
        lines.append(f"{row['seconds']:.2f} ± {row['seconds_spread']:.2f} s for 16, measured")
    return "<br>".join(lines)


def front_words(rows: Sequence[Row], cost: str = "macs") -> str:
    """Say how to read the plot, name the front, say who is ahead, and what was measured."""
    reading = (
        "Each point is one way to draw: a solver, its number of steps, and what is left out"
        " (circle: the whole network; diamond: pruned; cross: block outputs reused from step to"
        " step). Further left is less work, lower is nearer to real pictures, and the line joins"
        " the ways that no other one beats in both:"
    )
    names = "".join(f"<li>{escape(_said(r))}</li>" for r in unbeaten_rows(rows, cost))
    ahead = "".join(f"<p>{escape(s)}</p>" for s in _ahead(rows))
    return f'<p>{reading}</p><ol>{names}</ol>{ahead}<p class="fine">{_facts(rows)}</p>'


def _said(row: Row) -> str:
    """Return a row's name with its work, its time where it was measured, and its FID."""
    costs = f"{row['macs'] / GIGA:.2f} GMACs per picture"
    if row.get("seconds") is not None:
        costs += f", {row['seconds']:.2f} s for 16"
    return f"{_name(row)}: {costs}, FID {row['fid']:.1f}"


def _ahead(rows: Sequence[Row]) -> list[str]:
    """Say at how many budgets pruning is ahead, and show one of them."""
    found = duels(rows)
    if not found:
        return []
    one = min(found, key=lambda duel: abs(duel.share - 0.5))
    wins = [duel.ahead for duel in found]
    pruned, dense = wins.count("pruned"), wins.count("dense")
    score = f"pruning is ahead at {pruned} of {len(wins)} amounts of work, the whole network at"
    score += f" {dense}, too close to call are {wins.count(None)}"
    return [
        f"At equal work {score}. With {percent(one.share)} of the work of 10 UniPC steps, the"
        f" best way with the whole network is “{_name(one.dense)}” with FID"
        f" {one.dense['fid']:.1f}, the best way with a pruned one is “{_name(one.pruned)}” with"
        f" {one.pruned['fid']:.1f}."
    ]


def _facts(rows: Sequence[Row]) -> str:
    """Say what the points rest on."""
    n = sorted({r["n"] for r in rows})
    seeds = sorted({r.get("seeds", 1) for r in rows})
    fact = f"Measured on this model: {len(rows)} ways, "
    fact += f"n = {' and '.join(map(str, n))} pictures per seed, "
    if seeds == [1]:
        fact += (
            "one seed, each way at the best guidance that was tried for it. Small differences mean"
            " nothing here: for choosing, not for quoting."
        )
    else:
        fact += f"{' or '.join(map(str, seeds))} seeds, other ones than the ways were chosen on."
    return escape(fact + " FID is on the model's own feature network.")


class FrontCard:
    """The card in a closed accordion; its plot is made when it is opened."""

    def __init__(self, workshop: Workshop, elem_id: str):
        self.workshop = workshop
        folder = workshop.checkpoint.folder
        self.there = folder is not None and (Path(folder) / FILE).exists()
        if not self.there:
            return
        with gr.Accordion(TITLE, open=False) as self.box:
            self.cost = gr.Radio(
                [WORK, TIME], value=WORK, show_label=False, visible=False, elem_classes="segmented"
            )
            self.chart = plot_panel(
                EMPTY,
                label="FID against work for every solver, dense and pruned",
                elem_id=elem_id,
                height=360,
            )
            self.words = gr.HTML("")

    def wire(self) -> None:
        """Draw when the card is opened, and for the cost that is chosen."""
        if self.there:
            views = [self.cost, self.chart, self.words]
            gr.on([self.box.expand, self.cost.input], self.on_cost, [self.cost], views, **QUIET)

    @plain_errors
    def on_cost(self, costs_of_front: str) -> Views:
        """Draw the front by work or by measured time."""
        try:
            rows = front_rows(self.workshop)
        except StudioError as error:
            return {self.words: message(str(error), "bad")}
        timed = any(r.get("seconds") is not None for r in rows)
        cost = "seconds" if timed and costs_of_front == TIME else "macs"
        figure = front_figure(rows, cost)
        return {
            self.cost: gr.update(visible=timed),
            self.chart: gr.update(figure=figure_text(figure)),
            self.words: front_words(rows, cost),
        }
