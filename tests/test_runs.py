"""Runs and plans are kept: found again, named, deleted and had back, by many at once."""

from __future__ import annotations

import io
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked
from PIL import Image
from run_cases import BEGUN, PLAN, SETTINGS, tiny

from core import __version__
from core.errors import StudioError
from core.paths import data_folder
from core.runs.pareto import Point, standings
from core.runs.run import COLUMNS
from core.runs.store import RunStore
from core.workshop.comparison import SampleSettings

DAY = 24 * 3600.0
HOSTILE = "<script>alert('x')</script> & \"quotes\"\0 | `code`\n'); DROP TABLE runs;--"


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "data")


# ------------------------------------------------------------ the folder


def test_the_data_folder_is_where_the_first_usable_variable_says(monkeypatch, tmp_path):
    for name in ("MOSAIC_DATA", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_folder() == tmp_path / "home" / ".local" / "share" / "mosaicdiff-studio"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert data_folder() == tmp_path / "home" / ".local" / "share" / "mosaicdiff-studio"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert data_folder() == tmp_path / "xdg" / "mosaicdiff-studio"
    monkeypatch.setenv("MOSAIC_DATA", "~/own")
    assert data_folder() == tmp_path / "home" / "own" == RunStore().folder


def test_the_folder_is_made_at_the_first_write_and_for_its_owner_only(store):
    assert store.runs() == store.plans() == store.running() == [] and store.purge() == 0
    assert not store.folder.exists()
    store.add(tiny(), "key")
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


# ------------------------------------------------------------ a run


def test_a_run_comes_back_as_it_was_kept(store):
    kept = store.add(tiny(), "key", name="first", notes="a note")
    (run,) = RunStore(store.folder).runs()
    assert run == kept == store.get(run.id)
    assert (run.status, run.name, run.notes, run.model, run.model_key) == (
        "finished",
        "first",
        "a note",
        "tiny",
        "key",
    )
    assert (run.steps, run.scheduler, run.guidance, run.seed, run.repeats) == (2, "DDIM", 1.5, 7, 3)
    assert (run.n, run.images, run.dtype, bool(run.tabulate), run.height) == (
        2,
        "2 images, classes 0, 1",
        None,
        True,
        None,
    )
    assert (run.device, run.when, run.timed_runs) == ("CPU, 2 threads", "2026-10-03 14:22", 3)
    assert (run.speedup, run.speedup_macs, run.speedup_predicted) == (2.0, 1.5, None)
    assert (run.psnr, run.ssim, run.latent_mse) == (27.5, 0.93, 0.0123456789)
    assert run.verdict == tiny().verdict and run.remarks == "said by the comparison"
    a, b = run.a, run.b
    assert (a.name, a.plan, a.seconds, a.macs, a.fid) == ("Dense", None, 2.0, 3_000_000_000, 15.25)
    assert a.seconds_spread == pytest.approx(tiny().a.seconds_spread) and a.class_accuracy == 0.5
    assert (b.name, b.plan, b.seconds, b.predicted_seconds) == ("mine", PLAN, 1.0, None)
    assert a.predicted_seconds == 4.0 and b.calls == 2 and b.fid is None
    assert run.versions.mosaicdiff == __version__ and run.versions.torch == torch.__version__
    assert store.settings(run.id) == SETTINGS


def test_the_pictures_of_a_run_come_back(store):
    run = store.add(tiny(), "key")
    back = store.comparison(run.id)
    assert torch.allclose(back.b.images, tiny().b.images, atol=1 / 127)
    assert back.settings == SETTINGS and back.b.plan == PLAN and back.verdict == run.verdict
    assert len(back.b.film) == 1
    sheet = np.asarray(Image.open(io.BytesIO(store.thumbnail(run.id, "b"))))
    assert sheet.shape == (8, 16) and sheet[0, 0] == 255 and sheet[-1, -1] == 0
    assert store.thumbnail("20260101-000000-00000000", "a") is None
    for id in ("../../etc", "", "x"):
        with pytest.raises(StudioError):
            store.thumbnail(id, "a")


def test_a_sheet_of_large_colour_pictures_is_small(store):
    c = tiny()
    c.a.images = c.b.images = torch.rand(30, 3, 200, 100) * 2 - 1
    run = store.add(c, "key")
    assert Image.open(io.BytesIO(store.thumbnail(run.id, "a"))).size == (75, 150)


def test_prompts_size_and_precision_are_kept(store):
    settings = SampleSettings(
        prompts=("a  red fox", "a" * 100), negative="blur", size=(512, 768), dtype="bfloat16"
    )
    run = store.add(tiny(settings=settings), "key")
    assert run.images == f"2 images, “a red fox”, “{'a' * 59}…”, without “blur”"
    assert (run.height, run.width, run.dtype) == (512, 768, "bfloat16")
    assert store.settings(run.id) == settings == store.comparison(run.id).settings


def test_numbers_that_are_none_or_not_finite_are_none(store):
    run = store.add(tiny(psnr=None, ssim=float("nan"), latent_mse=float("inf")), "key")
    assert run.psnr is run.ssim is run.latent_mse is None


def test_the_newest_run_comes_first(store):
    ids = [store.add(tiny(), "key", name=str(i)).id for i in range(3)]
    assert [run.id for run in store.runs()] == ids[::-1]


def test_a_partial_result_keeps_why(store):
    run = store.add(tiny(), "key", status="stopped", sentence="Stopped after 1 of 3 timed runs.")
    assert (run.status, run.sentence) == ("stopped", "Stopped after 1 of 3 timed runs.")
    with pytest.raises(StudioError):
        store.add(tiny(), "key", status="running")


# ------------------------------------------------------------ texts


def test_any_text_is_stored_as_it_is(store):
    run = store.add(tiny(name=HOSTILE[:150]), "key", name=HOSTILE, notes=HOSTILE)
    (found,) = store.runs()
    assert found.name == found.notes == HOSTILE and found.b.name == HOSTILE[:150]
    assert store.rename(run.id, "名前 " + HOSTILE).name == "名前 " + HOSTILE
    assert store.annotate(run.id, "x" * 4000).notes == "x" * 4000


def test_a_text_too_long_is_refused_in_one_sentence_and_nothing_changes(store):
    run = store.add(tiny(), "key", name="old")
    for refused in (
        lambda: store.rename(run.id, "n" * 10_000),
        lambda: store.annotate(run.id, "n" * 4_001),
        lambda: store.add(tiny(), "key", name="n" * 201),
        lambda: store.keep_plan("n" * 201, PLAN, "key"),
        lambda: store.rename(run.id, "half \ud800"),
    ):
        with pytest.raises(StudioError) as caught:
            refused()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 120
    assert store.runs() == [run] and store.plans() == []
    assert len(list((store.folder / "runs").iterdir())) == 1


# ------------------------------------------------------------ deleting


def test_what_is_deleted_can_be_had_back_for_a_day(store):
    run = store.add(tiny(), "key")
    other = RunStore(store.folder)
    assert store.delete([run.id]) == [run.id] and store.runs() == []
    assert other.delete([run.id, "unknown"]) == []  # the second browser
    with pytest.raises(StudioError, match="deleted"):
        store.get(run.id)
    assert store.purge() == 0
    assert other.undelete([run.id]) == [run.id] and store.undelete([run.id]) == []
    assert store.runs() == [run]
    store.delete([run.id])
    assert store.purge(time.time() + DAY + 60) == 1
    assert store.undelete([run.id]) == [] and list((store.folder / "runs").iterdir()) == []
    assert RunStore(store.folder).runs() == []


def test_a_deleted_run_is_not_renamed(store):
    run = store.add(tiny(), "key")
    store.delete([run.id])
    with pytest.raises(StudioError, match="deleted"):
        store.rename(run.id, "new")


# ------------------------------------------------------------ a run that goes on


def test_a_run_that_goes_on_is_found_again_with_its_progress(store):
    run = store.begin((None, PLAN), ("Dense", "mine"), SETTINGS, **BEGUN)
    store.beat(run.id, 3, 10, "step 3 of 10")
    (found,) = RunStore(store.folder).running()
    assert (found.id, found.status, found.done, found.total, found.said) == (
        run.id,
        "running",
        3,
        10,
        "step 3 of 10",
    )
    assert found.b.plan == PLAN and found.a.seconds is None and found.verdict == ""
    with pytest.raises(StudioError, match="running"):
        store.comparison(run.id)
    store.rename(run.id, "named meanwhile")
    done = store.finish(run.id, tiny())
    assert (done.status, done.name, done.speedup, done.created) == (
        "finished",
        "named meanwhile",
        2.0,
        run.created,
    )
    assert store.running() == [] and store.comparison(run.id).n == 2
    store.end(run.id, "stopped")
    store.beat(run.id, 9, 10, "late")
    assert store.finish(run.id, tiny(psnr=1.0)) == done == store.get(run.id)


def test_a_run_that_ends_without_a_result_says_why(store):
    run = store.begin((None, PLAN), ("Dense", "mine"), SETTINGS, **BEGUN)
    store.end(run.id, "failed", "There is not enough memory.")
    assert store.get(run.id).sentence == "There is not enough memory."
    assert store.running() == []


# ------------------------------------------------------------ kept plans


def test_names_of_kept_plans_are_unique(store):
    first = store.keep_plan("eye", PLAN, "key", "tiny")
    second = store.keep_plan("eye", replace(PLAN, boundaries=(200, 600)), "key")
    third = store.keep_plan("eye", PLAN, "key")
    assert [kept.name for kept in store.plans()] == ["eye 3", "eye 2", "eye"]
    assert first.plan == replace(PLAN, name="eye") and second.plan.boundaries == (200, 600)
    assert (first.model_key, first.model) == ("key", "tiny")
    assert store.rename_plan(third.id, "eye").name == "eye 3"  # its own name is not taken
    assert store.rename_plan(third.id, "ear").name == "ear"
    long = "n" * 200
    names = [store.keep_plan(long, PLAN, "key").name for _ in range(2)]
    assert names == [long, "n" * 198 + " 2"]
    assert store.keep_plan(" ", PLAN, "key").name == "mine"


def test_one_kept_plan_is_found_by_its_id_until_it_is_deleted(store):
    kept = store.keep_plan("eye", PLAN, "key", "tiny")
    assert store.plan(kept.id) == kept == store.plans()[0]
    store.delete_plan(kept.id)
    for id in (kept.id, "nothing", ""):
        with pytest.raises(StudioError, match="deleted: choose another one"):
            store.plan(id)


def test_the_pruned_sides_of_a_run_are_those_with_a_plan_and_two_equal_ones_are_one(store):
    moved = replace(PLAN, boundaries=(200, 600))
    found = []
    for plans in ((None, PLAN), (PLAN, moved), (PLAN, PLAN), (PLAN, None), (None, None)):
        run = store.begin(plans, ("one", "two"), SETTINGS, **BEGUN)
        found.append([(letter, side.plan) for letter, side in run.pruned.items()])
    assert found == [[("b", PLAN)], [("a", PLAN), ("b", moved)], [("b", PLAN)], [("a", PLAN)], []]
    run = store.get(store.add(tiny(), "key").id)
    both = replace(run, a=replace(run.b, calls=9))  # the same plan in other steps
    assert list(both.pruned) == ["a", "b"]


def test_a_deleted_plan_comes_back_under_a_free_name(store):
    kept = store.keep_plan("eye", PLAN, "key")
    assert store.delete_plan(kept.id) and not store.delete_plan(kept.id)
    store.keep_plan("eye", PLAN, "key")
    assert store.undelete_plan(kept.id) and not store.undelete_plan(kept.id)
    assert sorted(plan.name for plan in store.plans()) == ["eye", "eye 2"]
    store.delete_plan(kept.id)
    with pytest.raises(StudioError, match="deleted"):
        store.rename_plan(kept.id, "x")
    store.purge(time.time() + DAY + 60)
    assert not store.undelete_plan(kept.id) and len(store.plans()) == 1


# ------------------------------------------------------------ many at once

WRITER = """
import sys
from pathlib import Path
from run_cases import PLAN, tiny
from core.runs.store import RunStore

for i in range(10):
    store = RunStore(Path(sys.argv[1]))
    store.add(tiny(), "key", name=f"{sys.argv[2]} {i}")
    store.keep_plan("same", PLAN, "key")
"""


def test_threads_write_into_one_store(store):
    errors = []

    def write(k: int) -> None:
        try:
            for i in range(10):
                store.add(tiny(), "key", name=f"{k} {i}")
                store.keep_plan("same", PLAN, "key")
                store.runs()
        except Exception as err:
            errors.append(err)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len({run.name for run in store.runs()}) == 30
    assert len({plan.name for plan in store.plans()}) == 30


def test_processes_write_into_one_new_folder(tmp_path):
    writers = [Forked(WRITER, tmp_path / "data", k) for k in "ab"]
    for writer in writers:
        errors = writer.communicate(timeout=120)[1]
        assert writer.returncode == 0, errors
    store = RunStore(tmp_path / "data")
    runs = store.runs()
    assert len({run.name for run in runs}) == 20 and len(store.plans()) == 20
    assert all(store.comparison(run.id).n == 2 for run in runs[::7])


def copies(store: RunStore, id: str, count: int) -> None:
    """Fill the database with copies of a run, straight into the table."""
    columns = [name for name in (*COLUMNS, "settings") if name not in ("id", "created", "seed")]
    listed = ", ".join(f'"{name}"' for name in columns)
    with store.database.writing() as connection:
        connection.execute(
            f"INSERT INTO runs (id, created, seed, {listed})"
            " WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < ?)"
            f" SELECT printf('20260101-000000-%08x', i), i, i * 7919 % 1000, {listed}"
            " FROM runs, k WHERE id = ?",
            (count, id),
        )


def test_two_thousand_runs_are_listed_and_sorted(store):
    many = SampleSettings(labels=(3,) * 2000, steps=2)
    copies(store, store.add(tiny(settings=many), "key", notes="n" * 500).id, 1999)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        runs = store.runs()
        listed = time.perf_counter()
        runs = sorted(runs, key=lambda run: (run.seed, run.b.seconds))
        times.append((listed - start, time.perf_counter() - listed))
    start = time.perf_counter()
    RunStore(store.folder)
    opened = time.perf_counter() - start
    assert len(runs) == 2000 and runs[0].seed <= runs[-1].seed
    listing, sorting = (sorted(kind)[2] * 1e3 for kind in zip(*times, strict=True))
    print(f"2,000 runs: list {listing:.1f} ms, sort {sorting:.2f} ms, open {opened * 1e3:.1f} ms")


# ------------------------------------------------------------ the front


def front(points: list[tuple[float | None, float | None]]) -> set[int]:
    """Return the front of exact costs."""
    found = standings([Point(cost, 0.0, loss) for cost, loss in points])
    return {i for i, stands in enumerate(found) if stands == "front"}


def test_the_front_has_the_points_that_nothing_beats():
    nan = float("nan")
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 2.5), (3.0, 2.0), (2.0, 2.0)]
    assert front(points) == {1, 2, 5, 0}
    assert front([(nan, 1.0), (1.0, nan), (None, 0.0), (0.0, None), (5.0, 5.0)]) == {4}
    assert standings([Point(None, 0.0, 1.0)]) == [None] and standings([]) == []
    assert front([(1.0, 2.0), (1.0, 1.0), (0.5, 2.0)]) == {2, 1}


def test_the_front_is_that_of_the_definition():
    points = [tuple(p) for p in np.random.default_rng(0).integers(0, 12, (200, 2)).tolist()]

    def beaten(p: tuple, q: tuple) -> bool:
        return q[0] <= p[0] and q[1] <= p[1] and q != p

    assert front(points) == {
        i for i, p in enumerate(points) if not any(beaten(p, q) for q in points)
    }


@pytest.mark.parametrize(
    ("seconds", "stands"),
    [(10.0, "within"), (9.2, "within"), (10.8, "within"), (11.2, "beaten"), (8.8, "front")],
)
def test_a_time_within_the_spread_of_both_decides_nothing(seconds, stands):
    """The other one took 10 s and is nearer; both spreads are 0.5 s."""
    assert standings([Point(10.0, 0.5, 1.0), Point(seconds, 0.5, 2.0)]) == ["front", stands]


def test_a_database_on_a_place_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    store = RunStore(Path(tmp_path / "file" / "data"))
    with pytest.raises(StudioError, match="a file lies where a folder is needed") as caught:
        store.add(tiny(), "key")
    assert str(tmp_path) not in str(caught.value)
