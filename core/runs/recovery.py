"""Bring a database and its folders together again after a kill."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress

from ..errors import StudioError
from .database import Database, Row, insert, update
from .processes import has_ended
from .run import COLUMNS, ENDS, Status
from .run_files import STALE_SECONDS, RunFiles
from .texts import MAX_SENTENCE, storable

STORED = (*COLUMNS, "settings")  # what a row holds, but its number and when it was deleted
BROKEN_OFF = "The program that it ran in ended before it was done."


def ended(status: Status, sentence: str) -> Row:
    """Return the columns that the end of a run changes. Raises StudioError for another word."""
    if status not in ENDS:
        raise StudioError(f"A run ends as one of {', '.join(ENDS)}.")
    return {
        "status": status,
        "sentence": storable(sentence[:MAX_SENTENCE]),
        "updated": time.time(),
        "process": "",
    }


def adopt(database: Database, files: RunFiles) -> None:
    """Give whole folders their row back: a kill, or a lost database, has left them without.

    A folder whose row is not one of this version stays as it is. Raises StudioError.
    """
    known = [id for (id,) in database.rows("SELECT id FROM runs")]
    for row in files.without_row(known):
        if set(row) <= set(STORED) and row.get("status") in ENDS:
            with suppress(sqlite3.IntegrityError), database.writing() as connection:
                connection.execute(insert("runs", row), row)


def settle(database: Database, files: RunFiles) -> None:
    """End the runs whose process has ended, with what they found where it was written.

    Where nothing is known of a process, an hour without a word counts as its end. Raises
    StudioError.
    """
    query = "SELECT id, process, updated FROM runs WHERE status = 'running'"
    for id, process, updated in database.rows(query):
        over = has_ended(process)
        if over is None:
            over = time.time() - updated > STALE_SECONDS
        if over:
            found = _found(files.row(id)) | {"id": id}
            with database.writing() as connection:
                connection.execute(update("runs", found) + " AND status = 'running'", found)


def _found(row: Row | None) -> Row:
    """Return what a run changes at its end: the row of its folder, or that it broke off."""
    if row is None or row.get("status") not in ENDS:
        return ended("failed", BROKEN_OFF)
    return {name: row[name] for name in row if name in STORED and name not in ("name", "notes")}
