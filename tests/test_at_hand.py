"""A page asks for files and film strips by the id of a comparison, and gets what it asked for."""

from __future__ import annotations

import base64
import json
import threading
from types import SimpleNamespace

import pytest
from forked import ROOT
from run_cases import tiny

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.runs.program import as_python
from core.runs.recipe import recipe_of_run
from core.runs.store import RunStore
from core.workshop.comparison import Comparison, SampleSettings
from mosaic_ui.compare import at_hand, downloads, figures, viewer
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare import run as compare_run
from mosaic_ui.runs import record
from mosaic_ui.studio import Studio

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55))


@pytest.fixture
def store(tmp_path, monkeypatch) -> RunStore:
    """Give the page an empty store of its own."""
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path / "data"))
    return record.store()


def with_film():
    """A tiny comparison whose sides have two frames each."""
    found = tiny()
    for side in (found.a, found.b):
        side.film, side.film_timesteps = [side.images, -side.images], [900.0, 50.0]
    return found


def content(answer: dict) -> bytes:
    return base64.b64decode(answer["address"].split(",", 1)[1])


def run_of(workshop, **wish):
    settings = SampleSettings(labels=(0, 1), steps=4, repeats=1, **wish)
    request = compare_inputs.Request(settings, (None, PLAN), ("Dense", "Current plan"))
    return compare_run.stream(workshop, request, threading.Event())


def test_every_file_of_a_kept_run_is_the_file_that_a_link_would_carry(workshop, store):
    run = store.add(with_film(), workshop.model_key)
    make_file, _ = at_hand.server_functions(workshop)
    kept = store.comparison(run.id)
    for kind, file in downloads.FILES.items():
        answer = make_file([run.id, kind])
        assert answer["address"].startswith(f"data:{file.mime};base64,")
        judged = workshop.judge is not None
        assert content(answer) == downloads.file_bytes(kept, kind, workshop.class_names, judged)
    assert json.loads(content(make_file([run.id, "facts"])))["n"] == 2


def test_film_strips_are_those_that_a_file_carries(workshop, store):
    run = store.add(with_film(), workshop.model_key)
    _, film_strips = at_hand.server_functions(workshop)
    (pair,) = film_strips([run.id, [1]])["strips"].values()
    carried = viewer.viewer_html(store.comparison(run.id))
    assert carried.count("data-film=") == 4 and all(f'"{strip}"' in carried for strip in pair)
    assert list(film_strips([run.id, [0, 1, 7, -1, True, "0", None]])["strips"]) == ["0", "1"]
    bare = store.add(tiny(), workshop.model_key)  # only one of its sides has frames
    assert film_strips([bare.id, [0]]) == {"strips": {}}


JUNK = [None, "x", 5, {}, [], [1], ["a", "b", "c"], [None, None], [["a"], "page"]]
JUNK += [["../../etc/passwd", "page"], ["..", [0]], ["", [0]], ["\ud800", "page"], ["a" * 65, []]]
JUNK += [["a\x00b", "page"], ["example", "../x"], ["example", {"a": 1}], ["' OR 1=1 --", "page"]]


@pytest.mark.parametrize("junk", JUNK)
def test_what_is_no_question_has_a_sentence_and_opens_nothing(workshop, store, junk):
    for ask in at_hand.server_functions(workshop):
        answer = ask(junk)
        assert set(answer) == {"said"} and "\n" not in answer["said"] and "/" not in answer["said"]


def page_at(name: str = "127.0.0.1", share: bool = False) -> SimpleNamespace:
    """Stand in for a page that is served."""
    return SimpleNamespace(server_name=name, share=share, root_path="")


def test_a_text_to_copy_is_the_recipe_of_the_comparison(workshop, store, model_folder):
    run = store.add(with_film(), workshop.model_key)
    make_text = at_hand.recipe_texts(workshop, page_at())
    recipe = recipe_of_run(run, store.settings(run.id), workshop)
    assert make_text([run.id, "python"]) == {"text": as_python(recipe)}
    assert f"'{model_folder}'" in as_python(recipe)
    # its bins have no equal width
    assert "take the Python program" in make_text([run.id, "command"])["said"]


@pytest.mark.parametrize(
    "page", [page_at("0.0.0.0"), page_at(share=True), page_at(""), SimpleNamespace(share=False)]
)
def test_who_is_elsewhere_reads_no_path_of_the_server(workshop, store, model_folder, page):
    run = store.add(with_film(), workshop.model_key)
    text = at_hand.recipe_texts(workshop, page)([run.id, "python"])["text"]
    assert str(model_folder.parent) not in text
    assert text.startswith("# Put the folder of this model in the place of PATH-OF-tiny-dit.\n")


@pytest.mark.parametrize("junk", [*JUNK, ["example", "page"]])
def test_what_is_no_question_has_no_text(workshop, store, junk):
    answer = at_hand.recipe_texts(workshop, page_at())(junk)
    assert set(answer) == {"said"} and "/" not in answer["said"]


def test_a_deleted_run_says_so_and_comes_back(workshop, store):
    run = store.add(with_film(), workshop.model_key)
    make_file, _ = at_hand.server_functions(workshop)
    store.delete([run.id])
    assert "deleted" in make_file([run.id, "facts"])["said"]
    store.undelete([run.id])
    assert content(make_file([run.id, "facts"]))


def test_the_example_of_a_model_is_at_hand(workshop, monkeypatch):
    with pytest.raises(StudioError):
        at_hand.find(workshop, at_hand.EXAMPLE)  # a model without one
    example = with_film()
    monkeypatch.setattr(type(workshop), "example", lambda self: example)
    live, first = compare_run.opening(workshop)
    assert live == "" and 'data-id="example"' in first["downloads"]
    assert at_hand.find(workshop, at_hand.EXAMPLE) is example
    assert sum(map(len, (first["downloads"], first["viewer"]))) < 20_000


def test_the_page_says_of_an_example_whether_it_is_the_plan_in_hand(workshop, monkeypatch):
    example = with_film()
    monkeypatch.setattr(type(workshop), "example", lambda self: example)
    own = example.b.plan
    page = Studio(workshop, own)
    compare = page.compare
    assert "It is the plan in hand" in compare.result.about.value
    made, plan = compare.result.made.value, own.with_boundaries(200, 550)
    wish = [["thing 0"], 2, 0, 4, 1.5, "DDIM", 0, "", None, False, None, "plain"]
    sides = ["Dense", None, "Current plan", None]
    moved = compare.foresee(*sides, plan.to_json(), *wish, made)[compare.result.about]
    assert "Not the plan in hand" in moved
    # a run or a kept run took its place
    assert compare.foresee(*sides, plan.to_json(), *wish, None)[compare.result.about] == ""


def test_the_example_of_the_colour_model_is_light():
    """What its pictures and downloads add to the page, in characters; once it was nine million."""
    example = Comparison.load(ROOT / "assets" / "character-dit" / "example")
    views = (
        viewer.viewer_html(example, {}, at_hand.EXAMPLE),
        figures.film_html(example),
        downloads.downloads_html(example, at_hand.EXAMPLE),
    )
    assert sum(map(len, views)) < 1_000_000


def test_a_comparison_is_at_hand_while_it_is_timed_and_after_it(workshop, store):
    make_file, _ = at_hand.server_functions(workshop)
    shown = []
    for update in run_of(workshop):
        if "downloads" in update:
            (run,) = store.runs()
            assert f'data-id="{run.id}"' in update["downloads"]
            shown.append((run.status, json.loads(content(make_file([run.id, "facts"])))))
    assert [status for status, _ in shown] == ["running", "finished"]
    assert [facts["speedup_measured"] is None for _, facts in shown] == [True, False]


@pytest.mark.parametrize("fails", ["begin", "finish"])
def test_a_result_that_could_not_be_kept_carries_its_files(workshop, store, monkeypatch, fails):
    def full(*_, **__):
        raise StudioError("This could not be kept (the disk is full): make room.")

    for name in {"begin": ("begin", "add"), "finish": ("finish",)}[fails]:
        monkeypatch.setattr(RunStore, name, full)
    last: dict = {}
    for update in run_of(workshop):
        last |= update
    assert "the disk is full" in last["live"]["value"]
    assert "SampleSettings" in last["downloads"]
    assert last["downloads"].count('href="data:') == 6 and "data-film=" in last["viewer"]
