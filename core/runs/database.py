"""Read and write a SQLite file from several threads and processes, at a known version.

Every call opens a connection of its own. The file is in WAL mode: readers and one writer do not
wait for each other. Nothing is made before the first write.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import StudioError
from ..files import why_not_written
from .schema import STEPS

SQL = str | int | float | None  # what a cell may hold here
Row = dict[str, SQL]  # column -> value
BUSY_SECONDS = 10.0  # how long a call waits for another writer
PAUSE_SECONDS = 0.02
MOVE = "set MOSAIC_DATA to another folder"
# SQLite's result codes, by the low byte (sqlite.org/rescode.html)
FULL = sqlite3.SQLITE_FULL
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
REFUSED = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_AUTH,
)


@dataclass(frozen=True)
class Database:
    """A SQLite file whose tables come from a list of steps, one per version.

    Every method raises StudioError for a file that is damaged, foreign, written by a newer version,
    in use for too long, or that cannot be read or written; such a file stays as it is.
    """

    path: Path
    steps: Sequence[Sequence[str]] = STEPS  # statements per version

    def rows(self, query: str, values: Sequence[SQL] = ()) -> list[tuple]:
        """Return all rows of a query; none where there is no file yet."""
        if not self.path.exists():
            return []
        with self._begun("BEGIN") as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the one transaction that writes: kept when the block ends, undone when it raises.

        The file and its folder (mode 0700) are made when they are not there.
        """
        make_private(self.path.parent)
        with self._begun("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _begun(self, begin: str) -> Iterator[sqlite3.Connection]:
        """Hold a connection with an open transaction."""
        with in_words(self.path.name), closing(self._connected(begin)) as connection:
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has undone it already
                    connection.execute("ROLLBACK")
                raise

    def _connected(self, begin: str) -> sqlite3.Connection:
        """Return a connection at the latest version, in a transaction.

        SQLite does not wait by itself in all cases, such as while another process closes the file
        as its last user (sqlite.org/wal.html, section 9).
        """
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            connection = connect(self.path)
            try:
                self._migrate(connection)
                connection.execute(begin)
                connection.execute("SELECT count(*) FROM sqlite_master")  # takes the read lock
                return connection
            except BaseException as err:
                connection.close()
                if _code(err) not in BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE_SECONDS)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Bring the file to the latest version, whole or not at all. Raises StudioError."""
        if self._version(connection) == len(self.steps):
            return
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        for step in self.steps[self._version(connection) :]:  # read again: others may be quicker
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(self.steps)}")
        connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        """Return the version of the file. Raises StudioError for a newer or a foreign one."""
        # one query, hence one state of the file
        version, tables = connection.execute(
            "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
        ).fetchone()
        if version > len(self.steps):
            raise StudioError(
                f"{self.path.name} was written by a newer version of MosaicDiff Studio: update this"
                f" one, or {MOVE}."
            )
        if version < 0 or (version == 0 and tables):
            raise StudioError(
                f"{self.path.name} is a database of another program and was left as it is: move it"
                f" away, or {MOVE}."
            )
        return version


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection that begins no transaction by itself and waits for other writers."""
    return sqlite3.connect(path, timeout=BUSY_SECONDS / 2, isolation_level=None)


def quoted(columns: Iterable[str]) -> str:
    """Return column names for a query: one of them, "when", is a word of SQL."""
    return ", ".join(f'"{name}"' for name in columns)


def insert(table: str, columns: Iterable[str]) -> str:
    """Return the statement that inserts a `Row` with these columns, unless its id is there."""
    names = list(columns)
    places = ", ".join(f":{name}" for name in names)
    return f"INSERT INTO {table} ({quoted(names)}) VALUES ({places}) ON CONFLICT (id) DO NOTHING"


def update(table: str, columns: Iterable[str]) -> str:
    """Return the statement that changes these columns in the row of `:id`."""
    changes = ", ".join(f'"{name}" = :{name}' for name in columns if name != "id")
    return f"UPDATE {table} SET {changes} WHERE id = :id"


def make_private(folder: Path) -> None:
    """Make a folder that only its owner can read; one that exists stays as it is.

    Raises StudioError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise StudioError(not_written(err)) from err


def not_written(err: BaseException) -> str:
    """Return the sentence on a failed write to the data folder, and what helps."""
    why = why_not_written(err)
    if why == "the disk is full":
        return f"This could not be kept ({why}): make room or {MOVE}, then try again."
    return f"This could not be kept ({why}): let the data folder be written or {MOVE}."


@contextmanager
def in_words(name: str) -> Iterator[None]:
    """Raise StudioError, which names the file, for errors of SQLite; mistakes of ours pass."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise
    except sqlite3.DatabaseError as err:
        raise StudioError(_sentence(err, name)) from err


def _sentence(err: sqlite3.DatabaseError, name: str) -> str:
    """Return what is wrong with a database, and what helps."""
    code = _code(err)
    if code == FULL:
        return f"This could not be kept (the disk is full): make room or {MOVE}, then try again."
    if code in BUSY:
        return f"{name} is held by another program: try again in a moment."
    if code in REFUSED:
        return (
            f"{name} cannot be opened or written ({err}): let the data folder be read and written,"
            f" or {MOVE}."
        )
    return (
        f"{name} is damaged and was left as it is: move it away, and a new one is made from the"
        " folders of the runs."
    )


def _code(err: BaseException) -> int:
    """Return the low byte of SQLite's result code, 0 where there is none."""
    return getattr(err, "sqlite_errorcode", 0) & 0xFF
