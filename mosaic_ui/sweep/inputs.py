"""Check what the Sweep tab asks for, and say what will happen before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.mosaic.modes import PLAIN
from core.sweep.ahead import NOT_IN_IT, beside_denoiser
from core.sweep.axes import BOUNDARIES, KINDS, Axis, check_axes, parse_axis
from core.sweep.cells import Base, Cell, Grid, grid_of, whole_seconds
from core.sweep.kept import KeptSweep
from core.sweep.record import question
from core.workshop.workshop import Workshop

from .. import model_facts
from ..compare.inputs import Wish, checked_settings
from ..text import about_seconds, plural
from ..visitors import sweep_shelf

USUAL_X, USUAL_Y = "sparsity.early", "steps"
EARLIER = 3  # sweeps that say what a cell takes beside the denoiser
NO_Y = ""  # the choice of one row only
LONGEST = 2000  # characters of a box of values
VALUES = {  # what a box offers where the model does not say
    "target": "0.2:0.6:0.2",
    "m": "0.4,0.55,0.7",
    "steps": "10,20,50",
    "scheduler": "DDIM,UniPC",
    "guidance": "1,1.5,3",
}
SPARSITIES, GUIDANCE = "0.2:0.6:0.2", "own,1"
FORMS = "START:STOP:STEP, or values with commas"


class SweepWish(NamedTuple):
    """What changes in a sweep, unchecked: an axis along a row, and perhaps one down a column."""

    x_name: str
    x_values: Any
    y_name: str
    y_values: Any


@dataclass(frozen=True)
class Foreseen:
    """What is known of a sweep before it starts."""

    grid: Grid
    waiting: list[Cell]  # that are not done yet
    seconds: float | None  # of the denoiser for those, predicted; None where nothing was timed
    kept: KeptSweep | None  # of the same question
    # seconds of a cell beside the denoiser, as cells of earlier sweeps took here; None: not known
    beside: float | None = None


def axis_choices() -> list[tuple[str, str]]:
    """Return the axes that a sweep can have, as (words, name)."""
    return [(f"{name}: {kind.about}", name) for name, kind in KINDS.items()]


def usual_values(workshop: Workshop, name: str) -> str:
    """Return the values that the box of an axis begins with; nothing for no axis."""
    kind = KINDS.get(name)
    if kind is None:
        return ""
    if name in BOUNDARIES:
        total = len(workshop.schedule)
        shares = (0.1, 0.2, 0.3) if name == "boundaries.low" else (0.5, 0.6, 0.7)
        return ",".join(str(round(share * total)) for share in shares)
    if name == "mode":
        return ",".join(mode for _, mode in model_facts.modes(workshop))
    if name in VALUES:
        return VALUES[name]
    if kind.words:
        return ",".join(kind.words)
    return GUIDANCE if kind.own else SPARSITIES


def form_of(name: str) -> str:
    """Return what the box of an axis takes, in words."""
    kind = KINDS.get(name)
    if kind is None:
        return ""
    if kind.words:
        return f"{', '.join(kind.words)}; commas between them."
    own = ", or own for the run's own" if kind.own else ""
    return f"{FORMS}{own}."


def axis(name: str, values: Any) -> Axis:
    """Return an axis from its menu and its box. Raises StudioError."""
    if not isinstance(values, str) or not values.strip():
        raise StudioError(f"Give the values of {name}: {form_of(name) or FORMS}")
    if len(values) > LONGEST:
        raise StudioError(f"The values of {name} must be at most {LONGEST} characters.")
    return parse_axis(f"{name}={values}")


def axes(wish: SweepWish) -> tuple[Axis, Axis | None]:
    """Return both axes. Raises StudioError, also for two that set the same thing."""
    x = axis(wish.x_name, wish.x_values)
    y = None if wish.y_name == NO_Y else axis(wish.y_name, wish.y_values)
    check_axes(x, y)
    return x, y


def refusals(wish: SweepWish) -> tuple[str, str]:
    """Return why the box of x and that of y cannot be, each a sentence, empty where it can."""
    said = ["", ""]
    for place, (name, values) in enumerate(
        ((wish.x_name, wish.x_values), (wish.y_name, wish.y_values))
    ):
        if place == 0 or name != NO_Y:
            try:
                axis(name, values)
            except StudioError as error:
                said[place] = str(error)
    if not any(said):
        try:
            axes(wish)
        except StudioError as error:  # of both together
            said[1 if wish.y_name != NO_Y else 0] = str(error)
    return said[0], said[1]


def checked(workshop: Workshop, wish: SweepWish, plan: StagePlan, settings: Wish) -> Grid:
    """Return the cells of all that Sweep was pressed with. Raises StudioError."""
    x, y = axes(wish)
    return grid_of(workshop, Base(plan, checked_settings(workshop, settings)), x, y)


def grid_again(workshop: Workshop, kept: KeptSweep) -> Grid:
    """Return the cells of a kept sweep, so that it can go on. Raises StudioError."""
    if kept.model_key != workshop.model_key:
        raise StudioError("This sweep is of another model: choose that model first.")
    return grid_of(workshop, kept.grid.base, kept.grid.x, kept.grid.y)


def id_of(workshop: Workshop, grid: Grid) -> str:
    """Return the id under which a sweep is kept: the same question goes on in the same folder."""
    return sweep_shelf().id_of(question(workshop, grid), workshop.device_text)


def foreseen(workshop: Workshop, grid: Grid) -> Foreseen:
    """Return what is known of a sweep before it starts; nothing is written. Raises StudioError."""
    try:
        kept = sweep_shelf().get(id_of(workshop, grid))
    except StudioError:
        kept = None
    waiting = [cell for cell in grid.possible if kept is None or kept.record.cells[cell.index].open]
    earlier = islice(sweep_shelf().of(workshop.model_key), EARLIER)
    beside = beside_denoiser((one.record for one in earlier), workshop.device_text)
    return Foreseen(grid, waiting, whole_seconds(workshop, waiting), kept, beside)


def ahead(workshop: Workshop, found: Foreseen) -> list[str]:
    """Say what a press will do and how long it takes, one sentence each."""
    grid = found.grid
    count = plural(len(grid.cells), "cell")
    rows, columns = plural(grid.rows, "row"), plural(grid.columns, "column")
    shape = f" ({rows} of {columns})" if grid.y is not None else ""
    said = [f"{count}{shape}. {_time_words(found)}"]
    impossible = [cell for cell in grid.cells if cell.why_not]
    if impossible:
        first = impossible[0]
        said.append(
            f"{len(impossible)} of them cannot be and are passed over; {grid.title(first)}:"
            f" {first.why_not}"
        )
    said.append(
        f"Every cell is the plan in hand with what changes, against dense from the same noise:"
        f" {_same_in_all(grid)}. Guidance, classes or prompts, seed and precision are those of"
        " Compare."
    )
    first_of_all = _first(workshop, found)
    if first_of_all:
        said.append(f"First it {' and '.join(first_of_all)}, once.")
    return said


def _same_in_all(grid: Grid) -> str:
    """Name the settings of a run that no axis varies."""
    settings = grid.base.settings
    parts = {
        "scheduler": settings.scheduler,
        "steps": plural(settings.steps, "step"),
        "guidance": f"guidance {settings.guidance:g}",
        "": f"{plural(settings.n, 'image')}, seed {settings.seed}",
        "repeats": f"timed {settings.repeats} ×" if settings.repeats else "nothing is timed",
    }
    varied = {one.name for one in (grid.x, grid.y) if one is not None}
    return ", ".join(words for name, words in parts.items() if name not in varied)


def _time_words(found: Foreseen) -> str:
    """Say how long the cells take that are not done yet."""
    done = len(found.grid.possible) - len(found.waiting)
    before = f"{done} are done already, and a press goes on from them. " if done else ""
    if not found.waiting:
        return "All that can run are done already: a press shows them."
    if found.seconds is None:
        return (
            f"{before}How long it takes is known once this device's speed is measured, as the"
            " sweep begins."
        )
    if found.beside is None:
        takes = about_seconds(found.seconds)
        return (
            f"{before}The denoiser takes {takes} of it, predicted. {NOT_IN_IT[:1].upper()}"
            f"{NOT_IN_IT[1:]}, seconds for each cell: the first cell tells."
        )
    takes = about_seconds(found.seconds + found.beside * len(found.waiting))
    return (
        f"{before}{takes[:1].upper()}{takes[1:]}: {about_seconds(found.seconds)} of the denoiser,"
        f" predicted, and {about_seconds(found.beside)} beside it for each cell, as in earlier"
        " sweeps here."
    )


def _first(workshop: Workshop, found: Foreseen) -> list[str]:
    """Say what has to happen before the first cell."""
    if not found.waiting:
        return []
    said = ["calibrates the model"] if needs_calibration(workshop, found.grid) else []
    said += ["measures this device's speed"] if found.seconds is None else []
    if any(cell.settings.mode != PLAIN for cell in found.waiting):
        said.append("prepares the networks that are captured or compiled")
    return said


def needs_calibration(workshop: Workshop, grid: Grid) -> bool:
    """Say whether a cell needs a calibration that this model does not have yet."""
    return any(workshop.needs_calibration(cell.plan) for cell in grid.possible)
