"""What the studio remembers, as a visitor meets it: undo, links, drafts, kept runs and plans."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
from browser import SLOW, back_to_suggestion, boundaries, drag, leave, serve, settled, visitor
from conftest import quiet_visitor
from front_cases import ROWS
from playwright.sync_api import Page, expect
from run_cases import tiny

from core.curves.plan import StagePlan
from core.tuner.front_rows import FILE
from mosaic_ui import lent
from mosaic_ui.front_view import TITLE
from mosaic_ui.runs import record

OTHER = StagePlan((200, 700), (0.3, 0.1, 0.4), name="the other")


@pytest.fixture(scope="module")
def studio(workshop, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAIC_DATA", str(tmp_path_factory.mktemp("runs") / "data"))
        front = Path(workshop.checkpoint.folder) / FILE
        front.write_text(json.dumps(ROWS))
        try:
            with serve(workshop) as url:
                yield url
        finally:
            front.unlink()


@pytest.fixture
def page(browser, studio):
    """Open the page for a fresh visitor; the console stays clean but for what a reload breaks."""
    opened, watch = visitor(browser, studio)
    opened.wait_for_url("**tab=explore**")
    yield opened
    leave(opened)
    assert watch.hosts <= {"127.0.0.1"}
    assert watch.complaints() == []


def chosen_tab(page: Page):
    return page.locator("#studio-tabs [role=tab][aria-selected=true]").first


def open_runs(page: Page) -> None:
    page.get_by_role("tab", name="4 Runs").click()
    expect(page.locator("#runs-table")).to_be_visible()


def moved(page: Page, which: int, by: int) -> list[int]:
    drag(page, f"Stage boundary {which}", by)
    now = settled(page)
    expect(page).to_have_url(re.compile(f"{now[0]}%2C{now[1]}"), timeout=SLOW)
    return now


def stands_at(page: Page, pair: list[int]) -> None:
    words = ",".join(map(str, pair))
    table = page.locator(f'#stage-table table[data-boundaries="{words}"]')
    expect(table).to_be_visible(timeout=SLOW)
    expect(page.get_by_role("slider", name="Stage boundary 1")).to_have_attribute(
        "aria-valuenow", str(pair[0]), timeout=SLOW
    )


def test_one_drag_and_one_series_of_keys_are_one_step_each(page):
    start = boundaries(page)
    dragged = moved(page, 2, 60)
    handle = page.get_by_role("slider", name="Stage boundary 1")
    handle.focus()
    for _ in range(4):
        handle.press("ArrowRight")
    pressed = [start[0] + 4, dragged[1]]
    stands_at(page, pressed)
    expect(page).to_have_url(re.compile(f"{pressed[0]}%2C{pressed[1]}"), timeout=SLOW)
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")  # the first is not answered yet
    stands_at(page, start)
    expect(page.locator("#page-undo")).to_be_disabled(timeout=SLOW)
    page.keyboard.press("Control+Shift+z")
    stands_at(page, dragged)
    page.keyboard.press("Control+y")
    stands_at(page, pressed)
    box = page.get_by_label("Boundary 1 (late | middle)")
    box.click()
    page.keyboard.press("Control+z")  # in a text box the keys belong to the text
    page.wait_for_timeout(800)
    stands_at(page, pressed)
    page.locator("#page-undo").click()
    stands_at(page, dragged)


def test_a_link_restores_plan_sampler_seed_and_tab_in_a_fresh_browser(browser, page):
    now = moved(page, 2, 80)
    page.get_by_label("Sampling steps").first.fill("20")
    page.get_by_label("Sampling steps").first.press("Enter")
    expect(page).to_have_url(re.compile("steps=20"), timeout=SLOW)
    page.get_by_role("tab", name="3 Compare").click()
    page.get_by_label("Seed", exact=True).fill("17")
    expect(page).to_have_url(re.compile("seed=17"), timeout=SLOW)
    page.get_by_role("tab", name="2 Prune").click()
    expect(page).to_have_url(re.compile("tab=prune"))
    link = page.url
    fresh = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    fresh.goto(link)
    expect(chosen_tab(fresh)).to_have_text("2 Prune", timeout=SLOW)
    fresh.get_by_role("tab", name="1 Explore").click()
    stands_at(fresh, now)
    expect(fresh.get_by_label("Sampling steps").first).to_have_value("20")
    expect(fresh.locator("#page-undo")).to_be_disabled()
    moved(fresh, 2, -40)
    expect(fresh).to_have_url(re.compile("seed=17"))
    fresh.get_by_role("tab", name="3 Compare").click()
    expect(fresh.get_by_label("Seed", exact=True)).to_have_value("17")
    fresh.context.close()


def test_an_impossible_link_is_one_sentence_and_the_page_stands(browser, studio):
    fresh = browser.new_context().new_page()
    fresh.goto(f"{studio}?plan=%7B%22boundaries%22%3A5&tab=nowhere&seed=abc")
    expect(fresh.locator("#model-said .note")).to_have_count(2, timeout=SLOW)
    expect(fresh.locator("#model-said")).to_contain_text("The plan in the address was not taken")
    expect(fresh.locator("#model-said")).to_contain_text("The seed in the address was not taken")
    assert boundaries(fresh) == [93, 550]
    fresh.context.close()


def test_the_plan_in_hand_is_there_after_the_address_was_opened_again(page, studio):
    now = moved(page, 1, 50)
    again = page.context.new_page()
    again.goto(studio)  # the bare address: the draft counts
    expect(again.get_by_role("slider", name="Stage boundary 1")).to_be_visible(timeout=SLOW)
    stands_at(again, now)
    again.close()
    page.reload()
    expect(page.get_by_role("slider", name="Stage boundary 1")).to_be_visible(timeout=SLOW)
    stands_at(page, now)


def test_a_comparison_outlives_a_reload_and_is_found_with_its_progress(page, monkeypatch):
    compare, end = lent.compare, threading.Event()

    def slowly(*sides, stop, **settings):  # the page has to be there again before it ends
        for k, item in enumerate(compare(*sides, stop=stop, **settings)):
            yield item
            while k == 5 and not stop.is_set():
                assert not end.wait(0.1)

    monkeypatch.setattr(lent, "compare", slowly)
    page.get_by_role("tab", name="3 Compare").click()
    page.locator("#cmp-start").click()
    expect(page.locator("#cmp-live .cmp-progress")).to_be_visible(timeout=SLOW)
    page.wait_for_function("/^[1-9][0-9]* %/.test(document.title)", timeout=SLOW)
    page.reload()
    expect(page.locator("#ongoing")).to_contain_text("A comparison goes on", timeout=SLOW)
    page.wait_for_function("/ % · MosaicDiff Studio$/.test(document.title)", timeout=SLOW)
    page.locator("#ongoing-stop").click()
    expect(page.locator("#ongoing")).to_contain_text("It is kept in 4 Runs", timeout=SLOW)
    page.wait_for_function("document.title === 'MosaicDiff Studio'", timeout=SLOW)
    open_runs(page)
    expect(page.locator("#runs-table tbody tr").first).to_contain_text("stopped", timeout=SLOW)


# ------------------------------------------------------------ on one page


@pytest.fixture(scope="module")
def shared_page(browser, studio):
    """Open a page for tests that begin with a plan put back, and leave what they do in Runs."""
    with quiet_visitor(browser, studio) as opened:
        opened.wait_for_url("**tab=explore**")
        yield opened


@pytest.fixture
def in_turn(shared_page):
    """Put the plan back on the shared page."""
    back_to_suggestion(shared_page)
    return shared_page


def test_copy_link_copies_what_restores_the_state(in_turn):
    in_turn.context.grant_permissions(["clipboard-read", "clipboard-write"])
    now = moved(in_turn, 1, 30)
    in_turn.locator("#page-copy").click()
    expect(in_turn.locator("#page-copy")).to_have_text("Link copied")
    link = in_turn.evaluate("navigator.clipboard.readText()")
    assert f"{now[0]}%2C{now[1]}" in link and "tab=explore" in link and link.startswith("http")


def test_a_kept_plan_is_taken_in_hand(in_turn, workshop):
    record.store().keep_plan("for the talk", OTHER, workshop.model_key, workshop.name)
    open_runs(in_turn)
    in_turn.get_by_label("for the talk").check()
    in_turn.get_by_role("button", name="Take as the plan in hand").click()
    expect(in_turn.locator("#plans-said")).to_contain_text("is the plan in hand now", timeout=SLOW)
    began = time.monotonic()
    expect(in_turn).to_have_url(re.compile("200%2C700"), timeout=SLOW)
    assert time.monotonic() - began < 5
    in_turn.get_by_role("tab", name="1 Explore").click()
    stands_at(in_turn, [200, 700])


def chosen_side(page: Page, label: str, words: str):
    """Choose what a side runs, and return its picker."""
    page.get_by_role("tab", name="3 Compare").click()
    page.get_by_label(label).click()
    page.get_by_role("option", name=words).click()
    picker = page.locator(".cmp-picker").filter(has=page.get_by_label(label))
    expect(page.get_by_label(label)).to_have_value(words)
    expect(picker).to_contain_text("late", timeout=SLOW)
    return picker


def test_a_plan_that_is_kept_is_a_side_for_all_until_it_is_deleted(browser, in_turn, studio):
    other, watch = visitor(browser, studio)
    in_turn.get_by_role("tab", name="3 Compare").click()  # the list was shown before
    words, mine = "Kept plan: <b>mine</b>", "<b>mine</b>"
    open_runs(in_turn)
    in_turn.get_by_label("Name", exact=True).last.fill(mine)
    in_turn.get_by_role("button", name="Keep the plan in hand").click()
    expect(in_turn.locator("#plans-said")).to_contain_text(mine, timeout=SLOW)
    picker = chosen_side(in_turn, "B runs", words)
    chosen_side(other, "A runs", words)
    open_runs(in_turn)
    in_turn.get_by_label(mine, exact=True).check()
    in_turn.locator("#plan-shelf").get_by_role("button", name="Delete", exact=True).click()
    expect(in_turn.locator("#plans-said")).to_contain_text("Deleted", timeout=SLOW)
    in_turn.get_by_role("tab", name="3 Compare").click()
    expect(picker).to_contain_text("it was deleted: choose another one", timeout=SLOW)
    expect(in_turn.get_by_label("B runs")).to_have_value("Kept plan: deleted")
    other.locator("#cmp-start").click()  # a page that has not heard of it
    expect(other.locator("#cmp-live")).to_contain_text("it was deleted", timeout=SLOW)
    expect(other.get_by_label("A runs")).to_have_value(words)
    leave(other)
    assert watch.errors == []


def test_a_table_of_runs_that_is_cut_says_that_it_scrolls(in_turn, workshop):
    record.store().add(tiny(), workshop.model_key)
    in_turn.set_viewport_size({"width": 390, "height": 844})
    open_runs(in_turn)
    hint, frame = in_turn.locator(".runs-sideways"), in_turn.locator(".runs-frame")
    expect(hint).to_be_visible(timeout=SLOW)
    frame.evaluate("e => e.scrollTo(e.scrollWidth, 0)")
    expect(hint).to_be_hidden(timeout=SLOW)
    assert in_turn.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_front_of_the_model_is_one_click_away(in_turn):
    in_turn.set_viewport_size({"width": 390, "height": 844})
    open_runs(in_turn)
    in_turn.get_by_role("button", name=TITLE).locator("visible=true").click()
    front = in_turn.locator("#runs-model-front")
    expect(front.locator(".point")).to_have_count(len(ROWS) - 1, timeout=SLOW)
    expect(front.locator(".textpoint").filter(has_text=re.compile(r"\d"))).to_have_count(3)
    expect(in_turn.locator("ol li").filter(has_text="GMACs per picture")).to_have_count(3)
    assert in_turn.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_runs_are_sorted_filtered_ticked_and_opened(in_turn, workshop):
    for i, name in enumerate(("slow", "<b>quick</b>")):
        record.store().add(tiny(), workshop.model_key, name=name, notes=f"note {i}")
    open_runs(in_turn)
    rows = in_turn.locator("#runs-table tbody tr")
    expect(rows.filter(has_text="<b>quick</b>")).to_be_visible(timeout=SLOW)
    in_turn.locator("#runs-table th").get_by_role("button", name="Name").click()
    expect(rows.first).to_contain_text("<b>quick</b>")
    expect(in_turn.locator('#runs-table th[aria-sort="ascending"]')).to_have_text("Name")
    in_turn.locator("#runs-table th").get_by_role("button", name="Name").click()
    expect(rows.first).to_contain_text("slow")
    expect(in_turn.locator('#runs-table th[aria-sort="descending"]')).to_have_text("Name")
    in_turn.get_by_label("Filter the runs").fill("note tiny")
    expect(in_turn.locator("#runs-table tbody tr:visible")).to_have_count(2)
    expect(in_turn.locator("#runs-table tbody img").first).to_be_visible(timeout=SLOW)
    in_turn.get_by_label("Tick all that are shown").check()
    expect(in_turn.locator("#runs-several")).to_contain_text("Nothing differs", timeout=SLOW)
    point = in_turn.locator("#runs-front .point").first
    expect(point).to_be_visible(timeout=SLOW)
    in_turn.get_by_role("button", name="Delete 2 runs").click()
    expect(in_turn.locator("#runs-said")).to_contain_text("Deleted 2 runs", timeout=SLOW)
    expect(in_turn.locator("#runs-table tbody tr:visible")).to_have_count(0)
    in_turn.get_by_role("button", name="Undo delete").first.click()
    expect(in_turn.locator("#runs-table tbody tr:visible")).to_have_count(2, timeout=SLOW)
    with in_turn.expect_download() as saved:
        in_turn.get_by_role("button", name="JSON", exact=True).click()
    assert saved.value.suggested_filename == "mosaic-runs-2.json"
    assert len(json.loads(saved.value.path().read_text())) == 2


def test_back_goes_to_the_tab_before_and_stays_in_the_studio(in_turn):
    def stands_in(name: str) -> None:
        expect(chosen_tab(in_turn)).to_have_text(name, timeout=SLOW)
        expect(in_turn).to_have_url(re.compile(f"tab={name[2:].lower()}"), timeout=SLOW)

    for name in ("2 Prune", "4 Runs"):
        in_turn.get_by_role("tab", name=name).click()
        stands_in(name)
    for name in ("2 Prune", "1 Explore"):
        in_turn.go_back()
        stands_in(name)
    in_turn.go_forward()
    stands_in("2 Prune")
