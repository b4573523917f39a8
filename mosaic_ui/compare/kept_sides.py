"""List kept plans, sides of kept runs and points of tunes that a side can run, and read one.

A choice names what was kept by its id, so it outlives a new name. Pure functions, no Gradio.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.runs.run import KeptPlan, Run
from core.workshop.workshop import Workshop

from ..runs.record import store
from ..runs.table import title_of
from ..text import cut, plural
from ..visitors import tune_shelf

PLAN, RUN, TUNE = "plan:", "run:", "tune:"  # what a choice begins with
MOST_RUNS = 20  # that a picker lists, the newest
SHOWN = 40  # characters of a name
LOST = {PLAN: "Kept plan: deleted", RUN: "Run: deleted", TUNE: "Tuned: deleted"}


class KeptSide(NamedTuple):
    """What was kept: a plan, the sampling steps of its own if it has some, and its name."""

    plan: StagePlan
    steps: int | None
    name: str


def is_kept(choice: object) -> bool:
    """Say whether a choice is a kept plan, a side of a kept run or a point of a tune."""
    return isinstance(choice, str) and choice.startswith((PLAN, RUN, TUNE))


def kept_choices(workshop: Workshop, chosen: Collection[str] = ()) -> list[tuple[str, str]]:
    """Return the words and the value of every kept plan, then of the pruned sides of kept runs.

    Those of this model come first. `chosen` are choices that stay listed: an older run, and what
    was deleted since.
    """
    try:
        plans, runs = store().plans(), [run for run in store().runs() if run.status != "running"]
    except StudioError:  # 4 Runs says it
        plans, runs = [], []
    plans.sort(key=lambda kept: kept.model_key != workshop.model_key)
    runs.sort(key=lambda run: run.model_key != workshop.model_key)
    found = [(_plan_words(kept, workshop), PLAN + kept.id) for kept in plans]
    found += _run_choices([run for run in runs if run.pruned], workshop, chosen)
    found += _tuned_choices(chosen)
    values = {value for _, value in found}
    lost = sorted(choice for choice in chosen if is_kept(choice) and choice not in values)
    return found + [(LOST[one[: one.index(":") + 1]], one) for one in lost]


def kept_side(choice: str, workshop: Workshop) -> KeptSide:
    """Return what a kept choice runs.

    A plan that was made on another model says so in its name; whether it fits is for the caller.
    Raises StudioError for what was deleted or cannot be read.
    """
    if choice.startswith(PLAN):
        kept = store().plan(choice.removeprefix(PLAN))
        name = _made_on(kept, cut(kept.name, SHOWN), workshop)
        return KeptSide(_uncounted(kept.plan), None, name)
    if choice.startswith(TUNE):
        return _tuned_side(choice)
    id, _, letter = choice.removeprefix(RUN).rpartition(":")
    run = store().get(id)
    side = {"a": run.a, "b": run.b}.get(letter)
    plan = None if side is None else side.plan
    if plan is None:
        raise StudioError("This side of the kept run has no plan: choose another entry.")
    steps = store().settings(id).steps_of("ab".index(letter))
    own = run.name.strip() or f"Run of {run.when}"
    name = plan.name or f"{cut(own, SHOWN)}, side {letter.upper()}"
    name = _made_on(run, cut(name, SHOWN + len(", side A")), workshop)
    return KeptSide(_uncounted(plan), steps, name)


def foreign_model(choice: str, workshop: Workshop) -> str:
    """Return the name of the other model that a kept choice was made on, or nothing.

    Raises StudioError for what was deleted.
    """
    if choice.startswith(TUNE):
        tune = tune_shelf().get(choice.removeprefix(TUNE).partition(":")[0])
        return "" if tune.model_key == workshop.model_key else "another model"
    kept: KeptPlan | Run
    if choice.startswith(PLAN):
        kept = store().plan(choice.removeprefix(PLAN))
    else:
        kept = store().get(choice.removeprefix(RUN).rpartition(":")[0])
    return "" if kept.model_key == workshop.model_key else _model_words(kept)


def _run_choices(
    runs: list[Run], workshop: Workshop, chosen: Collection[str]
) -> list[tuple[str, str]]:
    """Return the words and the value of each side; equal words get the time of their run."""
    sides = [
        (run, letter, f"{RUN}{run.id}:{letter}")
        for place, run in enumerate(runs)
        for letter in run.pruned
        if place < MOST_RUNS or f"{RUN}{run.id}:{letter}" in chosen
    ]
    words = [_run_words(run, letter, workshop) for run, letter, _ in sides]
    count = Counter(words)
    return [
        (f"{said}, {_moment(run)}" if count[said] > 1 else said, value)
        for said, (run, _, value) in zip(words, sides, strict=True)
    ]


def _tuned_choices(chosen: Collection[str]) -> list[tuple[str, str]]:
    """Return the words and the value of those points of tunes that the pickers show."""
    found = []
    for choice in sorted(set(chosen)):
        if isinstance(choice, str) and choice.startswith(TUNE):
            with suppress(StudioError):
                found.append((_tuned_side(choice).name, choice))
    return found


def _tuned_side(choice: str) -> KeptSide:
    """Return the plan of a point of a tune with its steps. Raises StudioError."""
    what = tune_shelf().point(choice.removeprefix(TUNE)).configuration
    if what.plan is None:
        raise StudioError("This point is the dense model itself: choose another entry.")
    name = f"{what.label}, " if what.label else ""
    name = f"Tuned: {name}{what.scheduler}, {plural(what.steps, 'step')}"
    return KeptSide(_uncounted(what.plan), what.steps, name)


def _plan_words(kept: KeptPlan, workshop: Workshop) -> str:
    return f"Kept plan: {cut(kept.name, SHOWN)}{_of_model(kept, workshop)}"


def _run_words(run: Run, letter: str, workshop: Workshop) -> str:
    title = cut(title_of(run), SHOWN)
    return f"Run: {title}, side {letter.upper()}{_of_model(run, workshop)}"


def _moment(run: Run) -> str:
    """Return when a run began, to the second: month, day and local time."""
    return time.strftime("%m-%d %H:%M:%S", time.localtime(run.created))


def _of_model(kept: KeptPlan | Run, workshop: Workshop) -> str:
    """Name the model of what was kept where it is another one."""
    return "" if kept.model_key == workshop.model_key else f" ({_model_words(kept)})"


def _model_words(kept: KeptPlan | Run) -> str:
    return cut(kept.model.removesuffix(" (bundled)"), SHOWN) or "another model"


def _made_on(kept: KeptPlan | Run, name: str, workshop: Workshop) -> str:
    """Return the name, and on which model it was made where that is another one."""
    if kept.model_key == workshop.model_key:
        return name
    return f"{name} (made on {_model_words(kept)})"


def _uncounted(plan: StagePlan) -> StagePlan:
    """Return the plan without the steps per stage of an earlier run: the next counts its own."""
    return replace(plan, stage_steps=None)
