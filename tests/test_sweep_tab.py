"""The tab Sweep without a browser: axes, the time said first, jobs, kept sweeps. Tiny DiT."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import shutil
import threading
import time
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.sweep import engine
from core.sweep.axes import KINDS, parse_axis
from core.sweep.cells import Base, denoiser_seconds, grid_of, reference_seconds, whole_seconds
from core.sweep.kept import GONE, SweepShelf
from core.sweep.record import FILE
from core.workshop.sample_settings import SampleSettings
from mosaic_ui import background, jobs, tables, visitors
from mosaic_ui.events import NOTHING
from mosaic_ui.runs.record import store
from mosaic_ui.runs.watch import going_on, strip_html
from mosaic_ui.studio import Studio
from mosaic_ui.sweep import board, inputs, run

VISITOR = SimpleNamespace(session_hash="sweeper")
PLAN = StagePlan((93, 550), (0.25, 0.25, 0.5))
AXES = inputs.SweepWish("sparsity.early", "0.25,0.5", "steps", "3,4")


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> SweepShelf:
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path / "data"))
    return SweepShelf()


@pytest.fixture(scope="module")
def studio(workshop):
    return Studio(workshop, PLAN)


def settings(images=2, repeats=0, steps=4) -> list:
    """What Compare's and Sweep's controls send besides the axes and the plan."""
    everything = "All ten classes"
    return [[everything], images, 0, steps, 1.5, "DDIM", repeats, "", "own", True, None, "plain"]


def wish(axes=AXES, plan=PLAN, **other) -> list:
    return [*axes, plan.to_json(), *settings(**other)]


def ahead(studio, *given) -> str:
    return studio.sweep.foresee(*given)[studio.sweep.ahead]


def swept(studio, visitor=VISITOR, **other) -> dict:
    """Run a sweep to its end; return what the page shows last."""
    studio.sweep.ask(*wish(**other), visitor)
    seen: dict = {}
    for views in studio.sweep.run(visitor):
        seen |= views
    return seen


def until_over() -> None:
    deadline = time.monotonic() + 60
    while background.ongoing():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ------------------------------------------------------------ what is asked


@pytest.mark.parametrize("name", list(KINDS))
def test_the_values_that_a_box_begins_with_can_be_run(workshop, name):
    axis = inputs.axis(name, inputs.usual_values(workshop, name))
    base = Base(PLAN, SampleSettings(labels=(0,), steps=8, repeats=0))
    found = grid_of(workshop, base, axis)
    assert len(found.possible) >= min(2, len(axis.values)), [c.why_not for c in found.cells]
    assert inputs.form_of(name)


@pytest.mark.parametrize(
    ("axes", "place", "words"),
    [
        (AXES._replace(x_values=""), "x", "Give the values of sparsity.early"),
        (AXES._replace(x_values=None), "x", "Give the values of sparsity.early"),
        (AXES._replace(x_values="0.2:0.6"), "x", "START:STOP:STEP"),
        (AXES._replace(x_values="9" * 3000), "x", "at most 2000 characters"),
        (AXES._replace(y_values="two"), "y", "steps takes numbers"),
        (AXES._replace(y_name="colour"), "y", "A sweep runs over"),
        (AXES._replace(y_name="target", y_values="0.2"), "y", "set the same thing"),
        (AXES._replace(x_values="0:1:0.001"), "x", "1,001 cells"),
        (AXES._replace(y_values="3:203:1"), "y", "402 cells"),
    ],
)
def test_what_cannot_be_is_one_sentence_at_its_box_and_starts_nothing(studio, axes, place, words):
    tab = studio.sweep
    said = tab.foresee(*wish(axes))
    assert words in said[getattr(tab, f"{place}_said")] and said[tab.ahead] == ""
    assert said[tab.y_said if place == "x" else tab.x_said] == ""
    refused = tab.ask(*wish(axes), VISITOR)
    assert set(refused) == {tab.job} and words in refused[tab.job]
    assert not jobs.visit("sweeper").waits(jobs.SWEEP)


def test_what_is_wrong_with_the_run_is_said_too(studio):
    assert "Images must be" in ahead(studio, *wish(images=0))
    assert "Timing repeats must be" in ahead(studio, *wish(repeats=-1))
    with pytest.raises(gr.Error, match="The plan"):
        studio.sweep.foresee(*AXES, "no plan", *settings())


def test_the_axis_that_is_chosen_fills_its_box_and_none_hides_it(studio):
    tab = studio.sweep
    found = tab.on_x("sharing")[tab.x_values]
    assert parse_axis(f"sharing={found['value']}").values[0] == "uniform" and found["visible"]
    assert tab.on_y("")[tab.y_values]["visible"] is False
    one_row = wish(AXES._replace(y_name="", y_values="nonsense"))
    assert "2 cells." in ahead(studio, *one_row)


def test_cells_and_predicted_time_are_said_before_anything_is_written(
    studio, workshop, shelf, monkeypatch
):
    for halves in (1, 2):
        workshop.measure_latency(2, halves)
    grid = inputs.checked(workshop, AXES, PLAN, inputs.Wish(*settings()))
    seconds = whole_seconds(workshop, grid.cells)
    own = [denoiser_seconds(workshop, cell) for cell in grid.cells]
    drawn = [reference_seconds(workshop, s) for s in {c.reference for c in grid.cells}]
    assert len(drawn) == 2 and seconds == pytest.approx(sum(own) + sum(drawn))
    monkeypatch.setattr(inputs, "whole_seconds", lambda workshop, cells: 100.0 * len(cells))
    said = ahead(studio, *wish())
    assert (
        "4 cells (2 rows of 2 columns)" in said
        and "The denoiser takes about 7 min of it, predicted" in said
    )
    assert "2 images" in said and "nothing is timed" in said and "measured" not in said
    assert not shelf.folder.exists()
    crossing = wish(inputs.SweepWish("boundaries.high", "50,600", "", ""))
    assert "1 of them cannot be" in ahead(studio, *crossing)
    monkeypatch.setattr(inputs, "whole_seconds", lambda workshop, cells: None)
    assert "measures this device&#x27;s speed, once" in ahead(studio, *wish())


# ------------------------------------------------------------ the job


def test_a_sweep_fills_its_grid_and_every_cell_is_a_kept_run(studio, workshop, shelf):
    tab = studio.sweep
    seen = swept(studio)
    assert "Done: 4 of 4 cells" in seen[tab.job] and seen[tab.results]["visible"]
    assert seen[tab.start]["interactive"] and not seen[tab.more]["visible"]
    shown = json.loads(seen[tab.grid])
    assert [c["state"] for c in shown["cells"]] == ["done"] * 4
    assert shown["x"]["labels"] == ["0.25", "0.5"] and shown["y"]["labels"] == ["3", "4"]
    assert shown["cells"][1]["title"] == "sparsity.early 0.5, steps 3"
    known = [key for key, _ in shown["metrics"]]
    assert "psnr" in known and "speedup_measured" not in known  # nothing was timed
    for cell in shown["cells"]:
        kept = store().get(cell["run"])
        assert kept.psnr == cell["values"]["psnr"][0] and kept.timed_runs == 0
    # asked again, all is done and nothing runs
    assert "All that can run are done already" in ahead(studio, *wish())
    again = swept(studio)
    assert json.loads(again[tab.grid])["cells"] == shown["cells"]
    assert len(store().runs()) == 4


def test_a_sweep_outlives_its_page_stops_from_another_and_goes_on(studio, workshop, shelf):
    tab, other = studio.sweep, SimpleNamespace(session_hash="another page")
    tab.ask(*wish(), VISITOR)
    views = tab.run(VISITOR)
    seen: dict = {}
    while '"state": "done"' not in str(seen.get(tab.grid)):
        seen |= next(views)
    assert set(tab.on_look("", "", VISITOR)) == {tab.timer}  # its own page is told by its own job
    views.close()  # the page is reloaded
    jobs.forget("sweeper")
    (found,) = going_on()  # the cell that runs is not a second thing that goes on
    assert found.kind == "sweep" and found.here and "A sweep goes on" in strip_html([found])
    looked = tab.on_look("", "", other)
    assert "progressbar" in looked[tab.job] and looked[tab.stop]["interactive"]
    assert looked[tab.timer].active and not looked[tab.more]["visible"]
    assert json.loads(looked[tab.grid])["cells"][0]["state"] == "done"
    tab.on_stop(other)
    until_over()
    last = tab.on_look(looked[tab.shown], "", other)
    cells = json.loads(last[tab.grid])["cells"]
    done = [c["run"] for c in cells if c["state"] == "done"]
    assert 1 <= len(done) < 4 and {c["state"] for c in cells} == {"done", "waiting"}
    assert f"Stopped: {len(done)} of 4 cells done" in last[tab.job]
    assert last[tab.more]["visible"] and not last[tab.timer].active
    assert tab.on_look(last[tab.shown], "", other)[tab.more]["visible"]  # nothing new to show
    # the same question goes on, whatever the controls ask for by now
    tab.on_more(last[tab.shown], other)
    for shown in tab.run(other):
        seen |= shown
    cells = json.loads(seen[tab.grid])["cells"]
    assert [c["run"] for c in cells if c["run"] in done] == done  # not drawn again
    assert all(c["state"] == "done" for c in cells) and len(store().runs()) == 4


def test_a_withdrawn_sweep_does_nothing(studio, shelf):
    tab = studio.sweep
    said = tab.ask(*wish(), VISITOR)
    assert "Waiting for the model" in said[tab.job] and said[tab.stop]["interactive"]
    assert jobs.WITHDRAWN in tab.on_stop(VISITOR)[tab.job]
    assert list(tab.run(VISITOR)) == [NOTHING] and not shelf.folder.exists()


def test_a_cell_that_fails_is_marked_and_the_others_go_on(studio, shelf, monkeypatch):
    tab, real = studio.sweep, engine.compare

    def breaks(workshop, a, b, *rest, **more):
        if b.sparsity[2] == 0.5:
            raise StudioError("This cell was made to fail.")
        return real(workshop, a, b, *rest, **more)

    monkeypatch.setattr(engine, "compare", breaks)
    seen = swept(studio)
    cells = json.loads(seen[tab.grid])["cells"]
    assert [c["state"] for c in cells] == ["done", "failed"] * 2
    assert cells[1]["sentence"] == "This cell was made to fail." and cells[1]["words"] == "failed"
    assert "Done: 2 of 4 cells, 2 failed" in seen[tab.job] and seen[tab.more]["visible"]
    monkeypatch.setattr(engine, "compare", real)
    tab.on_more(seen[tab.shown], VISITOR)
    for views in tab.run(VISITOR):
        seen |= views
    assert all(c["state"] == "done" for c in json.loads(seen[tab.grid])["cells"])


def test_a_folder_that_cannot_be_written_is_one_sentence(workshop, shelf):
    shelf.folder.parent.mkdir(parents=True, exist_ok=True)
    shelf.folder.write_text("a file where the folder belongs")
    grid = inputs.checked(workshop, AXES, PLAN, inputs.Wish(*settings()))
    *_, last = run.stream(workshop, grid, threading.Event())
    assert "cannot be used" in last["job"] and 'role="alert"' in last["job"] and "kept" not in last


def test_an_uncalibrated_model_is_calibrated_and_timed_first(
    model_folder, small_settings, tmp_path, shelf
):
    from core.models.checkpoints import load_checkpoint
    from core.workshop.workshop import Workshop

    fresh = Workshop(load_checkpoint(model_folder, "auto"), small_settings, tmp_path / "cache")
    axes = inputs.SweepWish("sparsity.early", "0.5", "", "")
    grid = inputs.checked(fresh, axes, PLAN, inputs.Wish(*settings()))
    said = " ".join(inputs.ahead(fresh, inputs.foreseen(fresh, grid)))
    assert "First it calibrates the model and measures this device's speed, once." in said
    texts = [named.get("job", "") for named in run.stream(fresh, grid, threading.Event())]
    assert any("Calibrating first" in text for text in texts)
    assert any("Measuring this device" in text for text in texts)
    assert "Done: 1 of 1 cell" in texts[-1] and fresh.calibrated


# ------------------------------------------------------------ what is kept


@pytest.fixture
def kept(studio, shelf):
    """A sweep of one row, of which one cell cannot be."""
    axes = inputs.SweepWish("boundaries.high", "50,600", "", "")
    shown = swept(studio, axes=axes)
    return shelf.get(json.loads(shown[studio.sweep.grid])["id"])


def test_an_impossible_cell_has_its_sentence_and_the_files_have_every_cell(kept):
    cells = json.loads(board.board(kept))["cells"]
    assert cells[0]["words"] == "cannot be" and "boundar" in cells[0]["sentence"].lower()

    def content(kind):
        found = board.sweep_file([kept.id, kind])
        head, _, code = found["address"].partition(";base64,")
        return head, found["name"], base64.b64decode(code)

    head, name, data = content("csv")
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    assert (head, name) == ("data:text/csv", "mosaic-sweep.csv")
    assert [row["status"] for row in rows] == ["impossible", "done"]
    assert float(rows[1]["psnr_db"]) == cells[1]["values"]["psnr"][0]
    head, name, data = content("png")
    assert name == "mosaic-sweep.png" and Image.open(io.BytesIO(data)).width > 2 * 96
    head, name, data = content("html")
    assert name == "mosaic-sweep.html" and b"Heat map" in data
    for asked in (None, [], [kept.id, "exe"], [kept.id, []], ["../x", "csv"], [None, "csv"]):
        assert set(board.sweep_file(asked)) == {"said"}


def test_pictures_are_those_of_the_sweep_and_no_other_file(kept):
    cell = json.loads(board.board(kept))["cells"][1]
    found = board.sweep_pictures([kept.id, [cell["picture"], cell["dense"], FILE, "../x", 3, []]])
    assert set(found) == {cell["picture"], cell["dense"]}
    code = found[cell["picture"]].partition(",")[2]
    assert base64.b64decode(code) == kept.record.picture(cell["picture"])
    for asked in (None, [kept.id], [kept.id, 5], ["../x", [cell["picture"]]], [[], {}]):
        assert board.sweep_pictures(asked) == {}


def test_reading_a_kept_sweep_writes_nothing_and_what_is_damaged_is_passed_over(
    kept, shelf, workshop
):
    path = shelf.folder_of(kept.id) / FILE
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert shelf.latest(workshop.model_key).record.to_json() == kept.record.to_json()
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert shelf.latest("another model") is None
    plain = json.loads(before[1])
    for broken in ("{", "[]", json.dumps(plain | {"cells": plain["cells"][:1]})):
        path.write_text(broken)
        with pytest.raises(StudioError, match="no such sweep"):
            shelf.get(kept.id)
        assert shelf.latest(workshop.model_key) is None
    for id in ("", "../x", "F" * 16, None):
        with pytest.raises(StudioError, match="no such sweep"):
            shelf.folder_of(id)


def test_a_cell_opens_its_kept_run_and_a_lost_one_says_so(studio, kept):
    tab, shared = studio.sweep, studio.shared
    id = json.loads(board.board(kept))["cells"][1]["run"]
    asked = [PLAN.with_sparsity(0, 0, 0).to_json(), "UniPC", 9]
    found = tab.on_open([id], *asked, VISITOR)
    assert StagePlan.from_json(found[shared.plan]).boundaries == (93, 600)
    assert found[shared.steps] == 4 and found[shared.scheduler] == "DDIM"
    assert found[tab.tabs].selected == "compare"
    assert set(found) <= {*studio.runs.opens, tab.said}
    store().delete([id])
    for ids in ([id], [], ["x"]):
        refused = tab.on_open(ids, *asked, VISITOR)
        assert set(refused) == {tab.said} and 'role="alert"' in refused[tab.said]


def test_going_on_with_what_is_no_sweep_of_this_model_is_one_sentence(studio, kept, shelf):
    tab = studio.sweep
    refused = tab.on_more("0123456789abcdef 1 0", VISITOR)
    assert tables.message(GONE, "bad") == refused[tab.job]
    path = shelf.folder_of(kept.id) / FILE
    plain = json.loads(path.read_text())
    plain["asked"]["model"] = "another"
    path.write_text(json.dumps(plain))
    assert "of another model" in tab.on_more(kept.id, VISITOR)[tab.job]


def test_an_earlier_sweep_is_chosen_shown_and_deleted_and_its_runs_stay(studio, kept, shelf):
    tab, menu = studio.sweep, studio.sweep.shelf
    earlier = "0" * 16
    shutil.copytree(shelf.folder_of(kept.id), shelf.folder_of(earlier))
    os.utime(shelf.folder_of(earlier) / FILE, (0, 0))
    looked = tab.on_look("", "", VISITOR)
    labels, ids = zip(*looked[menu.menu]["choices"], strict=True)
    assert ids == (kept.id, earlier) and looked[menu.menu]["value"] == kept.id
    assert labels[0].startswith("boundaries.high, 1 of 2 cells, 20") and "1970" in labels[1]
    chosen = menu.on_chosen(earlier)
    assert json.loads(chosen[tab.grid])["id"] == earlier and chosen[menu.picked] == earlier
    still = tab.on_look(chosen[tab.shown], earlier, VISITOR)  # a look does not take it back
    assert tab.grid not in still and still[menu.menu]["value"] == earlier
    assert menu.question not in still  # nor a question that was asked meanwhile
    asked = menu.on_delete(earlier)
    assert asked[menu.question]["visible"] and "Its runs stay in Runs." in asked[menu.words]
    assert shelf.folder_of(earlier).exists()  # asked, not done
    left = menu.on_yes(earlier)
    assert json.loads(left[tab.grid])["id"] == kept.id and "Deleted" in left[menu.said]
    assert [path.name for path in shelf.folder.iterdir()] == [kept.id]
    again = menu.on_yes(earlier)  # on another page, say
    assert tables.message(GONE, "bad") == again[menu.said]
    none = menu.on_yes(kept.id)
    assert not none[menu.row]["visible"] and none[tab.empty]["visible"] and none[tab.shown] == ""
    assert not list(shelf.folder.iterdir()) and len(store().runs()) == 1


def test_a_sweep_that_runs_or_cannot_be_deleted_stays_with_one_sentence(
    studio, workshop, kept, shelf
):
    menu = studio.sweep.shelf
    stop = threading.Event()
    views = run.stream(workshop, inputs.grid_again(workshop, kept), stop)
    next(views)  # goes on until it is read
    for refused in (menu.on_delete(kept.id), menu.on_yes(kept.id)):
        assert "This sweep goes on: press Stop first." in refused[menu.said]
    stop.set()
    list(views)
    running = json.loads((shelf.folder_of(kept.id) / FILE).read_text())
    begun = store().begin(
        (None, PLAN),
        ("Dense", "B"),
        SampleSettings((0,)),
        model="tiny",
        model_key="tiny",
        device="CPU",
    )
    running["cells"][1] |= {"state": "running", "run": begun.id}
    (shelf.folder_of(kept.id) / FILE).write_text(json.dumps(running))
    assert "Another program runs this sweep" in menu.on_yes(kept.id)[menu.said]
    store().end(begun.id, "stopped", "")
    (shelf.folder / f".deleted-{kept.id}").write_text("a file where a folder is to be")
    assert "could not be deleted" in menu.on_yes(kept.id)[menu.said]
    assert shelf.get(kept.id).id == kept.id
    for id in ("", "../x", "F" * 16, None):
        assert tables.message(GONE, "bad") == menu.on_yes(id)[menu.said]


def test_the_time_said_first_counts_what_earlier_cells_took_beside_the_denoiser(
    workshop, kept, shelf
):
    workshop.measure_latency(2)
    axes = inputs.SweepWish("steps", "3,5", "", "")
    grid = inputs.checked(workshop, axes, PLAN, inputs.Wish(*settings()))
    record = shelf.get(kept.id).record
    record.change(1, took=50.25, predicted=0.25)
    found = inputs.foreseen(workshop, grid)
    assert found.beside == 50
    said = " ".join(inputs.ahead(workshop, found))
    assert "about 2 min:" in said.lower() and "about 50 s beside it for each cell" in said
    assert "the same noise: DDIM, guidance 1.5, 2 images" in said and "4 steps" not in said
    shelf.delete(kept.id)
    first = " ".join(inputs.ahead(workshop, inputs.foreseen(workshop, grid)))
    assert "come on top, seconds for each cell" in first


def test_on_a_space_sweeps_belong_to_the_visitor(tmp_path):
    from gradio.context import LocalContext

    visitors.separate(tmp_path)
    try:
        folders = []
        for session in ("one", "two"):
            token = LocalContext.request.set(SimpleNamespace(session_hash=session, cookies={}))
            try:
                folders.append(visitors.sweep_shelf().folder)
            finally:
                LocalContext.request.reset(token)
        with pytest.raises(StudioError, match="whose runs"):
            visitors.sweep_shelf()
    finally:
        visitors.together()
    assert len(set(folders)) == 2 and all(f.is_relative_to(tmp_path) for f in folders)


def test_nothing_of_the_tab_is_called_when_the_page_loads(studio):
    called = [
        function.fn.__qualname__
        for function in studio.page.fns.values()
        if function.fn is not None and any(target[1] == "load" for target in function.targets)
    ]
    assert called and not [name for name in called if name.startswith("SweepTab")]
