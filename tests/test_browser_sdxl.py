"""Test the studio on a text model: a tiny random SDXL, calibrated on its own samples."""

from __future__ import annotations

import re

import pytest
import torch
from browser import serve
from conftest import quiet_visitor
from playwright.sync_api import expect
from tiny_sdxl import make_sdxl

from core.calibration.data import DataOptions
from core.calibration.settings import CalibrationSettings
from core.models.checkpoints import load_checkpoint
from core.workshop.workshop import Workshop

SLOW = 120_000  # ms; a machine that runs other things must not fail a test


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Make a text model that is not measured: few bins, few samples, two sampling steps."""
    folder = make_sdxl(tmp_path_factory.mktemp("text") / "tiny-sdxl")
    settings = CalibrationSettings(edges=(0, 300, 1000), images=8, held_out=4)
    return Workshop(
        load_checkpoint(folder, "cpu", dtype=torch.float32),
        settings,
        tmp_path_factory.mktemp("cache"),
        DataOptions(steps=2),
    )


def number(page, label: str, value: str) -> None:
    box = page.get_by_label(label)
    box.fill(value)
    box.press("Enter")


def test_calibrate_prune_and_compare_a_text_model(fresh, browser):
    with serve(fresh) as url, quiet_visitor(browser, url) as page:
        page.set_default_timeout(SLOW)
        expect(page.get_by_test_id("status")).to_contain_text("float32", timeout=SLOW)
        first = page.locator("#first-step")
        expect(first).to_contain_text(
            "12 of the model's own samples (2 steps each, guidance 5)", timeout=SLOW
        )
        # 12 x 2 steps x 2 halves; 2 bins x 12 x 2
        rows = "48 times to make the samples and 48 times to measure"
        expect(first).to_contain_text(rows, timeout=SLOW)
        expect(page.locator("#stage-table")).to_contain_text("not known yet", timeout=SLOW)
        page.get_by_role("button", name="Go to Calibrate").click()
        expect(page.locator("#mosaic .ytick").filter(has_text="down 2.1")).to_have_count(
            1, timeout=SLOW
        )

        page.get_by_text("How layers share the cut").click()
        page.get_by_role("radio", name="Lagrangian").check()  # needs error curves
        expect(page.locator("#sharing")).to_contain_text(
            "press Calibrate. The plan stays as it was.", timeout=SLOW
        )
        expect(page.get_by_role("radio", name="Equal shares")).to_be_checked(timeout=SLOW)

        page.get_by_role("button", name="Calibrate", exact=True).click()
        expect(page.get_by_text("Calibrated in", exact=False)).to_be_visible(timeout=SLOW)
        expect(page.get_by_test_id("status")).to_contain_text("done", timeout=SLOW)
        expect(first).to_be_hidden(timeout=SLOW)
        page.get_by_role("radio", name="Dynamic programming").check()
        expect(page.locator("#sharing")).to_contain_text(
            "No other choice has a smaller sum of errors.", timeout=SLOW
        )
        number(page, "number input for Target mean sparsity", "0.5")
        page.get_by_role("button", name="Prune", exact=True).click()
        expect(page.get_by_text("Pruned in", exact=False)).to_be_visible(timeout=SLOW)

        page.get_by_role("tab", name="3 Compare").click()
        page.get_by_label("Prompts").fill("a red fox\n\na blue boat")
        page.get_by_label("Negative prompt").fill("fog")
        page.get_by_label("Size", exact=True).click()
        page.get_by_role("option", name="64 × 64").click()
        controls = page.locator(".cmp-controls")
        expect(controls.get_by_label("Classes")).to_have_count(0, timeout=SLOW)
        for name, value in (("Images", "1"), ("Sampling steps", "3")):
            number(controls, name, value)
        page.locator("#cmp-start").click()
        expect(page.locator("#cmp-live")).to_contain_text("2 prompts for 1 image", timeout=SLOW)
        number(controls, "Images", "2")
        page.get_by_text("Guidance, scheduler, timing, how it runs").click()
        number(controls, "Timing repeats", "2")
        page.get_by_label("Precision").click()
        page.get_by_role("option", name="bfloat16").click()
        page.locator("#cmp-start").click()
        verdict = page.locator(".cmp-verdict")
        expect(verdict).to_contain_text(re.compile("timed runs"), timeout=SLOW)
        expect(verdict).to_contain_text("2 images of 64 × 64 pixels", timeout=SLOW)
        expect(verdict).to_contain_text("2 prompts, “a red fox” first, not “fog”", timeout=SLOW)
        expect(verdict).to_contain_text("in bfloat16", timeout=SLOW)
        expect(page.locator(".cmp-stage").first).to_contain_text(
            "not predicted for another precision", timeout=SLOW
        )
        assert page.evaluate(
            "[...document.querySelectorAll('.cmp-stage')].every(card => card.scrollWidth <="
            " card.clientWidth)"
        ), "words leave their card"
        page.get_by_role("tab", name="All figures").click()
        results = page.locator("#cmp-results")
        expect(results).to_contain_text("without a feature network that could judge", timeout=SLOW)
        expect(results.get_by_text("FID", exact=True)).to_have_count(0, timeout=SLOW)
