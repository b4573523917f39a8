"""The first minute of Explore in a real browser: what is in sight, and what hands and keys do."""

from __future__ import annotations

import copy
import re
import threading
import time

import pytest
from browser import SLOW, alone, boundaries, settled, steady, touch
from playwright.sync_api import expect


@pytest.fixture
def page(same_page):
    """Show the page on a projector of 1280 x 720."""
    same_page.set_viewport_size({"width": 1280, "height": 720})
    return same_page


def grab(page, name: str) -> tuple[float, float]:
    """Press the mouse on a boundary's line and return where."""
    box = steady(page.get_by_role("slider", name=name))
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    return x, y


def in_sight(page, selector: str) -> bool:
    box, view = page.locator(selector).first.bounding_box(), page.viewport_size
    return box["y"] >= 0 and box["y"] + box["height"] <= view["height"]


def test_the_effect_of_a_drag_is_in_sight_while_it_is_held(page):
    parts = ("#stage-chart .plot", "#outcome .outcome", ".thumbnails", ".boundaries-card")
    assert page.evaluate("scrollY") == 0 and all(in_sight(page, part) for part in parts)
    before = page.locator("#outcome").inner_text()
    headline = page.locator(".headline").inner_text()
    x, y = grab(page, "Stage boundary 2")
    page.mouse.move(x + 80, y, steps=6)
    expect(page.locator("#outcome .outcome")).not_to_have_attribute(
        "data-boundaries", "93,550", timeout=SLOW
    )
    expect(page.locator(".headline")).not_to_have_text(headline, timeout=SLOW)
    assert page.locator("#outcome").inner_text() != before  # the mouse is still down
    page.mouse.up()
    assert settled(page)[1] > 600


@pytest.mark.parametrize("width, height", [(390, 844), (768, 1024)])
def test_on_a_narrow_screen_the_outcome_stays_at_the_bottom(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    parts = ("#outcome .outcome", "#stage-chart .handle")
    for _ in range(100):  # the chart is drawn anew for the width, and the page grows with it
        page.locator("#stage-chart").evaluate("e => e.scrollIntoView({block: 'start'})")
        if all(in_sight(page, part) for part in parts):
            break
        page.wait_for_timeout(100)
    assert all(in_sight(page, part) for part in parts)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_on_a_phone_the_outcome_leaves_the_chart_in_sight(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#stage-chart").evaluate("e => e.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(500)
    panel, chart = (
        page.locator(part).bounding_box() for part in (".outcome-card", "#stage-chart .plot")
    )
    assert panel["height"] <= 120 and panel["y"] >= chart["y"] + 200
    assert page.locator("#outcome .beside").last.is_visible()  # which kind of error it is


def test_prune_and_what_it_costs_stand_on_the_first_screen(page):
    page.get_by_role("tab", name="2 Prune").click()
    expect(page.get_by_role("button", name="Prune", exact=True)).to_be_visible(timeout=SLOW)
    box = page.get_by_role("button", name="Prune", exact=True).bounding_box()
    assert page.evaluate("scrollY") == 0 and box["y"] + box["height"] <= 720
    assert in_sight(page, "[data-testid=cost]")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 720})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_esc_puts_a_line_back_and_a_double_click_goes_to_the_suggestion(page):
    x, y = grab(page, "Stage boundary 2")
    page.mouse.move(x + 80, y, steps=4)
    page.keyboard.press("Escape")
    page.mouse.move(x + 120, y, steps=2)  # let go: the pointer moves nothing any more
    page.mouse.up()
    assert settled(page) == [93, 550]
    handle = page.get_by_role("slider", name="Stage boundary 2")
    for _ in range(3):
        handle.press("PageUp")
    expect(page.locator('#stage-table table[data-boundaries="93,580"]')).to_be_visible(timeout=SLOW)
    handle.dblclick()
    expect(page.locator('#stage-table table[data-boundaries="93,550"]')).to_be_visible(timeout=SLOW)


def test_the_work_is_held_in_a_drag_and_the_way_back_gives_the_suggestion(page):
    page.get_by_label("hold the work").check()
    x, y = grab(page, "Stage boundary 2")
    page.mouse.move(x + 80, y, steps=4)
    expect(page.locator("#outcome .held")).to_contain_text("Work held at", timeout=SLOW)
    page.mouse.up()
    settled(page)
    expect(page.locator("#places")).to_contain_text("if boundary 2 moves", timeout=SLOW)
    page.get_by_role("button", name="Reset to the suggestion").click()
    expect(page.locator('#stage-table table[data-boundaries="93,550"]')).to_be_visible(timeout=SLOW)
    expect(page.get_by_text("where the score comes up to", exact=False)).to_be_visible()
    assert page.locator("#stage-chart .steps path").count() == 3
    page.get_by_label("hold the work").uncheck()


def test_the_button_goes_to_the_best_place(page):
    x, y = grab(page, "Stage boundary 2")
    page.mouse.move(x + 230, y, steps=4)
    page.mouse.up()
    high = settled(page)[1]
    expect(page.locator(f'#places [data-here="{high}"]')).to_be_visible(timeout=SLOW)
    go = page.get_by_role("button", name="Go to the best place")
    expect(go).to_be_visible(timeout=SLOW)
    best = page.locator("#places .places").get_attribute("data-best")
    go.click()
    expect(page.locator(f'#stage-table table[data-boundaries="93,{best}"]')).to_be_visible(
        timeout=SLOW
    )
    assert boundaries(page) == [93, int(best)]


def test_the_curve_of_an_old_plan_is_marked_at_once_and_until_the_next_one(browser, workshop):
    slow, opened = copy.copy(workshop), threading.Event()

    def later(*arguments, **options):
        if opened.is_set() and not options.get("exact"):
            time.sleep(0.7)
        return workshop.predict(*arguments, **options)

    slow.predict = later
    with alone(browser, slow) as page:
        drawn = page.locator("#places .places")
        expect(drawn.locator(".here")).to_be_visible(timeout=SLOW)
        expect(page.locator('#stage-table table[data-exact="true"]')).to_be_visible(timeout=SLOW)
        opened.set()
        x, y = grab(page, "Stage boundary 2")
        page.mouse.move(x + 80, y, steps=2)
        old = "document.querySelector('#places .is-old') !== null"
        assert page.evaluate(f"new Promise(r => requestAnimationFrame(() => r({old})))")
        assert (
            page.locator("#places .updating").is_visible()
            and not page.locator("#places .here").is_visible()
        )
        page.mouse.up()
        high = settled(page)[1]
        expect(page.locator(f'#places .places:not(.is-old)[data-here="{high}"]')).to_be_visible(
            timeout=SLOW
        )
        # the boundaries stay and the plan moves
        page.get_by_label("Suggest for mean sparsity").fill("0.2")
        page.get_by_role("button", name="Reset to the suggestion").click()
        expect(page.locator("#places .places:not(.is-old)")).to_have_attribute(
            "data-boundaries", "93,550", timeout=SLOW
        )


def test_arrow_keys_go_through_radios_and_tabs(page):
    page.get_by_role("radio", name="Score").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="ln SNR")).to_be_checked(timeout=SLOW)
    expect(page.locator("#stage-chart .ytitle")).to_contain_text("nats", timeout=SLOW)
    page.keyboard.press("Tab")  # one stop for the four
    assert page.evaluate("document.activeElement.name") != page.get_by_role(
        "radio", name="MSE"
    ).get_attribute("name")
    page.get_by_role("tab", name="1 Explore").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="2 Prune")).to_be_focused()
    expect(page.get_by_role("tab", name="2 Prune")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="1 Explore")).to_have_attribute("aria-selected", "true")


def test_a_threshold_shows_at_once_in_every_view(page):
    box = page.get_by_label("Threshold M")
    for view, m in (("MSE", "0.8"), ("Score", "0.9")):
        page.get_by_text(view, exact=True).first.click()
        box.fill(m)
        legend = page.locator("#stage-chart .legendtext").filter(has_text="suggested:")
        expect(legend).not_to_have_text("suggested: 93 and 550", timeout=SLOW)
        box.fill("0.55")
        expect(legend).to_have_text("suggested: 93 and 550", timeout=SLOW)
    assert boundaries(page) == [93, 550]


def test_what_a_key_did_is_said_and_no_letter_is_tiny(page):
    page.get_by_role("slider", name="Stage boundary 1").press("ArrowRight")
    said = page.locator(".only-heard[role=status]")
    expect(said).to_contain_text("Boundary 1 is at timestep 94.", timeout=SLOW)
    assert page.evaluate(
        "e => getComputedStyle(e).display !== 'none' && e.ariaLive === 'polite'",
        said.element_handle(),
    )
    sizes = page.evaluate(
        """() => [...document.querySelectorAll('.tabitem *')].filter(e => e.checkVisibility()
          && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
          .map(e => parseFloat(getComputedStyle(e).fontSize))"""
    )
    assert len(sizes) > 50 and min(sizes) >= 12
    order = re.findall("early|middle|late", page.locator("#outcome tbody").inner_text())
    assert order == ["early", "middle", "late"]


def test_the_number_in_the_sentence_is_dragged_and_moved_by_keys(page):
    mean = page.get_by_role("slider", name="Share removed on average")
    box = steady(mean)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 48, y, steps=6)  # 4 pixels are one per cent
    expect(page.locator('#outcome [data-stage="early"]')).not_to_contain_text("39", timeout=SLOW)
    expect(mean).to_have_text("45 %")
    assert "of the network's attention heads" in page.locator(".headline").inner_text()
    page.mouse.up()
    page.get_by_role("tab", name="2 Prune").click()
    master = page.get_by_role("slider", name="Target mean sparsity")
    expect(master).to_have_value("0.45", timeout=SLOW)
    page.get_by_role("tab", name="1 Explore").click()
    early = page.locator('#outcome [data-stage="early"]')
    before = early.text_content()
    mean.press("PageDown")
    mean.press("ArrowRight")
    expect(mean).to_be_focused()
    expect(early).not_to_have_text(before, timeout=SLOW)  # an estimate, then the plan itself
    expect(page.locator('#stage-table table[data-exact="true"]')).to_have_count(1, timeout=SLOW)
    expect(mean).to_have_attribute("aria-valuenow", "41")
    page.get_by_role("button", name="Undo").click()  # both keys are one step
    expect(mean).to_have_text("45 %", timeout=SLOW)
    page.get_by_role("button", name="Undo").click()
    expect(mean).to_have_text("33 %", timeout=SLOW)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 40, y, steps=4)
    page.keyboard.press("Escape")
    page.mouse.up()
    expect(mean).to_have_text("33 %", timeout=SLOW)
    page.wait_for_timeout(300)
    assert page.locator("#page-redo").is_enabled()  # nothing new was edited


def test_on_a_phone_the_sentence_comes_first_and_its_number_is_dragged_by_touch(page):
    page.set_viewport_size({"width": 390, "height": 844})
    mean = page.get_by_role("slider", name="Share removed on average")
    box, chart = steady(mean), page.locator("#stage-chart .plot").bounding_box()
    assert box["y"] + box["height"] < chart["y"] and in_sight(page, ".headline")
    late = page.locator("#stage-chart .band span").first
    assert late.evaluate("e => getComputedStyle(e).visibility") == "visible"
    assert late.evaluate("e => e.scrollWidth <= e.clientWidth + 1")
    session = page.context.new_cdp_session(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch(session, "touchStart", x, y)
    for by in range(8, 49, 8):
        touch(session, "touchMove", x + by, y + by / 8)
    expect(mean).to_have_text("45 %")
    assert page.evaluate("scrollY") == 0
    touch(session, "touchEnd")
    expect(page.locator("#page-undo")).to_be_enabled(timeout=SLOW)
    expect(mean).to_have_attribute("aria-valuenow", "45")
    page.locator("#page-undo").click()
    expect(mean).to_have_text("33 %", timeout=SLOW)
    # a finger that goes up the page from there scrolls it, and changes nothing
    box = steady(mean)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch(session, "touchStart", x, y)
    for by in range(10, 161, 10):  # a little aslant
        touch(session, "touchMove", x + by / 4, y - by)
    touch(session, "touchEnd")
    page.wait_for_function("scrollY > 40", timeout=SLOW)
    expect(mean).to_have_text("33 %")
    expect(page.locator("#page-redo")).to_be_enabled()  # nothing new was edited


def test_bars_begin_together_and_no_arrow_lies_on_the_words_of_a_menu(page):
    lefts = page.locator("#outcome .rail").evaluate_all(
        "rails => rails.map(e => Math.round(e.getBoundingClientRect().left))"
    )
    assert len(lefts) == 3 and len(set(lefts)) == 1
    over = page.evaluate(
        """() => [...document.querySelectorAll('.secondary-wrap')]
        .filter(e => e.checkVisibility() && e.querySelector('input')).map(e => {
          const input = e.querySelector('input'), arrow = e.parentElement.querySelector('svg');
          const end = input.getBoundingClientRect().right;
          const words = end - parseFloat(getComputedStyle(input).paddingRight);
          return Math.round(words - arrow.getBoundingClientRect().left);
        })"""
    )
    assert len(over) >= 5 and max(over) <= 0
