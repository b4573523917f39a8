"""The tour from start to end and the present view scene by scene, by keyboard, in one page load."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright")
from browser import SLOW, serve, visitor
from playwright.sync_api import Page, expect
from test_browser_axe import AXE_SCRIPT, GRAVE, RUN_AXE

from core.curves.plan import StagePlan
from core.workshop.compare import compare
from core.workshop.comparison import SampleSettings

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55), name="mine")
SIZES = ((1280, 720), (1024, 768))
KINDS = ["film", "curve", "head", "stages", "prune", "flip", "push"]
SCENES = ["idea", "plan", "pictures", "number", "cost"]
# what a person would have to scroll, and what is cut off, by its class
OVERFLOWING = """() => {
  const root = document.querySelector('.tour-dialog'), box = root.getBoundingClientRect();
  const all = [root, ...root.querySelectorAll('*:not(svg *)')];
  const scrolls = one => getComputedStyle(one).display !== 'inline'
    && !one.matches('button, input, .tour-band, b')
    && (one.scrollHeight > one.clientHeight + 2 || one.scrollWidth > one.clientWidth + 2);
  const sticksOut = one => {
    const at = one.getBoundingClientRect();
    return at.right > box.right + 1 || at.bottom > box.bottom + 1
      || at.left < box.left - 1 || at.top < box.top - 1;
  };
  return all.filter(one => one.checkVisibility() && (scrolls(one) || sticksOut(one)))
    .map(one => `${one.tagName}.${one.className} ${one.textContent.slice(0, 40)}`);
}"""
FOCUS = "document.activeElement.closest('.tour-dialog') !== null"


@pytest.fixture(scope="module")
def page(browser, workshop):
    """A visitor of a tiny calibrated model with an example."""
    *_, found = compare(workshop, None, PLAN, SampleSettings(labels=(0, 1, 2), steps=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(workshop), "example", lambda self: found)
        with serve(workshop) as url:
            opened, watch = visitor(browser, url, reduced_motion="reduce")
            asked: list[str] = []
            opened.on("request", lambda request: asked.append(request.post_data or ""))
            opened.evaluate(f"{AXE_SCRIPT}; 0")
            yield opened, asked
            opened.context.close()
            assert watch.hosts <= {"127.0.0.1"} and not watch.errors, watch.errors


def fits(page: Page, where: str) -> list[str]:
    """Return what does not fit at both sizes."""
    found = []
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        found += [f"{where}, {width}: {words}" for words in page.evaluate(OVERFLOWING)]
    return found


def faults(page: Page, where: str) -> list[str]:
    """Return the grave faults that axe finds in the dialog, light and dark."""
    found = []
    for dark in (False, True):
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.wait_for_function(f"document.body.matches('.dark') === {str(dark).lower()}")
        rows = page.evaluate(RUN_AXE, [".tour-dialog", dark])
        found += [f"{where}, dark {dark}: {words}" for grade, words in rows if grade in GRAVE]
    return found


def settled(page: Page) -> None:
    """Wait until the step shows what it has asked for."""
    expect(page.locator(".tour-stage.is-busy")).to_have_count(0, timeout=SLOW)


def sources(page: Page) -> list[str]:
    return [img.get_attribute("src") for img in page.locator(".tour-stage img").all()]


def test_the_tour_is_walked_by_keyboard_from_start_to_end(page):
    page, asked = page
    assert not any("tour_" in data or "present_" in data for data in asked)
    assert page.locator(".tour-dialog, style:has-text('.tour-dialog')").count() == 0
    expect(page.get_by_text("New here? Take the tour")).to_be_visible()
    assert page.evaluate("localStorage.getItem('mosaic-tour')") == "offered"
    page.get_by_role("button", name="Tour", exact=True).focus()
    page.keyboard.press("Enter")
    dialog, bad = page.get_by_role("dialog", name="Tour"), []
    expect(dialog).to_be_visible(timeout=SLOW)
    expect(page.get_by_text("New here? Take the tour")).to_be_hidden()
    acts = {"film": noise, "curve": slide, "head": head, "stages": cut}
    acts |= {"prune": prune, "flip": flip, "push": push}
    for at, kind in enumerate(KINDS, start=1):
        expect(dialog).to_have_attribute("data-step", kind, timeout=SLOW)
        expect(page.locator(".tour-where")).to_have_text(f"{at} of 7")
        settled(page)
        acts[kind](page)
        settled(page)  # what waits is paler
        bad += fits(page, kind) + faults(page, kind)
        assert page.evaluate(FOCUS)
        page.keyboard.press("ArrowRight")
    expect(dialog).to_have_count(0)  # behind the last step the tour ends
    assert page.evaluate("document.activeElement.textContent") == "Tour"
    assert not bad, "\n".join(bad)


def tab_to(page: Page, name: str) -> None:
    """Go on with Tab until a control of this name has the focus: it never leaves the dialog."""
    for _ in range(30):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUS)
        here = "document.activeElement.getAttribute('aria-label')"
        if page.evaluate(f"{here} ?? document.activeElement.textContent") == name:
            return
    raise AssertionError(f"Tab does not lead to {name}")


def noise(page: Page) -> None:
    expect(page.locator(".tour-stage img")).to_have_count(4, timeout=SLOW)
    before = sources(page)
    tab_to(page, "Another noise")
    page.keyboard.press("Enter")
    expect(page.locator(".tour-stage img").first).not_to_have_attribute(
        "src", before[0], timeout=SLOW
    )
    # a word explains itself where the focus is; Escape closes that, not the tour
    page.keyboard.press("Shift+Tab")
    shown = "getComputedStyle(document.activeElement, '::after').content"
    assert "which takes some of the noise away" in page.evaluate(shown)
    page.keyboard.press("Escape")
    assert page.evaluate(shown) == "none" and page.locator(".tour-dialog").count() == 1
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowUp")  # nothing slides here, and nothing breaks
    expect(page.locator(".tour-keys")).to_contain_text("Enter presses")


def slide(page: Page) -> None:
    before = sources(page)
    page.keyboard.press("ArrowUp")
    expect(page.locator(".tour-at")).to_have_text("step 9 of 16")
    assert sources(page) != before


def head(page: Page) -> None:
    expect(page.locator(".tour-at")).to_have_text("the same pictures", timeout=SLOW)
    tab_to(page, "Take head 2 away")
    page.keyboard.press("Enter")
    expect(page.locator(".tour-at")).to_contain_text("PSNR", timeout=SLOW)
    expect(page.get_by_text("Without head 2")).to_be_visible()
    page.keyboard.press("ArrowUp")  # another block, whose heads are drawn anew
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused) == "Take head 2 away"
    settled(page)
    page.evaluate("document.activeElement.blur()")  # arrow keys go on without a focus, too
    page.keyboard.press("ArrowDown")
    expect(page.locator(".tour-range output")).to_have_text("block 1")
    assert page.evaluate(FOCUS)
    expect(page.get_by_text("Without head 2")).to_be_visible()


def cut(page: Page) -> None:
    early = page.locator(".tour-strip [data-stage=early]")
    expect(page.locator(".tour-strip span")).to_have_count(16, timeout=SLOW)
    before, where = early.count(), page.locator(".tour-range output").first
    expect(where).to_contain_text("t = 550")  # where the page has its boundary
    line = page.locator(".tour-band[data-stage=early]")
    thumb, edge = float(page.locator(".tour-range input").first.input_value()), line.bounding_box()
    for _ in range(5):
        page.keyboard.press("ArrowUp")
    assert float(page.locator(".tour-range input").first.input_value()) == thumb + 100
    assert line.bounding_box()["width"] > edge["width"]  # to the right, as the thumb
    expect(early).to_have_count(before + 1)
    expect(where).to_have_text(f"step {before + 1}, t = 450")


def prune(page: Page) -> None:
    tab_to(page, "Prune a third away")
    page.keyboard.press("Enter")
    expect(page.locator(".tour-bars li")).to_have_count(3, timeout=SLOW)


def flip(page: Page) -> None:
    caption = page.locator(".tour-flip figcaption")
    expect(caption).to_have_text("Whole network", timeout=SLOW)
    before = sources(page)
    page.keyboard.press("Enter")  # the focus is on Flip
    expect(caption).to_have_text("Pruned network")
    assert sources(page) != before


def push(page: Page) -> None:
    expect(page.get_by_text("30 % removed")).to_be_visible(timeout=SLOW)
    page.keyboard.press("ArrowUp")
    expect(page.get_by_text("45 % removed")).to_be_visible(timeout=SLOW)


def test_the_present_view_goes_scene_by_scene_and_escape_leaves_it(page):
    page, _ = page
    page.get_by_role("button", name="Present", exact=True).focus()
    page.keyboard.press("Enter")
    dialog, bad = page.get_by_role("dialog", name="Present"), []
    for at, kind in enumerate(SCENES, start=1):
        expect(page.locator(".present-scene")).to_have_attribute("data-scene", kind, timeout=SLOW)
        expect(page.locator(".present-where")).to_have_text(f"{at} of 5")
        bad += fits(page, kind) + faults(page, kind)
        assert page.evaluate(FOCUS)
        page.keyboard.press("ArrowRight")
    expect(page.locator(".present-where")).to_have_text("5 of 5")  # it stays on the last one
    page.keyboard.press("Home")
    expect(page.locator(".present-where")).to_have_text("1 of 5")
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement?.matches('.tour-view')")
    page.keyboard.press("Escape")  # closes the innermost thing only
    page.wait_for_function("!document.fullscreenElement")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert page.evaluate("document.activeElement.textContent") == "Present"
    assert not bad, "\n".join(bad)
