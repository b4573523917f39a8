"""Test what a visitor types that cannot be, and does while others work, in a real browser."""

from __future__ import annotations

import re
import threading
import time

import pytest
import torch
from browser import SLOW, drag, leave, serve, settled, visitor
from conftest import make_pipeline
from playwright.sync_api import expect

from core.models.checkpoints import load_checkpoint
from core.workshop.workshop import Workshop


@pytest.fixture(scope="module")
def fresh(small_settings, tmp_path_factory):
    """Make a model of five blocks, so that sparing both ends leaves three to cut.

    It is not calibrated, and a calibration holds on at its timesteps while `go_on` is not set.
    """
    folder = make_pipeline(tmp_path_factory.mktemp("five"), blocks=5, heads=4, head_dim=8)
    shop = Workshop(
        load_checkpoint(folder, "cpu", dtype=torch.float32),
        small_settings,
        tmp_path_factory.mktemp("cache"),
    )
    calibrate, shop.go_on = shop.calibrate, threading.Event()
    shop.go_on.set()

    def held(progress=None, stop=None):
        def report(done, total, words):
            if progress:
                progress(done, total, words)
                assert "measuring the model" not in words or shop.go_on.wait(200)

        calibrate(report, stop)

    shop.calibrate = held
    return shop


@pytest.fixture(scope="module")
def studio(fresh):
    with serve(fresh) as url:
        yield url


@pytest.fixture
def visit(browser, studio):
    """Return a function that opens pages, none of which may log an error or leave the machine."""
    opened = []

    def visit():
        opened.append(visitor(browser, studio))
        return opened[-1][0]

    yield visit
    for page, _ in opened:
        leave(page)
    assert all(not watch.errors and watch.hosts <= {"127.0.0.1"} for _, watch in opened), [
        watch.errors for _, watch in opened
    ]


def enter(box, value: str) -> None:
    box.fill(value)
    box.press("Enter")


def test_who_has_to_wait_is_told_and_can_stop_waiting(visit, fresh):
    first, second = visit(), visit()
    fresh.go_on.clear()
    first.get_by_role("tab", name="3 Compare").click()
    expect(first.locator("#cmp-live")).to_contain_text("A plan needs a calibration", timeout=SLOW)
    buttons = []
    for page in (first, second):
        page.get_by_role("tab", name="2 Prune").click()
        page.get_by_role("button", name="Calibrate", exact=True).click()
        buttons.append(
            page.get_by_role("button", name="Stop", exact=True).and_(
                page.locator(":not(#cmp-stop)")
            )
        )
        expect(
            page.get_by_text(
                "measuring the model" if page is first else "Waiting for the model"
            ).first
        ).to_be_visible(timeout=SLOW)
    buttons[1].click()
    expect(second.get_by_text("Stopped while it was waiting", exact=False)).to_be_visible(
        timeout=SLOW
    )
    expect(second.get_by_role("button", name="Calibrate", exact=True)).to_be_enabled(timeout=SLOW)
    second.get_by_role("tab", name="3 Compare").click()
    second.locator("#cmp-start").click()
    expect(second.locator("#cmp-live")).to_contain_text("Waiting for the model", timeout=SLOW)
    second.locator("#cmp-stop").click()
    expect(second.locator("#cmp-live")).to_contain_text(
        "Stopped while it was waiting", timeout=SLOW
    )
    expect(second.locator("#cmp-start")).to_be_enabled(timeout=SLOW)
    assert not fresh.calibrated  # all of that while the first one's calibration went on
    fresh.go_on.set()
    expect(first.get_by_text("Calibrated in", exact=False)).to_be_visible(timeout=SLOW)
    first.get_by_role("button", name="Calibrate", exact=True).click()
    expect(first.get_by_text("Nothing to do", exact=False)).to_be_visible(timeout=SLOW)
    # the queue came to it and found nothing
    expect(second.locator("#cmp-live")).to_contain_text("Stopped while it was waiting")
    for page in (first, visit()):  # who was there, and who comes to a page that was built before it
        page.get_by_role("tab", name="3 Compare").click()
        expect(page.locator("#cmp-live")).to_contain_text("Nothing compared yet", timeout=SLOW)
        expect(page.locator("#cmp-live")).not_to_contain_text(
            "A plan needs a calibration", timeout=SLOW
        )


def test_steps_count_when_they_are_entered_and_refused_ones_go_back(visit):
    page = visit()
    box, headline = page.get_by_label("Sampling steps").first, page.locator(".headline")
    box.click()
    box.press("ControlOrMeta+a")
    box.press_sequentially("100", delay=150)
    box.press("Enter")
    expect(headline).to_contain_text("Over 100 sampling steps", timeout=SLOW)
    for wrong in ("0", "7.5", ""):
        enter(box, wrong)
        expect(
            page.get_by_text(
                "Sampling steps must be a whole number from 1 to 1000. It stays at 100."
            )
        ).to_have_count(1, timeout=SLOW)
        expect(box).to_have_value("100", timeout=SLOW)
    drag(page, "Stage boundary 2", 60)
    high = settled(page)[1]
    page.get_by_role("tab", name="2 Prune").click()
    page.get_by_text("The plan as a file").click()
    # page and plan agree
    expect(page.locator(".cm-content").first).to_contain_text(str(high), timeout=SLOW)
    page.get_by_role("tab", name="1 Explore").click()
    enter(box, "2e1")
    expect(headline).to_contain_text("Over 20 sampling steps", timeout=SLOW)
    expect(box).to_have_value("20")
    boundary = page.get_by_label("Boundary 1 (late | middle)")
    enter(boundary, "1e2")
    expect(page.locator(f'#stage-table table[data-boundaries="100,{high}"]')).to_be_visible(
        timeout=SLOW
    )
    expect(boundary).to_have_value("100")
    enter(page.get_by_label("Suggest for mean sparsity"), "1")
    page.get_by_role("button", name="Suggest", exact=True).click()
    expect(
        page.get_by_text("Suggest for mean sparsity must be a number from 0 to 0.9.", exact=False)
    ).to_be_visible(timeout=SLOW)
    assert page.locator(".toast-body").count() == 0


def test_only_a_choice_changes_the_plan_and_not_a_way_past_the_lists(visit):
    page = visit()
    shares = re.compile(r"\d+\.\d %")

    def plan() -> tuple:  # without the time, which is there when the device has been measured
        return (
            re.split(r",? and to be|\.$", page.locator(".headline").inner_text())[0],
            shares.findall(page.locator("#stage-table").inner_text())[:2],
        )

    before = plan()
    target, lam = (
        page.get_by_label("Suggest for mean sparsity"),
        page.get_by_label("Lambda (weight of ln SNR)"),
    )
    target.fill("0.5")
    for _ in range(4):
        page.keyboard.press("Tab")
    lam.fill("0.05")
    for name in ("Curves of noise schedule", "Scheduler", "Preset"):
        page.get_by_label(name).first.focus()
        page.keyboard.press("Tab")
    time.sleep(1.5)  # nothing is to come, which cannot be waited for
    assert plan() == before and lam.input_value() == "0.05"
    preset = page.get_by_label("Preset")
    preset.click()
    page.get_by_role("option", name="Uniform").click()
    expect(
        page.get_by_text("Preset “Uniform”: 50 % of heads and neurons goes", exact=False)
    ).to_be_visible(timeout=SLOW)
    enter(target, "0.3")
    preset.click()
    page.get_by_role("option", name="Uniform").click()  # the same again, for another mean
    expect(
        page.get_by_text("Preset “Uniform”: 30 % of heads and neurons goes", exact=False)
    ).to_be_visible(timeout=SLOW)
    preset.focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_text("Preset “Formula", exact=False)).to_be_visible(timeout=SLOW)


def test_steps_of_explore_reach_compare_as_they_are(visit):
    page = visit()
    box = page.get_by_label("Sampling steps").first
    for steps in ("200", "3"):
        enter(box, steps)
        expect(page.locator(".headline")).to_contain_text(
            f"Over {steps} sampling steps", timeout=SLOW
        )
        page.get_by_role("tab", name="3 Compare").click()
        expect(
            page.locator(".cmp-controls").get_by_label("Sampling steps", exact=True)
        ).to_have_value(steps, timeout=SLOW)
        page.get_by_role("tab", name="1 Explore").click()


def test_refused_sliders_go_back_and_every_edit_ends_in_the_exact_prediction(visit, fresh):
    fresh.calibrate()
    page = visit()
    page.get_by_role("tab", name="2 Prune").click()
    cost, early = (
        page.get_by_test_id("cost"),
        page.get_by_label("number input for Early stage sparsity"),
    )
    assert page.locator("button[aria-label*='Reset' i]").count() == 0
    enter(early, "0.6")
    expect(cost).to_contain_text("exact on calibration data", timeout=SLOW)
    enter(early, "2")
    expect(
        page.get_by_text(
            "Early stage sparsity must be a number from 0 to 0.95. The plan stays as it was."
        )
    ).to_be_visible(timeout=SLOW)
    expect(early).to_have_value("0.6", timeout=SLOW)
    page.get_by_text("How layers share the cut").click()
    master = page.get_by_label("number input for Target mean sparsity")
    enter(master, "0.2")
    expect(early).not_to_have_value("0.6", timeout=SLOW)
    was = early.input_value()
    page.get_by_label("protect the first and the last block").check()
    expect(page.locator("#sharing")).to_contain_text(
        "the first and the last block lose nothing", timeout=SLOW
    )
    enter(master, "0.9")  # three blocks cannot give what five would
    expect(page.get_by_text("The plan stays as it was.", exact=False)).to_be_visible(timeout=SLOW)
    expect(master).to_have_value("0.2", timeout=SLOW)
    expect(early).to_have_value(was)
    expect(cost).to_contain_text("exact on calibration data", timeout=SLOW)
    assert page.locator(".toast-body").count() == 0


def test_a_refused_setting_leaves_compare_alive(visit):
    page = visit()
    page.get_by_role("tab", name="3 Compare").click()
    page.get_by_text("Guidance, scheduler, timing, how it runs").click()
    controls, live, start = (
        page.locator(".cmp-controls"),
        page.locator("#cmp-live"),
        page.locator("#cmp-start"),
    )
    for name, wrong, good in (("Seed", "-1", "0"), ("Guidance", "50", "1.5")):
        box = controls.get_by_label(name, exact=True)
        enter(box, wrong)
        start.click()
        expect(live).to_contain_text(f"{name} must be", timeout=SLOW)
        expect(start).to_be_enabled(timeout=SLOW)
        enter(box, good)
    for name, value in (("Images", "2"), ("Sampling steps", "5"), ("Timing repeats", "1")):
        enter(controls.get_by_label(name, exact=True), value)
    start.click()
    expect(page.locator(".cmp-verdict")).to_contain_text("timed run", timeout=SLOW)
    enter(controls.get_by_label("Seed", exact=True), "0.5")
    start.click()
    expect(live).to_contain_text("Seed must be", timeout=SLOW)
    expect(page.locator(".cmp-verdict")).to_be_visible()  # the earlier results stay


def test_a_measured_speed_reaches_every_tab_and_the_next_visit(visit):
    page = visit()
    measure = page.get_by_role("button", name="Measure this device's speed")
    measure.click()
    expect(measure).to_be_hidden(timeout=SLOW)
    page.get_by_role("tab", name="2 Prune").click()
    expect(page.get_by_test_id("cost")).not_to_contain_text("not measured yet", timeout=SLOW)
    page = visit()  # as after a reload
    expect(page.locator("#stage-table table[data-exact='true']")).to_be_visible(timeout=SLOW)
    expect(page.get_by_role("button", name="Measure this device's speed")).to_be_hidden()
    page.get_by_role("tab", name="2 Prune").click()
    expect(page.get_by_test_id("cost")).not_to_contain_text("not measured yet", timeout=SLOW)
