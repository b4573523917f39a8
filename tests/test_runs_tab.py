"""Every comparison is kept, and the Runs tab does with the kept ones what it says."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
from hostile import harmless
from run_cases import BEGUN, tiny

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.runs.run import Run
from core.runs.store import RunStore
from core.workshop.compare import compare
from core.workshop.comparison import SampleSettings
from mosaic_ui import background, jobs
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare import run as compare_run
from mosaic_ui.prune.views import download_link
from mosaic_ui.runs import chosen, record
from mosaic_ui.runs.tab import files, thumbnails
from mosaic_ui.runs.table import columns, plan_rows, rows_html
from mosaic_ui.runs.watch import going_on, strip_html
from mosaic_ui.studio import Studio

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55))
OTHER = StagePlan((100, 400), (0.2, 0.1, 0.3))
VISITOR = SimpleNamespace(session_hash="runs")
WAIT = 60.0  # seconds


@pytest.fixture
def store(tmp_path, monkeypatch) -> RunStore:
    """Give the page an empty store of its own."""
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path / "data"))
    return record.store()


def asked(n: int = 2, steps: int = 4, plan: StagePlan = PLAN) -> compare_inputs.Request:
    settings = SampleSettings(labels=(0,) * n, steps=steps, repeats=1)
    return compare_inputs.Request(settings, (None, plan), ("Dense", "Current plan"))


def until(true, seconds: float = WAIT) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# ------------------------------------------------------------ every comparison is kept


def test_a_comparison_is_kept_while_it_runs_and_when_it_ends(workshop, store):
    states = []
    for _ in compare_run.stream(workshop, asked(), threading.Event()):
        states += [run.status for run in store.runs()]
    (run,) = store.runs()
    assert states[0] == "running" and run.status == "finished"
    assert (run.a.name, run.b.name, run.model_key) == ("Dense", "Current plan", workshop.model_key)
    assert run.b.plan == PLAN and store.comparison(run.id).timed_runs == 1


def test_a_stopped_and_a_failed_comparison_are_kept_with_their_sentence(workshop, store):
    stop = threading.Event()
    for view in compare_run.stream(workshop, asked(steps=500), stop):
        if "<img" in str(view.get("live")):
            stop.set()
    impossible = StagePlan((93, 550), (0.9,) * 3, allocation="lagrangian", protect=1.0)
    list(compare_run.stream(workshop, asked(plan=impossible), threading.Event()))
    failed, stopped = store.runs()
    assert stopped.status == "stopped" and "Stopped at step" in stopped.sentence
    assert failed.status == "failed" and "can lose at most" in failed.sentence


def test_progress_is_written_down_at_most_once_a_second(workshop, store, monkeypatch):
    beats = []
    monkeypatch.setattr(RunStore, "beat", lambda self, *told: beats.append(told))
    kept = record.Record(workshop, asked())
    kept.begin()
    for share in (0.1, 0.2, 0.3):
        kept.beat(share, "step")
    assert beats == [(kept.id, 100, 1000, "step")]


def test_a_full_disk_is_one_sentence_and_the_result_stays(workshop, store, monkeypatch):
    def full(*_, **__):
        raise StudioError("This could not be kept (the disk is full): make room.")

    for name in ("begin", "beat", "finish", "add", "end"):
        monkeypatch.setattr(RunStore, name, full)
    last: dict = {}
    for update in compare_run.stream(workshop, asked(), threading.Event()):
        last |= update
    assert "Current plan" in last["verdict"] and last["results"]["visible"]
    assert last["live"]["visible"] and "the disk is full" in last["live"]["value"]
    assert "is not among the kept runs" in last["live"]["value"]


def test_a_run_goes_on_when_its_page_leaves_and_any_page_can_stop_it(workshop, store):
    jobs.visit("reader")
    with jobs.visit("reader").stoppable(jobs.COMPARISON) as stop:
        views = compare_run.stream(workshop, asked(n=4, steps=400), stop)
        next(views)
        next(views)
        jobs.forget("reader")
        assert not stop.is_set()
        views.close()
    (run,) = store.running()
    (one,) = background.ongoing()
    (found,) = going_on()
    assert (
        found.here and found.id == run.id and f'="{100 * found.share:.0f}"' in strip_html([found])
    )
    assert one.id == run.id and not one.stop.is_set() and one.title == "Dense against Current plan"
    before = one.done
    until(lambda: one.done > before)
    waiting = jobs.run_job(lambda progress: "done")
    assert next(waiting).text == "Waiting for a comparison that goes on"
    stop = threading.Event()
    withdrawn = jobs.run_job(lambda progress: "never", stop)
    assert next(withdrawn).text == "Waiting for a comparison that goes on"
    stop.set()
    with pytest.raises(jobs.Withdrawn):
        next(withdrawn)
    assert background.stop_ongoing(run.id) and not background.stop_ongoing(run.id)
    assert list(waiting)[-1] == "done"
    until(lambda: store.get(run.id).status != "running")
    assert store.get(run.id).status == "stopped" and not background.ongoing()


def test_a_run_whose_page_has_left_ends_and_is_kept(workshop, store):
    views = compare_run.stream(workshop, asked(), threading.Event())
    next(views)
    views.close()
    until(lambda: [run.status for run in store.runs()] == ["finished"])
    until(lambda: not background.ongoing())


# ------------------------------------------------------------ the table


HOSTILE_NAME = "<script>alert('x')</script> & \"quotes\" ' onload="


@pytest.fixture
def studio(workshop, store):
    return Studio(workshop, PLAN)


def kept(store, workshop, **changes):
    """Keep a tiny comparison of the page's own model."""
    return store.add(tiny(**changes), workshop.model_key)


def test_the_table_has_one_row_per_run_and_none_when_empty(workshop, store):
    assert rows_html(store.runs()) == ""
    for name in ("one", "two"):
        kept(store, workshop, name=name)
    begun = store.begin((None, PLAN), ("Dense", "B"), tiny().settings, **BEGUN)
    rows = rows_html(store.runs())
    assert rows.count("<tr ") == rows.count("</tr>") == 3
    assert f'data-id="{begun.id}"' in rows and "running" in rows
    assert rows.count(" data-pictures") == 2 and "×2.00" in rows and "27.5 dB" in rows


def test_a_row_shows_the_steps_of_each_side(workshop, store):
    def shown(calls_a: int, calls_b: int, scheduler: str = "DDIM") -> str:
        run = kept(store, workshop)
        run = replace(run, steps=50, scheduler=scheduler)
        sides = (replace(s, calls=n) for s, n in ((run.a, calls_a), (run.b, calls_b)))
        a, b = sides
        (column,) = (c for c in columns() if c.title == "Steps")
        return column.cell(replace(run, a=a, b=b))

    assert shown(50, 50) == "50" and shown(42, 42) == "42"
    assert shown(50, 42) == "A 50<small>B 42</small>"
    assert shown(99, 99, "Heun") == "50"
    assert shown(99, 83, "Heun") == "50<small>calls: A 99, B 83</small>"


def test_a_speed_up_timed_once_is_marked_and_not_bold_and_a_name_is_whole(workshop, store):
    run = store.add(tiny(), workshop.model_key, name=("early 0.2, steps 5 " * 5).strip())
    cell = next(column.cell for column in columns() if column.title == "Speed-up")
    once = cell(replace(run, speedup=9.72, speedup_spread=None, timed_runs=1))
    assert once == "×9.72<small>1 round</small>"
    assert cell(replace(run, speedup=1.37, speedup_spread=0.07)).startswith("<b>×1.37")
    row = rows_html([run])
    assert f'<b title="{run.name}">{run.name}</b>' in row and "fewer" in row


def test_every_text_of_a_user_is_escaped(workshop, store):
    run = kept(store, workshop, name=HOSTILE_NAME[:40])
    store.rename(run.id, HOSTILE_NAME)
    store.annotate(run.id, HOSTILE_NAME)
    plan = store.keep_plan(HOSTILE_NAME, PLAN, "key", HOSTILE_NAME)
    runs = store.runs()
    for page in (
        rows_html(runs),
        chosen.differences_html([runs[0], replace(runs[0], id="other", seed=3)]),
        chosen.pictures_html(runs, store.thumbnail),
        chosen.front_words(runs, "PSNR"),
        plan_rows([plan], lambda kept: kept.name),
    ):
        assert harmless(page) and "<script" not in page
    figure = chosen.front_figure(runs, "PSNR")
    assert "<script" not in json.dumps(figure)


def test_thumbnails_and_files_answer_any_question(workshop, store):
    run = kept(store, workshop)
    (pair,) = thumbnails([run.id, "../x", 5, None]).values()
    assert all(address.startswith("data:image/png;base64,") for address in pair)
    for junk in (None, "x", {"a": 1}, [[1]], 3.5):
        assert thumbnails(junk) == {} and isinstance(files(junk), str)
    assert files(["csv", [run.id]]).count("\n") == 2 and files(["csv", []]).count("\n") == 1
    assert "exported as" in files(["pdf", [run.id]])
    assert files(["markdown", [run.id]]).startswith("| ")


def test_two_ticked_runs_show_only_what_differs_and_the_front(workshop, store, studio):
    kept(store, workshop)
    kept(store, workshop, settings=replace(tiny().settings, seed=8), psnr=20.0)
    ids = [run.id for run in store.runs()]
    tab = studio.runs
    none, one, two = (tab.on_tick(ticked, "PSNR") for ticked in ([], ids[:1], ids))
    assert not none[tab.open]["interactive"] and not none[tab.delete]["interactive"]
    assert one[tab.open]["interactive"] and one[tab.words]["visible"] and tab.differ not in one
    assert two[tab.several]["visible"] and not two[tab.open]["interactive"]
    assert "seed" in two[tab.differ] and "solver" not in two[tab.differ]
    assert two[tab.pictures].count("<img") == 4
    figure = json.loads(two[tab.front]["figure"])
    assert figure["data"][0]["customdata"] == [ids[1]] and figure["data"][0]["y"] == [27.5]
    assert figure["data"][1]["customdata"] == [ids[0]]
    assert f'data-show-run="{ids[1]}"' in two[tab.front_words]
    assert "FID needs 200" in tab.on_tick(ids, "FID")[tab.front_words]
    with pytest.raises(gr.Error):
        tab.on_tick("all", "PSNR")


def ran(store, workshop, seconds: float, spread: float, psnr: float) -> Run:
    """Return a run whose B took so many seconds for its two images, in three timed rounds."""
    run = kept(store, workshop, psnr=psnr)
    return replace(run, b=replace(run.b, seconds=seconds, seconds_spread=spread))


def test_a_difference_below_the_spread_is_neither_drawn_large_nor_decided(workshop, store):
    near = ran(store, workshop, 1.0, 0.05, 29.2)
    runs = [near, ran(store, workshop, 1.001, 0.05, 29.1)]  # 0.5 ms per image apart
    figure = chosen.front_figure(runs, "PSNR")
    assert [trace["name"] for trace in figure["data"]] == [
        "nobody beats these",
        "within the spread",
    ]
    assert figure["data"][0]["error_x"]["array"] == [pytest.approx(25.0)]
    low, high = figure["layout"]["xaxis"]["range"]
    assert high - low >= 8 * 25 and low < 475 and high > 525
    low, high = figure["layout"]["yaxis"]["range"]
    assert high - low >= 2
    assert "1 of 2 within the spread" in chosen.front_words(runs, "PSNR")
    slower = [near, ran(store, workshop, 1.3, 0.05, 29.1)]
    assert chosen.front_figure(slower, "PSNR")["data"][1]["name"] == "beaten in both"
    assert "within the spread" not in chosen.front_words(slower, "PSNR")


def test_fewer_dense_steps_that_stay_nearer_say_what_distance_means(workshop, store):
    pruned = ran(store, workshop, 1.0, 0.05, 29.2)
    copy = ran(store, workshop, 1.04, 0.05, 55.8)
    copy = replace(copy, b=replace(copy.b, name="Dense, 1 step", plan_json=None, calls=1))
    said = chosen.front_words([pruned, copy], "PSNR")
    assert "“Dense, 1 step” takes no more time than" in said
    assert "pictures, 55.8 against 29.2 dB. Distance says who copies" in said
    slower = replace(copy, b=replace(copy.b, seconds=1.4))
    for other in (slower, replace(copy, seed=8), replace(copy, psnr=20.0)):
        assert "Distance says" not in chosen.front_words([pruned, other], "PSNR")


def test_one_timed_run_has_no_bar_and_decides_from_ten_per_cent_on(workshop, store):
    runs = [ran(store, workshop, 1.0, None, 30.0), ran(store, workshop, 1.09, None, 29.0)]
    assert chosen.standing(runs, "PSNR") == ["front", "within"]
    assert chosen.front_figure(runs, "PSNR")["data"][0]["error_x"]["array"] == [None]
    assert "One timed run has no spread" in chosen.front_words(runs, "PSNR")
    runs[1] = ran(store, workshop, 1.2, None, 29.0)
    assert chosen.standing(runs, "PSNR") == ["front", "beaten"]


def test_a_name_is_kept_or_refused_in_a_sentence(workshop, store, studio):
    run, tab = kept(store, workshop), studio.runs
    found = tab.on_save([run.id], "for the talk", "a note")
    assert "for the talk" in found[tab.table] and store.get(run.id).notes == "a note"
    found = tab.on_save([run.id], "x" * 10_000, "")
    assert set(found) == {tab.said} and "may have 200 characters" in found[tab.said]
    assert "Tick one run" in tab.on_save([], "x", "")[tab.said]
    store.delete([run.id])
    assert "deleted" in tab.on_save([run.id], "x", "")[tab.said]


def test_deleted_runs_come_back_and_two_browsers_may_delete_the_same(workshop, store, studio):
    run, tab = kept(store, workshop), studio.runs
    first, second = (tab.on_delete([run.id]) for _ in range(2))
    assert first[tab.gone] == [run.id] and first[tab.undelete]["visible"]
    assert first[tab.table] == "" and "gone already" in second[tab.said]
    back = tab.on_undelete(first[tab.gone])
    assert run.id in back[tab.table] and not back[tab.undelete]["visible"]


def test_a_run_opens_in_the_studio_with_plan_sampler_and_result(workshop, store, studio):
    shared, tab = studio.shared, studio.runs
    settings = SampleSettings(labels=(0, 1), steps=6, repeats=1, scheduler="Euler")
    run = store.add([*compare(workshop, None, OTHER, settings)][-1], workshop.model_key)
    found = tab.on_open([run.id], PLAN.to_json(), "DDIM", 50, VISITOR)
    assert StagePlan.from_json(found[shared.plan]).sparsity == OTHER.sparsity
    assert (found[shared.scheduler], found[shared.steps]) == ("Euler", 6)
    verdict = found[studio.compare.result.verdict]
    assert "A kept run" in verdict and found[tab.tabs].selected == "compare"
    foreign = store.add(tiny(), "another model")
    for ids, words in (([foreign.id], "choose that model"), ([], "Tick one"), (["x"], "deleted")):
        refused = tab.on_open(ids, PLAN.to_json(), "DDIM", 50, VISITOR)
        assert set(refused) == {tab.said} and words in refused[tab.said]


# ------------------------------------------------------------ kept plans


def test_a_plan_is_kept_beside_its_file_and_taken_in_hand_from_the_shelf(store, studio):
    keep, shelf, shared = studio.prune.keep, studio.runs.shelf, studio.shared
    said = keep.on_keep("for the talk", OTHER.to_json())[keep.said]
    assert "for the talk" in said and "4 Runs" in said
    (plan,) = store.plans()
    assert 'type="radio"' in studio.runs.refresh()[shelf.list]
    found = shelf.on_take(plan.id, PLAN.to_json(), "DDIM", 50, VISITOR)
    taken = StagePlan.from_json(found[shared.plan])
    assert (taken.boundaries, taken.sparsity, taken.name) == (
        (100, 400),
        (0.2, 0.1, 0.3),
        plan.name,
    )
    assert shared.edited in found


def test_a_kept_plan_is_renamed_deleted_and_had_back(store, studio):
    shelf = studio.runs.shelf
    shelf.on_keep("one", OTHER.to_json())
    (plan,) = store.plans()
    assert "two" in shelf.on_rename(plan.id, "two")[shelf.list]
    gone = shelf.on_delete(plan.id)
    assert not store.plans() and gone[shelf.gone] == plan.id
    assert "was deleted" in shelf.on_delete(plan.id)[shelf.said]
    shelf.on_undelete(plan.id)
    assert [kept.name for kept in store.plans()] == ["two"]


@pytest.mark.parametrize("name, words", [("x" * 201, "200 characters"), ("\ud800", "Unicode")])
def test_a_name_that_cannot_be_is_refused_in_a_sentence(store, studio, name, words):
    keep = studio.prune.keep
    assert words in keep.on_keep(name, OTHER.to_json())[keep.said] and not store.plans()


def test_what_needs_a_kept_plan_is_switched_off_without_one_and_says_why(store, studio):
    shelf = studio.runs.shelf
    buttons = [shelf.take, shelf.rename, shelf.delete]
    assert all(not b.interactive and "(no plan is kept)" in b.value for b in buttons)
    shelf.on_keep("one", OTHER.to_json())
    (plan,) = store.plans()
    kept, gone = studio.runs.refresh(), shelf.on_delete(plan.id)
    for button in buttons:
        assert kept[button]["interactive"] and "no plan" not in kept[button]["value"]
        assert not gone[button]["interactive"] and "no plan" in gone[button]["value"]


def test_a_plan_that_this_model_cannot_use_stays_on_the_shelf(store, studio):
    shelf = studio.runs.shelf
    other = StagePlan((9, 55), (0.5, 0.5, 0.5), num_train_timesteps=100)
    kept_plan = store.keep_plan("small", other, "key")
    found = shelf.on_take(kept_plan.id, PLAN.to_json(), "DDIM", 50, VISITOR)
    assert set(found) == {shelf.said} and "The plan in hand stays" in found[shelf.said]
    for chosen_plan in ("", "nothing"):
        assert set(shelf.on_take(chosen_plan, PLAN.to_json(), "DDIM", 50, VISITOR)) == {shelf.said}


def test_a_plan_file_keeps_its_name_and_is_called_after_it(studio):
    named = replace(OTHER, name="For the talk <1>")
    found = studio.prune.on_upload(named.dumps().encode(), "DDIM", 50)
    assert StagePlan.from_json(found[studio.shared.plan]).name == named.name
    assert found[studio.prune.keep.title] == named.name
    assert 'download="For-the-talk-1.json"' in download_link(named)
    assert 'download="plan-100-400-20-10-30.json"' in download_link(OTHER)


# ------------------------------------------------------------ what goes on is found again


def test_a_page_that_opens_finds_the_run_and_looks_only_while_one_goes_on(store, studio):
    watch = studio.watch
    assert watch.on_look([], 99, VISITOR)[watch.timer].active is False
    begun = store.begin((None, PLAN), ("Dense", "mine"), tiny().settings, **BEGUN)
    store.beat(begun.id, 370, 1000, "step 3 of 9 <b>")
    found = watch.on_look([], 0, VISITOR)
    assert found[watch.timer].active and found[watch.ids] == [begun.id]
    strip = found[watch.strip]
    assert 'aria-valuenow="37"' in strip and "&lt;b&gt;" in strip and "another program" in strip
    assert not found[watch.stop]["visible"] and begun.id in found[watch.table]
    store.finish(begun.id, tiny())
    ended = watch.on_look([begun.id], 0, VISITOR)
    assert "The comparison has ended" in ended[watch.strip] and "finished" in ended[watch.table]
    idle, looks = ended[watch.idle], 0
    while watch.timer not in (last := watch.on_look([], idle, VISITOR)):
        idle, looks = last[watch.idle], looks + 1
    assert last[watch.row]["visible"] is False and last[watch.timer].active is False
    assert 15 < looks < 30  # the line can be read, and does not stand for good


def test_a_store_that_cannot_be_read_stops_no_page(workshop, tmp_path, monkeypatch):
    (tmp_path / "runs.sqlite").write_text("no database at all, but some text of one")
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path))
    studio = Studio(workshop, PLAN)
    assert studio.watch.on_look([], 99, VISITOR)[studio.watch.timer].active is False
    with pytest.raises(gr.Error, match="runs.sqlite"):
        studio.runs.refresh()
    last: dict = {}
    for update in compare_run.stream(workshop, asked(), threading.Event()):
        last |= update
    assert last["results"]["visible"] and "not among the kept runs" in last["live"]["value"]
