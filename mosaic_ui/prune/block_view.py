"""Write the inside of one block as HTML: squares for heads, bars for neurons, error curves as SVG.

Pure functions, no components. Numbers come from `core.workshop.inside_block`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape
from typing import NamedTuple

from core.curves.plan import as_sampled
from core.models.layers import PrunableLayer
from core.workshop.inside_block import LayerInside, LayerStage
from core.workshop.layer_alone import LayerLoss
from core.workshop.small_runs import SAMPLER

from ..compare.pictures import shrunk, to_uint8
from ..png import data_address, png_bytes
from ..text import number, percent
from ..theme import STAGE_COLOURS

QUESTION = "What does the picture lose if only this layer is cut?"
ABOUT = (
    "Error: change of the layer's output relative to the output, exact, on calibration data. Each"
    " dot is the cut of a stage; the axis is logarithmic."
)
SIDE = 128  # pixels of a picture that is sent, at most
# of the drawing, in its own units: width and height of the plot, and the room round it
WIDE = 300
HIGH = 120
LEFT = 44
BELOW = 32
ABOVE = 8
LEAST = 1e-4  # the lowest error on the axis, where nothing lower is drawn


Place = Callable[[int, float], tuple[float, float]]  # removed groups, error -> x, y


class Loss(NamedTuple):
    """What was measured of one layer alone, ready for the page."""

    sentence: str
    pictures: str  # HTML


def loss_of(found: LayerLoss, device: str) -> Loss:
    """Return a measured loss in one sentence, and the pictures of both networks."""
    kept = ", ".join(f"{stage} {n}" for stage, n in as_sampled(found.kept))
    n, steps = len(found.dense.images), len(found.dense.timesteps)
    decibel = found.psnr
    far = "the pictures are equal" if decibel is None else f"PSNR {number(decibel)} dB"
    sentence = (
        f"Measured: dense against only {found.layer.name} cut ({kept} of {found.layer.groups}"
        f" stay): {far}, latent MSE {_error_number(found.latent_mse)}; n = {n} pictures from the"
        f" same noise, {steps} steps of {SAMPLER}, seed {found.seed}, {device}."
    )
    sides = (("Dense", found.dense.images), ("Only this layer cut", found.cut.images))
    pictures = "".join(
        f"<figure><div>{''.join(_picture(address, name) for address in addresses)}</div>"
        f"<figcaption>{name}</figcaption></figure>"
        for name, addresses in (
            (name, [data_address(png_bytes(one)) for one in shrunk(to_uint8(images), SIDE)])
            for name, images in sides
        )
    )
    return Loss(sentence, f'<div class="inside-pictures">{pictures}</div>')


def block_html(
    block: int, name: str, layers: list[LayerInside], missing: str, losses: Mapping[int, Loss]
) -> str:
    """Write the panel of a block, counted from 1.

    missing: a sentence on what is not known, or "". losses: what was measured of the layers, by
    their places.
    """
    said = f'<p class="note">{escape(missing)}</p>' if missing else ""
    parts = "".join(_layer(one, losses.get(one.place)) for one in layers)
    known = any(stage.curve is not None for one in layers for stage in one.stages)
    about = f'<p class="fine">{ABOUT}</p>' if known else ""
    return (
        f'<section class="inside" data-block="{block}" aria-label="Inside {escape(name)}">{said}'
        f'<div class="inside-layers">{parts}</div>{about}</section>'
    )


def _layer(one: LayerInside, loss: Loss | None) -> str:
    """Write one layer: what stays per stage, its error curves, and what it costs the picture."""
    rows = "".join(_stage_row(one.layer, stage) for _, stage in as_sampled(one.stages))
    if not one.cut:
        below = '<p class="fine">The plan leaves this layer whole.</p>'
    elif loss is None:
        below = (
            f'<button type="button" class="inside-ask" data-layer="{one.place}"'
            f' aria-label="{QUESTION} {escape(one.layer.name)}">{QUESTION}</button>'
        )
    else:
        below = f'{loss.pictures}<p class="fine">{escape(loss.sentence)}</p>'
    return (
        f'<article data-place="{one.place}"><h3>{escape(one.layer.name)}</h3>'
        f'<table class="inside-stages"><tbody>{rows}</tbody></table>{curve_svg(one)}{below}'
        "</article>"
    )


def _stage_row(layer: PrunableLayer, stage: LayerStage) -> str:
    """Write one stage: how many groups stay, which, and the exact error of that."""
    stay = layer.groups - stage.removed
    error = "–" if stage.error is None else f"error {error_text(stage.error)}"
    if layer.kind == "heads" and stage.kept is not None:
        drawn = _squares(layer.groups, set(stage.kept))
    else:
        drawn = (
            f'<span class="inside-bar" role="img" aria-label="{percent(stay / layer.groups)} stay">'
            f'<i style="width:{100 * stay / layer.groups:.1f}%"></i></span>'
        )
    return (
        f'<tr data-stage="{stage.stage}" style="--stage:{STAGE_COLOURS[stage.stage]}">'
        f'<th scope="row"><i class="swatch"></i>{stage.stage}</th>'
        f"<td>{stay} of {layer.groups} stay</td><td>{drawn}</td><td>{error}</td></tr>"
    )


def _squares(groups: int, kept: set[int]) -> str:
    """Write a small square per head, counted from 1: filled where it stays."""
    stay = ", ".join(str(head + 1) for head in sorted(kept)) or "none"
    squares = "".join(
        f'<i class="{"stays" if head in kept else "goes"}" title="head {head + 1}'
        f' {"stays" if head in kept else "goes"}"></i>'
        for head in range(groups)
    )
    said = f"Heads that stay: {stay}"
    return f'<span class="inside-heads" role="img" aria-label="{said}">{squares}</span>'


def curve_svg(one: LayerInside) -> str:
    """Draw the error of every stage against removed groups, with the plan's cut on each curve.

    The error axis is logarithmic; nothing where the curves are not known.
    """
    curves = [stage.curve for stage in one.stages if stage.curve is not None]
    if not curves:
        return ""
    lowest = min((x for curve in curves for x in curve if x > 0), default=LEAST)
    bottom = max(-5, math.floor(math.log10(max(lowest, 1e-12))))
    top = max(0, math.ceil(math.log10(max(max(map(max, curves)), 1e-12))))
    groups = one.layer.groups

    def at(removed: int, error: float) -> tuple[float, float]:
        height = (math.log10(max(error, 10.0**bottom)) - bottom) / (top - bottom)
        return LEFT + WIDE * removed / groups, ABOVE + HIGH * (1 - height)

    grid = "".join(_tick(power, at(0, 10.0**power)[1]) for power in range(bottom, top + 1))
    drawn = "".join(_curve(one, stage, at) for _, stage in as_sampled(one.stages))
    ends = "".join(
        f'<text x="{at(removed, 1)[0]:.1f}" y="{ABOVE + HIGH + 13}" text-anchor="middle">'
        f"{removed}</text>"
        for removed in (0, groups // 2, groups)
    )
    said = "; ".join(
        f"{name}: {stage.removed} of {groups} removed, error {error_text(stage.error)}"
        for name, stage in as_sampled(one.stages)
        if stage.error is not None
    )
    return (
        f'<svg class="inside-curve" viewBox="0 0 {LEFT + WIDE + 14} {ABOVE + HIGH + BELOW}"'
        f' role="img" aria-label="Relative layer error, logarithmic, against removed'
        f' {one.layer.kind}. {said}">{grid}{ends}{drawn}<text x="{LEFT + WIDE / 2}"'
        f' y="{ABOVE + HIGH + BELOW - 5}" text-anchor="middle">{one.layer.kind} removed</text>'
        "</svg>"
    )


def _tick(power: int, y: float) -> str:
    return (
        f'<path class="grid" d="M{LEFT} {y:.1f}h{WIDE}"/><text x="{LEFT - 5}" y="{y + 4:.1f}"'
        f' text-anchor="end">{100 * 10.0**power:g} %</text>'
    )


def _curve(one: LayerInside, stage: LayerStage, at: Place) -> str:
    """Draw one stage's curve from the first level with an error, and its cut: a line and a dot."""
    if stage.curve is None or stage.error is None:
        return ""
    points = " ".join(
        "{:.1f},{:.1f}".format(*at(removed, error))
        for removed, error in zip(one.levels, stage.curve, strict=True)
        if error > 0
    )
    drawn = f'<polyline points="{points}"/>'
    if stage.removed:
        x, y = at(stage.removed, stage.error)
        drawn += (
            f'<path class="cut" d="M{x:.1f} {y:.1f}V{ABOVE + HIGH}"/><circle cx="{x:.1f}"'
            f' cy="{y:.1f}" r="4"><title>{stage.stage}: {stage.removed} removed, error'
            f" {error_text(stage.error)}</title></circle>"
        )
    return (
        f'<g data-stage="{stage.stage}" data-error="{stage.error!r}"'
        f' style="--stage:{STAGE_COLOURS[stage.stage]}">{drawn}</g>'
    )


def error_text(error: float | None) -> str:
    """Write a relative error as per cent with three figures: 0.0123 %, 4.97 %; a dash for None."""
    return "–" if error is None else f"{_error_number(100 * error)} %"


def _error_number(value: float) -> str:
    """Write three figures, in exponent form where a plain number would be all zeros."""
    return number(value) if value == 0 or value >= 1e-4 else f"{value:.2e}"


def _picture(address: str, name: str) -> str:
    return f'<img src="{address}" alt="{name}">'
