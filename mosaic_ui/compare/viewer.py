"""Write the pictures of a comparison as a view that can be slid, flipped, sorted and enlarged.

Pure functions, no Gradio. The markup carries its pictures itself. The film strips, most of
its size, are seen only where a sample is enlarged: the page asks for them then (at_hand.py). A file
that opens without a server carries them too. All pictures are PNG, nothing is lossy. Style and
script are the files of the same name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from core.curves.plan import STAGES
from core.sampling.metrics import psnr
from core.workshop.closeness import closeness
from core.workshop.comparison import Comparison, Side

from ..png import data_address, png_bytes
from ..text import plural
from .pictures import (
    MAX_SHOWN,
    PAGE_PIXELS,
    SAMPLE_PIXELS,
    amplified_difference,
    contact_sheet,
    sheet_columns,
    shrunk,
    to_uint8,
)
from .view_parts import stage_colour

HERE = Path(__file__).parent
SCRIPT = (HERE / "viewer.js").read_text(encoding="utf-8")
STYLE = (HERE / "viewer.css").read_text(encoding="utf-8")
FRAME_PIXELS = 64  # of one picture in a film strip, where it is a photograph
MODES = (
    ("side", "Side by side"),
    ("slider", "Slider"),
    ("flip", "Flip"),
    ("difference", "Difference"),
)


def viewer_html(
    comparison: Comparison, class_names: dict[int, str] | None = None, id: str = ""
) -> str:
    """Write A, B and their difference, sample by sample, with the film strip of each sample.

    id: by which the page asks for the film strips; without it the markup carries them.
    """
    a, b = (to_uint8(side.images)[:MAX_SHOWN] for side in (comparison.a, comparison.b))
    difference, factor, mean = amplified_difference(a, b)
    columns = sheet_columns(len(a))
    a, b, difference = (shrunk(x, PAGE_PIXELS // columns) for x in (a, b, difference))
    asked = asked_words(comparison, class_names or {})
    scale = difference_words(comparison, factor, mean)
    carried = not id
    panes = (
        _pane("a", comparison.a.name, _cells(comparison, "A", a, asked, carried)),
        _pane("b", comparison.b.name, _cells(comparison, "B", b, asked, carried)),
        _pane("d", "Difference", _cells(comparison, "D", difference, asked, carried)),
    )
    return (
        f'<section class="cmp cmp-viewer{_photo(comparison)}" data-mode="side"'
        f' data-id="{escape(id)}" aria-label="Pictures of A and B"'
        f' style="--columns:{columns};--rows:{_rows(a, columns):.4g}">{_bar()}'
        f'<div class="cmp-shown"><div class="cmp-panes" role="group" tabindex="0"'
        f' aria-label="Samples">'
        f'{"".join(panes)}</div><p class="cmp-sub cmp-scale">'
        f'{escape(scale)}</p><p class="cmp-sub cmp-help">{_help(comparison)}</p></div>'
        f'<span class="cmp-facts" hidden>{escape(_facts(comparison))}</span>'
        '<dialog class="cmp-large" aria-label="One sample"></dialog></section>'
    )


def _rows(pictures: np.ndarray, columns: int) -> float:
    """Return the rows of the grid, counted in widths of one picture (n, h, w, 3)."""
    n, height, width, _ = pictures.shape
    return math.ceil(n / columns) * height / width


def asked_words(comparison: Comparison, class_names: dict[int, str]) -> list[str]:
    """Return what each sample was to show: its prompt, or the name of its class."""
    settings = comparison.settings
    if settings.prompts:
        return list(settings.prompts)
    return [class_names.get(label, f"class {label}") for label in settings.labels]


def difference_words(comparison: Comparison, factor: int, mean: float) -> str:
    """Say what the difference shows, and at which scale."""
    if comparison.a.images.shape[1] > 1:
        what, full, unit = "red, green and blue are each |A − B|", "full brightness", "levels"
        over = ", over the three colours"
    else:
        what, full, unit, over = "brightness is |A − B|", "white", "grey levels", ""
    if mean == 0:
        return f"A and B are the same to the last {unit[:-1]}."
    scale = (
        f"{what} × {factor}, so {full} means {255 // factor} {unit} of 255 or more"
        if factor > 1
        else f"{what}, not amplified"
    )
    return f"Black means equal; {scale}. Mean difference: {mean:.2f} {unit} of 255{over}."


def decibel_words(decibel: float) -> str:
    """Write the distance of one sample, with what it means."""
    if math.isinf(decibel):
        return "equal pictures"
    if not math.isfinite(decibel):
        return "not comparable"
    return f"{decibel:.1f} dB, {closeness(decibel)}"


def _photo(comparison: Comparison) -> str:
    """Return the class of photographs, which are scaled smoothly; small pictures show pixels."""
    return " cmp-photos" if max(comparison.a.images.shape[-2:]) > SAMPLE_PIXELS else ""


def _bar() -> str:
    """Write the controls: radios for the view, order, zoom, full screen."""
    radios = "".join(
        f'<label><input type="radio" name="cmp-mode" value="{value}"'
        f"{' checked' if value == 'side' else ''}><span>{title}</span></label>"
        for value, title in MODES
    )
    return (
        f'<div class="cmp-tools"><fieldset class="cmp-modes"><legend>View</legend>{radios}'
        '</fieldset><label class="cmp-range">A <input type="range" min="0" max="100" value="50"'
        ' aria-label="Where A ends and B begins, in per cent of each picture"> B</label>'
        '<button type="button" class="cmp-flip" data-do="flip" aria-pressed="false">Showing'
        ' <b>A</b></button><label class="cmp-tick"><input type="checkbox" class="cmp-sort">'
        ' Differs most first</label><span class="cmp-zoom"><button type="button" data-do="out"'
        ' aria-label="Zoom out">−</button><output aria-label="Zoom">100 %</output><button'
        ' type="button" data-do="in" aria-label="Zoom in">+</button></span><button type="button"'
        ' class="cmp-whole" data-do="whole" aria-label="Full screen" title="Full screen">'
        '<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" fill="none"'
        ' stroke="currentColor" stroke-width="2"><path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4"/>'
        "</svg></button></div>"
    )


def _pane(letter: str, name: str, cells: str) -> str:
    """Write the grid of one side, or of the difference."""
    badge = "" if letter == "d" else f"<b>{letter.upper()}</b> "
    return (
        f'<figure class="cmp-pane" data-side="{letter}"><figcaption>{badge}{escape(name)}'
        f'</figcaption><ul class="cmp-cells">{cells}</ul></figure>'
    )


def _cells(
    comparison: Comparison, letter: str, pictures: np.ndarray, asked: Sequence[str], carried: bool
) -> str:
    """Write one button per sample, with its picture, what it shows and how far it moved."""
    side = {"A": comparison.a, "B": comparison.b}.get(letter)
    steps = _step_decibels(comparison) if letter == "A" else []
    cells = ""
    for i, picture in enumerate(pictures):
        decibel, what = comparison.decibels[i], escape(asked[i], quote=True)
        address = data_address(png_bytes(_enlarged(picture)))
        facts = f' data-i="{i}" data-psnr="{decibel:.3f}"'
        if letter == "A":
            facts += f' data-what="{what}" data-words="{decibel_words(decibel)}"'
            facts += f' data-steps="{" ".join(f"{row[i]:.0f}" for row in steps)}"'
        if carried and side is not None and side.film:
            facts += f' data-film="{film_strip(side, i, comparison)}"'
        name = "Difference" if side is None else letter
        cells += (
            f'<li{facts}><button type="button" aria-label="Enlarge sample {i + 1}, {what},'
            f' {decibel_words(decibel)}"><img src="{address}" alt="{name}, sample {i + 1}:'
            f' {what}"></button></li>'
        )
    return cells


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """Repeat the pixels of a tiny picture, so that a saved copy is no thumbnail."""
    factor = max(1, SAMPLE_PIXELS // max(picture.shape[:2]))
    return picture.repeat(factor, 0).repeat(factor, 1)


def film_strip(side: Side, i: int, comparison: Comparison) -> str:
    """Return the address of one sample's film strip, all frames in one picture."""
    frames = np.concatenate([to_uint8(frame[i : i + 1]) for frame in side.film])
    if _photo(comparison):
        frames = shrunk(frames, FRAME_PIXELS)
    return data_address(png_bytes(contact_sheet(frames, len(frames), max(frames.shape[1:3]), 0)))


def _step_decibels(comparison: Comparison) -> list[list[float]]:
    """Return the PSNR of every sample frame by frame, where both strips have the same frames."""
    a, b = comparison.a, comparison.b
    if a.film_timesteps != b.film_timesteps or not a.film:
        return []
    return [
        psnr(one[:MAX_SHOWN], other[:MAX_SHOWN]).tolist()
        for one, other in zip(a.film, b.film, strict=True)
    ]


def _facts(comparison: Comparison) -> str:
    """Return what the enlarged view says of both sides, as JSON."""

    def side(s: Side) -> dict[str, object]:
        stages = [-1 if s.plan is None else s.plan.stage_of(t) for t in s.film_timesteps]
        return {
            "name": s.name,
            "frames": [
                {
                    "t": f"{t:.0f}",
                    "word": "full" if stage < 0 else STAGES[stage],
                    "colour": stage_colour(stage),
                }
                for t, stage in zip(s.film_timesteps, stages, strict=True)
            ],
        }

    told = {"a": side(comparison.a), "b": side(comparison.b)}
    return json.dumps(told)


def _help(comparison: Comparison) -> str:
    """Say how many samples there are and what can be done with them."""
    shown = min(comparison.n, MAX_SHOWN)
    count = (
        plural(shown, "sample")
        if shown == comparison.n
        else f"the first {shown} of {comparison.n} samples"
    )
    what = "prompt" if comparison.settings.prompts else "class"
    different = len(set(comparison.settings.labels))
    if 1 < different < comparison.n:
        count += f", {different} classes in turn"
    words = (
        f"{count.capitalize()}; the same place in A and B means the same noise and {what}. Click a"
        " sample to enlarge it; <kbd>F</kbd> flips between A and B."
    )
    wide = comparison.a.images.shape[-1]
    if PAGE_PIXELS // sheet_columns(shown) < wide:
        words += f" Shown smaller than their {wide} pixels; the downloads have full size."
    return words
