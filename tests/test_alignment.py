"""Widths that a device likes: what every plan keeps on CUDA, and what is said of other widths."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from allocation_cases import smooth_errors
from mosaics import PLAN

from core.allocation.alignment import aligned, equal_shares, gives_equal_shares, menu_of
from core.allocation.allocate import allocate, budget_of, uniform
from core.allocation.problem import make_problem
from core.allocation.widths import Menu
from core.curves.plan import ALLOCATIONS, MULTIPLES, SCOPES, StagePlan
from core.errors import StudioError
from core.models.alignment import COLUMNS, default_multiple, odd_layers, width_warnings
from core.models.checkpoints import load_checkpoint
from core.models.layers import PrunableLayer
from core.mosaic.transformer import MosaicTransformer
from core.workshop.predict import PlanPredictor
from core.workshop.workshop import Workshop


def block(number, heads, head_dim, neurons):
    """The two layers of a block of this shape."""
    return [
        PrunableLayer(f"block {number} heads", number, "heads", "", "", heads, head_dim, 9, 90),
        PrunableLayer(f"block {number} neurons", number, "neurons", "", "", neurons, 1, 7, 70),
    ]


# heads of odd sizes, MLPs of odd widths and one too narrow for a multiple of 64
SHAPES = [(4, 16, 256), (6, 20, 1000), (8, 9, 1001), (12, 72, 4608), (5, 33, 48), (3, 10, 66)]
LAYERS = [x for i, shape in enumerate(SHAPES) for x in block(i, *shape)]


def kept_under(plan, layers):
    """Groups that each layer keeps in each stage, as any plan's sharing gives them."""
    if gives_equal_shares(plan):
        removed = equal_shares(layers, plan)
    else:
        errors = smooth_errors(layers)
        free, own = (make_problem(layers, errors, (1, 1, 1), m) for m in (Menu(), menu_of(plan)))
        budget = budget_of(uniform(free, plan.sparsity))
        removed = allocate(own, plan.allocation, budget, plan.scope).removed
    return [[x.groups - gone for x, gone in zip(layers, row, strict=True)] for row in removed]


def every_plan():
    for how, scope, multiple, heads, protect in itertools.product(
        ALLOCATIONS, SCOPES, MULTIPLES, (0, 1, 2), (0.0, 0.5)
    ):
        for sparsity in ((0.1, 0.25, 0.4), (0.05, 0.0, 0.33)):
            yield StagePlan(
                (100, 600),
                sparsity,
                allocation=how,
                scope=scope,
                multiple=multiple,
                min_heads=heads,
                protect=protect,
            )


def test_no_odd_width_comes_out_of_any_plan_on_a_device_that_minds_it():
    odd_elsewhere = refused = built = 0
    for plan in every_plan():
        try:
            stages = kept_under(aligned(plan, "cuda"), LAYERS)
        except StudioError:  # a budget that cannot be met
            refused += 1
            continue
        built += 1
        for kept in stages:
            assert odd_layers(LAYERS, kept) == []
            for layer, count in zip(LAYERS, kept, strict=True):
                multiple = (plan.multiple or 64) if layer.kind == "neurons" else 1
                assert count == layer.groups or count % multiple == 0
                assert count == layer.groups or count * layer.group_size % COLUMNS == 0
        if not plan.multiple:
            odd_elsewhere += any(odd_layers(LAYERS, kept) for kept in kept_under(plan, LAYERS))
    assert odd_elsewhere and built > 4 * refused  # the same plans on a CPU keep their steps


def test_equal_shares_are_met_on_average_and_too_narrow_layers_stay():
    layers = [x for i in range(12) for x in block(i, 16, 72, 4608)] + block(12, 5, 33, 48)
    plan = aligned(StagePlan((100, 600), (0.2, 0.33, 0.9)), "cuda")
    for row, share in zip(equal_shares(layers, plan), plan.sparsity, strict=True):
        assert row[-1] == 0
        assert abs(sum(row[1:24:2]) / (12 * 4608) - share) <= 64 / (12 * 4608)
        assert abs(sum(row[0:24:2]) / (12 * 16) - share) <= 0.5 / (12 * 16) + 1 / 192


def test_the_multiple_is_the_device_s_and_only_where_the_plan_names_none():
    assert default_multiple("cuda") == 64 and default_multiple("cpu") == 0
    assert aligned(PLAN, "cpu") is PLAN
    assert aligned(PLAN, "cuda") == replace(PLAN, multiple=64)
    own = replace(PLAN, multiple=16)
    assert aligned(own, "cuda") is own
    nothing = PLAN.with_sparsity(0, 0, 0)
    assert aligned(nothing, "cuda") is nothing
    assert aligned(replace(PLAN, costs="latency"), "cuda").costs == "macs"  # it never counted
    by_time = replace(PLAN, costs="latency", allocation="dynamic")
    assert aligned(by_time, "cuda") == replace(by_time, multiple=64)
    assert gives_equal_shares(aligned(PLAN, "cuda")) and not gives_equal_shares(by_time)


# ------------------------------------------------------------ said by layer


def test_odd_widths_and_widths_that_stay_are_named_by_layer():
    kept = [[x.groups for x in LAYERS] for _ in range(3)]
    assert width_warnings(LAYERS, kept, "cuda") == []  # a dense network was not rounded
    kept[0] = [4, 37, 3, 1000, 8, 1001, 11, 4608, 5, 48, 3, 66]
    odd, whole = width_warnings(LAYERS, kept, "cuda")
    assert "block 0 neurons (37), block 1 heads (60)" in odd and "multiples of 64" in odd
    assert "block 1 neurons (1000), block 2 neurons (1001)" in whole
    assert "block 4 neurons (48), block 5 neurons (66)" in whole
    assert "4608" not in odd + whole  # a multiple of 64
    assert width_warnings(LAYERS, kept, "cpu") == []
    kept[1] = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert "and 8 more" in width_warnings(LAYERS, kept, "cuda")[0]


# ------------------------------------------------------------ what is built


@pytest.fixture(scope="module")
def on_cuda(model_folder, small_settings, tmp_path_factory):
    """A tiny model's workshop that builds for a device that minds widths; it runs here."""
    checkpoint = load_checkpoint(model_folder, "cpu", dtype=torch.float32)
    workshop = Workshop(checkpoint, small_settings, tmp_path_factory.mktemp("cache"))
    workshop.predictor.device = "cuda"
    return workshop


MAGNITUDE = StagePlan((100, 600), (0.3, 0.0, 0.45), method="magnitude")


@torch.inference_mode()
def test_the_rounding_is_in_the_built_plan_and_the_manifest_and_means_the_same(on_cuda, tmp_path):
    mosaic = on_cuda.build(MAGNITUDE)
    assert mosaic.plan == replace(MAGNITUDE, multiple=64) == on_cuda.built(MAGNITUDE)
    for stage, removed in enumerate(on_cuda.widths(MAGNITUDE)):
        for layer, count, gone in zip(on_cuda.layers, mosaic.kept(stage), removed, strict=True):
            assert count == layer.groups - gone
            assert layer.kind == "heads" or count % 64 == 0
    assert any(map(any, on_cuda.widths(MAGNITUDE)))
    mosaic.save_pretrained(tmp_path / "out")
    back = MosaicTransformer.from_pretrained(tmp_path / "out", on_cuda.transformer)
    assert back.plan == mosaic.plan
    # the plan of the manifest keeps the same widths on a CPU, the first plan others
    here = PlanPredictor(
        "tiny",
        on_cuda.predictor.timesteps,
        on_cuda.macs,
        on_cuda.predictor.calibration,
        on_cuda.times,
    )
    assert here.device == "cpu" and here.widths(back.plan) == on_cuda.widths(MAGNITUDE)
    assert here.widths(MAGNITUDE) != on_cuda.widths(MAGNITUDE)
    assert not on_cuda.needs_calibration(MAGNITUDE)  # shares by magnitude need no curves


def test_what_is_predicted_is_what_is_built(on_cuda):
    steps = list(range(0, 1000, 50))
    found = on_cuda.predict(MAGNITUDE, steps)
    same = on_cuda.predict(replace(MAGNITUDE, multiple=64), steps)
    assert found.speedup_macs == same.speedup_macs
    assert on_cuda.width_warnings(MAGNITUDE) == []
    assert on_cuda.build(MAGNITUDE).width_warnings("cuda") == []
