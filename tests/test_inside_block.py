"""The inside of a block: numbers by brute force, one layer cut and nothing else, and the panel."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
import torch

from core.curves.plan import STAGES, StagePlan
from core.errors import NotCalibrated, Stopped, StudioError
from core.models.checkpoints import load_checkpoint
from core.mosaic.transformer import MosaicTransformer
from core.pruning.cuts import consumer_of, kept_columns
from core.workshop import layer_alone
from core.workshop.inside_block import curve_levels, inside, layers_of_block
from core.workshop.layer_alone import layer_loss, with_only
from core.workshop.small_runs import PICTURES, STEPS, mean_decibel, run_small
from core.workshop.workshop import Workshop
from mosaic_ui import jobs
from mosaic_ui.prune import inside_block, layer_table
from mosaic_ui.prune.views import layer_rows
from mosaic_ui.studio import Studio

PLAN = StagePlan((93, 550), (0.5, 0.25, 0.5))
HEADS, NEURONS = 2, 3  # places of the layers of block 2 of the tiny model
VISITOR = SimpleNamespace(session_hash="inside", query_params={})


@pytest.fixture(scope="module")
def fresh(model_folder, small_settings, tmp_path_factory):
    """Make a workshop that is not calibrated."""
    checkpoint = load_checkpoint(model_folder, "cpu", dtype=torch.float32)
    return Workshop(checkpoint, small_settings, tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def studio(workshop):
    return Studio(workshop, PLAN)


def error_of(workshop, place: int, stage: int, removed: int) -> float:
    """Solve for the best weight on the kept columns alone, and return its relative error."""
    low, high = PLAN.stage_range(stage)
    gram, _ = workshop.bank.gram(place, low, high)
    weight = workshop.pruner.weight(place).double()
    kept = workshop.orders.order[place][removed:].sort().values
    columns = kept_columns(workshop.layers[place], kept, weight.device)
    best = torch.zeros_like(weight)
    ridge = workshop.orders.damping[place] * gram.diagonal().mean() * torch.eye(len(gram))
    damped = gram + ridge
    if len(columns):
        system = damped[columns][:, columns]
        best[:, columns] = torch.linalg.solve(system, (weight @ damped)[:, columns].T).T
    difference = best - weight
    return float(((difference @ gram) * difference).sum() / ((weight @ gram) * weight).sum())


@pytest.mark.parametrize("place", [HEADS, NEURONS])
def test_the_curve_and_its_cut_are_those_of_the_best_weights_worked_out_anew(workshop, place):
    found = {one.place: one for one in inside(workshop, PLAN, 1)}[place]
    layer, widths = workshop.layers[place], workshop.widths(PLAN)
    assert found.levels[0] == 0 and found.levels[-1] == layer.groups
    for stage, one in enumerate(found.stages):
        assert one.removed == widths[stage][place]
        assert set(one.kept) == set(workshop.orders.order[place][one.removed :].tolist())
        for removed, error in zip(found.levels[:-1], one.curve, strict=False):
            assert error == pytest.approx(error_of(workshop, place, stage, removed), rel=1e-5)
        low, high = PLAN.stage_range(stage)
        exact = workshop.pruner.errors(place, low, high, one.removed)[0]
        assert one.error == one.curve[found.levels.index(one.removed)] == exact
        assert list(one.curve) == sorted(one.curve)


def test_a_curve_of_a_cut_by_magnitude_and_of_a_whole_layer_is_what_errors_gives(workshop):
    groups = workshop.layers[HEADS].groups
    for method in ("obs", "magnitude"):
        found = workshop.pruner.error_curve(HEADS, 93, 550, range(groups + 1), method)
        for removed, error in enumerate(found):
            exact = workshop.pruner.errors(HEADS, 93, 550, removed, method)[0]
            assert error == pytest.approx(exact, rel=1e-12)


def test_levels_are_few_and_hold_every_cut(workshop):
    layer = replace(workshop.layers[NEURONS], groups=4608)
    levels = curve_levels(layer, [0, 1232, 2064])
    assert {0, 1232, 2064, 4608} <= set(levels) and len(levels) < 40
    assert all(level % layer.step == 0 for level in levels)


def test_only_the_asked_layer_differs_from_dense_and_it_is_cut_as_the_plan_cuts_it(workshop):
    plan = replace(PLAN, guidance=(1.0, None, None), reuse=(1, 2, 1))
    model, macs = with_only(workshop, plan, NEURONS)
    whole, built = workshop.build(plan), dict(workshop.transformer.named_parameters())
    assert not model.plan.sets_guidance and not model.plan.reuses
    part = workshop.layers[NEURONS].module
    for stage, network in enumerate(model.stages):
        for name, parameter in network.named_parameters():
            if name in built and not name.startswith(part):
                assert parameter.data_ptr() == built[name].data_ptr(), name
        assert torch.equal(model.weight(stage, NEURONS), whole.weight(stage, NEURONS))
        kept = [layer.groups for layer in workshop.layers]
        kept[NEURONS] = whole.kept(stage)[NEURONS]
        assert model.kept(stage) == kept
    assert workshop.row_macs(0.5) < macs < workshop.row_macs(0)


def test_the_loss_is_that_of_a_copy_of_the_model_with_one_weight_replaced(workshop):
    plan = PLAN.with_sparsity(0.5, 0.5, 0.5)
    plan = replace(plan, calibration="pooled")  # one weight for all stages
    found = layer_loss(workshop, plan, HEADS, seed=3)
    copied = copy.deepcopy(workshop.transformer)
    layer = workshop.layers[HEADS]
    with torch.no_grad():
        weight = workshop.build(plan).weight(0, HEADS)
        consumer_of(copied, layer).weight.copy_(weight)
    dense = run_small(workshop, workshop.dense, seed=3)
    cut = run_small(workshop, MosaicTransformer(copied, None, [None] * 3), 1.0, seed=3)
    assert torch.equal(found.dense.latents, dense.latents)
    mse = float((dense.latents - cut.latents).double().square().mean())
    assert mse > 1e-8 and found.latent_mse == pytest.approx(mse, rel=1e-3)
    assert found.psnr == pytest.approx(mean_decibel(dense.images, cut.images), rel=1e-2)
    rows = PICTURES * STEPS * 2
    lost = (layer.groups - found.kept[0]) * layer.macs_per_group * rows
    assert found.dense.macs - found.cut.macs == pytest.approx(lost)


def test_stages_that_keep_the_layer_run_the_dense_network(workshop):
    model, _ = with_only(workshop, PLAN.with_sparsity(0, 0, 0.5), HEADS)
    late, middle, early = model.stages
    assert late is middle is model.full and early is not late


def test_what_cannot_be_is_refused_in_one_sentence(workshop, fresh):
    for block in (-1, workshop.blocks, True, None, 1.0):
        with pytest.raises(StudioError, match="has blocks 1 to 2"):
            layers_of_block(workshop, block)
    with pytest.raises(StudioError, match="cuts nothing of block 2 heads"):
        with_only(workshop, PLAN.with_sparsity(0, 0, 0), HEADS)
    with pytest.raises(NotCalibrated):
        with_only(fresh, PLAN, HEADS)


def panel(studio, block: int, plan=PLAN) -> str:
    view = studio.prune.inside
    return view.on_block(block, plan.to_json(), "DDIM", 50)[view.view]


def test_the_panel_shows_what_the_path_gives(studio, workshop):
    shown = panel(studio, 2)
    assert 'aria-label="Inside block 2"' in shown
    for one in inside(workshop, PLAN, 1):
        article = shown.partition(f'data-place="{one.place}"')[2].partition("</article>")[0]
        errors = dict(re.findall(r'<g data-stage="(\w+)" data-error="([^"]+)"', article))
        rows = re.findall(r'<tr data-stage="(\w+)".*?</tr>', article)
        assert rows == ["early", "middle", "late"]
        for stage in one.stages:
            stay = one.layer.groups - stage.removed
            row = article.partition(f'<tr data-stage="{stage.stage}"')[2].partition("</tr>")[0]
            assert f"{stay} of {one.layer.groups} stay" in row
            assert float(errors[stage.stage]) == stage.error
            if one.layer.kind == "heads":
                assert row.count('class="stays"') == stay
                marks = re.findall(r'class="(stays|goes)"', row)
                assert [i for i, mark in enumerate(marks) if mark == "stays"] == list(stage.kept)
        assert article.count("<polyline") == 3 and article.count("<circle") == 3


def test_a_panel_closes_and_a_block_that_is_not_there_is_refused(studio):
    assert "Click a tile" in panel(studio, 0)
    with pytest.raises(gr.Error, match="has blocks 1 to 2"):
        panel(studio, 3)
    with pytest.raises(gr.Error, match="no layer of this number"):
        studio.prune.inside.ask_loss(99, PLAN.to_json(), "DDIM", 50, VISITOR)
    whole = panel(studio, 1, PLAN.with_sparsity(0, 0, 0))
    assert whole.count("leaves this layer whole") == 2 and "inside-ask" not in whole


def test_an_edit_is_followed_only_while_a_block_is_open(studio):
    view = studio.prune.inside
    refine, plan = studio.following.refine, PLAN.with_sparsity(0.5, 0.5, 0.75)
    assert view.view not in refine(plan.to_json(), "DDIM", 50, False, 0, VISITOR)
    shown = refine(plan.to_json(), "DDIM", 50, False, 2, VISITOR)[view.view]
    assert shown == panel(studio, 2, plan) != panel(studio, 2)


def test_without_a_calibration_one_sentence_says_what_is_missing(fresh):
    page = Studio(fresh, PLAN)
    shown = panel(page, 2)
    assert shown.count("Not calibrated on this machine yet") == 1 and "press Calibrate" in shown
    assert "of 4 stay" in shown and "<svg" not in shown and 'class="stays"' not in shown
    view = page.prune.inside
    view.ask_loss(HEADS, PLAN.to_json(), "DDIM", 50, VISITOR)
    *_, last = view.on_loss(VISITOR)
    assert "press Calibrate" in last[view.job] and last[view.stop]["visible"] is False


def test_a_question_is_measured_and_shown_under_its_plan_only(studio):
    view = studio.prune.inside
    asked = view.ask_loss(HEADS, PLAN.to_json(), "DDIM", 50, VISITOR)
    assert asked[view.stop]["visible"] and "Waiting for the model" in asked[view.job]
    seen = list(view.on_loss(VISITOR))
    assert "progressbar" in seen[0][view.job] and seen[-1][view.job] == ""
    shown = panel(studio, 2)
    said = re.search(r"Measured: dense against only block 2 heads cut.*?</p>", shown)[0]
    assert f"n = {PICTURES}" in said and f"{STEPS} steps" in said
    assert "PSNR" in said and "latent MSE" in said
    assert shown.count("<img") == 2 * PICTURES and shown.count("inside-ask") == 1
    assert "Measured" not in panel(studio, 2, PLAN.with_sparsity(0.5, 0.5, 0.5))
    assert list(view.on_loss(VISITOR)) == [inside_block.NOTHING]  # asked once, measured once


def test_stop_withdraws_what_waits_and_ends_what_runs(studio, workshop, monkeypatch):
    view = studio.prune.inside
    plain = PLAN.with_sparsity(0.25, 0.5, 0.25).to_json()
    view.ask_loss(HEADS, plain, "DDIM", 50, VISITOR)
    assert jobs.WITHDRAWN in view.on_stop(VISITOR)[view.job]
    assert list(view.on_loss(VISITOR)) == [inside_block.NOTHING]
    run = layer_alone.run_small

    def slow(*arguments, **options):
        view.on_stop(VISITOR)
        return run(*arguments, **options)

    monkeypatch.setattr(layer_alone, "run_small", slow)
    view.ask_loss(HEADS, plain, "DDIM", 50, VISITOR)
    *_, last = view.on_loss(VISITOR)
    assert inside_block.STOPPED in last[view.job]
    stop = SimpleNamespace(is_set=lambda: True)
    with pytest.raises(Stopped):
        layer_loss(workshop, PLAN, HEADS, stop=stop)


def test_the_table_per_layer_has_a_key_per_cell_and_bars_of_the_right_length(workshop):
    rows = layer_rows(workshop, PLAN)
    lines = re.findall(r"<tr.*?</tr>", layer_table.table_rows(rows))
    assert len(lines) == len(rows) == len(STAGES) * len(workshop.layers)
    largest = max(row[8] for row in rows)
    for row, line in zip(rows, lines, strict=True):
        keys = [float(key) for key in re.findall(r'data-n="([^"]+)"', line)]
        assert keys[2:] == [float(value) for value in row[2:]]
        widths = [float(width) for width in re.findall(r"width:([\d.]+)%", line)]
        shares = (row[2] / row[3], row[5] / row[4], row[7] / row[6], row[8] / largest)
        assert widths == pytest.approx([100 * share for share in shares], abs=0.06)
    unknown = layer_table.table_rows([[*row[:8], None] for row in rows])
    assert unknown.count(">–</td>") == len(rows)
