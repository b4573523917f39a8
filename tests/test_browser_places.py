"""Prune, Compare and several visitors, in a real browser on a tiny random model."""

from __future__ import annotations

import re
import time

import pytest
from browser import SLOW, alone, boundaries, drag, leave, serve, settled, visitor
from playwright.sync_api import expect
from proxy import behind_proxy
from run_cases import tiny

from core.models.checkpoints import load_checkpoint
from core.workshop.workshop import Workshop
from mosaic_ui.runs import record


@pytest.fixture
def page(same_page):
    """Share one page: tests here put back what the suggestion leaves as it is."""
    return same_page


def unfold_file(page) -> None:
    """Unfold the plan as a file in Prune, where a test before has not."""
    if not page.get_by_role("button", name="Upload plan").first.is_visible():
        page.get_by_text("The plan as a file").click()


def test_prune_says_what_it_built_and_other_tabs_follow(page):
    drag(page, "Stage boundary 2", -50)
    high = settled(page)[1]
    page.get_by_role("tab", name="2 Prune").click()
    box = page.get_by_label("number input for Early stage sparsity")
    box.fill("0.7")
    box.press("Enter")
    expect(page.get_by_test_id("cost").first).to_contain_text("fewer", timeout=SLOW)
    page.get_by_role("button", name="Prune", exact=True).click()
    expect(page.get_by_text("Pruned in", exact=False)).to_be_visible(timeout=SLOW)
    unfold_file(page)
    expect(page.get_by_role("link", name="Download plan")).to_have_attribute(
        "href", re.compile(f"{high}.*0.7"), timeout=SLOW
    )
    page.get_by_role("tab", name="1 Explore").click()
    expect(page.locator('#stage-table tr[data-stage="early"]')).to_contain_text(
        "70.0 %", timeout=SLOW
    )
    assert boundaries(page)[1] == high


def test_a_broken_plan_is_refused_in_one_sentence(page):
    page.get_by_role("tab", name="2 Prune").click()
    unfold_file(page)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload plan").first.click()
    crossed = b'{"boundaries": [550, 93], "sparsity": {"late": 0.1, "middle": 0.1, "early": 0.1}}'
    chooser.value.set_files(
        {"name": "plan.json", "mimeType": "application/json", "buffer": crossed}
    )
    expect(page.get_by_text("boundaries must satisfy", exact=False)).to_be_visible(timeout=SLOW)
    page.get_by_role("tab", name="1 Explore").click()
    assert boundaries(page) == [93, 550]


def test_two_visitors_do_not_share_a_plan(browser, studio, page):
    other, _ = visitor(browser, studio)
    drag(page, "Stage boundary 2", 80)
    assert settled(page)[1] > 560
    assert boundaries(other) == [93, 550]
    leave(other)


def compare_with(page, images: str, steps: str) -> None:
    page.get_by_role("tab", name="3 Compare").click()
    for name, value in (("Images", images), ("Sampling steps", steps)):
        box = page.locator(".cmp-controls").get_by_label(name, exact=True)
        box.fill(value)
        box.press("Enter")
    page.locator("#cmp-start").click()


def test_stop_stops_a_comparison_and_the_next_one_ends_in_measured_and_predicted(page):
    compare_with(page, "64", "100")
    live, verdict = page.locator("#cmp-live"), page.locator(".cmp-verdict")
    expect(live).to_contain_text(re.compile(r"step \d+ of 100", re.I), timeout=SLOW)
    page.locator("#cmp-stop").click()
    expect(live).to_contain_text("Stopped", timeout=SLOW)
    expect(page.locator("#cmp-start")).to_be_enabled(timeout=SLOW)
    expect(verdict.filter(has_text="timed runs")).to_have_count(0)
    compare_with(page, "4", "6")
    expect(verdict).to_contain_text("median of 3 timed runs", timeout=SLOW)
    expect(verdict).to_contain_text("multiply-accumulates")
    results = page.locator("#cmp-results")
    expect(results).to_contain_text("measured")
    expect(results).to_contain_text("predicted")
    page.get_by_role("tab", name="All figures").click()
    # rather than an FID that no number of images would bring
    expect(results).to_contain_text("without a feature network that could judge")


def test_calibrate_from_nothing_can_be_stopped_and_goes_on(
    browser, model_folder, small_settings, tmp_path
):
    fresh = Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path)
    calibrate = fresh.calibrate

    def slowly(progress=None, stop=None):  # the tiny model is done before a hand could reach Stop
        calibrate(lambda *report: (time.sleep(0.3), progress and progress(*report)), stop)

    fresh.calibrate = slowly
    with serve(fresh) as url:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(SLOW)
        page.goto(url)
        expect(page.get_by_test_id("status")).to_contain_text("not calibrated", timeout=SLOW)
        page.get_by_role("tab", name="2 Prune").click()
        page.get_by_role("button", name="Calibrate", exact=True).click()
        stop = page.get_by_role("button", name="Stop", exact=True).and_(
            page.locator(":not(#cmp-stop)")
        )
        expect(stop).to_be_enabled(timeout=SLOW)
        stop.click()
        expect(page.get_by_text(re.compile("Stopped|Calibrated"))).not_to_have_count(
            0, timeout=SLOW
        )
        expect(page.get_by_role("button", name="Prune", exact=True)).to_be_enabled(timeout=SLOW)
        page.get_by_role("button", name="Prune", exact=True).click()
        expect(page.get_by_text("Pruned in", exact=False)).to_be_visible(timeout=SLOW)
        assert fresh.calibrated and not list(tmp_path.rglob("*.part"))
        context.close()


def test_a_comparison_that_calibrates_says_so_everywhere(
    browser, model_folder, small_settings, tmp_path
):
    fresh = Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path)
    with alone(browser, fresh) as page:
        expect(page.get_by_test_id("status")).to_contain_text("not calibrated", timeout=SLOW)
        compare_with(page, "2", "5")
        expect(page.locator(".cmp-verdict")).to_contain_text("timed runs", timeout=SLOW)
        expect(page.get_by_test_id("status")).not_to_contain_text("not calibrated", timeout=SLOW)
        page.get_by_role("tab", name="2 Prune").click()
        expect(page.get_by_text("Calibrated: any plan", exact=False)).to_be_visible(timeout=SLOW)
        expect(page.get_by_test_id("cost")).to_contain_text("exact", timeout=SLOW)
        page.get_by_role("tab", name="1 Explore").click()
        expect(page.locator("#stage-table table")).to_have_attribute(
            "data-exact", "true", timeout=SLOW
        )


COPIED = """async () => {
  const said = [], clipboard = { writeText: async text => said.push(text) };
  Object.defineProperty(navigator, 'clipboard', { value: clipboard });
  await window.mosaic.copy();
  return said[0];
}"""
NO_STORAGE = """if (window !== top) for (const name of ['localStorage', 'sessionStorage']) {
  const get = () => { throw new DOMException('no', 'SecurityError'); };
  Object.defineProperty(window, name, { get });
}"""


def test_below_the_path_of_a_proxy_and_in_a_frame_all_addresses_are_right(
    browser, workshop, monkeypatch, tmp_path
):
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path))
    record.store().add(tiny(), workshop.model_key, name="a kept one")
    root = "/tools/studio"
    with serve(workshop, [workshop], root) as url, behind_proxy(url, root) as proxy:
        page, watch = visitor(browser, proxy.url)  # without a slash at its end
        page.context.add_init_script(NO_STORAGE)
        drag(page, "Stage boundary 2", 60)
        assert settled(page)[1] > 560
        assert page.evaluate(COPIED).startswith(f"{proxy.url}/?plan=")
        page.get_by_role("tab", name="4 Runs").click()
        expect(page.locator("#runs-table .runs-thumbs img").first).to_be_visible(timeout=SLOW)
        with page.expect_download(timeout=SLOW) as download:
            page.get_by_role("button", name="CSV").click()
        assert "a kept one" in download.value.path().read_text()
        page.go_back()
        expect(page.get_by_role("slider", name="Stage boundary 1")).to_be_visible(timeout=SLOW)
        assert page.url.startswith(f"{proxy.url}/?")
        went: list[str] = []

        def arrive(route):
            went.append(route.request.url)
            route.fulfill(content_type="text/html", body="there")

        page.route("**/model-1?*", arrive)
        page.get_by_label("Model", exact=True).click()
        page.get_by_role("option").nth(1).click()
        for _ in range(
            SLOW // 100
        ):  # `wait_for_url` gives up where one navigation replaces another
            if went and "/model-1?" in page.url:
                break
            page.wait_for_timeout(100)
        assert "/model-1?" in page.url
        assert went[0].startswith(f"{proxy.url}/model-1?plan=")

        page.goto(f"http://localhost:{proxy.port}/frame")
        inside = page.frame_locator("iframe")
        handle = inside.get_by_role("slider", name="Stage boundary 1")
        handle.press("ArrowRight")
        expect(inside.locator('#stage-table table[data-boundaries="94,550"]')).to_be_visible(
            timeout=SLOW
        )
        inside.get_by_role("radio", name="Dark").check(force=True)
        expect(inside.locator("body.dark")).to_have_count(1)
        page.context.close()
        assert set(proxy.outside) <= {"/favicon.ico"} and watch.hosts <= {"127.0.0.1", "localhost"}
        assert not [e for e in watch.complaints() if "favicon" not in e], watch.errors
