"""Write the table of kept runs: one row per run, every text of a user escaped.

Pure functions. The frame of the table, its sorting and its filter are `table.html` and `table.js`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape

from core.curves.guidance_words import own_guidance
from core.curves.plan import StagePlan
from core.errors import PlanError
from core.runs.run import KeptPlan, Run

from ..sorted_table import Sortable, head_cell, sorted_by
from ..text import factor_text, fewer_text, number, seconds_text

NONE = '<span class="runs-none">–</span>'


@dataclass(frozen=True)
class Column:
    """One column: its heading, what a cell shows (HTML), and what it is sorted by.

    `first`: whether a first click on the heading puts the largest first.
    """

    title: str
    cell: Callable[[Run], str]
    key: Callable[[Run], Sortable]
    number: bool = False
    about: str = ""
    first: bool = False


def columns() -> list[Column]:
    """Return the columns behind the tick and the pictures."""
    return [
        Column("Name", _name, lambda r: title_of(r).lower()),
        Column(
            "Model", lambda r: _text(r.model.removesuffix(" (bundled)")), lambda r: r.model.lower()
        ),
        Column("A", lambda r: _text(r.a.name), lambda r: r.a.name.lower()),
        Column("B", lambda r: _text(r.b.name), lambda r: r.b.name.lower()),
        Column("Steps", _steps, _steps_key, True, "sampling steps, of each side where they differ"),
        Column("Solver", lambda r: _text(r.scheduler), lambda r: r.scheduler.lower()),
        Column("Seed", lambda r: str(r.seed), lambda r: r.seed, True),
        Column("n", lambda r: str(r.n), lambda r: r.n, True, "images of each side"),
        Column("Time A", lambda r: _time(r, "a"), lambda r: r.a.seconds, True, TIME),
        Column("Time B", lambda r: _time(r, "b"), lambda r: r.b.seconds, True, TIME),
        Column("Speed-up", _speedup, lambda r: r.speedup, True, RATIO, True),
        Column("MACs", _macs, lambda r: r.speedup_macs, True, "counted, of B beside A", True),
        Column("PSNR", _psnr, _psnr_key, True, "of B to A, dB; higher is nearer", True),
        Column("FID B", lambda r: _number(r.b.fid), lambda r: r.b.fid, True, "lower is better"),
        Column("When", _when, lambda r: r.created, False, "", True),
        Column("Status", _status, lambda r: r.status),
    ]


# schedulers whose calls of the network are not their steps
MORE_CALLS = ("PNDM", "Heun", "DPM2", "DPM2 ancestral")
TIME = "measured, denoiser only, all images, median ± spread of the timed rounds"
RATIO = "measured: median of A / B of each round, ± their spread"


def rows_html(runs: Sequence[Run]) -> str:
    """Write the rows; an empty text for no runs."""
    kept = columns()
    return "".join(_row(run, kept) for run in runs)


def heads_html() -> str:
    """Write the headings; each is a button that sorts."""
    return "".join(
        head_cell(i, column.title, column.number, column.about, column.first)
        for i, column in enumerate(columns())
    )


def title_of(run: Run) -> str:
    """Return the name of a run, or what its B is where it has none."""
    removed, guided = _plan_words(run.b.plan_json)
    return run.name.strip() or ", ".join(filter(None, (f"{run.b.name}{removed}", guided)))


@lru_cache(maxsize=4096)
def _plan_words(plan_json: str | None) -> tuple[str, str]:
    """Write what a plan removes in the early, middle and late stage, and its guidance."""
    if plan_json is None:
        return "", ""
    try:
        plan = StagePlan.from_json(plan_json)
    except PlanError:  # of a newer version
        return "", ""
    guided = f"guidance {own_guidance(plan)}" if plan.sets_guidance else ""
    return f" {'/'.join(f'{100 * s:.0f}' for s in reversed(plan.sparsity))} %", guided


def plan_rows(plans: Sequence[KeptPlan], words: Callable[[KeptPlan], str]) -> str:
    """Write a row for each kept plan, to be chosen with a radio button."""
    return "".join(
        f'<tr><td><input type="radio" name="kept-plan" value="{escape(kept.id)}"'
        f' aria-label="{escape(kept.name)}"></td><td><b>{escape(kept.name)}</b></td>'
        f"<td>{escape(kept.model)}</td><td>{escape(words(kept))}</td></tr>"
        for kept in plans
    )


def _row(run: Run, kept: Sequence[Column]) -> str:
    name = escape(title_of(run))
    cells = "".join(
        f"<td{' class=num' if column.number else ''}{sorted_by(column.key(run))}>"
        f"{column.cell(run)}</td>"
        for column in kept
    )
    shown = "" if run.timed_runs is None else " data-pictures"
    return (
        f'<tr data-id="{run.id}"{shown}><td class="runs-tick"><input type="checkbox"'
        f' value="{run.id}" aria-label="Tick {name}"></td><td class="runs-thumbs"><span></span>'
        f"<span></span></td>{cells}</tr>"
    )


def _text(text: str) -> str:
    short = text if len(text) <= 60 else f"{text[:59]}…"
    return f'<span title="{escape(text)}">{escape(short)}</span>' if short != text else escape(text)


def _name(run: Run) -> str:
    note = f"<small>{_text(run.notes)}</small>" if run.notes.strip() else ""
    # the column of states may stand outside the window
    state = "" if run.status == "finished" else f"<small>{_state(run)}</small>"
    removed, guided = _plan_words(run.b.plan_json)
    title = run.name.strip() or f"{run.b.name}{removed}"
    # on a line of its own, as the column cuts long names
    guidance = f"<small>{escape(guided)}</small>" if guided else ""
    return f'<b title="{escape(title)}">{escape(title)}</b>{guidance}{state}{note}'


def _steps(run: Run) -> str:
    """Write the steps; those of each side where it ran its own."""
    a, b = run.a.calls, run.b.calls
    if a is None or b is None or (a == b and (a == run.steps or run.scheduler in MORE_CALLS)):
        return str(run.steps)
    if run.scheduler in MORE_CALLS:
        return f"{run.steps}<small>calls: A {a}, B {b}</small>"
    return str(a) if a == b else f"A {a}<small>B {b}</small>"


def _steps_key(run: Run) -> int:
    """Return the steps of B, which name a run."""
    own = run.b.calls
    return run.steps if own is None or run.scheduler in MORE_CALLS else own


def _time(run: Run, letter: str) -> str:
    side, other = (run.a, run.b) if letter == "a" else (run.b, run.a)
    if side.seconds is None:
        return NONE
    return _two_lines(seconds_text(side.seconds, side.seconds_spread, [other.seconds]))


def _two_lines(measured: str) -> str:
    """Write a spread below its value: "0.613 ± 0.148 s" as "0.613 s" and "± 0.148"."""
    value, between, rest = measured.partition(" ± ")
    width, _, unit = rest.partition(" ")
    return f"{value} {unit}<small>± {width}</small>" if between else measured


def _when(run: Run) -> str:
    day, _, clock = run.when.partition(" ")
    return f"{_text(day)}<small>{_text(clock)}</small>"


def _speedup(run: Run) -> str:
    if run.speedup is None:
        return NONE
    if run.speedup_spread is None:  # says nothing about how far it varies
        return f"{factor_text(run.speedup)}<small>1 round</small>"
    return f"<b>{_two_lines(factor_text(run.speedup, run.speedup_spread))}</b>"


def _macs(run: Run) -> str:
    return NONE if run.speedup_macs is None else fewer_text(run.speedup_macs)


def _psnr(run: Run) -> str:
    if run.timed_runs is not None and run.psnr is None:
        return "equal"
    return NONE if run.psnr is None else f"{run.psnr:.1f} dB"


def _psnr_key(run: Run) -> float | None:
    return 1e9 if run.timed_runs is not None and run.psnr is None else run.psnr


def _number(value: float | None) -> str:
    return NONE if value is None else number(value)


def _status(run: Run) -> str:
    why = f"<small>{_text(run.sentence)}</small>" if run.sentence else ""
    return f'<span class="runs-state is-{escape(run.status)}">{_state(run)}</span>{why}'


def _state(run: Run) -> str:
    if run.status == "running" and run.total:
        return f"running, {100 * run.done / run.total:.0f} %"
    return escape(run.status)
