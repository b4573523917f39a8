"""Keep every comparison as a run: a row in a database, and a folder with its pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..curves.plan import StagePlan
from ..errors import StudioError
from ..paths import data_folder
from ..workshop.comparison import Comparison, SampleSettings
from .database import Database, Row, insert, quoted, update
from .facts import found_facts, model_facts, new_id, setting_facts, side_facts
from .kept_plans import KEEP_SECONDS, KeptPlans
from .processes import process_mark
from .recovery import STORED, adopt, ended, settle
from .run import COLUMNS, Run, Status, from_rows
from .run_files import RunFiles
from .texts import MAX_SENTENCE, checked_name, checked_notes, storable

GONE = "There is no such run any more; it was deleted: choose another one."


class RunStore(KeptPlans):
    """All runs and kept plans of an installation; see `KeptPlans` for the plans.

    Several threads and processes may use one folder at once, through one store or many. Nothing is
    made before the first write. Opening removes what kills have left behind and what was deleted
    more than a day ago. All methods raise StudioError for a database that cannot be used.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the store in a folder, by default `core.paths.data_folder`. Raises StudioError."""
        self.folder = data_folder() if folder is None else folder
        super().__init__(Database(self.folder / "runs.sqlite"))
        self.files = RunFiles(self.folder / "runs")
        adopt(self.database, self.files)
        settle(self.database, self.files)
        self.purge()
        self.files.sweep()

    # ------------------------------------------------------------ what is there

    def runs(self) -> list[Run]:
        """Return all runs but the deleted ones, newest first."""
        return self._select("deleted IS NULL ORDER BY created DESC, row DESC")

    def running(self) -> list[Run]:
        """Return the runs that go on in a living process, newest first.

        A run whose process has ended becomes failed.
        """
        settle(self.database, self.files)
        return self._select("deleted IS NULL AND status = 'running' ORDER BY row DESC")

    def get(self, id: str) -> Run:
        """Return one run. Raises StudioError where it is not there or was deleted."""
        found = self._select("id = ? AND deleted IS NULL", id)
        if not found:
            raise StudioError(GONE)
        return found[0]

    def comparison(self, id: str) -> Comparison:
        """Return the whole comparison of a run, its latents rounded to half precision.

        Raises StudioError for a run that has none, or whose files are gone or damaged.
        """
        run = self.get(id)
        if run.timed_runs is None:
            raise StudioError(f"This run has no pictures: its state is {run.status}.")
        return self.files.comparison(id)

    def settings(self, id: str) -> SampleSettings:
        """Return the settings of a run. Raises StudioError for those of a newer version."""
        rows = self.database.rows(
            "SELECT settings FROM runs WHERE id = ? AND deleted IS NULL", [id]
        )
        if not rows:
            raise StudioError(GONE)
        try:
            settings = json.loads(rows[0][0])
            return SampleSettings(**settings | {"labels": tuple(settings["labels"])})
        except (ValueError, TypeError, KeyError) as err:
            raise StudioError(
                "The settings of this run cannot be read: another version wrote them."
            ) from err

    def thumbnail(self, id: str, side: str) -> bytes | None:
        """Return the small PNG sheet of side "a" or "b"; None where the run has none."""
        return self.files.thumbnail(id, side)

    # ------------------------------------------------------------ keeping

    def add(
        self,
        comparison: Comparison,
        model_key: str,
        *,
        name: str = "",
        notes: str = "",
        status: Status = "finished",
        sentence: str = "",
    ) -> Run:
        """Keep a comparison and return its run.

        model_key: `Workshop.model_key`. status and sentence: "stopped" or "failed", and why, for
        a comparison of fewer timed runs than were asked for. Files come first, the row last: a kill
        in between loses nothing, and a full disk leaves nothing. Raises StudioError.
        """
        row = _new_row(name, notes, comparison.settings) | {
            **ended(status, sentence),
            **model_facts(comparison.model, model_key, comparison.device),
            **found_facts(comparison),
        }
        id = str(row["id"])
        self._keep(id, comparison, row, insert("runs", row))
        return self.get(id)

    def begin(
        self,
        plans: tuple[StagePlan | None, StagePlan | None],
        names: tuple[str, str],
        settings: SampleSettings,
        *,
        model: str,
        model_key: str,
        device: str,
    ) -> Run:
        """Keep a run that begins now in this process, and return it.

        `running` finds it from any thread or process; `beat` tells its progress, and `finish` or
        `end` its end. Without either it becomes failed when this process ends. Raises StudioError.
        """
        row = _new_row("", "", settings) | {
            "status": "running",
            "process": process_mark(),
            "when": time.strftime("%Y-%m-%d %H:%M"),
            **model_facts(model, model_key, device),
        }
        for letter, plan, side in zip("ab", plans, names, strict=True):
            row |= side_facts(letter, side, plan)
        with self.database.writing() as connection:
            connection.execute(insert("runs", row), row)
        return self.get(str(row["id"]))

    def beat(self, id: str, done: int, total: int, said: str) -> None:
        """Tell how far a run is, once a second or less often: `done` of `total`, and in words.

        A run that has ended or is gone stays as it is.
        """
        query = (
            "UPDATE runs SET done = ?, total = ?, said = ?, updated = ?"
            " WHERE id = ? AND status = 'running'"
        )
        with self.database.writing() as connection:
            said = storable(said[:MAX_SENTENCE])
            connection.execute(query, (int(done), int(total), said, time.time(), id))

    def finish(
        self, id: str, comparison: Comparison, status: Status = "finished", sentence: str = ""
    ) -> Run:
        """Keep what a run found, as `add` does, and return the run.

        Name and notes that were given meanwhile stay. A run that is finished already stays as it
        is. Where the comparison cannot be kept the run becomes failed. Raises StudioError.
        """
        stored = self._stored(id)
        if stored["timed_runs"] is not None:
            return self.get(id)
        found = ended(status, sentence) | found_facts(comparison)
        query = update("runs", found) + " AND timed_runs IS NULL"
        try:
            self._keep(id, comparison, stored | found, query)
        except StudioError as err:
            with suppress(StudioError):
                self.end(id, "failed", str(err))
            raise
        return self.get(id)

    def end(self, id: str, status: Status, sentence: str = "") -> None:
        """Say that a run has ended without a result: "stopped" or "failed", and why.

        A run that has ended already, or is gone, stays as it is.
        """
        changes = ended(status, sentence)
        with self.database.writing() as connection:
            query = update("runs", changes) + " AND status = 'running'"
            connection.execute(query, changes | {"id": id})

    # ------------------------------------------------------------ a user's changes

    def rename(self, id: str, name: str) -> Run:
        """Give a run a name of at most 200 characters, any text. Raises StudioError."""
        return self._change(id, {"name": checked_name(name)})

    def annotate(self, id: str, notes: str) -> Run:
        """Give a run notes of at most 4,000 characters, any text. Raises StudioError."""
        return self._change(id, {"notes": checked_notes(notes)})

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Delete runs and return the ids of those that were there.

        For a day `undelete` has them back. What is gone already, as by another browser, is passed
        over.
        """
        query = "UPDATE runs SET deleted = ? WHERE id = ? AND deleted IS NULL"
        with self.database.writing() as connection:
            now = time.time()
            return [id for id in ids if connection.execute(query, (now, id)).rowcount]

    def undelete(self, ids: Iterable[str]) -> list[str]:
        """Have deleted runs back and return the ids of those that came back."""
        query = "UPDATE runs SET deleted = NULL WHERE id = ? AND deleted IS NOT NULL"
        with self.database.writing() as connection:
            return [id for id in ids if connection.execute(query, (id,)).rowcount]

    def purge(self, now: float | None = None) -> int:
        """Remove for good what was deleted more than a day ago, and return how many runs.

        now: seconds since 1970.
        """
        before = (time.time() if now is None else now) - KEEP_SECONDS
        old = [
            self.database.rows(f"SELECT id FROM {table} WHERE deleted < ?", [before])
            for table in ("runs", "plans")
        ]
        if not any(old):
            return 0
        with self.database.writing() as connection:
            # read again: somebody may have had them back. Folders go first: one that is left
            # without a row would be taken for a run that a kill has left.
            query = "SELECT id FROM runs WHERE deleted < ?"
            ids = [id for (id,) in connection.execute(query, [before])]
            for id in ids:
                self.files.remove(id)
            connection.execute("DELETE FROM runs WHERE deleted < ?", [before])
            connection.execute("DELETE FROM plans WHERE deleted < ?", [before])
        return len(ids)

    # ------------------------------------------------------------ within

    def _select(self, where: str, *values: str) -> list[Run]:
        query = f"SELECT {quoted(COLUMNS)} FROM runs WHERE {where}"
        return from_rows(self.database.rows(query, values))

    def _stored(self, id: str) -> Row:
        """Return the whole row of a run. Raises StudioError where there is none."""
        rows = self.database.rows(f"SELECT {quoted(STORED)} FROM runs WHERE id = ?", [id])
        if not rows:
            raise StudioError(GONE)
        return dict(zip(STORED, rows[0], strict=True))

    def _keep(self, id: str, comparison: Comparison, row: Row, query: str) -> None:
        """Write the folder of a run, then its row; neither when one of them fails."""
        with self.database.writing():  # a database that cannot be used is said first
            pass
        self.files.write(id, comparison, row)
        try:
            with self.database.writing() as connection:
                connection.execute(query, row)
        except Exception:
            self.files.remove(id)
            raise

    def _change(self, id: str, changes: Row) -> Run:
        query = update("runs", changes) + " AND deleted IS NULL"
        with self.database.writing() as connection:
            if not connection.execute(query, changes | {"id": id}).rowcount:
                raise StudioError(GONE)
        return self.get(id)


def _new_row(name: str, notes: str, settings: SampleSettings) -> Row:
    """Return what every new run has. Raises StudioError for a name or notes too long."""
    now = time.time()
    return {
        "id": new_id(),
        "name": checked_name(name),
        "notes": checked_notes(notes),
        "created": now,
        "updated": now,
        **setting_facts(settings),
    }
