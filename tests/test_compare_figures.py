"""Test the Compare tab's pictures, times per stage and HTML from results, and its checks."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.curves.plan import StagePlan
from core.errors import PlanError, StudioError
from core.workshop.comparison import Comparison, SampleSettings, Side
from core.workshop.estimate import Estimate
from core.workshop.same_work import run_macs
from core.workshop.study import findings
from mosaic_ui import png, text
from mosaic_ui.compare import between, downloads, figures, pictures, rival, sides, viewer
from mosaic_ui.compare import inputs as compare_inputs
from mosaic_ui.compare import live as compare_live
from mosaic_ui.compare import timing as compare_timing
from mosaic_ui.compare.pace import Foreseen
from mosaic_ui.inputs import read_upload
from mosaic_ui.predictions import Asked, Predictions
from mosaic_ui.theme import STAGE_COLOURS

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55))
SETTINGS = SampleSettings(labels=(0, 1), steps=4, guidance=1.5, seed=7, scheduler="DDIM", repeats=3)


def comparison(n: int = 2, fid: float | None = None, **changes) -> Comparison:
    """Two images, four steps; B is twice as fast."""
    images = torch.linspace(-1, 1, n * 32 * 32).reshape(n, 1, 32, 32)
    times = [[1.0, 1.0, 1.0, 1.0], [1.1, 1.0, 1.0, 1.0], [0.9, 1.0, 1.0, 1.0]]
    common = {
        "latents": torch.zeros(n, 4, 8, 8),
        "scale": 1.0,
        "timesteps": [900.0, 600.0, 300.0, 50.0],
        "film": [images, images],
        "film_timesteps": [900.0, 50.0],
        "fid": fid,
    }
    dense = Side(
        "Dense",
        None,
        images=images,
        step_seconds=times,
        stages=[-1] * 4,
        macs=3_000_000_000,
        predicted_seconds=[2.0] * 4,
        class_accuracy=0.5,
        **common,
    )
    pruned = Side(
        "<b>mine</b>",
        PLAN,
        images=-images,
        step_seconds=[[t / 2 for t in row] for row in times],
        stages=[2, 2, 1, 0],
        macs=2_000_000_000,
        predicted_seconds=[0.5, 0.5, 1.5, 0.75],
        **common,
    )
    values = {
        "a": dense,
        "b": pruned,
        "settings": SETTINGS,
        "device": "CPU, 2 threads",
        "model": "tiny",
        "when": "today",
        "psnr": 27.5,
        "ssim": 0.93,
        "latent_mse": 0.012,
        "n": n,
    }
    return Comparison(**{**values, **changes})


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))))


def test_to_uint8_covers_the_range_and_survives_nan():
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, float("nan")]).reshape(1, 1, 1, 5)
    grey = pictures.to_uint8(images)
    assert grey.shape == (1, 1, 5, 3) and grey.dtype == np.uint8
    assert grey[0, 0, :, 0].tolist() == [0, 0, 128, 255, 0]


def test_colour_images_keep_their_channels():
    images = torch.stack([torch.full((2, 2), v) for v in (-1.0, 0.0, 1.0)])[None]
    assert pictures.to_uint8(images)[0, 0, 0].tolist() == [0, 128, 255]


def test_contact_sheet_repeats_whole_pixels():
    samples = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    sheet = pictures.contact_sheet(samples, pixels=6, gap=1)
    # 5 samples: 3 columns, 2 rows, each pixel 3 x 3
    assert sheet.shape == (2 * 6 + 1, 3 * 6 + 2, 3)
    assert (sheet[0:3, 0:3] == samples[0, 0, 0]).all() and (
        sheet[7:10, 7:10] == samples[4, 0, 0]
    ).all()


def test_the_bundled_size_is_shown_at_128_pixels():
    assert pictures.contact_sheet(np.zeros((1, 32, 32, 3), np.uint8)).shape == (128, 128, 3)


def test_downloads_hold_every_sample_within_the_limit():
    samples = np.zeros((512, 32, 32, 3), np.uint8)
    sheet = pictures.download_sheet(samples)
    assert max(sheet.shape) <= pictures.MAX_SHEET_PIXELS and sheet.shape[1] >= 23 * 32


@pytest.mark.parametrize("step, factor", [(0, 32), (3, 32), (20, 8), (100, 2), (200, 1)])
def test_difference_scale_follows_the_size_of_the_difference(step, factor):
    a = np.full((1, 8, 8, 3), 20, np.uint8)
    amplified, chosen, mean = pictures.amplified_difference(a, a + np.uint8(step))
    assert chosen == factor and mean == step and (amplified == min(255, step * factor)).all()


def test_difference_does_not_wrap_around():
    low, high = np.full((1, 2, 2, 3), 5, np.uint8), np.full((1, 2, 2, 3), 250, np.uint8)
    assert (pictures.amplified_difference(low, high)[0] == 245).all()


def test_png_is_lossless():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (decoded(png.data_address(png.png_bytes(picture))) == picture).all()
    grey = np.repeat(picture[..., :1], 3, axis=2)
    assert (decoded(png.data_address(png.png_bytes(grey))) == grey[..., 0]).all()


@pytest.mark.parametrize(
    "value, width, words",
    [
        (None, None, "–"),
        (float("nan"), None, "–"),
        (0.0456, None, "45.6 ms"),
        (1.2, None, "1.20 s"),
        (12.34, None, "12.3 s"),
        (150.4, None, "150 s"),
        (1.234, 0.02, "1.23 ± 0.02 s"),
        (1.23, 0.004, "1.230 ± 0.004 s"),
        (0.0456, 0.0012, "45.6 ± 1.2 ms"),
        (1.0, 0.0, "1.00 ± 0.00 s"),
    ],
)
def test_seconds_carry_their_unit_and_enough_figures(value, width, words):
    assert text.seconds_text(value, width) == words


def test_macs_and_factors_in_words():
    assert text.macs_text(1.234e12) == "1.23 TMACs" and text.macs_text(None) == "–"
    assert text.factor_text(1.3149) == "×1.31" and text.factor_text(None) == "not known"


def test_times_read_together_have_one_unit():
    assert (
        text.seconds_text(0.103, beside=(0.0791,)) == "103 ms"
        and text.seconds_text(0.0791, beside=(0.103,)) == "79.1 ms"
    )
    c = comparison()
    c.a.step_seconds, c.b.step_seconds = [[0.03] * 4] * 3, [[0.02] * 4] * 3
    assert "120 ± 0 ms" in figures.metrics_html(c) and "80.0 ± 0.0 ms" in figures.metrics_html(c)


def test_one_timed_run_claims_no_spread_and_no_certainty():
    c = comparison()
    for side in (c.a, c.b):
        side.step_seconds = side.step_seconds[1:2]
    views = (
        figures.verdict_html(c),
        figures.metrics_html(c),
        compare_timing.timing_html(compare_timing.timing_rows(c.a, c.b), c),
    )
    assert (
        all("±" not in view and "median" not in view and ("no spread" in view) for view in views)
        and "one run cannot tell small differences" in views[0]
    )
    told = json.loads(downloads.result_json(c))
    assert (
        told["speedup_measured"] == 2.0
        and told["speedup_spread"]
        is told["dense"]["seconds_spread"]
        is told["stages"][0]["a_spread"]
        is None
    )
    c.b.step_seconds = [[1.05 * t for t in run] for run in c.a.step_seconds]
    assert "not measurably faster" in c.verdict  # 5 % in one run is no difference


def test_a_dense_side_is_cut_where_the_plan_cuts():
    c = comparison()
    rows = compare_timing.timing_rows(c.a, c.b)
    assert [row.name for row in rows] == ["Early", "Middle", "Late", "Whole run"]
    assert [(row.a.steps, row.b.steps) for row in rows] == [(2, 2), (1, 1), (1, 1), (4, 4)]
    assert [row.a.predicted for row in rows] == [4.0, 2.0, 2.0, 8.0]
    assert [row.b.predicted for row in rows] == [1.0, 1.5, 0.75, 3.25]
    assert rows[0].a.measured == pytest.approx(2.0) and rows[0].b.measured == pytest.approx(1.0)


def test_two_dense_sides_have_one_row():
    c = comparison()
    c.b.stages, c.b.predicted_seconds = [-1] * 4, None
    rows = compare_timing.timing_rows(c.a, c.b)
    assert [row.name for row in rows] == ["Whole run"] and rows[0].b.predicted is None


def test_two_plans_keep_their_own_stages():
    c = comparison()
    c.a.stages = [2, 1, 1, 1]
    rows = compare_timing.timing_rows(c.a, c.b)
    assert [(row.a.steps, row.b.steps) for row in rows] == [(1, 2), (3, 1), (0, 1), (4, 4)]
    assert rows[2].a.measured is None and "no step in this stage" in compare_timing.timing_html(
        rows, c
    )


def test_verdict_stands_first_and_names_are_escaped():
    page = figures.verdict_html(comparison(), "Measured on a laptop.")
    assert (
        page.index("less time than Dense")
        < page.index("×2.00")
        < page.index("×1.50")
        < page.index("×2.46")
    )
    assert "<b>mine</b>" not in page and "&lt;b&gt;mine" in page
    assert "Measured on a laptop." in page and "seed 7" in page and "CPU, 2 threads" in page
    assert (
        "Dense (the full model)" in page
        and "early 55&nbsp;%, middle 10&nbsp;%, late 40&nbsp;%" in page
    )


def test_a_slower_side_is_said_to_be_slower():
    c = comparison()
    c.a, c.b = c.b, c.a
    assert "Dense is slower" in figures.verdict_html(c)


def test_a_stopped_timing_says_so():
    assert "Stopped after 1 of 3 timed runs." in figures.verdict_html(
        comparison(notes="Stopped after 1 of 3 timed runs.")
    )


def test_measured_and_predicted_never_look_alike():
    c = comparison()
    page = compare_timing.timing_html(compare_timing.timing_rows(c.a, c.b), c)
    assert page.count("</b> measured") == 8 and page.count(" s predicted") == 8
    assert page.count('cmp-bar is-measured"') == 8 and page.count('cmp-bar is-predicted"') == 8
    c.a.predicted_seconds = c.b.predicted_seconds = None
    unknown = compare_timing.timing_html(compare_timing.timing_rows(c.a, c.b), c)
    assert " s predicted" not in unknown and "no prediction for this device yet" in unknown
    c.settings = replace(c.settings, dtype="float16")
    assert "not predicted for another precision" in compare_timing.timing_html(
        compare_timing.timing_rows(c.a, c.b), c
    )


def test_fid_is_a_sentence_where_there_are_too_few_images():
    assert figures.metrics_html(comparison()).count("needs 200 images, you have 2") == 2
    assert "15.30" in figures.metrics_html(comparison(fid=15.3))
    c = comparison()
    c.n = 300
    assert figures.metrics_html(c).count("not available for this model") == 2


def test_metrics_say_n_seed_and_device():
    page = figures.metrics_html(comparison(psnr=None))
    for words in (
        "n = 2",
        "seed 7",
        "CPU, 2 threads",
        "identical pictures",
        "0.9300",
        "0.012",
        "50.0 %",
        "not available",
        "33 % fewer MACs",
        "×2.00 ± 0.00",
    ):
        assert words in page
    assert "27.50 dB" in figures.metrics_html(comparison())


def test_film_has_a_frame_per_prediction_with_stage_and_timestep():
    page = figures.film_html(comparison())
    assert page.count("<li>") == 4 and page.count("t 900<") == 2
    assert page.index("<small>full") < page.index("<small>early") < page.index("<small>late")
    assert STAGE_COLOURS["early"] in page and STAGE_COLOURS["late"] in page
    c = comparison()
    c.a.film = c.b.film = []
    assert "at most 64 images" in figures.film_html(c)


def test_difference_says_its_scale():
    sheet_a, sheet_b, sheet, *_ = figures.sheets(comparison())
    assert sheet_a.shape == sheet_b.shape == sheet.shape
    words = viewer.difference_words(comparison(), 4, 3.25)
    assert "brightness is |A − B| × 4, so white means 63 grey levels" in words
    assert "the same to the last grey level" in viewer.difference_words(comparison(), 32, 0.0)


def test_a_difference_in_colour_is_shown_channel_by_channel():
    c = comparison()
    dark = torch.full((2, 3, 32, 32), -1.0)
    c.a.images, c.b.images = dark, dark.clone()
    c.b.images[:, 1] = -1 + 2 * 30 / 255  # green, 30 levels of 255
    *_, sheet, factor, mean = figures.sheets(c)
    assert factor == 8 and mean == pytest.approx(10)
    assert sheet[5, 5].tolist() == [0, 240, 0]
    words = viewer.difference_words(c, factor, mean)
    assert "red, green and blue are each |A − B| × 8" in words
    assert "full brightness means 31 levels of 255" in words
    assert "Mean difference: 10.00 levels of 255, over the three colours." in words
    assert "the same to the last level" in viewer.difference_words(c, 1, 0.0)


def test_every_sample_carries_its_distance_class_and_film_strip():
    page = viewer.viewer_html(comparison(), {0: "T-shirt", 1: "<i>bag</i>"})
    assert page.count("<li ") == 3 * 2 and page.count("data-film=") == 2 * 2
    assert 'data-what="T-shirt"' in page and "<i>bag" not in page and "&lt;i&gt;bag" in page
    assert page.count("data-words=") == 2 and "dB, " in page
    strip = page.split('data-film="')[1].split('"')[0]
    assert decoded(strip).shape == (32, 2 * 32)  # both frames beside each other
    told = json.loads(html.unescape(page.split("hidden>")[1].split("</span>")[0]))
    assert [frame["t"] for frame in told["b"]["frames"]] == ["900", "50"]
    assert told["b"]["name"] == "<b>mine</b>" and "<b>mine" not in page


def test_the_verdict_says_how_far_and_what_differs():
    page = figures.verdict_html(comparison())
    assert "How far do the pictures move? Clearly different details: 27.5 dB PSNR" in page
    assert "What differs" in page and "above 40 dB: hardly to be seen" in page
    assert "Unequal budgets" not in page  # dense in all steps is the yardstick


def test_a_doubtful_measurement_looks_doubtful():
    assert "is-doubtful" not in figures.verdict_html(comparison())
    for ratios in ([2.0, 1.1, 2.5], [1.01, 1.0, 1.02]):
        assert "Measured, doubtful" in figures.verdict_html(timed(ratios))


STEM = "mosaicdiff-tiny-dense-vs-b-mine-b-seed7-4steps"


def test_downloads_are_named_after_what_they_hold():
    names = [f"{STEM}{end}" for end in (".html", ".png", "-slide.png", "-A.png", "-B.png", ".json")]
    asked = downloads.downloads_html(comparison(), "20261010-101010-0a1b2c3d")
    assert re.findall(r'data-name="([^"]*)"', asked) == names
    assert re.findall(r'data-file="([^"]*)"', asked) == list(downloads.FILES)
    assert 'data-id="20261010-101010-0a1b2c3d"' in asked and asked.count("<button type=") == 8
    assert re.findall(r'download="([^"]*)"', downloads.carried_html(comparison())) == names
    c = comparison(model="../../x y", settings=replace(SETTINGS, side_steps=(4, 3)))
    c.a.name = "Ünïform " * 40
    assert downloads.file_stem(c).startswith("mosaicdiff-x-y-uniform-uniform")
    assert (
        downloads.file_stem(c).endswith("-seed7-4and3steps") and len(downloads.file_stem(c)) < 160
    )


def test_the_page_carries_no_file_until_somebody_asks():
    asked = downloads.downloads_html(comparison(), "example")
    assert "data:" not in asked and "base64" not in asked and len(asked) < 2_000
    view = viewer.viewer_html(comparison(), {}, "example")
    assert "data-film" not in view and 'data-id="example"' in view and view.count("<img") == 6


def test_downloads_carry_both_grids_and_the_result():
    page = downloads.carried_html(comparison())
    addresses = [part.split('"', 1)[0] for part in page.split('href="')[1:]]
    assert [a.split(";")[0] for a in addresses] == [
        "data:text/html",
        "data:image/png",
        "data:image/png",
        "data:image/png",
        "data:image/png",
        "data:application/json",
    ]
    facts = json.loads(base64.b64decode(addresses[5].split(",")[1]))
    assert facts["n"] == 2 and facts["dense"]["fid"] is None and facts["speedup_measured"] == 2.0
    assert decoded(addresses[3]).shape == (128, 260)


def test_the_page_to_mail_asks_for_nothing_from_outside():
    page = downloads.report_html(comparison())
    assert page.startswith("<!doctype html>") and "less time than Dense" in page
    assert "cmp-viewer" in page and "Film strip" in page and "<b>mine" not in page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert "@import" not in page and "url(http" not in page


def test_one_picture_holds_a_b_and_their_difference():
    picture = downloads.one_picture(comparison())
    assert picture.shape[1] == 3 * 260 + 4 * downloads.MARGIN and picture.shape[0] > 128
    assert (picture[0] == 255).all()


def test_live_view_shows_progress_stage_and_pictures():
    grid = np.zeros((4, 8, 8), np.uint8)
    page = compare_live.live_html("Step 3 of 50", 3, 50, ("Dense", "Plan"), (grid, None), 1)
    assert (
        'aria-valuenow="6"' in page
        and "middle stage" in page
        and page.count("<img") == 1
        and "cmp-wait" in page
    )
    assert (
        "full model" in compare_live.stage_chip(-1)
        and "late stage" in compare_live.stage_chip("late")
        and compare_live.stage_chip(None) == ""
    )


def test_plan_note_in_sampling_order():
    page = compare_live.plan_note(PLAN)
    assert (
        page.index("early") < page.index("middle") < page.index("late")
        and "Removed" in page
        and "55" in page
        and "t ≥ 550" in page
    )
    assert "full model" in compare_live.plan_note(None)
    assert "&lt;script" in compare_live.plan_note(
        None, "<script>"
    ) and 'role="alert"' in compare_live.plan_note(None, "bad")


CLASSES = {i: f"thing {i}" for i in range(10)}


def test_labels_take_the_chosen_classes_in_turns():
    assert compare_inputs.chosen_labels(["thing 3", "thing 1"], CLASSES, 5) == (
        3,
        1,
        3,
        1,
        3,
    )
    assert compare_inputs.chosen_labels(["All ten classes"], CLASSES, 12) == (
        *range(10),
        0,
        1,
    )


def test_all_and_single_classes_exclude_each_other():
    everything = compare_inputs.all_classes(CLASSES)
    assert (
        everything == "All ten classes"
        and compare_inputs.all_classes({i: f"class {i}" for i in range(10)}) == "Classes 0 to 9"
    )
    assert compare_inputs.tidy_classes([everything, "thing 1"], everything) == ["thing 1"]
    assert compare_inputs.tidy_classes(["thing 1", everything], everything) == [everything]
    assert compare_inputs.tidy_classes([], everything) == [everything]


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\xff\xfe", b"{", b"[]", b'{"boundaries": [1]}', b'{"a": 1}', b" " * 70_000],
)
def test_a_bad_upload_is_one_sentence(content):
    with pytest.raises(PlanError) as error:
        read_upload(content)
    assert "\n" not in str(error.value) and str(error.value)


def test_a_good_upload_is_the_plan():
    assert read_upload(PLAN.dumps().encode()) == PLAN


def test_sides_resolve_to_plans(workshop):
    predictions = Predictions(workshop)

    def resolve(choice, uploaded=None):
        return sides.resolve_side(choice, uploaded, Asked(PLAN, "DDIM", 50), predictions)

    assert resolve("Dense").plan is None and resolve("Current plan").plan == PLAN
    assert resolve("Uploaded plan", PLAN).plan == PLAN
    assert resolve("Paper's eye [200, 600]").plan.boundaries == (200, 600)
    assert len({resolve(name).plan for name in sides.PRESETS}) == 5
    for bad in ("Uploaded plan", "../etc", None):
        with pytest.raises(StudioError):
            resolve(bad)


def test_every_choice_of_a_picker_can_be_resolved(workshop, tmp_path, monkeypatch):
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path / "data"))
    predictions = Predictions(workshop)
    workshop.measure_latency(workshop.usual_images, 2)
    for _, choice in sides.picker_choices(workshop):
        run = sides.resolve_side(choice, PLAN, Asked(PLAN, "DDIM", 20), predictions)
        assert 1 <= run.steps <= 20 and (run.plan is None) == choice.startswith("Dense")


def test_uniform_of_the_same_work_follows_the_plan_in_hand(workshop):
    predictions = Predictions(workshop)
    timesteps = predictions.visited("DDIM", 20)
    found = []
    for plan in (PLAN, PLAN.with_sparsity(0.6, 0.5, 0.7)):
        run = sides.resolve_side("Uniform, same work", None, Asked(plan, "DDIM", 20), predictions)
        found.append(run.plan.sparsity[0])
        work = [run_macs(workshop, p, timesteps) for p in (plan, run.plan)]
        assert work[1] == pytest.approx(work[0], rel=0.05)
    assert found[1] > found[0]


def with_times(a: list[float], b: list[float], foreseen: tuple[float, float] = (8.0, 4.0)):
    """Return a comparison of four steps, with the seconds of every timed run and the predicted."""
    found = comparison()
    sides = [
        replace(
            side,
            step_seconds=[[t / 4] * 4 for t in times],
            predicted_seconds=[seconds / 4] * 4,
        )
        for side, times, seconds in zip((found.a, found.b), (a, b), foreseen, strict=True)
    ]
    return replace(found, a=sides[0], b=sides[1])


def test_a_ratio_that_is_not_that_of_the_two_times_says_why():
    found = with_times([10.0, 12.0, 20.0], [8.0, 10.0, 15.0])  # 1.25, 1.2, 1.33
    why = "×1.25 is the median of the ratios of 3 rounds; the two medians alone give ×1.20"
    rows = compare_timing.timing_rows(found.a, found.b)
    assert why in compare_timing.timing_html(rows, found)
    assert why in figures.metrics_html(found)
    even = with_times([10.0, 12.0, 20.0], [8.0, 9.6, 16.0])
    rows = compare_timing.timing_rows(even.a, even.b)
    for page in (compare_timing.timing_html(rows, even), figures.metrics_html(even)):
        assert "alone give" not in page
    assert "time A / time B, median of 3" in figures.metrics_html(even)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (14.0, 7.0, "1.75 × the predicted time: the machine was slower than"),
        (14.0, 7.5, "1.79 × the predicted time"),
        (4.0, 2.0, "0.50 × the predicted time: the machine was faster than"),
        (9.0, 4.5, ""),  # 1.125: near enough
        (14.0, 4.2, ""),  # one side alone
        (14.0, 9.0, ""),  # the ratio is off, too
    ],
)
def test_both_sides_off_their_prediction_alike_is_said_in_a_sentence(a, b, said):
    found = with_times([a] * 3, [b] * 3)
    words = compare_timing.off_words(found)
    assert said in words and bool(said) == bool(words)
    page = compare_timing.timing_html(compare_timing.timing_rows(found.a, found.b), found)
    assert ("cmp-off" in page) == bool(said)
    untimed = replace(found, a=replace(found.a, step_seconds=[]))
    assert compare_timing.off_words(untimed) == ""


def against_fewer_steps(both_dense: bool, **changes) -> Comparison:
    """A runs 50 steps, dense or pruned; B is the dense model in 26 of them."""
    found = comparison(psnr=55.8, settings=replace(SETTINGS, side_steps=(50, 26), **changes))
    a = found.a if both_dense else found.b
    a = replace(a, name="A side", timesteps=[1.0] * 50, macs=50 if both_dense else 26)
    return replace(found, a=a, b=replace(found.a, name="D", timesteps=[1.0] * 26, macs=26))


def studied(steps: int = 50):
    rows = [
        {"method": method, "base_steps": steps, "steps": own, "macs": macs, "fid": fid}
        | {"latent_mse": mse, "class_accuracy": 0.9, "n": 100, "seed": 0}
        for method, own, macs, fid, mse in (
            ("dense", steps, 50, 26.2, 0.0),
            ("MosaicDiff 0.5", steps, 26, 29.3, 0.046),
            ("dense, 26 steps (work of 0.5)", 26, 26, 28.9, 0.0009),
        )
    ]
    return findings(rows)


def test_fewer_dense_steps_get_an_answer_on_what_distance_says():
    copies = rival.rival_html(against_fewer_steps(both_dense=True), studied())
    assert "D copies A side: 55.8 dB. That is so by construction" in copies
    assert "not whose pictures are better. The study of this model" in copies
    assert "FID 29.3 pruned, 28.9 with 26 dense steps" in copies and "n = 100, 1 seed" in copies
    race = rival.rival_html(against_fewer_steps(both_dense=False), studied())
    assert "to the dense model in 50 steps is not measured here" in race and "FID 29.3" in race
    assert race in figures.verdict_html(against_fewer_steps(both_dense=False), "", studied())
    assert rival.rival_html(comparison(), studied()) == ""


def test_nothing_is_said_of_quality_that_was_not_measured():
    race = against_fewer_steps(both_dense=False)
    for said in (rival.rival_html(race), rival.rival_html(race, studied(20))):
        assert "study of this model" not in said and "at least 200 images" in said
    noisy = against_fewer_steps(both_dense=True, scheduler="DDPM")
    said = rival.rival_html(noisy, studied())
    assert "by construction" not in said and "study of this model" not in said
    judged = replace(race, a=replace(race.a, fid=29.04), b=replace(race.b, fid=28.0))
    assert "28.0 for D, 29.0 for A side, n = 2, one seed" in rival.rival_html(judged)


def test_work_has_a_direction():
    assert text.fewer_text(1.31, "MACs") == "24 % fewer MACs"
    assert text.fewer_text(1 / 1.31, "MACs") == "31 % more MACs"
    assert text.fewer_text(1.001) == "as many"
    found = comparison()
    assert "MACs of A / MACs of B, counted" in figures.verdict_html(found)
    assert "33 % fewer MACs" in figures.metrics_html(found)


def test_the_grid_says_that_classes_come_in_turn_and_how_high_it_is():
    turns = comparison(5, settings=replace(SETTINGS, labels=(0, 1, 2, 0, 1)))
    page = viewer.viewer_html(turns)
    assert "5 samples, 3 classes in turn; the same place" in page
    assert "--columns:3;--rows:2" in page  # five squares
    assert "in turn" not in viewer.viewer_html(comparison())


def side(plan, name="mine", steps=20) -> sides.SideRun:
    return sides.SideRun(plan, steps, name)


def test_what_differs_is_named_and_only_that():
    moved = PLAN.with_boundaries(93, 600)
    page = between.between_html(side(PLAN), side(moved), (1.0, 1.0))
    assert "boundaries (timesteps) 93 and 550 → 93 and 600; nothing else" in page
    assert "removed" not in page and "Unequal" not in page
    fewer = between.between_html(side(None, "Dense"), side(None, "Dense, 9 steps", 9), None)
    assert "sampling steps 20 → 9; nothing else" in fewer and "plan" not in fewer


def test_equal_sides_are_called_inert():
    assert "this comparison is inert" in between.between_html(side(PLAN), side(PLAN), (1.0, 1.0))


def test_unequal_budgets_are_said_loudly_before_and_after():
    other = replace(PLAN, sparsity=(0.5, 0.5, 0.5))
    before = between.between_html(side(PLAN), side(other), (1.0, 0.8))
    assert "Unequal budgets." in before and "B does 20 % less work than A" in before
    assert "Unequal" not in between.between_html(side(PLAN), side(other), (1.0, 1.02))
    # the dense model in all steps is the yardstick, with fewer steps it is a rival
    assert "Unequal" not in between.between_html(side(None, "Dense"), side(PLAN), (1.0, 0.6))
    assert "Unequal" in between.between_html(
        side(None, "Dense, 9 steps", 9), side(PLAN), (0.5, 0.6)
    )
    c = comparison()
    c.a.name, c.a.plan = "other", other
    assert "B does 33 % less work than A" in figures.verdict_html(c)


def test_a_result_whose_plan_has_moved_on_says_so():
    said = between.stale_html(PLAN, "14:02", PLAN.with_boundaries(200, 550))
    assert "made with the plan as it was at 14:02: boundaries 93 and 550" in said
    assert "removed early 55 %, middle 10 %, late 40 %" in said
    assert "Changed since: boundaries (timesteps)." in said
    assert between.stale_html(PLAN, "14:02", replace(PLAN, name="renamed")) == ""


def test_an_example_says_which_plan_it_ran_and_whether_that_is_the_plan_in_hand():
    named = replace(PLAN, name="<b>")
    same = between.example_html(named, PLAN)
    assert "“&lt;b&gt;”, boundaries 93 and 550; removed early 55 %, middle 10 %, late 40 %" in same
    assert "It is the plan in hand" in same
    other = between.example_html(named, PLAN.with_boundaries(200, 550))
    assert "Not the plan in hand" in other and "boundaries 93 and 550" in other
    assert "Yours differs: boundaries (timesteps)." in other
    assert between.example_html(None, PLAN) == ""


def test_the_time_is_said_before_the_start():
    found = Estimate(8.4, 25.0, True, "2026-10-03 14:22")
    known = compare_live.ahead_html(Foreseen(found, False), True, False)
    assert "Pictures in about 8 s, then about 25 s of timing. Predicted" in known
    assert "this device's speed, measured 2026-10-03 14:22; decoding" in known
    assert "the last comparison took" in compare_live.ahead_html(Foreseen(found, True), True, False)
    scaled = compare_live.ahead_html(Foreseen(Estimate(200.0, 0.0, False), False), True, True)
    assert "Calibrates first" in scaled and "about 3 min, no timing. Predicted" in scaled
    assert "speed, scaled from another number of images;" in scaled
    assert "known once this device" in compare_live.ahead_html(None, True, False)


@pytest.mark.parametrize(
    "change",
    [
        {"images": None},
        {"images": 0},
        {"images": 10_000},
        {"seed": -1},
        {"seed": float("nan")},
        {"steps": 1001},
        {"guidance": None},
        {"guidance": 99},
        {"scheduler": "nope"},
        {"repeats": -1},
    ],
)
def test_settings_are_checked(workshop, change):
    values = {
        "asked": [],
        "images": 16,
        "seed": 0,
        "steps": 50,
        "guidance": 1.5,
        "scheduler": "DDIM",
        "repeats": 3,
    }
    assert (
        len(compare_inputs.checked_settings(workshop, compare_inputs.Wish(**values)).labels) == 16
    )
    with pytest.raises(StudioError):
        compare_inputs.checked_settings(workshop, compare_inputs.Wish(**{**values, **change}))


def test_equal_names_get_their_letter():
    dense = side(None, "Dense")
    assert sides.side_names(dense, dense) == ("Dense (A)", "Dense (B)")
    assert sides.side_names(side(PLAN, "mine"), side(PLAN, "Uniform")) == ("mine", "Uniform")


def timed(ratios: list[float], less_work: float = 1.06) -> Comparison:
    """B's timed runs against one second of A each, for a plan with a few per cent fewer MACs."""
    c = comparison()
    c.a.step_seconds, c.b.step_seconds = [[1.0]] * len(ratios), [[1 / r] for r in ratios]
    c.b.macs = round(c.a.macs / less_work)
    return c


@pytest.mark.parametrize(
    "ratios, said, unsaid",
    [
        (
            [2.0, 1.1, 2.5],
            "seemed to take less time than Dense, but the timed runs differ too much",
            "50 %",
        ),
        (
            [0.5, 0.3, 0.9],
            "seemed to take more time than Dense, but the timed runs differ too much",
            "100 %",
        ),
        ([1.0, 0.4, 1.8], "is open, as the timed runs differ too much", "was not measurably"),
        ([1.08, 1.04, 1.16], "seemed to take less time", "7 %"),  # twice the spread reaches 1
        ([2.0, 1.95, 2.05], "took 50 % less time than Dense", "seemed"),
        ([0.5, 0.51, 0.49], "is slower: it took 100 % more time", "seemed"),
        ([1.03, 1.029, 1.031], "took 3 % less time", "differ"),
        ([1.01, 1.0, 1.02], "was not measurably faster", "differ"),
    ],
)
def test_a_verdict_doubts_runs_that_lie_far_apart(ratios, said, unsaid):
    verdict = timed(ratios).verdict
    assert (
        said in verdict
        and unsaid not in verdict
        and "6 % fewer multiply-accumulates" in verdict
        and verdict.count(".") >= 1
    )
    assert verdict.endswith(("with more timed runs.", "multiply-accumulates."))
