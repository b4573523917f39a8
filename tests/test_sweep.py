"""Sweeps: axes, cells, the same numbers as `compare`, stops, kills, failing cells. Tiny DiT."""

from __future__ import annotations

import csv
import io
import json
import threading
from dataclasses import replace

import pytest
import torch
from forked import Forked
from PIL import Image

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.runs.store import RunStore
from core.sweep import engine
from core.sweep.axes import MAX_CELLS, Axis, check_axes, parse_axis
from core.sweep.cells import Base, grid_of
from core.sweep.engine import CellDone, Report, Sweep, Swept
from core.sweep.record import numbers_of
from core.workshop import drawing
from core.workshop.compare import compare
from core.workshop.comparison import Comparison
from core.workshop.drawing import draw_reference
from core.workshop.sample_settings import SampleSettings

PLAN = StagePlan((300, 600), (0.25, 0.25, 0.25), name="base")
SETTINGS = SampleSettings(labels=(0, 1), steps=4, seed=3, repeats=1)
BASE = Base(PLAN, SETTINGS)
EARLY = Axis("sparsity.early", (0.25, 0.5))
HIGH = Axis("boundaries.high", (500, 700))


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "data")


def sweep_of(workshop, folder, store, x=EARLY, y=HIGH, base=BASE, **more) -> Sweep:
    return Sweep(workshop, grid_of(workshop, base, x, y), folder, store, **more)


def finish(sweep: Sweep) -> tuple[list[CellDone], Swept]:
    *items, last = sweep.run()
    assert isinstance(last, Swept) and isinstance(items[0], Report)
    return [item for item in items if isinstance(item, CellDone)], last


def states(found: Swept) -> list[str]:
    return [cell["state"] for cell in found.record["cells"]]


# ------------------------------------------------------------ axes


def test_a_range_is_exact_and_has_both_ends():
    assert parse_axis("sparsity.early=0.2:0.6:0.1").values == (0.2, 0.3, 0.4, 0.5, 0.6)
    assert parse_axis("boundaries.high=400:700:100").values == (400, 500, 600, 700)
    assert parse_axis("boundaries.high=700:400:-100").values == (700, 600, 500, 400)
    assert parse_axis("target=0.1:0.35:0.1").values == (0.1, 0.2, 0.3)


def test_a_list_keeps_its_order_and_words():
    assert parse_axis("steps=50,10, 20").values == (50, 10, 20)
    assert parse_axis("scheduler=DDIM,UniPC").values == ("DDIM", "UniPC")
    assert parse_axis("guidance.early=own,1").values == (None, 1.0)
    assert Axis("guidance.late", (None, 3.0)).labels == ["own", "3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour=1,2", "runs over target"),
        ("steps", "name, = and values"),
        ("steps=", "name, = and values"),
        ("steps=1:2", "START:STOP:STEP"),
        ("steps=1:2:3:4", "START:STOP:STEP"),
        ("steps=10:20:0", "never comes"),
        ("steps=20:10:5", "never comes"),
        ("steps=2.5,3", "whole numbers"),
        ("steps=ten", "takes numbers"),
        ("target=nan", "moderate size"),
        ("target=0:1e300:0.1", "moderate size"),
        ("target=0.1,0.1", "twice"),
        ("scheduler=DDIM,Fast", "scheduler is one of"),
        ("sharing=fair", "sharing is one of uniform, log_ramp, lagrangian, dynamic"),
        ("mode=quick", "mode is one of plain, graphs, compiled"),
        ("target=0:1:0.000001", "1,000,001 cells"),
    ],
)
def test_an_axis_that_cannot_be_is_one_sentence(text, said):
    with pytest.raises(StudioError, match=said) as refusal:
        parse_axis(text)
    assert "\n" not in str(refusal.value)


def test_a_million_cells_are_refused():
    with pytest.raises(StudioError, match=r"1,000,000 cells, and 400 are the most"):
        parse_axis("steps=1:1000000:1")
    many = Axis("steps", tuple(range(1, 22)))
    with pytest.raises(StudioError, match="441 cells"):
        check_axes(many, Axis("boundaries.low", tuple(range(1, 22))))
    check_axes(many, Axis("boundaries.low", tuple(range(1, MAX_CELLS // 21))))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (Axis("target", (0.1,)), Axis("sparsity.late", (0.1,))),
        (Axis("boundaries.low", (100,)), Axis("m", (0.5,))),
        (Axis("steps", (4,)), Axis("steps", (5,))),
    ],
)
def test_axes_that_set_the_same_thing_are_refused(x, y):
    with pytest.raises(StudioError, match="set the same thing"):
        check_axes(x, y)


def test_axes_that_set_different_things_are_not(workshop):
    check_axes(Axis("guidance", (2,)), Axis("guidance.early", (1,)))
    check_axes(Axis("target", (0.3,)), Axis("m", (0.5,)))


# ------------------------------------------------------------ cells


def test_every_axis_sets_what_it_names(workshop):
    def only(name, value, y=None):
        (cell,) = grid_of(workshop, BASE, Axis(name, (value,)), y).cells
        assert not cell.why_not
        return cell

    assert only("sparsity.middle", 0.5).plan.sparsity == (0.25, 0.5, 0.25)
    assert only("boundaries.low", 100).plan.boundaries == (100, 600)
    assert only("guidance.late", 1).plan.guidance == (1.0, None, None)
    assert only("sharing", "dynamic").plan.allocation == "dynamic"
    assert only("steps", 7).settings.steps == 7
    assert only("scheduler", "UniPC").settings.scheduler == "UniPC"
    assert only("guidance", 3).settings.guidance == 3
    assert only("mode", "plain").settings == SETTINGS
    by_m = only("m", 0.9).plan
    assert by_m.sparsity == PLAN.sparsity and by_m.boundaries != PLAN.boundaries
    one = only("target", 0.4, Axis("steps", (10,)))
    from core.workshop.compare import visited

    timesteps = visited(workshop, "DDIM", 10)
    assert one.plan.mean_sparsity(timesteps) == pytest.approx(0.4)
    assert only("boundaries.high", 600).plan == PLAN and only("steps", 7).plan.name == "base"
    assert one.plan.name == ""  # it is not the base any more


def test_cells_that_cannot_be_carry_their_sentence(workshop):
    grid = grid_of(
        workshop, BASE, Axis("boundaries.low", (200, 500)), Axis("boundaries.high", (400, 700))
    )
    assert [bool(cell.why_not) for cell in grid.cells] == [False, True, False, False]
    assert "0 < low < high" in grid.cells[1].why_not
    modes = grid_of(workshop, BASE, Axis("mode", ("plain", "graphs")))
    if workshop.device.type == "cpu":
        assert "need CUDA" in modes.cells[1].why_not
    with pytest.raises(StudioError, match=r"No cell of this sweep can run.*0\.95"):
        grid_of(workshop, BASE, Axis("sparsity.late", (2, 3)))


def test_cells_of_equal_dense_pictures_run_one_after_the_other(workshop):
    grid = grid_of(workshop, BASE, Axis("steps", (4, 5)), EARLY)
    assert [cell.index for cell in grid.possible] == [0, 2, 1, 3]


# ------------------------------------------------------------ the numbers


@pytest.mark.parametrize(("n", "repeats"), [(2, 1), (70, 0)])
@pytest.mark.parametrize("scheduler", ["DDIM", "Euler a"])
def test_a_reference_has_the_bits_of_side_a(workshop, n, repeats, scheduler):
    """Stochastic steps and sets that are cut into batches included."""
    from core.curves.scheduler_tables import SCHEDULERS

    if scheduler not in SCHEDULERS:
        scheduler = next(name for name in SCHEDULERS if "ncestral" in SCHEDULERS[name])
    settings = replace(
        SETTINGS, labels=tuple(i % 10 for i in range(n)), repeats=repeats, scheduler=scheduler
    )
    reference = draw_reference(workshop, settings)
    *_, alone = compare(workshop, None, PLAN, settings, previews=False)
    *_, shared = compare(workshop, None, PLAN, settings, previews=False, reference=reference)
    for side in "ab":
        assert torch.equal(getattr(alone, side).latents, getattr(shared, side).latents)
        assert torch.equal(getattr(alone, side).images, getattr(shared, side).images)
    for name in ("psnr", "ssim", "latent_mse", "speedup_macs", "n"):
        assert getattr(alone, name) == getattr(shared, name)
    assert shared.timed_runs == repeats and len(shared.a.run_seconds) == repeats


def test_a_reference_of_other_settings_is_refused(workshop):
    reference = draw_reference(workshop, SETTINGS)
    for plan, settings in (
        (None, replace(SETTINGS, steps=5)),
        (None, replace(SETTINGS, seed=4)),
        (PLAN, SETTINGS),
    ):
        with pytest.raises(StudioError, match="other settings"):
            next(compare(workshop, plan, PLAN, settings, reference=reference))


def test_the_numbers_are_those_of_compare(workshop, tmp_path, store):
    _, last = finish(sweep_of(workshop, tmp_path / "s", store))
    assert states(last) == ["done"] * 4 and not last.stopped
    for cell, kept in zip(
        grid_of(workshop, BASE, EARLY, HIGH).cells, last.record["cells"], strict=True
    ):
        *_, found = compare(workshop, None, cell.plan, cell.settings, previews=False)
        assert isinstance(found, Comparison)
        numbers = kept["numbers"]
        for name in ("psnr", "ssim", "latent_mse", "speedup_macs", "n"):
            assert numbers[name] == getattr(found, name), name
        assert numbers["macs_saved"] == 1 - found.b.macs / found.a.macs
        assert numbers["timed_runs"] == 1 and numbers["speedup_measured"] > 0
        assert kept["plan"] == cell.plan.to_json()
        run = store.get(kept["run"])
        assert run.status == "finished" and numbers_of(run) == numbers
        again = store.comparison(kept["run"])
        assert again.psnr == found.psnr and again.b.plan == cell.plan
        assert store.settings(kept["run"]) == cell.settings


def test_dense_is_drawn_once_per_settings_of_the_run(workshop, tmp_path, store, monkeypatch):
    drawn = []

    def counted(shop, settings, stop=None):
        drawn.append(settings.steps)
        return drawing.draw_reference(shop, settings, stop)

    monkeypatch.setattr(engine, "draw_reference", counted)
    finish(sweep_of(workshop, tmp_path / "s", store, Axis("steps", (4, 3)), EARLY))
    assert drawn == [4, 3]


def test_each_cell_comes_with_its_picture_and_numbers(workshop, tmp_path, store):
    cells, last = finish(sweep_of(workshop, tmp_path / "s", store, y=None))
    assert [one.cell.x for one in cells] == [0.25, 0.5]
    for one in cells:
        picture = Image.open(io.BytesIO(one.picture))
        assert picture.size == (64, 32) and one.record.numbers["n"] == 2
        assert (tmp_path / "s" / one.record.picture).read_bytes() == one.picture
        assert store.thumbnail(one.record.run, "b") == one.picture
    assert cells[0].report.done == 1 and cells[0].report.total == 2
    # what is left follows from the pace of this sweep
    assert cells[0].report.measured and cells[0].report.seconds_left > 0
    assert cells[1].report.seconds_left == 0


def test_the_time_is_said_before_anything_runs(workshop, tmp_path, store):
    workshop.measure_latency(2)
    first = next(iter(sweep_of(workshop, tmp_path / "s", store).run()))
    assert isinstance(first, Report) and first.text == "4 of 4 cells to run"
    assert first.seconds_left > 0 and not first.measured and store.runs() == []


# ------------------------------------------------------------ what is written


def test_table_picture_and_page_hold_every_cell(workshop, tmp_path, store):
    y = Axis("boundaries.low", (100, 650))
    _, last = finish(sweep_of(workshop, tmp_path / "s", store, y=y))
    assert states(last) == ["done", "done", "impossible", "impossible"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s" / "sweep.csv").read_text())))
    assert [(r["sparsity.early"], r["boundaries.low"]) for r in rows] == [
        ("0.25", "100"),
        ("0.5", "100"),
        ("0.25", "650"),
        ("0.5", "650"),
    ]
    assert float(rows[0]["psnr_db"]) == last.record["cells"][0]["numbers"]["psnr"]
    assert rows[0]["run_id"] == last.record["cells"][0]["run"] and rows[0]["speedup_spread"] == ""
    assert rows[2]["status"] == "impossible" and "low < high" in rows[2]["sentence"]
    assert rows[2]["psnr_db"] == ""
    picture = Image.open(tmp_path / "s" / "sweep.png")
    assert picture.width > 2 * 96 and picture.height > 2 * 96
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert page.count("data:image/png;base64,") == 2 + 1  # each cell, and dense once
    assert page.count("position: sticky") == 2 and "http" not in page.replace("http-equiv", "")
    assert page.count('data-cell="0"') == 2 and "cannot be" in page
    assert '<option value="psnr">' in page and '<option value="fid">' not in page
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["cells"] == last.record["cells"]


def test_sentences_do_not_become_markup(workshop, tmp_path, store, monkeypatch):
    def broken(*args, **more):
        raise StudioError("</script><b>=1+1")
        yield

    monkeypatch.setattr(engine, "compare", broken)
    finish(sweep_of(workshop, tmp_path / "s", store, y=None))
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert "<b>" not in page and "&lt;b&gt;" in page and page.count("</script>") == 2


# ------------------------------------------------------------ failing, stopping, going on


def test_a_cell_that_fails_is_marked_and_the_others_go_on(workshop, tmp_path, store, monkeypatch):
    def sometimes(shop, a, plan, settings, *args, **more):
        if plan.boundaries == (300, 500) and plan.sparsity[2] == 0.5:
            raise StudioError("This one fails.")
        if plan.boundaries == (300, 700) and plan.sparsity[2] == 0.25:
            raise ValueError("nobody foresaw")
        yield from compare(shop, a, plan, settings, *args, **more)

    monkeypatch.setattr(engine, "compare", sometimes)
    cells, last = finish(sweep_of(workshop, tmp_path / "s", store))
    assert states(last) == ["done", "failed", "failed", "done"] and not last.stopped
    assert last.record["cells"][1]["sentence"] == "This one fails."
    assert "ValueError: nobody foresaw" in last.record["cells"][2]["sentence"]
    assert cells[1].picture is None and "failed" in cells[1].report.text
    assert sorted(run.status for run in store.runs()) == ["failed"] * 2 + ["finished"] * 2
    # asked for again, what failed is tried again, and nothing else
    monkeypatch.setattr(engine, "compare", compare)
    cells, last = finish(sweep_of(workshop, tmp_path / "s", store))
    assert [one.cell.index for one in cells] == [1, 2] and states(last) == ["done"] * 4


def test_a_dense_side_that_fails_fails_its_cells_once(workshop, tmp_path, store, monkeypatch):
    tried = []

    def broken(shop, settings, stop=None):
        tried.append(settings.steps)
        if settings.steps == 4:
            raise StudioError("Dense: NaN.")
        return drawing.draw_reference(shop, settings, stop)

    monkeypatch.setattr(engine, "draw_reference", broken)
    _, last = finish(sweep_of(workshop, tmp_path / "s", store, Axis("steps", (4, 3)), EARLY))
    assert states(last) == ["failed", "done"] * 2 and tried == [4, 3]


def test_stop_keeps_what_is_done_and_the_same_sweep_goes_on(workshop, tmp_path, store):
    stop, seen = threading.Event(), []
    for item in sweep_of(workshop, tmp_path / "s", store, stop=stop).run():
        if isinstance(item, CellDone):
            seen.append(item)
        # in the middle of the second cell
        if len(seen) == 1 and isinstance(item, Report) and item.inside and item.inside.drawing:
            stop.set()
    assert isinstance(item, Swept) and item.stopped
    assert states(item) == ["done"] + ["waiting"] * 3
    (kept,) = store.runs()
    assert kept.id == seen[0].record.run and (tmp_path / "s" / "sweep.html").exists()
    cells, last = finish(sweep_of(workshop, tmp_path / "s", store))
    assert [one.cell.index for one in cells] == [1, 2, 3] and states(last) == ["done"] * 4
    assert last.record["cells"][0] == item.record["cells"][0] and len(store.runs()) == 4
    cells, last = finish(sweep_of(workshop, tmp_path / "s", store))
    assert cells == [] and states(last) == ["done"] * 4


def test_a_page_that_goes_away_leaves_a_cell_to_run_again(workshop, tmp_path, store):
    job = sweep_of(workshop, tmp_path / "s", store).run()
    for item in job:
        if isinstance(item, Report) and item.inside:
            break
    job.close()
    assert store.runs() == []
    _, last = finish(sweep_of(workshop, tmp_path / "s", store))
    assert states(last) == ["done"] * 4


def test_after_the_seconds_no_new_cell_begins(workshop, tmp_path, store):
    cells, last = finish(sweep_of(workshop, tmp_path / "s", store, seconds=1e-9))
    assert cells == [] and last.stopped and states(last) == ["waiting"] * 4


@pytest.mark.parametrize(
    ("x", "base", "said"),
    [
        (Axis("sparsity.early", (0.25, 0.75)), BASE, "another x axis"),
        (EARLY, Base(PLAN, replace(SETTINGS, seed=9)), "another run settings"),
        (EARLY, Base(replace(PLAN, boundaries=(200, 600)), SETTINGS), "another base plan"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(workshop, tmp_path, store, x, base, said):
    sweep_of(workshop, tmp_path / "s", store)
    with pytest.raises(StudioError, match=said):
        sweep_of(workshop, tmp_path / "s", store, x=x, base=base)


def test_folders_that_cannot_be_used_are_one_sentence(workshop, tmp_path, store):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    with pytest.raises(StudioError, match="holds other files"):
        sweep_of(workshop, tmp_path / "other", store)
    sweep_of(workshop, tmp_path / "s", store)
    for text in ("{", "[]", '{"asked": 3}', '{"asked": {}, "cells": 3}'):
        (tmp_path / "s" / "sweep.json").write_text(text)
        with pytest.raises(StudioError):
            sweep_of(workshop, tmp_path / "s", store)
        assert (tmp_path / "s" / "sweep.json").read_text() == text  # left as it is


# ------------------------------------------------------------ kills

CHILD = """
import sys, threading
from pathlib import Path
import torch
from core.calibration.settings import CalibrationSettings
from core.models.checkpoints import load_checkpoint
from core.runs.store import RunStore
from core.sweep import engine
from core.sweep.cells import grid_of
from core.workshop.workshop import Workshop
from test_sweep import BASE, EARLY, HIGH

model, cache, out, data, where = sys.argv[1:]
settings = CalibrationSettings(edges=(0, 100, 300, 600, 1000), images=32, held_out=16)
shop = Workshop(load_checkpoint(model, "cpu", dtype=torch.float32), settings, cache)
store = RunStore(Path(data))
job = engine.Sweep(shop, grid_of(shop, BASE, EARLY, HIGH), Path(out), store)

def wait():
    print("here", flush=True)
    threading.Event().wait()

if where == "kept":  # the second run is kept, and the record does not say so yet
    kept, seen = job._kept, []
    def hold(index, *rest):
        if index == 1:
            wait()
        return kept(index, *rest)
    job._kept = hold
for item in job.run():
    inside = getattr(item, "inside", None)
    if where == "drawing" and inside and inside.drawing and job.record.count("done") == 1:
        wait()
"""


@pytest.mark.parametrize(("where", "left"), [("drawing", [1, 2, 3]), ("kept", [2, 3])])
def test_a_kill_loses_no_cell_and_nothing_is_drawn_twice(
    model_folder, workshop, tmp_path, where, left
):
    if workshop.device.type != "cpu":
        pytest.skip("the child runs on the CPU")
    out, data = tmp_path / "s", tmp_path / "data"
    other = Forked(CHILD, model_folder, workshop.cache, out, data, where)
    try:
        said = other.stdout.readline()
        # while that process lives, nobody else runs its sweep
        if said and where == "drawing":
            with pytest.raises(StudioError, match="Another process runs the sweep"):
                sweep_of(workshop, out, RunStore(data))
    finally:
        other.kill()
        errors = other.communicate()[1]
    assert said == "here\n", errors
    whole = json.loads((out / "sweep.json").read_text())
    assert [c["state"] for c in whole["cells"]] == ["done", "running", "waiting", "waiting"]
    store = RunStore(data)
    cells, last = finish(sweep_of(workshop, out, store))
    assert [one.cell.index for one in cells] == left and states(last) == ["done"] * 4
    assert last.record["cells"][0] == whole["cells"][0]
    if where == "kept":
        assert last.record["cells"][1]["run"] == whole["cells"][1]["run"]
    finished = [run.id for run in store.runs() if run.status == "finished"]
    assert sorted(finished) == sorted(cell["run"] for cell in last.record["cells"])
