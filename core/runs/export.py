"""Write runs as CSV, JSON, Markdown or LaTeX: one row per run, units in the column names."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..curves.plan import STAGES, StagePlan
from ..errors import StudioError
from .run import Run, RunSide

Value = str | int | float | bool | None
KINDS = ("csv", "json", "markdown", "latex")
DIGITS = 6  # significant ones of a number in a table
# what makes a spreadsheet take a text for a formula (OWASP, CSV injection), wide forms included
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "×": r"$\times$",
    # after a line's end these would belong to its \\
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}
# what means something inside a cell of Markdown; "&", "<" and ">" become entities of HTML
MARKDOWN = re.compile(r"([\\`*_$\[\]|~])")


@dataclass(frozen=True)
class Column:
    """One column: its name in files, its heading in tables ("" leaves it out), and its value."""

    key: str
    title: str
    value: Callable[[Run], Value]


def export(runs: Sequence[Run], kind: str) -> str:
    """Return runs as text: "csv", "json", "markdown" or "latex", one row per run.

    CSV and JSON hold every column; the two tables hold those that a page has room for. Times are
    seconds of the denoiser for all images, sparsities shares from 0 to 1. Users' texts are escaped
    for each format: in CSV, one that a spreadsheet would run gets an apostrophe in front. LaTeX
    needs no package. Raises StudioError for another kind, PlanError for a plan of a newer version.
    """
    writers = {"csv": _csv, "json": _json, "markdown": _markdown, "latex": _latex}
    if kind not in writers:
        raise StudioError(f"Runs are exported as {', '.join(KINDS)}.")
    return writers[kind](runs)


# ------------------------------------------------------------ columns


def columns() -> list[Column]:
    """Return all columns, in the order of a file."""
    return [*_what(), *_side_columns("a"), *_side_columns("b"), *_found()]


def _what() -> list[Column]:
    """Return the columns of what was run, and where."""
    return [
        Column("id", "", lambda r: r.id),
        Column("name", "Name", lambda r: r.name),
        Column("when", "", lambda r: r.when),
        Column("status", "", lambda r: r.status),
        Column("model", "Model", lambda r: r.model),
        Column("model_key", "", lambda r: r.model_key),
        Column("device", "", lambda r: r.device),
        Column("images", "", lambda r: r.images),
        Column("n_images", "n", lambda r: r.n),
        Column("seed", "Seed", lambda r: r.seed),
        Column("solver", "Solver", lambda r: r.scheduler),
        Column("steps", "Steps", lambda r: r.steps),
        Column("guidance", "Guidance", lambda r: r.guidance),
        Column("precision", "", lambda r: r.dtype or "as loaded"),
        Column("adaln_table", "", lambda r: bool(r.tabulate)),
        Column("mode", "", lambda r: r.mode),
        Column("height_px", "", lambda r: r.height),
        Column("width_px", "", lambda r: r.width),
        Column("timed_runs", "Timed runs", lambda r: r.timed_runs),
    ]


def _side_columns(letter: str) -> list[Column]:
    """Return the columns of a side, "a" or "b"."""
    big = letter.upper()

    def of(key: str, title: str, value: Callable[[RunSide], Value]) -> Column:
        def read(run: Run) -> Value:
            return value(getattr(run, letter))

        return Column(f"{letter}_{key}", title and f"{big} {title}".strip(), read)

    return [
        Column(letter, big, lambda r: getattr(r, letter).name),
        of("time_s", "time (s)", lambda s: s.seconds),
        of("time_spread_s", "spread (s)", lambda s: s.seconds_spread),
        of("predicted_time_s", "", lambda s: s.predicted_seconds),
        of("macs", "MACs", lambda s: s.macs),
        of("denoiser_calls", "", lambda s: s.calls),
        of("fid", "FID", lambda s: s.fid),
        of("class_accuracy_share", "", lambda s: s.class_accuracy),
        of("boundary_low_t", "", _boundary(0)),
        of("boundary_high_t", "", _boundary(1)),
        *(of(f"removed_{s}_share", "", _removed(i)) for i, s in enumerate(STAGES)),
        *(of(f"guidance_{s}", "", _guidance(i)) for i, s in enumerate(STAGES)),
        of("plan_json", "", lambda s: s.plan_json),
    ]


def _boundary(i: int) -> Callable[[RunSide], Value]:
    return _of_plan(lambda plan: plan.boundaries[i])


def _removed(i: int) -> Callable[[RunSide], Value]:
    return _of_plan(lambda plan: plan.sparsity[i])


def _guidance(i: int) -> Callable[[RunSide], Value]:
    """Return the guidance that a plan sets in a stage, None where it leaves the run's own."""
    return _of_plan(lambda plan: plan.guidance[i])


def _of_plan(value: Callable[[StagePlan], Value]) -> Callable[[RunSide], Value]:
    """Return a function of a side that is None for dense."""

    def read(side: RunSide) -> Value:
        plan = side.plan
        return None if plan is None else value(plan)

    return read


def _found() -> list[Column]:
    """Return the columns of what was found, and of what a user said about it."""
    return [
        Column("speedup_measured", "Speed-up (×)", lambda r: r.speedup),
        Column("speedup_spread", "Its spread (×)", lambda r: r.speedup_spread),
        Column("speedup_predicted", "", lambda r: r.speedup_predicted),
        Column("speedup_macs", "", lambda r: r.speedup_macs),
        Column("psnr_db", "PSNR (dB)", lambda r: r.psnr),
        Column("ssim", "SSIM", lambda r: r.ssim),
        Column("latent_mse", "Latent MSE", lambda r: r.latent_mse),
        Column("verdict", "", lambda r: r.verdict),
        Column("remarks", "", lambda r: r.remarks),
        Column("sentence", "", lambda r: r.sentence),
        Column("notes", "", lambda r: r.notes),
        Column("mosaicdiff_version", "", lambda r: r.versions.mosaicdiff),
        Column("torch_version", "", lambda r: r.versions.torch),
        Column("diffusers_version", "", lambda r: r.versions.diffusers),
        Column("gradio_version", "", lambda r: r.versions.gradio),
    ]


# ------------------------------------------------------------ formats


def _csv(runs: Sequence[Run]) -> str:
    """Return comma-separated values, lines ending as RFC 4180 says."""
    text, kept = io.StringIO(newline=""), columns()
    writer = csv.writer(text)
    writer.writerow([column.key for column in kept])
    writer.writerows([[_cell(column.value(run)) for column in kept] for run in runs])
    return text.getvalue()


def _cell(value: Value) -> str:
    """Return a value for a spreadsheet, which takes no text of it for a formula."""
    if isinstance(value, str):
        return f"'{value}" if value.lstrip(" ").startswith(FORMULA) else value
    return readable(value)


def _json(runs: Sequence[Run]) -> str:
    """Return a JSON list with an object per run; plans are objects too."""
    kept = columns()
    rows = [{column.key: _plain(column, run) for column in kept} for run in runs]
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(column: Column, run: Run) -> object:
    """Return a value for JSON, numbers with as many digits as a reader needs."""
    value = column.value(run)
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, str) and column.key.endswith("_plan_json"):
        return json.loads(value)
    return value


def _markdown(runs: Sequence[Run]) -> str:
    """Return a table as GitHub reads it; numbers stand on the right."""
    kept = [column for column in columns() if column.title]
    lines = [[column.title for column in kept], [_rule(column, runs) for column in kept]]
    lines += [[_shown(column.value(run), in_markdown) for column in kept] for run in runs]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rule(column: Column, runs: Sequence[Run]) -> str:
    return "---" if _is_text(column, runs) else "---:"


def _latex(runs: Sequence[Run]) -> str:
    """Return a tabular environment."""
    kept = [column for column in columns() if column.title]
    places = "".join("l" if _is_text(column, runs) else "r" for column in kept)
    head = " & ".join(in_latex(column.title) for column in kept)
    rows = [
        " & ".join(_shown(column.value(run), in_latex) for column in kept) + r" \\" for run in runs
    ]
    lines = [rf"\begin{{tabular}}{{{places}}}", r"\hline", rf"{head} \\", r"\hline", *rows]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def _is_text(column: Column, runs: Sequence[Run]) -> bool:
    return any(isinstance(column.value(run), str) for run in runs)


def _shown(value: Value, escape: Callable[[str], str]) -> str:
    """Return a value for a table on a page."""
    return escape(value) if isinstance(value, str) else readable(value)


def readable(value: int | float | bool | None) -> str:
    """Return a number with at most 6 significant digits, yes or no, or nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def in_markdown(text: str) -> str:
    """Return a text as Markdown shows it, on one line, without links, pictures or HTML."""
    line = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN.sub(r"\\\1", line)


def in_latex(text: str) -> str:
    """Return a text as LaTeX shows it, on one line."""
    return "".join(LATEX.get(c, c) for c in _one_line(text))


def _one_line(text: str) -> str:
    """Return a text without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
