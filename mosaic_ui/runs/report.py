"""Write kept runs as one page that needs no server, no network and no script.

Pure functions, no Gradio. Every text of a user is escaped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Protocol

from core.errors import StudioError
from core.runs.differences import plan_words
from core.runs.run import Run, RunSide
from core.sampling.metrics import MIN_IMAGES_FOR_FID
from core.workshop.comparison import Comparison

from ..compare.downloads import VARIABLES
from ..compare.pictures import contact_sheet, shrunk, to_uint8
from ..png import data_address, png_bytes
from ..text import factor_text, fewer_text, number, plural, seconds_text, timed_text
from .report_plot import legend_words, plot_svg
from .table import title_of

MOST = 200  # runs in one report
LARGE = 12  # runs up to which pictures are as large as the page has room for
SAMPLES, PIXELS = 16, 512  # of one side, where they are large; pixels of the widest sheet
NONE = "–"
# nothing is loaded from anywhere, whatever a text holds
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
main { max-width: 1180px; }
h2 { font-size: 19px; margin: 0; } p { margin: 6px 0; }
.quiet { opacity: .72; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; vertical-align: top; padding: 6px 9px; white-space: nowrap;
  border-bottom: 1px solid var(--border-color-primary); }
th small { display: block; font-weight: 400; opacity: .72; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; }
td.name { white-space: normal; min-width: 150px; }
svg { width: 100%; max-width: 760px; font-size: 13px; }
svg text { fill: currentColor; }
svg circle, svg polygon { fill: var(--block-background-fill); stroke: currentColor;
  stroke-width: 2; }
svg circle.front { fill: currentColor; }
svg .bar { stroke: currentColor; stroke-width: 1.5; }
svg .grid { stroke: var(--border-color-primary); }
section { background: var(--block-background-fill); border: 1px solid var(--block-border-color);
  border-radius: 12px; padding: 18px 20px; }
.pair { display: flex; flex-wrap: wrap; gap: 20px; margin: 12px 0; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: 6px; }
figure img { max-width: 100%; image-rendering: pixelated; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 10px 0 0;
  font-size: 14px; } dt { opacity: .72; } dd { margin: 0; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; margin: 0; font: inherit; }
"""


class Pictures(Protocol):
    """What holds the pictures of runs, as `core.runs.store.RunStore` does."""

    def comparison(self, id: str) -> Comparison: ...
    def thumbnail(self, id: str, side: str) -> bytes | None: ...


def report_html(runs: Sequence[Run], pictures: Pictures) -> str:
    """Return runs as one page: a plot, a table, and of each run pictures, settings and notes.

    Every number says whether it was measured, counted or predicted. A run whose pictures cannot be
    had says so. Raises StudioError for no run and for more than 200.
    """
    if not 1 <= len(runs) <= MOST:
        raise StudioError(f"A report holds 1 to {MOST} runs, not {len(runs)}: tick other ones.")
    what = title_of(runs[0]) if len(runs) == 1 else plural(len(runs), "run")
    title = f"MosaicDiff Studio: {what}"
    large = len(runs) <= LARGE
    sections = "".join(_run(i, run, pictures, large) for i, run in enumerate(runs, start=1))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{VARIABLES}{STYLE}</style></head><body><main>"
        f'<header><h1>{escape(title)}</h1><p class="quiet">Written'
        f" {time.strftime('%Y-%m-%d %H:%M')}. {escape(_devices(runs))}</p></header>"
        f"{_plot(runs)}{_table(runs)}{sections}</main></body></html>"
    )


def _devices(runs: Sequence[Run]) -> str:
    """Say where the runs were measured, and that times of several devices do not compare."""
    devices = list(dict.fromkeys(run.device for run in runs))
    if len(devices) == 1:
        return f"Measured on {devices[0]}."
    return f"Measured on {', '.join(devices)}: times of different devices do not compare."


# ------------------------------------------------------------ plot and table


def _plot(runs: Sequence[Run]) -> str:
    """Write the plot with what it shows, in FID where every run has one."""
    axis = "FID" if all(run.b.fid is not None for run in runs) else "PSNR"
    drawn = plot_svg(runs, axis)
    if not drawn:
        return ""
    return (
        f'<section><h2>Measured time against distance</h2>{drawn}<p class="quiet">Numbers are those'
        f" of the table. {escape(legend_words())}.</p></section>"
    )


def _columns() -> list[tuple[str, str, Callable[[Run], str]]]:
    """Return (heading, how the number came about, cell) of every column of numbers."""
    return [
        ("Steps", "asked for", lambda r: str(r.steps)),
        ("n", "images", lambda r: str(r.n)),
        ("Seed", "", lambda r: str(r.seed)),
        ("Time A", "measured", lambda r: _time(r.a, r.b)),
        ("Time B", "measured", lambda r: _time(r.b, r.a)),
        ("Speed-up", "measured", lambda r: _timed(r.speedup, r.speedup_spread)),
        ("Speed-up", "predicted", lambda r: _factor(r.speedup_predicted)),
        ("MACs of B", "counted", lambda r: _fewer(r.speedup_macs)),
        ("PSNR, dB", "measured, B to A", _psnr),
        ("SSIM", "measured, B to A", lambda r: _number(r.ssim)),
        ("FID of B", "measured", lambda r: _number(r.b.fid)),
    ]


def _table(runs: Sequence[Run]) -> str:
    """Write the table of all runs."""
    texts = ("", "Run", "Model", "A", "B", "Solver")
    heads = "".join(f'<th scope="col">{text}</th>' for text in texts)
    heads += "".join(
        f'<th scope="col" class="num">{title}<small>{how}</small></th>'
        for title, how, _ in _columns()
    )
    lines = "".join(_line(i, run) for i, run in enumerate(runs, start=1))
    return (
        f'<section><h2>Runs</h2><div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>'
        f'{lines}</tbody></table></div><p class="quiet">Times are of the denoiser alone, all'
        " images, median ± spread over the timed rounds; a speed-up is the median of A / B of"
        f" each round. FID needs {MIN_IMAGES_FOR_FID} images.</p></section>"
    )


def _line(place: int, run: Run) -> str:
    """Write the row of a run."""
    texts = (run.model, run.a.name, run.b.name, run.scheduler)
    cells = f'<td><a href="#run-{place}">{place}</a></td><td class="name">{escape(title_of(run))}'
    cells += "</td>" + "".join(f"<td>{escape(text)}</td>" for text in texts)
    numbers = "".join(f'<td class="num">{cell(run)}</td>' for _, _, cell in _columns())
    return f"<tr>{cells}{numbers}</tr>"


def _time(side: RunSide, other: RunSide) -> str:
    return seconds_text(side.seconds, side.seconds_spread, [other.seconds])


def _timed(value: float | None, spread: float | None) -> str:
    return NONE if value is None else timed_text(value, spread)


def _factor(value: float | None) -> str:
    return NONE if value is None else factor_text(value)


def _fewer(value: float | None) -> str:
    return NONE if value is None else fewer_text(value)


def _psnr(run: Run) -> str:
    equal = run.timed_runs is not None and run.psnr is None
    return "equal" if equal else _number(run.psnr)


def _number(value: float | None) -> str:
    return NONE if value is None else number(value)


# ------------------------------------------------------------ one run


def _run(place: int, run: Run, pictures: Pictures, large: bool) -> str:
    """Write one run: its sentence, pictures, settings, notes, and what it ran on."""
    said = run.verdict or f"This run has no result: {run.status}."
    why = f"<p>{escape(run.sentence)}</p>" if run.sentence else ""
    facts = "".join(
        f"<dt>{escape(what)}</dt><dd>{value}</dd>" for what, value in _facts(run) if value
    )
    return (
        f'<section id="run-{place}"><h2>{place}. {escape(title_of(run))}</h2><p>{escape(said)}</p>'
        f"{why}{_pictures(run, pictures, large)}<dl>{facts}</dl></section>"
    )


def _facts(run: Run) -> Iterable[tuple[str, str]]:
    """Return what is listed of a run, as (what, HTML)."""
    size = "" if run.height is None else f", {run.height} × {run.width} pixels"
    rows = [
        ("Notes", f"<pre>{escape(run.notes)}</pre>" if run.notes.strip() else ""),
        ("A", escape(f"{run.a.name}: {_plan(run.a)}")),
        ("B", escape(f"{run.b.name}: {_plan(run.b)}")),
        ("Images", escape(run.images + size)),
        (
            "Sampling",
            escape(
                f"{run.steps} {run.scheduler} steps{_calls(run)}, guidance {run.guidance:g}, seed"
                f" {run.seed}"
            ),
        ),
        ("Timing", escape(_timing(run))),
        ("Predicted time", escape(_predicted(run))),
        ("Remarks", escape(run.remarks)),
        ("Device", escape(run.device)),
        ("When", escape(run.when)),
        ("Versions", escape(_versions(run))),
    ]
    return rows


def _plan(side: RunSide) -> str:
    """Write what a side ran, or why its plan cannot be read."""
    try:
        return plan_words(side.plan)
    except StudioError as error:
        return str(error)


def _calls(run: Run) -> str:
    """Name the calls of the denoiser where they are not the steps of both sides."""
    calls = run.a.calls, run.b.calls
    if None in calls or calls == (run.steps, run.steps):
        return ""
    return f" ({calls[0]} denoiser calls of A, {calls[1]} of B)"


def _timing(run: Run) -> str:
    """Say how the times were measured."""
    if not run.timed_runs:
        return "not timed"
    precision = f", {run.dtype}" if run.dtype else ""
    table = ", adaLN from a table" if run.tabulate else ""
    return f"{plural(run.timed_runs, 'round')} of both sides in turn, {run.mode}{precision}{table}"


def _predicted(run: Run) -> str:
    """Write the predicted times of both sides, which nothing here measured."""
    a, b = run.a.predicted_seconds, run.b.predicted_seconds
    if a is None or b is None:
        return ""
    return f"A {seconds_text(a, None, [b])}, B {seconds_text(b, None, [a])}, before it was measured"


def _versions(run: Run) -> str:
    named = vars(run.versions).items()
    return ", ".join(f"{name} {version}" for name, version in named if version)


def _pictures(run: Run, pictures: Pictures, large: bool) -> str:
    """Write the pictures of both sides, or a sentence where they cannot be had."""
    if run.timed_runs is None:
        return ""
    sheets, why = _sheets(run, pictures, large)
    if not all(sheets):
        return f'<p class="quiet">{escape(why)}</p>'
    return (
        '<div class="pair">'
        + "".join(
            f"<figure><figcaption>{letter}: {escape(side.name)}</figcaption>"
            f'<img src="{data_address(sheet)}" alt="Pictures of {letter}"></figure>'
            for letter, side, sheet in zip("AB", (run.a, run.b), sheets, strict=True)
            if sheet is not None
        )
        + "</div>"
    )


def _sheets(
    run: Run, pictures: Pictures, large: bool
) -> tuple[tuple[bytes | None, bytes | None], str]:
    """Return a PNG per side, None where there is none, and the sentence that says why."""
    why = "The pictures of this run are not in the data folder any more."
    if large:
        try:
            found = pictures.comparison(run.id)
            return (_sheet(found, "a"), _sheet(found, "b")), ""
        except StudioError as error:  # the small sheets may still be there
            why = str(error)
    return (pictures.thumbnail(run.id, "a"), pictures.thumbnail(run.id, "b")), why


def _sheet(comparison: Comparison, letter: str) -> bytes:
    """Return the first samples of a side in one PNG."""
    side = comparison.a if letter == "a" else comparison.b
    shown = to_uint8(side.images[:SAMPLES])
    columns = min(len(shown), 4)
    return png_bytes(contact_sheet(shrunk(shown, PIXELS // columns), columns, 96, ground=255))
