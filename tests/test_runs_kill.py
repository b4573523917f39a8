"""Runs survive kills, full disks, damaged and newer databases; a database goes up a version."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from forked import Forked
from run_cases import BEGUN, PLAN, SETTINGS, killed_when_it_speaks, tiny
from safetensors import SafetensorError

from core.errors import StudioError
from core.runs import database as database_module
from core.runs.database import Database
from core.runs.schema import STEPS
from core.runs.store import RunStore

START = """
import sys, threading
from pathlib import Path
from run_cases import BEGUN, PLAN, SETTINGS, tiny
from core.runs import run_files
from core.runs.store import RunStore

store = RunStore(Path(sys.argv[1]))

def wait(*_):
    print("here", flush=True)
    threading.Event().wait()

"""
IN_THE_FILES = START + "run_files.sheet = wait\nstore.add(tiny(), 'key')"
BEFORE_THE_ROW = (
    START
    + """
write = run_files.RunFiles.write
run_files.RunFiles.write = lambda *all: (write(*all), wait())
store.add(tiny(), 'key', name='saved')
"""
)
IN_THE_ROW = (
    START
    + """
with store.database.writing() as connection:
    connection.execute("UPDATE runs SET name = 'half'")
    wait()
"""
)
WHILE_IT_RUNS = (
    START
    + """
run = store.begin((None, PLAN), ("Dense", "mine"), SETTINGS, **BEGUN)
store.beat(run.id, 1, 2, "half")
wait()
"""
)
WHILE_IT_FINISHES = (
    START
    + """
write = run_files.RunFiles.write
run_files.RunFiles.write = lambda *all: (write(*all), wait())
run = store.begin((None, PLAN), ("Dense", "mine"), SETTINGS, **BEGUN)
store.rename(run.id, "named")
store.finish(run.id, tiny())
"""
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "data"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "runs").iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def age(folder: Path) -> None:
    for path in (folder / "runs").iterdir():
        os.utime(path, (0, 0))


# ------------------------------------------------------------ kills


def test_killed_in_the_files_leaves_a_part_that_is_swept_later(folder):
    killed_when_it_speaks(Forked(IN_THE_FILES, folder))
    store = RunStore(folder)
    (half,) = names(folder)  # young: it might be that of a run that goes on
    assert half.endswith(".part") and store.runs() == []
    age(folder)
    assert RunStore(folder).runs() == [] and names(folder) == []


def test_killed_between_files_and_row_loses_nothing(folder):
    killed_when_it_speaks(Forked(BEFORE_THE_ROW, folder))
    store = RunStore(folder)
    assert store.runs() == [] and len(names(folder)) == 1
    age(folder)
    (run,) = RunStore(folder).runs()
    assert run.name == "saved" and run.speedup == 2.0 and store.comparison(run.id).n == 2
    assert RunStore(folder).runs() == [run]


def test_killed_in_a_transaction_changes_nothing_and_frees_the_lock(folder):
    run = RunStore(folder).add(tiny(), "key", name="whole")
    killed_when_it_speaks(Forked(IN_THE_ROW, folder))
    start = time.monotonic()
    store = RunStore(folder)
    assert store.runs() == [run] and store.rename(run.id, "new").name == "new"
    assert time.monotonic() - start < 5


def test_a_run_goes_on_until_its_process_is_killed(folder):
    process = Forked(WHILE_IT_RUNS, folder)
    assert process.stdout.readline() == "here\n"
    store = RunStore(folder)
    assert [(r.done, r.total, r.said) for r in store.running()] == [(1, 2, "half")]
    process.kill()
    process.communicate()
    assert store.running() == []
    (run,) = store.runs()
    assert run.status == "failed" and "ended before it was done" in run.sentence


def test_a_run_of_another_machine_ends_after_an_hour_without_a_word(folder):
    store = RunStore(folder)
    run = store.begin((None, PLAN), ("Dense", "mine"), SETTINGS, **BEGUN)
    with store.database.writing() as connection:
        connection.execute("UPDATE runs SET process = 'elsewhere:1:2'")
    assert [r.id for r in store.running()] == [run.id]
    with store.database.writing() as connection:
        connection.execute("UPDATE runs SET updated = updated - 4000")
    assert store.running() == [] and store.get(run.id).status == "failed"


def test_killed_while_it_finishes_is_finished_from_its_files(folder):
    killed_when_it_speaks(Forked(WHILE_IT_FINISHES, folder))
    (run,) = RunStore(folder).runs()
    assert (run.status, run.name, run.speedup) == ("finished", "named", 2.0)
    assert RunStore(folder).comparison(run.id).n == 2


# ------------------------------------------------------------ a full disk


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (
            "core.workshop.comparison.save_file",
            SafetensorError("I/O error: No space left on device (os error 28)"),
        ),
        ("core.files.flush", OSError(errno.ENOSPC, "No space left on device")),
        ("core.runs.run_files.sheet", OSError(errno.EDQUOT, "Disk quota exceeded")),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder, monkeypatch, place, error, begun):
    store = RunStore(folder)
    before = store.add(tiny(), "key")
    run = begun and store.begin((None, PLAN), ("Dense", "mine"), SETTINGS, **BEGUN)

    def full(*all, **named):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(StudioError, match="disk is full.*make room") as caught:
            store.finish(run.id, tiny()) if begun else store.add(tiny(), "key")
    assert str(caught.value).count(".") == 1 and str(folder) not in str(caught.value)
    assert names(folder) == [before.id] and store.comparison(before.id).n == 2
    if begun:
        assert store.get(run.id).status == "failed" and "disk is full" in store.get(run.id).sentence
    else:
        assert store.runs() == [before]


def test_a_disk_that_is_full_for_the_row_leaves_no_files(folder, monkeypatch):
    store = RunStore(folder)
    before = store.add(tiny(), "key")
    connect, calls = database_module.connect, []

    def small(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        calls.append(pages)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(database_module, "connect", small)
        with pytest.raises(StudioError, match="disk is full.*make room"):
            store.add(tiny(), "key", notes="n" * 4000)
    assert calls and store.runs() == [before] and names(folder) == [before.id]
    store.add(tiny(), "key", notes="n" * 4000)


# ------------------------------------------------------------ damaged, foreign, newer


def damage(folder: Path, how: str) -> None:
    path = folder / "runs.sqlite"
    good = path.read_bytes()
    assert not list(folder.glob("*-wal"))
    if how == "foreign":
        path.unlink()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE theirs (x)")
    elif how == "no tables":
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript("DROP TABLE runs; DROP TABLE plans")
    elif how == "newer":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    else:
        path.write_bytes(
            {
                "no database": b"not a database " * 1000,
                "cut off": good[: len(good) // 2],
                "pages overwritten": good[:4096] + b"\xff" * (len(good) - 4096),
            }[how]
        )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no database", "runs.sqlite is damaged"),
        ("cut off", "runs.sqlite is damaged"),
        ("pages overwritten", "runs.sqlite is damaged"),
        ("no tables", "runs.sqlite is damaged"),
        ("foreign", "runs.sqlite is a database of another program"),
        ("newer", "runs.sqlite was written by a newer version"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_sentence_and_stays(folder, how, said):
    store = RunStore(folder)
    run = store.add(tiny(), "key")
    damage(folder, how)
    age(folder)
    (folder / "runs" / "old.part").mkdir()
    os.utime(folder / "runs" / "old.part", (0, 0))
    before = content(folder), names(folder)
    for use in (
        lambda: RunStore(folder),
        store.runs,
        lambda: store.add(tiny(), "key"),
        lambda: store.delete([run.id]),
        lambda: store.keep_plan("x", PLAN, "key"),
    ):
        with pytest.raises(StudioError) as caught:
            use()
        sentence = str(caught.value)
        assert said in sentence and str(folder) not in sentence and "\n" not in sentence
        assert sentence.endswith(".") and sentence.count(". ") == 0
    assert (content(folder), names(folder)) == before


def test_a_database_that_was_moved_away_comes_back_from_the_folders(folder):
    run = RunStore(folder).add(tiny(), "key", name="mine", notes="a note")
    (folder / "runs.sqlite").rename(folder / "damaged")
    age(folder)
    assert RunStore(folder).runs() == [run]


@pytest.mark.parametrize(
    "row",
    [
        "{",
        "[]",
        '{"id": "other"}',
        json.dumps({"id": "", "status": "finished", "x); DROP TABLE runs;--": 1}),
        json.dumps({"id": "", "status": "finished"}),
        json.dumps({"id": "", "status": {"a": 1}}),
    ],
)
def test_a_folder_whose_row_cannot_be_trusted_stays_and_is_not_listed(folder, row):
    store = RunStore(folder)
    run = store.add(tiny(), "key")
    (folder / "runs.sqlite").unlink()
    (folder / "runs" / run.id / "run.json").write_text(row.replace('""', f'"{run.id}"'))
    age(folder)
    assert RunStore(folder).runs() == [] and names(folder) == [run.id]


def test_pictures_that_are_gone_or_damaged_are_one_sentence(folder):
    store = RunStore(folder)
    run = store.add(tiny(), "key")
    (folder / "runs" / run.id / "comparison.safetensors").write_bytes(b"damaged")
    with pytest.raises(StudioError, match="pictures of this run cannot be read"):
        store.comparison(run.id)
    store.files.remove(run.id)
    with pytest.raises(StudioError, match="not in the data folder"):
        store.comparison(run.id)
    assert store.runs() == [run]


# ------------------------------------------------------------ versions

ONE = (("CREATE TABLE a (x INTEGER)", "INSERT INTO a VALUES (1)"),)
TWO = (*ONE, ("ALTER TABLE a ADD COLUMN y TEXT NOT NULL DEFAULT 'new'",))


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def test_an_older_database_goes_up_step_by_step_and_keeps_its_rows(tmp_path):
    path = tmp_path / "made" / "x.sqlite"
    old = Database(path, ONE)
    with old.writing() as connection:
        connection.execute("INSERT INTO a VALUES (2)")
    assert version(path) == 1
    assert Database(path, TWO).rows("SELECT x, y FROM a") == [(1, "new"), (2, "new")]
    assert version(path) == 2
    with pytest.raises(StudioError, match="newer version"):
        old.rows("SELECT x FROM a")


def test_a_step_that_fails_leaves_the_older_version(tmp_path):
    path = tmp_path / "x.sqlite"
    Database(path, ONE).rows("SELECT 1")
    with Database(path, ONE).writing():
        pass
    broken = (*TWO[:1], (*TWO[1], "INSERT INTO nothing VALUES (1)"))
    with pytest.raises(StudioError):
        Database(path, broken).rows("SELECT 1")
    assert version(path) == 1 and Database(path, TWO).rows("SELECT y FROM a") == [("new",)]


def test_the_database_is_in_wal_mode_and_at_the_latest_version(folder):
    store = RunStore(folder)
    store.keep_plan("x", PLAN, "key")
    assert store.database.rows("PRAGMA journal_mode") == [("wal",)]
    assert version(folder / "runs.sqlite") == len(STEPS)


def test_a_writer_that_does_not_let_go_is_one_sentence(folder, monkeypatch):
    store = RunStore(folder)
    store.keep_plan("x", PLAN, "key")
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.2)
    with store.database.writing(), pytest.raises(StudioError, match="held by another program"):
        RunStore(folder).keep_plan("y", PLAN, "key")
    assert len(store.plans()) == 1
