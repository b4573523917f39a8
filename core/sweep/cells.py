"""Lay out the cells of a sweep: each a plan and the settings of a run, or why it cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..curves.plan import STAGES, StagePlan
from ..curves.proposals import propose_plan
from ..errors import StudioError, Unmet
from ..mosaic.modes import check_runs
from ..workshop.compare import visited
from ..workshop.estimate import estimate
from ..workshop.reference import drawn_alike
from ..workshop.sample_settings import SampleSettings
from ..workshop.workshop import Workshop
from .axes import Axis, Value, check_axes, label_of

SETTINGS = ("steps", "scheduler", "guidance", "mode")  # axes that set the run, not the plan


@dataclass(frozen=True)
class Base:
    """What all cells start from."""

    plan: StagePlan
    settings: SampleSettings

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"plan": self.plan.to_json(), "settings": self.settings.to_json()}


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep. `why_not` is the sentence for one that cannot run, else empty."""

    index: int  # row by row
    column: int
    row: int
    x: Value
    y: Value
    plan: StagePlan
    settings: SampleSettings
    why_not: str = ""

    @property
    def shares_pictures(self) -> bool:
        """Say whether the dense side's pictures, drawn once, serve this cell.

        Large sets time every batch as they make it, both sides in turn, and draw both.
        """
        return self.settings.in_step or not self.settings.repeats

    @cached_property
    def reference(self) -> SampleSettings:
        """Return the settings of the dense pictures, equal in all cells that share them."""
        return drawn_alike(self.settings)


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep, row by row, with what they have been made of."""

    base: Base
    x: Axis
    y: Axis | None
    cells: tuple[Cell, ...]

    @property
    def columns(self) -> int:
        """Return how many values the x axis has."""
        return len(self.x.values)

    @property
    def rows(self) -> int:
        """Return how many values the y axis has, 1 without one."""
        return 1 if self.y is None else len(self.y.values)

    @cached_property
    def possible(self) -> list[Cell]:
        """Return the cells that can run, those of the same dense pictures together."""
        able = [cell for cell in self.cells if not cell.why_not]
        places: dict[SampleSettings, int] = {}
        for cell in able:
            places.setdefault(cell.reference, len(places))
        return sorted(able, key=lambda cell: places[cell.reference])

    def title(self, cell: Cell) -> str:
        """Return what a cell is in words: "sparsity.early 0.4, boundaries.high 500"."""
        return ", ".join(
            f"{axis.name} {label_of(value)}"
            for axis, value in ((self.x, cell.x), (self.y, cell.y))
            if axis is not None
        )


def grid_of(workshop: Workshop, base: Base, x: Axis, y: Axis | None = None) -> Grid:
    """Return the cells of one or two axes over a base, row by row.

    A cell that cannot be carries its sentence. Raises StudioError for axes that set the same
    thing, for too many cells, and where no cell at all can be.
    """
    check_axes(x, y)
    workshop.check_settings(base.settings)
    cells: list[Cell] = []
    for row, y_value in enumerate([None] if y is None else y.values):
        for column, x_value in enumerate(x.values):
            chosen = {x.name: x_value} | ({} if y is None else {y.name: y_value})
            plan, settings, why_not = base.plan, base.settings, ""
            try:
                plan, settings = _set(workshop, base, chosen)
            except StudioError as err:
                why_not = str(err)
            cells.append(
                Cell(
                    index=len(cells),
                    column=column,
                    row=row,
                    x=x_value,
                    y=y_value,
                    plan=plan,
                    settings=settings,
                    why_not=why_not,
                )
            )
    if all(cell.why_not for cell in cells):
        raise StudioError(f"No cell of this sweep can run. The first one: {cells[0].why_not}")
    return Grid(base, x, y, tuple(cells))


def _set(
    workshop: Workshop, base: Base, chosen: Mapping[str, Value]
) -> tuple[StagePlan, SampleSettings]:
    """Return the plan and the settings of one cell. Raises StudioError for what cannot be."""
    run: dict[str, Any] = {name: chosen[name] for name in SETTINGS if name in chosen}
    settings = replace(base.settings, **run)
    workshop.check_settings(settings)
    check_runs(settings.mode, workshop.device)
    timesteps = visited(workshop, settings.scheduler, settings.steps)
    plan = _with_numbers(workshop, base.plan, chosen)
    if "sharing" in chosen:
        allocation: Any = chosen["sharing"]
        plan = replace(plan, allocation=allocation)
    if "target" in chosen:  # last: it weighs the stages by their steps
        target: Any = chosen["target"]
        plan = plan.scaled_to(target, timesteps)
    if plan != base.plan:  # the name of a changed plan would tell an untruth
        plan = replace(plan, name="")
    workshop.predictor.check(plan)
    _check_widths(workshop, plan, timesteps)
    return plan, settings


def _with_numbers(workshop: Workshop, plan: StagePlan, chosen: Mapping[str, Value]) -> StagePlan:
    """Return a plan with the boundaries, sparsities and guidance that a cell sets."""
    given: dict[str, Any] = dict(chosen)
    if "m" in given:  # the paper's rule for the boundaries; the sparsities stay
        found = propose_plan(workshop.schedule, 0.0, m=given["m"])
        plan = plan.with_boundaries(*found.plan.boundaries)
    low, high = plan.boundaries
    low, high = given.get("boundaries.low", low), given.get("boundaries.high", high)
    if (low, high) != plan.boundaries:
        plan = plan.with_boundaries(low, high)
    sparsity = [
        given.get(f"sparsity.{stage}", own)
        for stage, own in zip(STAGES, plan.sparsity, strict=True)
    ]
    guidance = [
        given.get(f"guidance.{stage}", own)
        for stage, own in zip(STAGES, plan.guidance, strict=True)
    ]
    return plan.with_sparsity(*sparsity).with_guidance(*guidance)


def _check_widths(workshop: Workshop, plan: StagePlan, timesteps: list[float]) -> None:
    """Raise StudioError for a plan whose layers cannot lose so much, as far as that is known."""
    try:
        workshop.widths(plan.counted(timesteps))
    except Unmet:
        pass  # known after a calibration, or after layers were timed: both come before the run


def denoiser_seconds(workshop: Workshop, cell: Cell) -> float | None:
    """Return the predicted seconds of a cell without the dense pictures that it shares.

    Of the denoiser alone, from forwards timed on this device; None where none were.
    """
    plan = cell.plan
    try:
        both = estimate(workshop, [None, plan], cell.settings)
        own = estimate(workshop, [plan], cell.settings)
    except StudioError:
        return None
    if both is None or own is None:
        return None
    drawn = own if cell.shares_pictures else both
    return drawn.pictures + both.timing


def reference_seconds(workshop: Workshop, settings: SampleSettings) -> float | None:
    """Return the predicted seconds of the dense pictures of these settings, or None."""
    found = estimate(workshop, [None], settings)
    return None if found is None else found.pictures


def shared_seconds(workshop: Workshop, cells: Iterable[Cell]) -> float:
    """Return the predicted seconds of the dense pictures that cells share, each set once.

    Sets that nothing is known of count as nothing.
    """
    references = {cell.reference for cell in cells if cell.shares_pictures}
    drawn = [reference_seconds(workshop, one) for one in references]
    return sum(one for one in drawn if one is not None)


def whole_seconds(workshop: Workshop, cells: Sequence[Cell]) -> float | None:
    """Return the predicted seconds of the denoiser for all these cells.

    None where this device was not timed for one of them.
    """
    total = 0.0
    for cell in cells:
        seconds = denoiser_seconds(workshop, cell)
        if seconds is None:
            return None
        total += seconds
    return total + shared_seconds(workshop, cells)
