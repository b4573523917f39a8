"""The studio as a visitor meets it: a real server, a real browser, a tiny random model."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from contextlib import contextmanager

import pytest
from browser import SLOW, alone, boundaries, drag, settled, steady, touch
from playwright.sync_api import expect


@contextmanager
def slowed(browser, workshop, seconds: float):
    """Open a page, and from then on let every prediction come late, as on a busy machine."""
    slow, predict = copy.copy(workshop), workshop.predict
    opened = threading.Event()

    def later(*arguments, **options):
        time.sleep(seconds if opened.is_set() else 0)
        return predict(*arguments, **options)

    slow.predict = later
    with alone(browser, slow) as page:
        expect(page.locator('#stage-table table[data-exact="true"]')).to_be_visible(timeout=SLOW)
        opened.set()
        yield page


@pytest.fixture
def page(same_page):
    """Share one page: a test here puts back what the suggestion leaves as it is."""
    return same_page


def own_curves(page) -> None:
    """Draw the model's own curves again."""
    page.get_by_label("Curves of noise schedule").click()
    page.get_by_role("option", name="the model's own").click()
    expect(page.get_by_text("are only to look at", exact=False)).to_be_hidden(timeout=SLOW)


def test_the_first_screen_explains_itself(one_page):
    expect(one_page.get_by_role("heading", name="MosaicDiff Studio")).to_be_visible()
    expect(one_page.get_by_text("not the video tool", exact=False)).to_be_visible()
    expect(one_page.get_by_test_id("status")).to_contain_text("Device")
    expect(one_page.locator("#stage-table")).to_contain_text("predicted")
    assert boundaries(one_page) == [93, 550]
    assert one_page.locator("#stage-chart .js-plotly-plot").count() == 1


def test_dragging_a_boundary_moves_only_sideways_and_the_table_follows(same_page):
    drag(same_page, "Stage boundary 2", 60)
    low, high = settled(same_page)
    assert low == 93 and 560 < high < 800
    handle = same_page.get_by_role("slider", name="Stage boundary 2")
    assert int(handle.get_attribute("aria-valuenow")) == high
    expect(same_page.get_by_label("Boundary 2 (middle | early)")).to_have_value(str(high))
    expect(same_page.locator('#stage-table tr[data-stage="early"]')).to_contain_text(
        f"{high} to 999"
    )
    # the estimate is replaced
    expect(same_page.locator("#stage-table table")).to_have_attribute(
        "data-exact", "true", timeout=SLOW
    )


def calls_of(page) -> list[str]:
    """Collect the names of the handlers that the page calls on the server from now on."""
    listed = page.evaluate("window.gradio_config.dependencies.map(d => [d.id, d.api_name])")
    names = {number: re.sub(r"_\d+$", "", str(name)) for number, name in listed}
    called: list[str] = []

    def note(request):
        if request.method == "POST" and re.search("/queue/join|/run/", request.url):
            called.append(names[json.loads(request.post_data)["fn_index"]])

    page.on("request", note)
    return called


def test_one_drop_asks_for_the_exact_prediction_once_in_eight_calls(browser, workshop):
    """The table by the short way, the drop, the other tabs' views in three, what is remembered, the
    exact prediction, and last the curve of the best place.
    """
    counted, exact = copy.copy(workshop), []

    def predict(*arguments, **options):
        exact.append(options.get("exact", False))
        return workshop.predict(*arguments, **options)

    counted.predict = predict
    with alone(browser, counted) as page:
        table = page.locator('#stage-table table[data-exact="true"]')
        expect(table).to_be_visible(timeout=SLOW)
        page.wait_for_timeout(1500)  # the answers to opening the page are in
        calls = calls_of(page)
        handle = page.get_by_role("slider", name="Stage boundary 2").bounding_box()
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 40, y, steps=4)
        page.wait_for_timeout(1000)  # what was sent while it moved is answered
        assert set(calls) == {"on_drag"} and not any(exact[-2:])
        calls.clear()
        exact.clear()
        page.mouse.up()
        settled(page)
        expect(table).to_be_visible(timeout=SLOW)
        page.wait_for_timeout(1500)
        assert sorted(calls) == [
            "describe",
            "follow",
            "foresee",
            "on_drag",
            "on_drop",
            "on_places",
            "refine",
            "remember",
        ]
        assert exact.count(True) == 1


def test_a_line_dropped_where_it_was_has_its_exact_prediction_again(same_page):
    table = same_page.locator('#stage-table table[data-boundaries="93,550"][data-exact="true"]')
    expect(table).to_be_visible(timeout=SLOW)
    handle = same_page.get_by_role("slider", name="Stage boundary 2").bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    same_page.mouse.move(x, y)
    same_page.mouse.down()
    same_page.mouse.move(x + 40, y, steps=4)
    expect(same_page.locator('#stage-table table[data-exact="false"]')).to_be_visible(timeout=SLOW)
    same_page.mouse.move(x, y, steps=4)
    same_page.mouse.up()
    expect(table).to_be_visible(timeout=SLOW)


def test_keyboard_and_number_box_move_a_boundary_exactly(same_page):
    handle = same_page.get_by_role("slider", name="Stage boundary 1")
    handle.focus()
    handle.press("ArrowRight")
    handle.press("Shift+ArrowRight")
    expect(
        same_page.locator('#stage-table table[data-boundaries="104,550"][data-exact="true"]')
    ).to_be_visible(timeout=SLOW)
    same_page.wait_for_timeout(500)  # every answer to the keys is in; typing starts after that
    box = same_page.get_by_label("Boundary 2 (middle | early)")
    box.fill("700")
    box.press("Enter")
    expect(same_page.get_by_role("slider", name="Stage boundary 2")).to_have_attribute(
        "aria-valuenow", "700", timeout=SLOW
    )
    assert boundaries(same_page) == [104, 700]


def test_typing_right_after_a_drop_outlives_the_late_answers(browser, workshop):
    with slowed(browser, workshop, 0.7) as page:
        drag(page, "Stage boundary 1", 40)
        low = page.get_by_role("slider", name="Stage boundary 1").get_attribute("aria-valuenow")
        assert low != "93"
        boxes = [
            page.get_by_label(f"Boundary {name}")
            for name in ("1 (late | middle)", "2 (middle | early)")
        ]
        boxes[1].fill("700")  # the drop is not even answered yet
        expect(
            page.locator(f'#stage-table table[data-boundaries="{low},550"][data-exact="true"]')
        ).to_be_visible(timeout=SLOW)
        expect(boxes[1]).to_have_value("700")
        boxes[1].press("Enter")
        page.wait_for_timeout(200)  # what Enter sends is on its way, and not answered yet
        boxes[1].fill("710")
        expect(
            page.locator(f'#stage-table table[data-boundaries="{low},700"][data-exact="true"]')
        ).to_be_visible(timeout=SLOW)
        expect(boxes[1]).to_have_value("710")
        boxes[1].press("Tab")
        expect(page.get_by_role("slider", name="Stage boundary 2")).to_have_attribute(
            "aria-valuenow", "710", timeout=SLOW
        )
        expect(
            page.locator(f'#stage-table table[data-boundaries="{low},710"][data-exact="true"]')
        ).to_be_visible(timeout=SLOW)
        expect(boxes[0]).to_have_value(low)


def test_a_refused_or_snapped_boundary_is_shown_as_it_stands(page):
    box = page.get_by_label("Boundary 1 (late | middle)")
    box.fill("800")
    box.press("Enter")
    expect(page.get_by_text("The boundaries stay as they were", exact=False)).to_be_visible(
        timeout=SLOW
    )
    expect(box).to_have_value("93", timeout=SLOW)
    page.get_by_label("snap to calibration bins").check()
    expect(box).to_have_value("100", timeout=SLOW)
    box.fill("140")
    box.press("Enter")
    expect(box).to_have_value("100", timeout=SLOW)
    page.get_by_label("snap to calibration bins").uncheck()


def test_two_sliders_moved_in_a_row_both_count(browser, workshop):
    with slowed(browser, workshop, 0.7) as page:
        page.get_by_role("tab", name="2 Prune").click()
        boxes = {
            name: page.get_by_label(f"number input for {name} stage sparsity")
            for name in ("Early", "Late")
        }
        boxes["Early"].fill("0.7")
        boxes["Late"].fill("0.2")  # before the first is answered
        page.get_by_text("The plan as a file").click()
        expect(page.get_by_role("link", name="Download plan")).to_have_attribute(
            "href", re.compile("late%22%3A%200.2%2C.*early%22%3A%200.7%"), timeout=SLOW
        )
        page.wait_for_timeout(3000)  # every late answer is in
        for name, value in (("Early", "0.7"), ("Late", "0.2")):
            expect(boxes[name]).to_have_value(value)


def test_boundaries_cannot_cross(same_page):
    drag(same_page, "Stage boundary 1", 900)
    low, high = settled(same_page)
    assert 93 < low < high == 550


@pytest.mark.parametrize("by, moved", [(-60, 0), (60, 1)])
def test_of_two_lines_that_touch_the_drag_takes_the_one_it_pulls(same_page, by, moved):
    box = same_page.get_by_label("Boundary 1 (late | middle)")
    box.fill("549")
    box.press("Enter")
    expect(same_page.locator('#stage-table table[data-boundaries="549,550"]')).to_be_visible(
        timeout=SLOW
    )
    drag(same_page, "Stage boundary 2", by)  # wherever it was grabbed
    now = settled(same_page)
    assert (now[0] < 540 and now[1] == 550) if moved == 0 else (now[0] == 549 and now[1] > 560)


def test_a_tag_beside_its_line_moves_that_line_and_by_as_much_as_the_hand(same_page):
    for name, value in (
        ("Boundary 2 (middle | early)", "999"),
        ("Boundary 1 (late | middle)", "940"),
    ):
        same_page.get_by_label(name).fill(value)
        same_page.get_by_label(name).press("Enter")
    expect(same_page.locator('#stage-table table[data-boundaries="940,999"]')).to_be_visible(
        timeout=SLOW
    )
    tag, plot = (
        same_page.locator(f"#stage-chart {name}").bounding_box()
        for name in (".handle:last-child .tag", ".plot .nsewdrag")
    )
    x, y = tag["x"] + 6, tag["y"] + tag["height"] / 2  # nearer to the other line, perhaps
    same_page.mouse.move(x, y)
    same_page.mouse.down()
    same_page.mouse.move(x - 12, y, steps=4)
    same_page.mouse.up()
    low, high = settled(same_page)
    assert low == 940 and high == pytest.approx(999 - 12 * 1000 / plot["width"], abs=3)


def test_a_tile_a_key_and_the_list_open_a_block_which_follows_an_edit(same_page):
    same_page.get_by_role("tab", name="2 Prune").click()
    rows, inside = same_page.locator("#mosaic .block-rows button"), same_page.locator(".inside")
    expect(rows).to_have_count(2, timeout=SLOW)
    tiles = steady(same_page.locator("#mosaic .nsewdrag[data-subplot=xy]"))
    same_page.evaluate(
        """() => new MutationObserver(() => {
          window.coming ??= document.querySelector('.inside-wait')?.textContent;
        }).observe(document.querySelector('.inside-place'), {childList: true})"""
    )
    same_page.mouse.click(tiles["x"] + 30, tiles["y"] + 0.8 * tiles["height"])
    same_page.wait_for_function("window.coming === 'Opening block 2 …'", timeout=SLOW)
    expect(inside).to_have_attribute("aria-label", "Inside block 2", timeout=SLOW)
    expect(same_page.get_by_label("Block", exact=True)).to_have_value("block 2")
    rows.first.press("ArrowUp")
    rows.first.press("Enter")
    expect(inside).to_have_attribute("aria-label", "Inside block 1", timeout=SLOW)
    same_page.get_by_label("Block", exact=True).click()
    same_page.get_by_role("option", name="block 2").click()
    expect(inside).to_have_attribute("aria-label", "Inside block 2", timeout=SLOW)
    before = inside.locator("tr[data-stage=early]").first.text_content()
    box = same_page.get_by_label("number input for Early stage sparsity")
    box.fill("0.8")
    box.press("Enter")
    expect(inside.locator("tr[data-stage=early]").first).not_to_have_text(before, timeout=SLOW)
    inside.get_by_role("button").first.click()
    expect(inside).to_contain_text("Measured: dense against only block 2 heads cut", timeout=SLOW)
    expect(same_page.locator("#inside-stop")).to_be_hidden(timeout=SLOW)
    same_page.get_by_text("Per-layer table").click()
    errors = same_page.locator("#layer-table td:last-child")
    expect(errors.first).to_be_visible(timeout=SLOW)
    same_page.locator("#layer-table th button").last.click()
    found = [float(text) for text in errors.all_text_contents()]
    assert found == sorted(found, reverse=True) and len(set(found)) > 3
    same_page.get_by_text("Per-layer table").click()


def test_boundaries_that_move_while_the_chart_is_hidden_are_placed_when_it_is_shown(page):
    def tags():
        lines, labels = (
            page.locator(f"#stage-chart {name}").all() for name in (".handle", ".handle .tag")
        )
        middles = [
            [part.bounding_box()["x"] + part.bounding_box()["width"] / 2 for part in parts]
            for parts in (lines, labels)
        ]
        return [abs(line - label) for line, label in zip(*middles, strict=True)], middles[0]

    near, before = tags()
    page.get_by_role("tab", name="2 Prune").click()
    plan = {"boundaries": [300, 700], "sparsity": {"late": 0.3, "middle": 0.1, "early": 0.4}}
    page.get_by_text("The plan as a file").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload plan").first.click()
    chooser.value.set_files(
        {"name": "plan.json", "mimeType": "application/json", "buffer": json.dumps(plan).encode()}
    )
    expect(page.get_by_label("number input for Late stage sparsity")).to_have_value(
        "0.3", timeout=SLOW
    )
    page.get_by_role("tab", name="1 Explore").click()
    expect(page.locator('#stage-table table[data-boundaries="300,700"]')).to_be_visible(
        timeout=SLOW
    )
    expect(page.locator("#stage-chart .handle:first-child .tag")).to_have_text(
        "t = 300", timeout=SLOW
    )
    page.wait_for_function(
        "document.querySelector('#stage-chart .handle .tag').getBoundingClientRect().left > 100"
    )
    now, after = tags()
    assert (
        max(near) < 2 and max(now) < 2 and after[0] > before[0] + 50 and after[1] > before[1] + 50
    )


def test_nothing_in_the_chart_is_cut_off_or_covered(page):
    box = page.get_by_label("Boundary 2 (middle | early)")
    box.fill("999")
    box.press("Enter")
    expect(page.locator('#stage-table table[data-boundaries="93,999"]')).to_be_visible(timeout=SLOW)

    def inside(*names):
        edges, parts = (
            page.locator("#stage-chart").bounding_box(),
            [page.locator(f"#stage-chart {name}").bounding_box() for name in names],
        )
        return all(
            edges["x"] <= part["x"]
            and part["x"] + part["width"] <= edges["x"] + edges["width"] + 0.5
            for part in parts
        )

    assert inside(".handle:last-child .tag")
    page.get_by_label("Boundary 1 (late | middle)").fill("998")
    page.get_by_label("Boundary 1 (late | middle)").press("Enter")
    expect(page.locator('#stage-table table[data-boundaries="998,999"]')).to_be_visible(
        timeout=SLOW
    )
    assert inside(".handle:first-child .tag", ".handle:last-child .tag")
    first, last = (
        page.locator(f"#stage-chart .handle:{which}-child .tag").bounding_box()
        for which in ("first", "last")
    )
    assert first["x"] + first["width"] <= last["x"]
    page.get_by_label("Curves of noise schedule").click()
    page.get_by_role("option", name="EDM (Karras)").click()
    names = page.locator("#stage-chart .legendtext")
    expect(names.filter(has_text="proposed for this schedule")).to_have_count(1, timeout=SLOW)
    legend, title = (
        page.locator(f"#stage-chart {name}").bounding_box() for name in (".legend .bg", ".xtitle")
    )
    assert title["y"] + title["height"] <= legend["y"]
    own_curves(page)


def test_a_curve_that_is_always_linear_shows_it_and_gives_the_logarithm_back(page):
    log, linear = (page.get_by_role("radio", name=name, exact=True) for name in ("log", "linear"))
    expect(log).to_be_disabled()  # the page opens on the score
    page.get_by_text("MSE", exact=True).first.click()
    expect(log).to_be_enabled(timeout=SLOW)
    page.get_by_text("log", exact=True).click()
    expect(page.locator("#stage-chart .ytick").first).to_be_visible()
    page.get_by_text("Score", exact=True).first.click()
    expect(linear).to_be_checked(timeout=SLOW)
    expect(log).to_be_disabled()
    page.get_by_text("Gradient", exact=True).first.click()
    expect(log).to_be_checked(timeout=SLOW)
    expect(log).to_be_enabled()
    page.get_by_text("Score", exact=True).first.click()
    expect(page.get_by_role("radio", name="log", exact=True)).to_be_disabled(timeout=SLOW)


def test_a_finger_drags_too(browser, studio):
    context = browser.new_context(
        viewport={"width": 390, "height": 740}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.set_default_timeout(SLOW)
    page.goto(studio)
    handle = page.get_by_role("slider", name="Stage boundary 2")
    expect(handle).to_be_visible(timeout=SLOW)
    # the last of the first answers: until then what stands above the chart may grow
    expect(page.locator('#stage-table table[data-exact="true"]')).to_have_count(1)
    # at the end of the screen lies the card with the outcome: what is focused comes out of it
    handle.evaluate("handle => scrollBy(0, handle.getBoundingClientRect().bottom - innerHeight)")
    handle.focus()
    box = steady(handle)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = context.new_cdp_session(page)
    for kind, at in (("touchStart", x), *(("touchMove", x + 8 * k) for k in range(1, 7))):
        touch(session, kind, at, y)
    touch(session, "touchEnd")
    expect(handle).not_to_have_attribute("aria-valuenow", "550")
    assert settled(page)[1] > 560
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
        "the page scrolls sideways on a phone"
    )
    context.close()


def test_the_models_own_path_joins_the_chart(page):
    page.get_by_label("show the model's own sampling path").check()
    legend = page.locator("#stage-chart .legendtext")
    expect(legend.filter(has_text="own path, n = 32")).to_have_count(1, timeout=SLOW)
    page.get_by_text("Gradient", exact=True).first.click()
    expect(page.locator("#stage-chart .ytitle")).to_contain_text("gained", timeout=SLOW)
    expect(legend.filter(has_text="own path, n = 32")).to_have_count(1)
    page.get_by_label("show the model's own sampling path").uncheck()
    expect(legend.filter(has_text="own path, n = 32")).to_have_count(0, timeout=SLOW)
    # the curve chosen meanwhile stays
    expect(page.locator("#stage-chart .ytitle")).to_contain_text("gained")
    page.get_by_text("Score", exact=True).first.click()
    expect(page.get_by_role("radio", name="log", exact=True)).to_be_disabled(timeout=SLOW)


def test_other_kinds_of_model_are_for_looking_only(page):
    for name, sigma in (
        ("Flow matching", "σ = 0.001 at t = 0 to 1 at t = 999"),
        ("EDM (Karras)", "σ = 0.002 at t = 0 to 80 at t = 999"),
    ):
        page.get_by_label("Curves of noise schedule").click()
        page.get_by_role("option", name=name).click()
        expect(page.get_by_text(sigma, exact=False)).to_be_visible(timeout=SLOW)
        expect(page.get_by_text("are only to look at", exact=False)).to_be_visible()
        expect(
            page.locator("#stage-chart .legendtext").filter(has_text="proposed for this schedule")
        ).to_have_count(1, timeout=SLOW)
    page.get_by_role("button", name="Suggest", exact=True).click()
    expect(
        page.get_by_text("was trained with linear: choose those curves", exact=False)
    ).to_be_visible(timeout=SLOW)
    assert boundaries(page) == [93, 550]
    drag(page, "Stage boundary 2", 60)  # the handles stay the model's own, on the same timesteps
    assert 560 < settled(page)[1] < 800
    own_curves(page)


@pytest.mark.parametrize("width, height", [(1280, 720), (390, 844)])
def test_the_list_of_a_side_opens_below_its_box_with_the_chosen_entry_in_sight(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    page.get_by_role("tab", name="3 Compare").click()
    box = page.get_by_label("B runs")
    page.wait_for_timeout(500)  # what is kept is listed anew
    box.click()
    chosen, frame = page.get_by_role("option", selected=True), page.locator(".cmp-picker .options")
    expect(chosen).to_be_visible(timeout=SLOW)
    page.wait_for_timeout(500)  # it slides in
    inner, outer = chosen.bounding_box(), frame.bounding_box()
    assert outer["y"] >= box.bounding_box()["y"] + box.bounding_box()["height"]
    assert outer["y"] - 1 <= inner["y"]
    assert inner["y"] + inner["height"] <= min(outer["y"] + outer["height"], height) + 1
    page.keyboard.press("Escape")
