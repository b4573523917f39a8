"""Guidance of a stage in a real browser: set, seen in numbers and in the picture, kept, refused."""

from __future__ import annotations

import re

from browser import SLOW, alone, leave, visitor
from playwright.sync_api import expect

TILES = """() => { const [, , early] = document.querySelector('#mosaic .js-plotly-plot').data;
  return early.z.map(row => row.some(z => z !== null)); }"""


def macs(page) -> str:
    return page.locator("[data-testid=cost] dd").nth(1).inner_text()


def fewer(page) -> int:
    found = re.match(r"(-?\d+) % fewer", macs(page))
    assert found, macs(page)
    return int(found[1])


def box(page):
    return page.locator("[role=tabpanel]:visible").get_by_label("Early guidance")


def test_guidance_off_early_halves_its_tiles_and_is_kept_over_a_reload(browser, workshop):
    with alone(browser, workshop) as page:
        page.get_by_role("tab", name="2 Prune").click()
        before, full = fewer(page), page.evaluate(TILES)
        assert all(full)
        box(page).click()
        page.get_by_role("option", name="off (1)").click()
        expect(page.get_by_test_id("mosaic-key")).to_contain_text("Half a tile", timeout=SLOW)
        assert fewer(page) > before + 5
        expect(page.locator("#mosaic .annotation-text").first).to_be_visible(timeout=SLOW)
        assert page.evaluate(TILES) == [on for _ in full for on in (True, False)]

        page.get_by_role("button", name="Undo").click()
        expect(box(page)).to_have_value("run's own", timeout=SLOW)
        assert fewer(page) == before and all(page.evaluate(TILES))
        page.get_by_role("button", name="Redo").click()
        expect(box(page)).to_have_value("off (1)", timeout=SLOW)
        page.wait_for_function("location.search.includes('guidance')")

        page.reload()
        expect(box(page)).to_have_value("off (1)", timeout=SLOW)
        expect(page.get_by_test_id("mosaic-key")).to_contain_text("Half a tile", timeout=SLOW)
        page.get_by_role("tab", name="1 Explore").click()
        expect(box(page)).to_have_value("off (1)", timeout=SLOW)
        expect(page.locator("#outcome .guided")).to_have_text("½")
        expect(page.locator("#stage-table tbody tr").first).to_contain_text("one half")


def test_a_typed_number_counts_and_what_is_none_goes_back(browser, studio):
    page, _ = visitor(browser, studio)
    box(page).fill("3")
    box(page).press("Enter")
    expect(page.locator("#outcome .guided")).to_have_text("g 3", timeout=SLOW)
    box(page).fill("much")
    box(page).press("Enter")
    expect(page.locator("#guidance .note")).to_contain_text("must be a number", timeout=SLOW)
    expect(box(page)).to_have_value("3", timeout=SLOW)
    expect(page.locator("#outcome .guided")).to_have_text("g 3")
    page.get_by_role("tab", name="2 Prune").click()
    expect(box(page)).to_have_value("3", timeout=SLOW)
    leave(page)
