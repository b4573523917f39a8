"""A calibration is one number that only rises, in plain words, with the time that is left."""

from __future__ import annotations

import re

import pytest

from core.models.checkpoints import load_checkpoint
from core.workshop import calibration_progress
from core.workshop.calibration_progress import WHOLE, WholeProgress, plain_words, shares
from core.workshop.workshop import Workshop
from mosaic_ui import model_facts

JARGON = re.compile("removal order|damping|error curve|Gram|will write|cache")


def test_a_calibration_rises_once_from_nothing_to_the_whole(model_folder, small_settings, tmp_path):
    shop = Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path)
    seen = []
    shop.calibrate(lambda *report: seen.append(report))
    numbers = [done for done, _, _ in seen]
    assert numbers == sorted(numbers) and {total for _, total, _ in seen} == {WHOLE}
    assert numbers[0] == 0 and 50 < numbers[-1] <= WHOLE and len(set(numbers)) > 5
    page = [model_facts.without_paths(shop, text) for _, _, text in seen]
    assert not [text for text in page if JARGON.search(text)]
    assert page[0].startswith("making room for ") and page[0].endswith(" MB on the disk")
    last = f"in {shop.layers[-1].name} (layer {len(shop.layers)} of {len(shop.layers)})"
    assert page[-1].startswith("finding what can go first") and last in page[-1]


def test_the_parts_have_the_shares_of_their_work(workshop):
    settings, layers = workshop.settings, workshop.layers
    made, bins, orders = shares(layers, settings, 1e6, made_rows=0, missing=settings.bins)
    assert made == 0 and bins + orders == pytest.approx(1)
    more = shares(layers, settings, 1e6, made_rows=10_000, missing=settings.bins)
    rows = 2 * settings.bins * (settings.images + settings.held_out)
    assert more[0] > 0 and more[1] / more[2] == pytest.approx(bins / orders)
    assert more[0] / more[1] < 10_000 / rows  # a row that is measured costs its Grams too
    kept = shares(layers, settings, 1e6, made_rows=10_000, missing=0)
    assert kept == (0, 0, 1)  # only the orders are left


def test_the_time_left_follows_from_the_pace_and_starts_from_what_was_kept(workshop, monkeypatch):
    clock, said = [0.0], []
    monkeypatch.setattr(calibration_progress.time, "perf_counter", lambda: clock[0])
    whole = WholeProgress(lambda *r: said.append(r), workshop.layers, (0.0, 0.8, 0.2))
    clock[0] = 50.0  # hashing, say
    whole.measuring(5, 10, "measuring timesteps 500 to 599")
    assert said[-1] == (40, WHOLE, "measuring the model at timesteps 500 to 599")
    clock[0] += 20.0
    whole.measuring(10, 10, "calibrated")
    assert said[-1] == (80, WHOLE, "the model is measured; about 10 s left, by the pace so far")
    clock[0] += 1.0
    whole.measuring(2, 10, "late")  # never falls
    assert said[-1][0] == 80


def test_every_report_of_a_part_has_plain_words():
    assert plain_words("measuring timesteps 0 to 49; will write 394 MB to /x and needs 1 MB") == (
        "measuring the model at timesteps 0 to 49"
    )
    found = plain_words("working out error curve 3 of 11 of block 1 neurons")
    assert found == "working out what a cut costs, 3 of 11, in block 1 neurons"
