"""Sweep in a browser: start, stop, reload, go on, see the grid, open a cell, take a file along."""

from __future__ import annotations

import csv
import re
import threading

import pytest

pytest.importorskip("playwright")
from browser import SLOW, leave, serve, visitor
from playwright.sync_api import expect

from core.sweep.engine import Sweep


@pytest.fixture(scope="module")
def studio(workshop, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAIC_DATA", str(tmp_path_factory.mktemp("sweeps") / "data"))
        with serve(workshop) as url:
            yield url


@pytest.fixture
def held(monkeypatch):
    """Let a sweep wait behind its first cell, however quick it is, for Stop or for this event."""
    go_on, one = threading.Event(), Sweep._one

    def waiting(self, cell):
        while self.record.count("done") and not (go_on.is_set() or self.stop.wait(0.02)):
            pass
        yield from one(self, cell)

    monkeypatch.setattr(Sweep, "_one", waiting)
    return go_on


def test_a_sweep_is_stopped_reloaded_and_resumed_and_its_table_is_taken_along(
    browser, studio, held
):
    page, watch = visitor(browser, studio)
    ahead = page.locator("#sweep-ahead")
    page.get_by_role("tab", name="6 Sweep").click()
    expect(ahead).to_contain_text("9 cells (3 rows of 3 columns)", timeout=SLOW)
    page.locator("#sweep-x-values input").fill("0.2:0.9")
    expect(page.locator("#sweep-x-said")).to_contain_text("START:STOP:STEP", timeout=SLOW)
    page.locator("#sweep-x-values input").fill("0.2,0.4")
    page.locator("#sweep-y-values input").fill("10,11")
    expect(ahead).to_contain_text("4 cells (2 rows of 2 columns)", timeout=SLOW)
    expect(page.locator("#sweep-x-said")).to_be_empty()
    tabs = page.locator("#studio-tabs").bounding_box()["y"]
    page.locator("#sweep-start").click()
    done = page.locator("#sweep-grid button.is-done")
    expect(done.first.locator("img")).to_be_visible(timeout=SLOW)
    page.locator("#sweep-stop").click()
    expect(page.locator("#sweep-job")).to_contain_text("Stopped:", timeout=SLOW)
    assert page.locator("#studio-tabs").bounding_box()["y"] == tabs  # that it ended moves nothing
    kept = done.count()
    assert kept == 1

    page.reload()
    page.get_by_role("tab", name="6 Sweep").click()
    expect(page.locator("#sweep-job")).to_contain_text(f"Stopped: {kept} of 4", timeout=SLOW)
    expect(done).to_have_count(kept)
    held.set()
    page.locator("#sweep-more").click()
    expect(page.locator("#sweep-job")).to_contain_text("Done: 4 of 4 cells", timeout=SLOW)
    expect(page.locator("#sweep-grid button.is-done img")).to_have_count(4, timeout=SLOW)
    expect(page.locator("#sweep-more")).to_be_hidden()
    expect(page.get_by_role("rowheader")).to_contain_text(["10", "11"])
    board = page.locator("#sweep-grid")
    board.get_by_label("Colour by").select_option(label="PSNR to dense, dB")
    psnr = [float(text) for text in done.locator("span").all_inner_texts()]
    with page.expect_download() as saved:
        board.get_by_role("button", name="CSV").click()
    with open(saved.value.path(), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert saved.value.suggested_filename == "mosaic-sweep.csv"
    assert [row["status"] for row in rows] == ["done"] * 4
    assert psnr == pytest.approx([float(row["psnr_db"]) for row in rows], abs=0.06)
    colours = {b.evaluate("b => b.style.background") for b in done.all()}
    assert len(colours) > 1

    board.get_by_role("button", name=re.compile("sparsity.early 0.4, steps 11")).click()
    detail = board.locator(".sweep-detail")
    expect(detail).to_contain_text("MACs saved")
    expect(detail.locator("img")).to_have_count(2, timeout=SLOW)
    detail.get_by_role("button", name="Open in the studio").click()
    expect(page.locator(".cmp-verdict")).to_be_visible(timeout=SLOW)
    expect(page.locator(".cmp-controls").get_by_label("Sampling steps")).to_have_value("11")
    page.get_by_role("tab", name="6 Sweep").click()
    shelf = page.locator("#sweep-shelf")
    expect(shelf.locator("input")).to_have_value(
        re.compile("sparsity.early × steps, 4 of 4 cells"), timeout=SLOW
    )
    shelf.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Its runs stay in Runs")).to_be_visible(timeout=SLOW)
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_text("Nothing swept yet")).to_be_visible(timeout=SLOW)
    expect(shelf).to_be_hidden()
    leave(page)
    assert watch.hosts <= {"127.0.0.1"}
    assert watch.complaints() == []
