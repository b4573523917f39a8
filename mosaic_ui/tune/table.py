"""Write what a tune found as HTML: the best in sentences, and a row per point of the front.

Pure functions. Two buttons per row are read by `table.js`; every text of a file is escaped.
"""

from __future__ import annotations

from html import escape

from core.tuner.kept import KeptTune
from core.tuner.record import Evaluation

from ..text import fast_text, fewer_text, macs_text, number, plural, seconds_text
from . import words

NOT_CLAIMED = (
    "One seed of pictures: small differences are noise, and the distance compares configurations of"
    " this model only."
)
MEASURED = "whole runs in turn, after one of each that did not count"


def verdict_html(tune: KeptTune, images: int) -> str:
    """Write the best: what it runs, what it costs, how good it is, and what was measured of it."""
    best, dense = tune.best, tune.dense
    if best is None or dense is None:
        return '<div class="tune-best"><p class="fine">No plan within the budget yet.</p></div>'
    what = best.configuration
    head = "The best" if tune.end is not None else "The best so far"
    if tune.end is not None and tune.end.stopped:
        head = "The best until it was stopped"
    parts = "; ".join([words.sampler_words(what), *words.plan_parts(what)])
    lines = [f"<b>{words.ratio_words(best, tune)}</b>: {escape(parts)}."]
    lines.append(_quality_line(best, dense, tune))
    lines += map(escape, _time_lines(tune, best, dense, images))
    if tune.end is not None:
        lines += map(escape, tune.end.notes)
    body = "".join(f"<p>{line}</p>" for line in lines if line)
    return (
        f'<div class="tune-best" role="status"><h2 class="panel-title">{head}, for'
        f' {escape(tune.goal.text)}</h2>{body}<p class="tune-open">{_buttons(best, tune)}</p></div>'
    )


def _quality_line(best: Evaluation, dense: Evaluation, tune: KeptTune) -> str:
    """Say how good the best is beside dense, each number with its n."""
    name = tune.quality[:1].upper() + tune.quality[1:]
    said = (
        f"{name}, lower is better: {number(best.quality)} against {number(dense.quality)} of dense"
        f" (n = {best.n}, seed {tune.seed})"
    )
    if best.held_out is not None:
        said += f"; on held-out noises {number(best.held_out)}"
        if dense.held_out is not None:
            said += f" against {number(dense.held_out)}"
        said += f" (n = {tune.held_out})"
    return escape(f"{said}.")


def _time_lines(tune: KeptTune, best: Evaluation, dense: Evaluation, images: int) -> list[str]:
    """Say what was measured, else what is predicted, in sentences that tell them apart."""
    end = tune.end
    if end is not None and end.speedup is not None:
        return [
            f"Measured {fast_text(*end.speedup)} as dense on {end.device}: median ±"
            f" spread, {MEASURED}, {plural(images, 'image')}."
        ]
    if best.seconds is not None and dense.seconds is not None:
        return [
            f"Predicted, not measured: {seconds_text(best.seconds, beside=[dense.seconds])} of the"
            f" denoiser for {plural(images, 'image')}, dense"
            f" {seconds_text(dense.seconds, beside=[best.seconds])}."
        ]
    return []


def points_html(tune: KeptTune, images: int) -> str:
    """Write the front as rows, cheapest first, and everything else that was tried, folded up."""
    if not tune.evaluations:
        return ""
    front = tune.front
    rest = [e for e in tune.evaluations if e not in front]
    rest.sort(key=lambda e: e.quality)
    more = ""
    if rest:
        more = (
            f"<details><summary>Everything else that was tried ({len(rest)})</summary>"
            f"{_table(rest, tune, images)}</details>"
        )
    return (
        f'<h2 class="panel-title">The front: nothing that was tried beats these</h2>'
        f'{_table(front, tune, images)}{more}<p class="fine">{NOT_CLAIMED}</p>'
    )


def _table(own: list[Evaluation], tune: KeptTune, images: int) -> str:
    time = f"predicted, {plural(images, 'image')}"
    heads = (
        ("Solver, steps", ""),
        ("Work", "per image"),
        ("Time", time),
        (words.short_quality(tune), f"n\u00a0=\u00a0{tune.images}"),
        ("Held-out", f"n = {tune.held_out}"),
        ("Plan", ""),
        ("Open", ""),
    )
    head = "".join(
        f'<th scope="col">{name}{f"<small>{escape(about)}</small>" if about else ""}</th>'
        for name, about in heads
    )
    rows = "".join(_row(e, tune) for e in own)
    return (
        f'<div class="tune-frame"><table class="tune-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(one: Evaluation, tune: KeptTune) -> str:
    what, best, dense = one.configuration, tune.best, tune.dense
    marks = [what.label] if what.label else []
    if best is not None and what == best.configuration:
        marks.append("the best" if tune.end is not None else "the best so far")
    name = f"<b>{escape(words.sampler_words(what))}</b>"
    name += "".join(f"<small>{escape(mark)}</small>" for mark in marks)
    beside = [None if dense is None else dense.macs]
    ratio = (
        ""
        if dense is None or dense == one
        else f"<small>{fewer_text(dense.macs / one.macs)}</small>"
    )
    cells = [
        ("Work", f"{macs_text(one.macs, beside)}{ratio}"),
        ("Time, predicted", seconds_text(one.seconds)),
        (f"{words.short_quality(tune)}, n = {one.n}", number(one.quality)),
        (f"Held-out, n = {tune.held_out}", "–" if one.held_out is None else number(one.held_out)),
        ("Plan", "<br>".join(map(escape, words.plan_parts(what))).replace(" %", "&nbsp;%")),
        ("Open", _buttons(one, tune)),
    ]
    body = "".join(f'<td data-label="{escape(label)}">{cell}</td>' for label, cell in cells)
    css = ' class="is-best"' if best is not None and what == best.configuration else ""
    return (
        f'<tr data-point="{tune.id}:{tune.place(one)}"{css}><th scope="row">{name}</th>{body}</tr>'
    )


def _buttons(one: Evaluation, tune: KeptTune) -> str:
    """Write the two buttons of a point; the dense reference is no plan and has none."""
    if one.configuration.plan is None:
        return '<span class="fine">no plan</span>'
    point, called = f"{tune.id}:{tune.place(one)}", escape(words.title(one.configuration))
    return "".join(
        f'<button type="button" data-open="{place}" data-point="{point}"'
        f' aria-label="{said}: {called}">{said}</button>'
        for place, said in (("explore", "Explore"), ("compare", "Compare"))
    )
