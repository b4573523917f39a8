"""Test Explore, Prune and the page as a whole: tables and figures, on a tiny model."""

from __future__ import annotations

import copy
import gc
import html
import importlib
import json
import re
import weakref
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
from hostile import HOSTILE, Tags, harmless

from core.curves.dynamics import DEFAULT_THRESHOLD, SampledCurves, curves, default_lambda
from core.curves.plan import STAGES, StagePlan
from core.curves.proposals import propose_plan
from core.errors import PlanError, StudioError
from core.models.checkpoints import load_checkpoint
from core.runs.differences import differences, plan_words
from core.workshop.comparison import Comparison, SampleSettings, Side
from core.workshop.prediction import Prediction, StagePrediction
from core.workshop.workshop import Workshop
from mosaic_ui import inputs, schedules, tables, text
from mosaic_ui.compare import between as compare_between
from mosaic_ui.compare import downloads as compare_downloads
from mosaic_ui.compare import figures as compare_figures
from mosaic_ui.compare import live as compare_live
from mosaic_ui.compare import sides as compare_sides
from mosaic_ui.compare import timing as compare_timing
from mosaic_ui.compare import viewer as compare_viewer
from mosaic_ui.explore.curve_panel import meaning
from mosaic_ui.figures import BELOW_NAMES, VIEWS, curve_figure
from mosaic_ui.hover import MEANINGS, explained
from mosaic_ui.input_checks import plain_errors
from mosaic_ui.predictions import Predictions, idle_stages
from mosaic_ui.prune import sharing_panel
from mosaic_ui.prune import views as prune_views
from mosaic_ui.prune.mosaic_figure import mosaic_figure
from mosaic_ui.stage_chart import PLOTLY_JS
from mosaic_ui.studio import build_studio, launch_options
from mosaic_ui.theme import STAGE_COLOURS, STAGE_INK
from mosaic_ui.theme_switch import switch_html

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5))
NAN, INF = float("nan"), float("inf")


REFUSED = [
    (inputs.whole_steps, ["50", None, NAN, INF, -INF, True, 0, 1001, 10.5, [50], {}]),
    (inputs.share_of, ["0.3", None, NAN, INF, -0.01, 0.91, True, False, [0.3]]),
    (lambda m: inputs.constants(m, 0), ["0.5", None, NAN, INF, 0, 1, True, [0.5]]),
    (lambda lam: inputs.constants(0.5, lam), ["0", None, NAN, INF, -1, 11, True, [0.5]]),
    (inputs.two_boundaries, [None, 5, "93", "ab", [], [1], [1, 2, 3], {"0": 1, "1": 2}, {1, 2}]),
]


@pytest.mark.parametrize(
    "check, value", [(check, value) for check, values in REFUSED for value in values]
)
def test_what_no_control_would_send_is_refused_in_one_sentence(check, value):
    with pytest.raises(StudioError) as error:
        check(value)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_good_values_pass():
    assert (
        inputs.whole_steps(50.0) == 50
        and isinstance(inputs.whole_steps(50.0), int)
        and inputs.share_of(0) == 0.0
    )
    assert inputs.constants(0.55, 0) == (0.55, 0.0) and inputs.two_boundaries([93, 550]) == (
        93,
        550,
    )


BAD_PAIRS = [
    [None, 5],
    ["93", 550],
    [NAN, 550],
    [INF, 550],
    [True, 550],
    [93.5, 550],
    [0, 550],
    [550, 93],
    [93, 93],
    [93, 1000],
    [[1], 5],
    [10**400, 5],
]


@pytest.mark.parametrize("pair", BAD_PAIRS)
def test_impossible_boundaries_are_refused_in_one_sentence(workshop, pair):
    with pytest.raises(PlanError) as error:
        Predictions(workshop).moved(PLAN, *inputs.two_boundaries(pair), False)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_other_errors_are_not_swallowed():
    @plain_errors
    def broken():
        raise KeyError("a bug")

    @plain_errors
    def steps():
        yield 1
        raise StudioError(f"No {HOSTILE} here.")

    with pytest.raises(KeyError):
        broken()
    with pytest.raises(gr.Error) as notice:
        list(steps())
    assert "<" not in notice.value.message and notice.value.print_exception is False


def test_a_prediction_says_which_kind_it_is(workshop):
    predictions = Predictions(workshop)
    found = predictions.predict(PLAN, "DDIM", 50)
    estimate, words = predictions.table(found), predictions.headline(found)
    exact = predictions.table(predictions.predict(PLAN, "DDIM", 50, exact=True))
    assert (
        'data-exact="false"' in estimate
        and tables.ESTIMATE in estimate
        and tables.EXACT not in estimate
    )
    assert 'data-exact="true"' in exact and tables.EXACT in exact and tables.ESTIMATE not in exact
    for table in (estimate, exact):
        assert 'data-boundaries="93,550"' in table
        assert (
            all(f"{what} <em>predicted</em>" in table for what in ("MACs", "Time", "Error"))
            and "measured on" not in table
        )
    assert "predicted to need" in words
    nothing = predictions.predict(PLAN.with_sparsity(0, 0, 0), "DDIM", 50)
    assert "Nothing is pruned" in predictions.headline(nothing)


def test_cost_cards_mark_estimates_and_predictions(workshop):
    predictions = Predictions(workshop)
    both = [predictions.predict(PLAN, "DDIM", 50, exact=exact) for exact in (False, True)]
    cards = [tables.cost_cards(p.plan, p.prediction, p.timesteps) for p in both]
    assert (
        [page.count("predicted</dt>") for page in cards] == [3, 3]
        and "<small>estimate</small>" in cards[0]
        and "exact on calibration" in cards[1]
    )


def test_unmeasured_time_is_not_a_number():
    stage = StagePrediction(
        stage="late",
        steps=1,
        sparsity=0.5,
        achieved=0.5,
        macs=1e9,
        macs_dense=2e9,
        seconds=None,
        seconds_dense=None,
        error=None,
    )
    unknown = Prediction(stages=(stage,) * 3, batch=16, exact=False)
    table = tables.stage_table(PLAN, unknown, [900.0, 300.0, 10.0], HOSTILE)
    assert (
        table.count("not measured yet") == 4
        and table.count("not known yet") == 4
        and "faster" not in table
        and harmless(table)
    )
    assert "not measured yet on this device" in tables.cost_cards(PLAN, unknown, [900.0])


def test_numbers_have_a_unit_and_no_exponent():
    assert [text.number(v) for v in (0, 0.01234, 1.234, 1234.5, 1e-6)] == [
        "0",
        "0.0123",
        "1.23",
        "1234",
        "0.00000100",
    ]
    assert [text.macs_text(v) for v in (999, 2.5e6, 1.5e9, 2e12, 3e15)] == [
        "999 MACs",
        "2.50 MMACs",
        "1.50 GMACs",
        "2.00 TMACs",
        "3.00 PMACs",
    ]
    assert text.macs_text(2.5e6, beside=[1.5e9]) == "0.00250 GMACs"
    assert [text.seconds_text(v) for v in (None, 0.05, 1.5)] == ["–", "50.0 ms", "1.50 s"]
    assert text.percent(None) == "–" and text.factor_text(None) == "not known"
    assert [text.plural(n, "image") for n in (1, 2)] == ["1 image", "2 images"]


def test_a_plan_beyond_the_formula_is_nobodys(workshop):
    predictions = Predictions(workshop)
    timesteps = predictions.visited("UniPC", 39)
    plan = StagePlan((93, 551), (0.8, 0.6563, 0.8), name="Tuned: UniPC, 39 steps")
    assert predictions.rule_of(plan, timesteps) is None
    rule = propose_plan(workshop.schedule, 0.33, timesteps)
    assert predictions.rule_of(rule.plan, timesteps).plan == rule.plan


def test_a_number_reads_the_same_on_every_tab(workshop):
    """The table of Explore, the cost of Prune and the figures of Compare have one format."""
    predictions = Predictions(workshop)
    found = predictions.predict(PLAN, "DDIM", 50)
    work = text.macs_text(found.prediction.macs)
    assert f'<td data-label="MACs, predicted">{work}<' in predictions.table(found)
    assert work in tables.cost_cards(found.plan, found.prediction, found.timesteps)
    for name in ("tables", "compare.figures", "compare.timing", "prune.jobs", "prune.views"):
        module = importlib.import_module(f"mosaic_ui.{name}")
        for function in ("macs_text", "seconds_text", "factor_text", "plural", "percent"):
            assert getattr(module, function, None) in (None, getattr(text, function)), name


def test_a_headline_praises_the_middle_only_where_the_curve_is_steepest(workshop):
    predictions = Predictions(workshop)

    def words(*boundaries):
        plan = StagePlan(boundaries, (0.5, 0.25, 0.5))
        return predictions.headline(predictions.predict(plan, "DDIM", 50))

    steepest = int(np.diff(curves(workshop.schedule).mse).argmax()) + 1
    assert 93 < steepest < 549
    assert "least in the middle stage, where the model learned fastest" in words(93, 550)
    assert "least in the middle stage. Over" in words(549, 999)


def test_more_runs_than_steps_are_explained(workshop):
    predictions = Predictions(workshop)

    def views(scheduler):
        found = predictions.predict(PLAN, scheduler, 50)
        return predictions.table(found), predictions.headline(found)

    table, headline = views("Heun")
    assert (
        "twice in every step except the last: 99 times in 50 steps" in table
        and "50 sampling steps (99 runs of the network)" in headline
    )
    table, headline = views("PNDM")
    assert "runs the network 51 times in its 50 steps" in table
    table, headline = views("DDIM")
    assert "Steps:" not in table and "Over 50 sampling steps it" in headline


def test_the_path_cannot_flatten_theory(workshop):
    theory = curves(workshop.schedule)
    far = SampledCurves(
        np.array([10.0, 900.0]),
        np.array([0.1, 130.0]),
        np.zeros(2),
        np.zeros(2),
        np.array([5.0, -5.0]),
        2,
        0,
        "trajectory",
    )
    near = SampledCurves(
        np.array([10.0, 900.0]),
        np.array([0.1, 2.5]),
        np.zeros(2),
        np.zeros(2),
        np.array([5.0, -5.0]),
        2,
        0,
        "trajectory",
    )
    for log, unit in ((False, lambda y: y), (True, np.log10)):
        alone, wide, fits = (
            curve_figure("MSE", log, theory, None, 0.55, path)["layout"]["yaxis"]["range"]
            for path in (None, far, near)
        )
        assert np.diff(alone) < np.diff(fits) <= np.diff(wide) <= 1.5 * np.diff(
            alone
        ) + 1e-6 and fits[1] > unit(2.5)


def test_words_of_the_score_follow_the_rule(workshop):
    assert (
        "above the dotted line" in meaning("Score")
        and "fallback" not in meaning("Score")
        and "always linear" in meaning("Score")
    )
    assert schedules.uses_fallback(
        workshop, "EDM", DEFAULT_THRESHOLD, 0.02
    ) and not schedules.uses_fallback(workshop, "linear", DEFAULT_THRESHOLD, 0.026)
    assert "our fallback" in meaning("Score", True) and "always linear" not in meaning("MSE")


def test_a_move_too_small_to_matter_is_said(workshop):
    predictions, after = Predictions(workshop), PLAN.with_sparsity(0.5001, 0.25, 0.5)
    timesteps = predictions.visited("DDIM", 50)
    (sentence,) = predictions.without_effect(PLAN, after, timesteps)
    assert (
        sentence
        == "The late stage keeps the same heads and neurons as before: the change was too small to"
        " matter."
    )
    large = PLAN.with_sparsity(0.9, 0.25, 0.5)
    assert predictions.without_effect(PLAN, large, timesteps) == []
    assert predictions.without_effect(PLAN, PLAN, timesteps) == []


def test_a_stage_without_steps_is_said(workshop):
    predictions, narrow = Predictions(workshop), PLAN.with_boundaries(1, 2)
    timesteps = predictions.visited("DDIM", 5)
    assert (
        idle_stages(narrow, timesteps)
        == [stage for stage in STAGES if narrow.steps_per_stage(timesteps)[stage] == 0]
        != []
    )
    after = narrow.with_sparsity(0.5, 0.9, 0.5)
    sentences = predictions.without_effect(narrow, after, timesteps)
    assert (
        "No sampling step falls into the middle stage, so its slider has no effect at 5 steps."
        in sentences
    )
    assert not any("too small" in s for s in sentences)


def test_curves_of_another_schedule_are_said_to_be_another(workshop):
    assert schedules.schedule_note(workshop, "linear", 0.55, 0.026) == ""
    note = schedules.schedule_note(workshop, "sigmoid", 0.55, 0.02)
    assert (
        "sigmoid" in note
        and workshop.name in note
        and "trained with linear" in note
        and "could not prune this model" in note
    )
    assert (
        schedules.curve_schedule(workshop, "linear") is workshop.schedule
        and schedules.curve_schedule(workshop, "sigmoid") is not workshop.schedule
    )
    assert "σ = 0.002 at t = 0 to 80 at t = 999" in schedules.schedule_note(
        workshop, "EDM", 0.55, 0.02
    )
    assert "[367, 647]" in note and "M = 0.9" in schedules.schedule_note(
        workshop, "sigmoid", 0.9, 0.02
    )


# by hand: MSE is 2 s^2 for flow matching and s^2 for EDM, so thirds of the total lie at s =
# sqrt(1/3) and sqrt(2/3) of the largest
@pytest.mark.parametrize("name, largest", [("Flow matching", 1.0), ("EDM", 80.0)])
def test_proposals_for_other_kinds_of_model_are_drawn_where_their_rule_cuts(
    workshop, name, largest
):
    sigma = schedules.curve_schedule(workshop, name).s
    cuts = [int(np.argmax(sigma >= largest * share**0.5)) for share in (1 / 3, 2 / 3)]
    for scale in ("linear", "log"):
        figure = Predictions(workshop).figure("MSE", scale, name, DEFAULT_THRESHOLD, 0.02)
        lines, (low, high) = figure["data"][0], figure["layout"]["yaxis"]["range"]
        assert [
            lines["x"][0],
            lines["x"][3],
        ] == cuts and f"{cuts[0]} and {cuts[1]} (our fallback)" in lines["name"]
        top = high - BELOW_NAMES * (high - low)
        assert lines["y"][:2] == pytest.approx(
            [low, top] if scale == "linear" else [10**low, 10**top]
        )
    assert "proposed" not in str(
        Predictions(workshop).figure("MSE", "linear", "linear", DEFAULT_THRESHOLD, 0.026)
    )


def test_moving_a_boundary_takes_the_presets_name_away(workshop):
    named = StagePlan((93, 550), (0.5, 0.25, 0.5), name="Formula")
    moved = Predictions(workshop).moved
    assert moved(named, 93, 550, False).name == "Formula"
    assert moved(named, 94, 550, False).name == ""
    assert moved(named, 120, 550, True).boundaries == (100, 600)


@pytest.mark.parametrize("beta", list(schedules.LABELS))
def test_curves_are_strict_json_with_finite_axes(workshop, beta):
    lam = default_lambda(schedules.curve_schedule(workshop, beta))
    for view in VIEWS:
        for scale in ("linear", "log"):
            figure = Predictions(workshop).figure(view, scale, beta, DEFAULT_THRESHOLD, lam)
            json.dumps(figure, allow_nan=False)
            low, high = figure["layout"]["yaxis"]["range"]
            assert low < high and len(figure["data"][-1]["x"]) == 1000
            assert figure["layout"]["yaxis"]["type"] == (
                "log" if scale == "log" and view in ("MSE", "Gradient") else "linear"
            )
    with pytest.raises(StudioError):
        Predictions(workshop).figure("nope", "log", beta, DEFAULT_THRESHOLD, lam)


def test_mosaic_has_a_tile_per_block_and_step(workshop):
    timesteps = Predictions(workshop).visited("DDIM", 20)
    figure = prune_views.picture(workshop, PLAN, timesteps)
    json.dumps(figure, allow_nan=False)
    tiles, strips, kept = figure["data"][:3], figure["data"][3:], workshop.kept_share(PLAN)
    filled = [v for trace in tiles for row in trace["z"] for v in row if v is not None]
    assert len(filled) == workshop.blocks * 20 and all(
        len(trace["z"]) == workshop.blocks for trace in tiles
    )
    counts = PLAN.steps_per_stage(timesteps)
    assert [sum(v is not None for v in trace["z"][0]) for trace in strips] == [
        counts[stage] for stage in STAGES
    ] and sum(counts.values()) == 20
    stage = PLAN.stage_of(timesteps[0])
    assert [row[0] for row in tiles[stage]["z"]] == pytest.approx(kept[stage], abs=1e-4)
    assert [trace["colorscale"][1][1] for trace in strips] == [
        STAGE_COLOURS[stage] for stage in STAGES
    ]
    assert any(str(counts["early"]) in note["text"] for note in figure["layout"]["annotations"])


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of "#rrggbb"."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_letters_on_a_stage_colour_can_be_read(workshop):
    for stage in STAGES:
        dark, light = sorted(map(luminance, (STAGE_COLOURS[stage], STAGE_INK[stage])))
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    timesteps = Predictions(workshop).visited("DDIM", 20)
    wide = PLAN.with_boundaries(300, 700)
    notes = prune_views.picture(workshop, wide, timesteps)["layout"]["annotations"]
    for stage in STAGES:
        (note,) = [note for note in notes if stage in note["text"]]
        assert note["font"]["color"] == STAGE_INK[stage]


def test_mosaic_with_an_empty_stage_has_no_name_for_it():
    assert (
        len(mosaic_figure(np.ones((3, 2)), [2, 2, 0], [900.0, 700.0, 5.0])["layout"]["annotations"])
        == 2
    )


def test_layer_rows_match_their_headers(workshop):
    rows = prune_views.layer_rows(workshop, PLAN)
    assert len(rows) == 3 * len(workshop.layers) and all(
        len(row) == len(prune_views.LAYER_HEADERS) for row in rows
    )
    for _, stage, kept, of, dense, pruned, *_ in rows:
        assert stage in STAGES and 0 < kept <= of and pruned * of == dense * kept
    assert all(row[-1] > 0 for row in rows if row[2] < row[3])


def test_layer_rows_of_an_uncalibrated_model_have_no_errors(model_folder, small_settings, tmp_path):
    fresh = Workshop(load_checkpoint(model_folder, "cpu"), small_settings, tmp_path)
    assert {row[-1] for row in prune_views.layer_rows(fresh, PLAN)} == {None}


def test_pruned_sentence_says_time_and_shares(workshop):
    sentence = prune_views.pruned_sentence(workshop, PLAN.with_sparsity(0, 0, 0.5), 0.25)
    assert (
        "0.250 s (measured)" in sentence
        and "late 100 %" in sentence
        and "middle 100 %" in sentence
        and "early 100 %" not in sentence
    )
    assert "measured" not in prune_views.pruned_sentence(workshop, PLAN, None)


def test_the_download_is_the_plan_and_survives_its_own_upload():
    named = StagePlan((93, 550), (0.5, 0.25, 0.5), name=HOSTILE + " ä 图")
    link = prune_views.download_link(named)
    assert harmless(link) and [tag for tag, _ in Tags(link).found] == ["a"]
    content = unquote(link.split("charset=utf-8,")[1].split('"')[0]).encode()
    for mark in (b"", b"\xef\xbb\xbf"):
        # some editors put a byte order mark first
        assert inputs.read_upload(mark + content) == named


BAD_FILES = [
    None,
    b"",
    b"\xff\xfe",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"NaN",
    b'{"boundaries": [1]}',
    b'{"a": 1}',
    b"[" * 60_000,
    b" " * (inputs.UPLOAD_LIMIT + 1),
    b'{"boundaries":[93,550],"sparsity":{"late":NaN,"middle":0,"early":0}}',
    b'{"boundaries":[93,550],"sparsity":[0,0,0]}',
    b'{"boundaries":[93,550],"sparsity":{"late":0,"middle":0,"early":0},"name":"\\ud800"}',
]


@pytest.mark.parametrize("content", BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_bad_upload_is_one_sentence(content):
    with pytest.raises(PlanError) as error:
        inputs.read_upload(content)
    assert str(error.value) and "\n" not in str(error.value)


def test_hostile_names_are_text_in_every_view_of_the_page(workshop):
    hostile = copy.copy(workshop)
    hostile.name, hostile.device_text = f"model {HOSTILE}", f"CPU {HOSTILE}"
    hostile.class_names = {i: f"{HOSTILE} {i}" for i in range(10)}
    page = build_studio(hostile, StagePlan((93, 550), (0.5, 0.25, 0.5), name=HOSTILE))
    shown = [
        c["props"].get("value")
        for c in page.config["components"]
        if c["type"] in ("html", "markdown")
    ]
    texts = [text for text in shown if isinstance(text, str)]
    assert len(texts) > 10 and any("&lt;img" in text for text in texts)
    assert [text for text in texts if not harmless(text)] == []


def test_hostile_names_are_text_in_compare():
    plan = StagePlan((93, 550), (0.5, 0.25, 0.5), name=HOSTILE)
    run = compare_sides.SideRun(plan, 2, HOSTILE)
    names = compare_sides.side_names(run, run)
    pictures = torch.zeros(2, 1, 8, 8)
    a, b = (
        Side(
            name,
            plan,
            torch.zeros(2, 4, 2, 2),
            pictures,
            [[1.0, 1.0]],
            1.0,
            [900.0, 5.0],
            [2, 0],
            1000,
            [1.0, 1.0],
            [pictures] * 2,
            [900.0, 5.0],
        )
        for name in names
    )
    result = Comparison(
        a=a,
        b=b,
        settings=SampleSettings(labels=(0, 1), steps=2),
        device=HOSTILE,
        model=HOSTILE,
        when="",
        psnr=1.0,
        ssim=1.0,
        latent_mse=0.0,
        n=2,
    )
    sheet_a, sheet_b, *_ = compare_figures.sheets(result)
    moved = plan.with_boundaries(100, 600)
    rows = compare_timing.timing_rows(a, b)
    views = {
        "verdict": compare_figures.verdict_html(result, HOSTILE),
        "pair": compare_figures.side_by_side_html(sheet_a, sheet_b, result),
        "viewer": compare_viewer.viewer_html(result, {0: HOSTILE}),
        "differs": compare_between.differences_html(result),
        "stale": compare_between.stale_html(plan, HOSTILE, moved),
        "film": compare_figures.film_html(result),
        "metrics": compare_figures.metrics_html(result),
        "timing": compare_timing.timing_html(rows, result),
        "downloads": compare_downloads.downloads_html(result, "id"),
        "carried": compare_downloads.carried_html(result),
        "picker": compare_live.plan_note(plan),
        "refusal": compare_live.plan_note(None, HOSTILE),
        "live": compare_live.live_html(
            HOSTILE, 1, 2, names, (np.zeros((2, 4, 4), np.uint8), None), 1
        ),
        "message": compare_live.message(HOSTILE),
        "progress": tables.progress(1, 2, HOSTILE),
        "job": tables.message(HOSTILE),
        "note": tables.notes([HOSTILE]),
    }
    assert [name for name, view in views.items() if not harmless(view)] == []
    assert all(
        "&lt;img" in views[name]
        for name in ("verdict", "pair", "film", "metrics", "timing", "live", "viewer", "stale")
    )


def test_words_of_the_trade_are_explained_once_where_they_stand():
    said = explained("Latent MSE of latents; ln SNR, PSNR and the SNR")
    assert said.startswith(f'<abbr title="{MEANINGS["latent"]}">Latent</abbr> MSE of latents; ln <')
    assert said.count("<abbr") == 2 and said.endswith("</abbr>, PSNR and the SNR")
    assert "<abbr" in meaning("ln SNR") and harmless(explained(html.escape(HOSTILE)))


def test_the_theme_switch_runs_before_the_page_is_drawn_and_asks_for_nothing():
    head = launch_options()["head"]
    assert head.startswith("<script>") and head.count("</script>") == 1 and "http" not in head
    assert switch_html().count('type="radio" name="page-theme"') == 3


def test_the_theme_choice_stands_in_the_head_of_every_page_that_is_served(workshop):
    from browser import serve

    with serve(workshop) as url:
        served = httpx.get(url, trust_env=False)
        config = httpx.get(f"{url}config", trust_env=False)
    head = served.text.split("</head>")[0]
    assert served.status_code == 200 and "<gradio-app" in served.text
    assert head.index("mosaic-theme") < head.index("<meta charset")  # before anything is painted
    assert "html[data-theme=dark] body { background: var(--bg-dark)" in head
    assert config.json()["title"]  # what is no page passes as it is


def test_stages_are_listed_early_middle_late_wherever_they_are_written(workshop):
    """The order of sampling; only the axis of timesteps, and what is drawn on it, goes up in t."""
    shared = replace(PLAN, allocation="lagrangian", scope="run", stage_steps=(5, 23, 22))
    texts = [
        prune_views.pruned_sentence(workshop, PLAN, 0.25),
        plan_words(PLAN),
        compare_between.stale_html(PLAN, "14:02", PLAN.with_boundaries(1, 2)),
        sharing_panel.note(workshop, shared).partition("Removed per stage")[2],
        tables.stage_legend(),
        " ".join(dict.fromkeys(row[1] for row in prune_views.layer_rows(workshop, PLAN))),
        " ".join(row.what for row in differences(PLAN, PLAN.with_sparsity(0.1, 0.2, 0.3))),
    ]
    for said in texts:
        assert re.findall(r"early|middle|late\b", said)[:3] == ["early", "middle", "late"], said
    assert "steps of the early, middle and late stage 22, 23, 5" in plan_words(shared)


def test_what_a_page_computed_goes_with_the_page(workshop):
    shop = copy.copy(workshop)
    predictions = Predictions(shop)
    assert len(predictions.visited("DDIM", 50)) == 50 and predictions.steepest > 0
    assert predictions.sampled_curves("linear") is predictions.sampled_curves("linear")
    alive = weakref.ref(shop)
    del shop, predictions
    gc.collect()
    assert alive() is None


def test_launch_options_limit_uploads_and_keep_everything_here():
    options = launch_options()
    assert (options["max_file_size"], options["run_history"], options["enable_monitoring"]) == (
        "1mb",
        False,
        False,
    )
    assert "http" not in options["css"] and inputs.UPLOAD_LIMIT <= 64_000


def test_plotly_js_is_the_version_that_the_plotly_package_has():
    import plotly

    version = re.compile(r"plotly\.js (?:\(cartesian - minified\) )?v(\d+)\.")
    whole = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    ours, theirs = (
        version.search(path.read_text(encoding="utf-8")[:200])[1] for path in (PLOTLY_JS, whole)
    )
    assert ours == theirs  # else: npm pack plotly.js-cartesian-dist-min
