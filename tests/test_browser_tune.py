"""Tune in a browser: points appear, Stop keeps the best, and it opens in Explore and Compare."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright")
from browser import SLOW, leave, serve, visitor
from playwright.sync_api import expect

from mosaic_ui.tune import inputs


@pytest.fixture(scope="module")
def studio(workshop, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAIC_DATA", str(tmp_path_factory.mktemp("tunes") / "data"))
        patch.setattr(inputs, "BY_DISTANCE", (4, 4))
        with serve(workshop) as url:
            yield url


@pytest.fixture
def page(browser, studio):
    """Open the page for a fresh visitor; the console stays clean but for what a reload breaks."""
    opened, watch = visitor(browser, studio)
    yield opened
    leave(opened)
    assert watch.hosts <= {"127.0.0.1"}
    assert watch.complaints() == []


def open_tune(page) -> None:
    page.get_by_role("tab", name="5 Tune").click()
    expect(page.locator("#tune-ahead")).to_contain_text("it tries plans", timeout=SLOW)


def test_one_press_tunes_and_what_it_found_opens_in_explore_and_compare(page):
    open_tune(page)
    expect(page.locator(".none-yet")).to_be_visible()
    page.get_by_label("Times as fast").fill("0.5")
    expect(page.locator("#tune-ahead")).to_contain_text("above 1, not 0.5", timeout=SLOW)
    page.locator("#tune-start").click()
    expect(page.locator("#tune-job [role=alert]")).to_contain_text("above 1", timeout=SLOW)
    page.get_by_label("Times as fast").fill("4")
    expect(page.locator("#tune-ahead")).to_contain_text("it tries plans", timeout=SLOW)
    page.locator("#tune-start").click()
    points = page.locator("#tune-front .point")
    expect(points.first).to_be_visible(timeout=SLOW)
    page.wait_for_function(
        "document.querySelectorAll('#tune-points tr[data-point]').length > 5", timeout=SLOW
    )
    assert points.count() > 5
    # a reload finds it running, and Stop reaches it from there
    page.reload()
    page.get_by_role("tab", name="5 Tune").click()
    expect(page.locator("#tune-job [role=progressbar]")).to_be_visible(timeout=SLOW)
    expect(page.locator("#tune-stop")).to_be_enabled(timeout=SLOW)
    page.locator("#tune-stop").click()
    expect(page.locator("#tune-job")).to_contain_text("Stopped: this is the best", timeout=SLOW)
    expect(page.locator("#tune-start")).to_be_enabled(timeout=SLOW)
    best = page.locator("#tune-points tr.is-best")
    named = best.locator("th b").inner_text()  # "UniPC, 9 steps"
    (steps,) = re.fullmatch(r".+, (\d+) steps", named).groups()
    tuned = re.compile(f"Tuned: (.*, )?{re.escape(named)}")  # the best may be a contender
    best.get_by_role("button", name="Explore").click()
    expect(page.locator("#stage-table table")).to_be_visible(timeout=SLOW)
    expect(page.get_by_label("Sampling steps").first).to_have_value(steps, timeout=SLOW)
    expect(page).to_have_url(re.compile(f"steps={steps}"), timeout=SLOW)
    expect(page.locator("#page-undo")).to_be_enabled(timeout=SLOW)
    page.get_by_role("tab", name="5 Tune").click()
    best.get_by_role("button", name="Compare").click()
    controls = page.locator(".cmp-controls")
    expect(controls.get_by_label("B runs")).to_have_value(tuned, timeout=SLOW)
    expect(controls.get_by_label("A runs")).to_have_value("Dense")
    expect(controls.get_by_label("Sampling steps")).to_have_value("50")
    assert page.evaluate("scrollY") == 0
    page.wait_for_timeout(1500)  # an answer about what B ran before must not come last
    expect(controls.locator(".cmp-picker").last).to_contain_text(f"{steps} steps", timeout=SLOW)
    controls.get_by_label("Images", exact=True).fill("2")
    page.locator("#cmp-start").click()
    expect(page.locator(".cmp-verdict")).to_contain_text("timed runs", timeout=SLOW)
    expect(page.locator(".cmp-verdict")).to_contain_text(tuned)


def test_a_click_on_a_point_of_the_plot_opens_it(page):
    """After the tune above, which every page of the model finds again."""
    open_tune(page)
    expect(page.locator("#tune-job")).to_contain_text("Stopped", timeout=SLOW)
    page.wait_for_function(
        "document.querySelector('#tune-front .js-plotly-plot')?.dataset.clicks", timeout=SLOW
    )
    # the best has a ring, which takes no clicks
    point = page.evaluate("document.querySelector('#tune-points tr.is-best').dataset.point")
    place = page.evaluate(
        """point => {
          const plot = document.querySelector('#tune-front .js-plotly-plot');
          const full = plot._fullLayout, box = plot.getBoundingClientRect();
          for (const trace of plot.data) {
            const i = (trace.customdata ?? []).indexOf(point);
            if (i >= 0) return [box.left + full.xaxis._offset + full.xaxis.d2p(trace.x[i]),
              box.top + full.yaxis._offset + full.yaxis.d2p(trace.y[i])];
          }
        }""",
        point,
    )
    page.mouse.move(*place)
    expect(page.locator("#tune-front .hoverlayer .hovertext")).to_contain_text("steps")
    page.mouse.click(*place)
    expect(page.locator("#stage-table table")).to_be_visible(timeout=SLOW)
    expect(page.locator("#page-undo")).to_be_enabled(timeout=SLOW)
