"""On a public page runs and plans belong to the visitor: nobody else sees or opens them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest
from browser import serve
from gradio.context import LocalContext
from run_cases import tiny

from core.curves.plan import StagePlan
from core.errors import StudioError
from mosaic_ui import background, visitors
from mosaic_ui.compare.at_hand import server_functions
from mosaic_ui.compare.kept_sides import kept_choices
from mosaic_ui.runs import record
from mosaic_ui.runs.tab import files, thumbnails
from mosaic_ui.studio import Studio

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55), name="kept")
ANNA, BEN = "a" * 40, "b" * 40  # what their cookies hold


@pytest.fixture
def apart(tmp_path):
    yield visitors.separate(tmp_path / "visitors")
    visitors.together()


@contextmanager
def asks(cookie: str = "", session: str = "page"):
    """Let a visitor ask, as Gradio does around every handler."""
    cookies = {visitors.COOKIE: cookie} if cookie else {}
    token = LocalContext.request.set(SimpleNamespace(cookies=cookies, session_hash=session))
    try:
        yield
    finally:
        LocalContext.request.reset(token)


def keep_one(workshop) -> str:
    """Keep a run and a plan for who asks; return the run's id."""
    record.store().keep_plan("my plan", PLAN, workshop.model_key, workshop.name)
    return record.store().add(tiny(), workshop.model_key).id


def test_by_default_all_share_one_store(workshop, monkeypatch, tmp_path):
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path))
    assert not visitors.separated() and visitors.visitor() == ""
    assert visitors.data_folder() == tmp_path == record.store().folder
    assert "for everybody who opens this studio" in visitors.intro()


def test_another_visitor_neither_sees_opens_deletes_nor_exports_a_run(workshop, apart):
    studio = Studio(workshop, PLAN)
    runs, own = studio.runs, PLAN.to_json()
    make_file, film_strips = server_functions(workshop)
    with asks(ANNA, "1"):
        id = keep_one(workshop)
        assert id in runs.refresh()[runs.table] and "my plan" in runs.refresh()[runs.shelf.list]
        assert "address" in make_file([id, "facts"]) and id in files(["json", [id]])
        (plan,) = record.store().plans()
    with asks(BEN, "2"):
        shown = runs.refresh()
        assert id not in shown[runs.table] and "my plan" not in shown[runs.shelf.list]
        assert "deleted" in make_file([id, "facts"])["said"]
        assert "strips" not in film_strips([id, [0]])
        assert id not in files(["json", [id]]) and thumbnails([id])[id] == ["", ""]
        request = SimpleNamespace(session_hash="2")
        opened = runs.on_open([id], own, "DDIM", 50, request)
        assert set(opened) == {runs.said} and "no such run" in opened[runs.said]
        assert "gone already" in runs.on_delete([id])[runs.said]
        taken = runs.shelf.on_take(plan.id, own, "DDIM", 50, request)
        assert set(taken) == {runs.shelf.said}
        runs.shelf.on_delete(plan.id)
        assert not any(id in value for _, value in kept_choices(workshop))
    with asks(ANNA, "3"):  # after a reload: another session, the same visitor
        assert record.store().get(id) and record.store().plans() == [plan]


def test_what_goes_on_belongs_to_the_visitor_who_began_it(workshop, apart):
    held = threading.Event()

    def views():  # in a thread, which asks for the store of its visitor
        yield visitors.data_folder()
        held.wait(10)
        yield visitors.data_folder()

    with asks(ANNA):
        own = visitors.data_folder()
        one = background.Ongoing("A against B", workshop.name, id="run-1")
        told = background.followed(one, views, threading.Event())
        assert next(told) == own and background.ongoing() == [one]
    with asks(BEN):
        assert background.ongoing() == [] and not background.stop_ongoing("run-1")
        assert not one.stop.is_set() and visitors.data_folder() != own
        held.set()
        assert list(told) == [own]


def test_without_a_cookie_the_session_counts_and_goes_with_its_page(workshop, apart):
    with asks(session="1"):
        keep_one(workshop)
        folder = visitors.data_folder()
        assert folder.exists()
    with asks(session="2"):
        assert record.store().runs() == [] and visitors.leave()
    with asks(session="1"):
        assert len(record.store().runs()) == 1 and visitors.leave() and not folder.exists()
        assert record.store().runs() == []
    with asks("a", session="1"):  # what is no secret is no cookie
        assert visitors.data_folder() == folder
    with asks(ANNA):
        keep_one(workshop)
        assert not visitors.leave() and len(record.store().runs()) == 1


def test_what_was_not_asked_for_in_the_time_is_gone(workshop, tmp_path):
    apart = visitors.separate(tmp_path / "visitors", keep_seconds=0.05)
    try:
        with asks(ANNA):
            keep_one(workshop)
            folder = visitors.data_folder()
        threading.Event().wait(0.2)
        with asks(BEN):
            other = visitors.data_folder()
        assert not folder.exists() and other.parent == apart.folder == folder.parent
    finally:
        visitors.together()
    assert "3 hours" in visitors.APART


def test_who_cannot_be_told_gets_a_sentence(apart):
    with pytest.raises(StudioError, match="whose runs"):
        record.store()
    assert apart.folder.exists() is False


def test_the_cookie_is_a_secret_that_a_frame_of_another_site_may_keep(apart):
    plain, framed = visitors.new_cookie(False), visitors.new_cookie(True)
    assert "HttpOnly" in plain and "SameSite=Lax" in plain and "Secure" not in plain
    assert "Secure; SameSite=None; Partitioned" in framed and plain[:60] != framed[:60]


def test_over_http_the_id_of_a_run_opens_it_for_its_visitor_alone(workshop, apart):
    with asks(ANNA):
        id = keep_one(workshop)
    with serve(workshop) as url, httpx.Client(base_url=url, timeout=60) as web:
        first = web.get("", headers={"x-forwarded-proto": "https"})
        given = first.headers["set-cookie"]
        assert given.startswith(visitors.COOKIE) and "Partitioned" in given
        again = web.get("", headers={"cookie": f"{visitors.COOKIE}={ANNA}"})
        assert "set-cookie" not in again.headers
        asked = [c for c in web.get("config").json()["components"] if "server_fns" in c["props"]]

        def call(name: str, data, cookie: str = "", session: str = "x"):
            block = next(c["id"] for c in asked if name in c["props"]["server_fns"])
            body = {"data": data, "component_id": block, "fn_name": name, "session_hash": session}
            headers = {"cookie": f"{visitors.COOKIE}={cookie}"} if cookie else {}
            return web.post("gradio_api/component_server/", json=body, headers=headers).json()

        assert "address" in call("make_file", [id, "facts"], ANNA)
        assert "said" in call("make_file", [id, "facts"], BEN)
        assert "said" in call("make_file", [id, "facts"])  # no cookie: the session's own store
        assert id in call("files", ["json", [id]], ANNA)
        assert id not in call("files", ["json", [id]], BEN)
