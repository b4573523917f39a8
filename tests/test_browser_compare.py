"""Test Compare in a browser: slider, flip, one sample enlarged, what stays, and the page to mail.

On a tiny model; what the pictures show does not matter here.
"""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright")
from browser import SLOW, Watch, serve
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def compared(workshop, browser, tmp_path_factory):
    """A page at 1280 x 720 after one comparison of four images."""
    with serve(workshop) as url:
        context = browser.new_context(viewport={"width": 1280, "height": 720})
        page = context.new_page()
        page.set_default_timeout(SLOW)
        watch = Watch(page)
        page.goto(url)
        page.get_by_role("tab", name="3 Compare").click()
        controls = page.locator(".cmp-controls")
        for name, value in (("Images", "4"), ("Sampling steps", "6")):
            controls.get_by_label(name, exact=True).fill(value)
            controls.get_by_label(name, exact=True).press("Enter")
        page.locator("#cmp-start").press("Enter")
        expect(page.locator("#cmp-stop")).to_be_focused(timeout=SLOW)
        expect(page.locator(".cmp-verdict")).to_contain_text("timed runs", timeout=SLOW)
        expect(page.locator("#cmp-start")).to_be_focused(timeout=SLOW)
        yield page
        assert watch.hosts <= {"127.0.0.1"} and not watch.errors, watch.errors


@pytest.fixture
def page(compared):
    compared.evaluate("scrollTo(0, 0)")
    compared.locator(".cmp-modes").get_by_text("Side by side").click()
    return compared


def test_pictures_and_verdict_stand_above_the_fold(page):
    for place in (".cmp-pane[data-side=a] li:first-child img", ".cmp-verdict h2", "#cmp-start"):
        box = page.locator(place).bounding_box()
        assert 0 <= box["y"] and box["y"] + box["height"] <= 720, place


def test_the_slider_works_by_keyboard_and_lies_pixel_on_pixel(page):
    radio = page.get_by_role("radio", name="Side by side")
    radio.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".cmp-viewer")).to_have_attribute("data-mode", "slider")
    a, b = (page.locator(f".cmp-pane[data-side={s}] li").nth(1).bounding_box() for s in ("a", "b"))
    assert a == b
    handle = page.get_by_role("slider", name="Where A ends")
    handle.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert handle.input_value() == "55"
    clip = "getComputedStyle(document.querySelector('[data-side=b] .cmp-cells img')).clipPath"
    assert "55%" in page.evaluate(clip)


def test_the_wheel_over_the_pictures_scrolls_the_page(page):
    page.locator(".cmp-modes").get_by_text("Slider").click()
    box = page.locator(".cmp-panes").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 200)
    page.wait_for_function(f"scrollY > {before}")


def test_a_key_flips_between_a_and_b(page):
    page.locator(".cmp-panes").focus()
    shown = """[...document.querySelectorAll('.cmp-pane')]
        .filter(pane => pane.checkVisibility({visibilityProperty: true}))
        .map(pane => pane.dataset.side).join()"""
    page.keyboard.press("f")
    first = page.evaluate(shown)
    page.keyboard.press("f")
    assert {first, page.evaluate(shown)} == {"a", "b"}


def test_one_sample_is_enlarged_and_gives_the_focus_back(page):
    cell = page.locator(".cmp-pane[data-side=a] li button").nth(2)
    cell.focus()
    page.keyboard.press("Enter")
    large = page.get_by_role("dialog")
    expect(large.get_by_role("heading", level=2)).to_contain_text("Sample 3")
    expect(large.locator(".cmp-three img")).to_have_count(3)
    strips = large.locator(".cmp-strip-one img[src^='data:image/png']")  # they come when asked for
    expect(strips).to_have_count(2)
    sizes = (
        "all => all.map(one => [one.naturalWidth > 2 * one.naturalHeight, one.clientHeight > 9])"
    )
    assert strips.evaluate_all(sizes) == [[True, True]] * 2
    expect(large).to_contain_text("dB")
    page.keyboard.press("ArrowRight")
    expect(large.get_by_role("heading", level=2)).to_contain_text("Sample 4")
    expect(strips).to_have_count(2)
    page.keyboard.press("Escape")
    expect(large).to_be_hidden()
    expect(page.locator(".cmp-pane[data-side=a] li button").nth(3)).to_be_focused()


def test_samples_can_be_sorted_by_distance(page):
    cells = "[...document.querySelectorAll('[data-side=b] .cmp-cells li')]"
    page.get_by_label("Differs most first").check()
    values = page.evaluate(f"{cells}.map(li => +li.dataset.psnr)")
    assert values == sorted(values) and len(values) == 4
    page.get_by_label("Differs most first").uncheck()
    places = page.evaluate(f"{cells}.map(li => +li.dataset.i)")
    assert places == [0, 1, 2, 3]


def test_full_screen_covers_the_screen(page):
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("document.fullscreenElement !== null")
    box = page.locator(".cmp-viewer").bounding_box()
    screen = page.evaluate("[innerWidth, innerHeight]")
    assert [box["width"], box["height"]] == screen
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("document.fullscreenElement === null")


def test_the_page_to_mail_opens_without_a_network(page, tmp_path):
    with page.expect_download() as download:
        page.get_by_text("Page to mail").click()
    assert download.value.suggested_filename.endswith("-seed0-6steps.html")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    context = page.context.browser.new_context(offline=True)
    opened = context.new_page()
    watch = Watch(opened)
    opened.goto(path.as_uri())
    expect(opened.locator(".cmp-verdict h2")).to_be_visible()
    opened.locator(".cmp-pane[data-side=a] li button").first.click()
    expect(opened.get_by_role("dialog")).to_be_visible()
    expect(opened.locator(".cmp-strip-one img[src^='data:image/png']")).to_have_count(2)
    assert watch.hosts == set() and not watch.errors
    context.close()


def test_files_are_made_on_request_and_named_by_keyboard_too(page, tmp_path):
    assert "data:" not in page.locator(".cmp-downloads").inner_html()
    for name, end, begins in (
        ("A, B and difference", "-seed0-6steps.png", b"\x89PNG"),
        ("B: grid", "-seed0-6steps-B.png", b"\x89PNG"),
        ("Result", "-seed0-6steps.json", b"{"),
    ):
        button = page.get_by_role("button", name=name)
        button.focus()
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        assert download.value.suggested_filename.endswith(end)
        download.value.save_as(tmp_path / end)
        assert (tmp_path / end).read_bytes().startswith(begins)
        expect(button).to_be_focused()
        expect(page.locator(".cmp-made")).to_have_text("")
    page.locator(".cmp-downloads").evaluate("group => { group.dataset.id = '../secret'; }")
    page.get_by_role("button", name="A: grid").press(" ")
    expect(page.locator(".cmp-made")).to_contain_text("is not there")


def test_sides_swap_and_a_stopped_run_leaves_the_result(page):
    controls = page.locator(".cmp-controls")
    page.locator("#cmp-swap").click()
    expect(controls.get_by_label("A runs")).to_have_value("Current plan", timeout=SLOW)
    expect(controls.get_by_label("B runs")).to_have_value("Dense")
    said = page.locator(".cmp-verdict h2").inner_text()
    controls.get_by_label("Images", exact=True).fill("64")
    controls.get_by_label("Sampling steps", exact=True).fill("300")
    page.locator("#cmp-next").click()
    expect(page.locator("#cmp-live")).to_contain_text("of 300", timeout=SLOW)
    page.locator("#cmp-stop").click()
    expect(page.locator("#cmp-live")).to_contain_text("Stopped", timeout=SLOW)
    expect(page.locator("#cmp-live")).to_contain_text("The result below is the earlier one")
    assert page.locator(".cmp-verdict h2").inner_text() == said
    expect(controls.get_by_label("Seed", exact=True)).to_have_value("1")
    expect(page).to_have_url(re.compile("seed=1&"))
