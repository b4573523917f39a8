"""Offer a comparison to take along: grids, one picture, a page that can be mailed, the facts.

Pure functions, no Gradio. Every file is named after what it holds. The page carries the names, and
a file is made when somebody asks for it (at_hand.py, downloads.js). Where a result is kept nowhere,
links carry the files themselves.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

from core.workshop.comparison import Comparison

from ..png import data_address, png_bytes
from ..recipes import TEXTS
from .figures import film_html, metrics_html, settings_line, sheets, verdict_html
from .lettering import INK, PAPER, QUIET, font, wrapped, write
from .pictures import download_sheet, to_uint8
from .slide import slide
from .timing import timing_html, timing_rows
from .viewer import SCRIPT, STYLE, difference_words, viewer_html

# where a copied text is shown
CODE = '<pre class="along-code" tabindex="0" aria-label="The copied text" hidden></pre>'
EMPTY: Mapping[str, str] = MappingProxyType({})
LONGEST = 40  # characters of one part of a file's name
MARGIN, LINE = 24, 26  # pixels, in the comparison as one picture
TAB_STYLE = (Path(__file__).parent / "tab.css").read_text(encoding="utf-8")
# what Gradio's theme gives the page, for a file that stands alone
VARIABLES = """
:root { color-scheme: light dark; --body-text-color: #18181b; --body-background-fill: #f6f6f7;
  --block-background-fill: #fff; --background-fill-primary: #fff;
  --background-fill-secondary: #f4f4f5;
  --border-color-primary: #e4e4e7; --block-border-color: #e4e4e7; --color-accent-soft: #ececee;
  --button-secondary-background-fill: #fff; --button-secondary-background-fill-hover: #f4f4f5;
  --button-secondary-border-color: #d4d4d8; --button-secondary-text-color: #18181b; }
@media (prefers-color-scheme: dark) { :root { --body-text-color: #f4f4f5;
  --body-background-fill: #0e0e10; --block-background-fill: #18181b;
  --background-fill-primary: #3f3f46; --background-fill-secondary: #232327;
  --border-color-primary: #2e2e33; --block-border-color: #2e2e33; --color-accent-soft: #27272a;
  --button-secondary-background-fill: #232327; --button-secondary-background-fill-hover: #2e2e33;
  --button-secondary-border-color: #3f3f46; --button-secondary-text-color: #f4f4f5; } }
body { margin: 0; font: 15px/1.45 ui-sans-serif, system-ui, "Segoe UI", Roboto, sans-serif;
  background: var(--body-background-fill); color: var(--body-text-color); }
main { max-width: 1100px; margin: 0 auto; padding: 28px 20px 60px; display: grid; gap: 24px; }
h1 { font-size: 24px; margin: 0; }
"""


@dataclass(frozen=True)
class File:
    """A kind of file: what its button says, how its name ends, its media type."""

    title: str
    end: str
    mime: str


FILES = {
    "page": File("Page to mail (HTML)", ".html", "text/html"),
    "picture": File("A, B and difference (PNG)", ".png", "image/png"),
    "slide": File("For slides, 1920 × 1080 (PNG)", "-slide.png", "image/png"),
    "a": File("A: grid (PNG)", "-A.png", "image/png"),
    "b": File("B: grid (PNG)", "-B.png", "image/png"),
    "facts": File("Result (JSON)", ".json", "application/json"),
}


def file_stem(comparison: Comparison) -> str:
    """Return what the files of a comparison are called: model, sides, seed, steps."""
    settings = comparison.settings
    steps = f"{settings.steps}steps"
    if settings.side_steps is not None:
        steps = "{}and{}steps".format(*settings.side_steps)
    sides = f"{_slug(comparison.a.name)}-vs-{_slug(comparison.b.name)}"
    return f"mosaicdiff-{_slug(comparison.model)}-{sides}-seed{settings.seed}-{steps}"


def _slug(text: str) -> str:
    """Return a text as a part of a file's name: letters, digits and single hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:LONGEST].strip("-") or "side"


def result_json(comparison: Comparison) -> str:
    """Return the result as the command line's `compare --json` prints it."""
    return json.dumps(comparison.to_json(), indent=2)


def downloads_html(comparison: Comparison, id: str) -> str:
    """Write a button per file, which asks the server for the file of the comparison `id`."""
    buttons = (
        f'<button type="button" class="cmp-get" data-file="{kind}"'
        f' data-name="{_name(comparison, file)}">↓ {escape(file.title)}</button>'
        for kind, file in FILES.items()
    )
    copies = (
        f'<button type="button" class="cmp-get" data-text="{kind}">{escape(words)}</button>'
        for kind, (words, _) in TEXTS.items()
    )
    group = _group([*buttons, *copies], f' data-id="{escape(id)}"')
    return f'<div class="cmp-along">{group}{CODE}</div>'


def carried_html(
    comparison: Comparison,
    class_names: dict[int, str] | None = None,
    judged: bool = True,
    texts: Mapping[str, str] = EMPTY,
) -> str:
    """Write a link per file, which carries the file itself, and texts under their titles."""
    folded = "".join(
        f'<details class="cmp cmp-ran"><summary>{escape(title)}</summary>'
        f'<pre class="along-code" tabindex="0">{escape(text)}</pre></details>'
        for title, text in texts.items()
    )
    links = _group(
        f'<a class="cmp-get" download="{_name(comparison, file)}" href="'
        f'{data_address(file_bytes(comparison, kind, class_names, judged), file.mime)}">'
        f"↓ {escape(file.title)}</a>"
        for kind, file in FILES.items()
    )
    return links + folded


def _group(files: Iterable[str], facts: str = "") -> str:
    return (
        f'<div class="cmp cmp-downloads" role="group" aria-label="Downloads"{facts}>'
        f"{''.join(files)}"
        '<span class="cmp-sub cmp-made" role="status"></span></div>'
    )


def _name(comparison: Comparison, file: File) -> str:
    return escape(f"{file_stem(comparison)}{file.end}")


def file_bytes(
    comparison: Comparison,
    kind: str,
    class_names: dict[int, str] | None = None,
    judged: bool = True,
) -> bytes:
    """Return the content of one of `FILES`."""
    if kind == "page":
        return report_html(comparison, class_names, judged).encode()
    if kind == "facts":
        return result_json(comparison).encode()
    if kind == "picture":
        return png_bytes(one_picture(comparison))
    if kind == "slide":
        return png_bytes(slide(comparison))
    side = {"a": comparison.a, "b": comparison.b}[kind]
    return png_bytes(download_sheet(to_uint8(side.images)))


def report_html(
    comparison: Comparison, class_names: dict[int, str] | None = None, judged: bool = True
) -> str:
    """Return the whole comparison as one page that needs no server and no network."""
    title = f"{comparison.a.name} and {comparison.b.name}, {comparison.model}"
    made = f"MosaicDiff Studio, {comparison.when}. {settings_line(comparison)}."
    body = (
        verdict_html(comparison),
        viewer_html(comparison, class_names),
        film_html(comparison),
        timing_html(timing_rows(comparison.a, comparison.b), comparison),
        metrics_html(comparison, judged),
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport"'
        f' content="width=device-width, initial-scale=1"><title>{escape(title)}</title><style>'
        f'{VARIABLES}{TAB_STYLE}{STYLE}</style></head><body><main class="cmp-tab"><header><h1>'
        f'{escape(title)}</h1><p class="cmp-sub">{escape(made)}</p></header>{"".join(body)}</main>'
        f"<script>((element, server) => {{{SCRIPT}}})(document.body, null);</script></body></html>"
    )


def one_picture(comparison: Comparison) -> np.ndarray:
    """Return A, B and their difference beside each other, under the sentences, as uint8."""
    a, b, d, factor, mean = sheets(comparison, ground=255)
    width = a.shape[1] * 3 + 2 * MARGIN
    large, small = font(20), font(15)
    lines = [
        (line, large, INK)
        for sentence in (comparison.verdict, comparison.distance)
        for line in wrapped(sentence, large, width)
    ]
    foot = [
        (line, small, QUIET)
        for sentence in (
            f"Difference: {difference_words(comparison, factor, mean)}",
            f"{comparison.model}; {settings_line(comparison)}; {comparison.when}.",
        )
        for line in wrapped(sentence, small, width)
    ]
    top = MARGIN + LINE * len(lines) + LINE // 2
    under = top + LINE + a.shape[0] + LINE // 2
    canvas = Image.new("RGB", (width + 2 * MARGIN, under + LINE * len(foot) + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    for k, (line, face, ink) in enumerate(lines):
        write(draw, (MARGIN, MARGIN + LINE * k), line, face, ink)
    names = (f"A: {comparison.a.name}", f"B: {comparison.b.name}", "Difference")
    for k, (name, sheet) in enumerate(zip(names, (a, b, d), strict=True)):
        left = MARGIN + k * (a.shape[1] + MARGIN)
        write(draw, (left, top), wrapped(name, small, a.shape[1])[0], small, INK)
        canvas.paste(Image.fromarray(sheet), (left, top + LINE))
    for k, (line, face, ink) in enumerate(foot):
        write(draw, (MARGIN, under + LINE * k), line, face, ink)
    return np.asarray(canvas)
