"""Keep sweeps in the data folder, one folder per question, and read them again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cache import fingerprint
from ..curves.plan import StagePlan
from ..errors import StudioError
from ..paths import data_folder
from .axes import Axis
from .cells import Base, Cell, Grid
from .record import FILE, SweepRecord, settings_from

ID = re.compile("[0-9a-f]{16}")  # of a kept sweep: the name of its folder
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


class SweepShelf:
    """All sweeps that are kept in a folder, by default `sweeps` in `core.paths.data_folder`."""

    def __init__(self, folder: Path | None = None):
        """Name the folder; nothing is made. Raises StudioError where no folder can be named."""
        self.folder = data_folder() / "sweeps" if folder is None else folder

    @staticmethod
    def id_of(asked: dict[str, Any], device: str) -> str:
        """Return the id of the sweep of a `record.question` on a device."""
        return fingerprint(asked, device)

    def folder_of(self, id: str) -> Path:
        """Return the folder of a sweep. Raises StudioError for what is no id."""
        if not isinstance(id, str) or not ID.fullmatch(id):
            raise StudioError(GONE)
        return self.folder / id

    def get(self, id: str) -> KeptSweep:
        """Return one sweep. Raises StudioError where it is not there or cannot be read."""
        try:
            record = SweepRecord.held(self.folder_of(id))
            return KeptSweep(id, record, _laid_out(record))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise StudioError(GONE) from err

    def latest(self, model_key: str) -> KeptSweep | None:
        """Return the sweep of a model that was worked on last, None where there is none.

        Folders that cannot be read are passed over.
        """
        return next((one for one in self._newest_first() if one.model_key == model_key), None)

    def _newest_first(self) -> Iterator[KeptSweep]:
        """Yield the sweeps that can be read; each folder is read when it is its turn."""
        dated = []
        try:
            for folder in self.folder.iterdir():
                if ID.fullmatch(folder.name) and (folder / FILE).exists():
                    dated.append(((folder / FILE).stat().st_mtime_ns, folder.name))
        except OSError:
            return
        for _, id in sorted(dated, reverse=True):
            try:
                yield self.get(id)
            except StudioError:
                continue


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
