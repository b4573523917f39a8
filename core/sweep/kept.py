"""Keep sweeps in the data folder, one folder per question, and read them again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from ..curves.plan import StagePlan
from ..errors import StudioError
from ..runs.processes import has_ended
from ..runs.store import RunStore
from ..shelf import Shelf
from .axes import Axis
from .cells import Base, Cell, Grid
from .record import FILE, SweepRecord, settings_from

GONE = "There is no such sweep any more: start it again."


@dataclass(frozen=True)
class KeptSweep:
    """A sweep as it is on the disk, whether it goes on or not.

    grid: axes and places only, without the plans of its cells, which need the model.
    """

    id: str
    record: SweepRecord
    grid: Grid

    @property
    def model_key(self) -> str:
        """Return the model that it is of."""
        return str(self.record.asked["model"])

    @property
    def left(self) -> int:
        """Return how many cells still have to run."""
        return sum(cell.open for cell in self.record.cells)

    @property
    def title(self) -> str:
        """Return its axes in words: "steps × scheduler"."""
        y = self.grid.y
        return self.grid.x.name if y is None else f"{self.grid.x.name} × {y.name}"


class SweepShelf(Shelf[KeptSweep]):
    """All sweeps that are kept in a folder, by default `sweeps` in `core.paths.data_folder`."""

    kind, file, gone = "sweep", FILE, GONE

    def get(self, id: str) -> KeptSweep:
        """Return one sweep. Raises StudioError where it is not there or cannot be read."""
        try:
            record = SweepRecord.held(self.folder_of(id))
            return KeptSweep(id, record, _laid_out(record))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise StudioError(GONE) from err


def runs_elsewhere(kept: KeptSweep, store: RunStore) -> bool:
    """Say whether a process that lives, here or in another program, runs a cell of a sweep."""
    for cell in kept.record.cells:
        if cell.state == "running":
            with suppress(StudioError):  # the run was deleted
                run = store.get(cell.run)
                if run.status == "running" and has_ended(run.process) is False:
                    return True
    return False


def _laid_out(record: SweepRecord) -> Grid:
    """Return the grid of a record: each cell in its place, with the base plan and settings.

    Raises StudioError, and KeyError, TypeError, ValueError for what is damaged.
    """
    asked = record.asked
    base = Base(StagePlan.from_json(asked["plan"]), settings_from(asked["settings"]))
    x = Axis.from_json(asked["x"])
    y = None if asked["y"] is None else Axis.from_json(asked["y"])
    columns = len(x.values)
    if len(record.cells) != columns * (1 if y is None else len(y.values)):
        raise ValueError("other cells")
    cells = [
        Cell(
            index=index,
            column=index % columns,
            row=index // columns,
            x=one.x,
            y=one.y,
            plan=base.plan,
            settings=base.settings,
            why_not=one.sentence if one.state == "impossible" else "",
        )
        for index, one in enumerate(record.cells)
    ]
    return Grid(base, x, y, tuple(cells))
