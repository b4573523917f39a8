"""How a plan's cut is shared over layers, from the plan file to the networks that run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from core.bench.studies import Contender, sharers
from core.curves.plan import StagePlan
from core.errors import PlanError, StudioError
from core.sampling.timing import forward_call

PLAN = StagePlan((100, 600), (0.5, 0.25, 0.7))
TIMESTEPS = list(range(0, 1000, 20))


def weighted(workshop, plan, values):
    """Sum over stages, each weighted by its sampling steps, or by the training timesteps it spans
    where the plan names no steps.
    """
    weights = plan.stage_steps or [high - low for low, high in map(plan.stage_range, range(3))]
    return sum(w * v for w, v in zip(weights, values, strict=True))


def test_equal_shares_are_the_ratio_in_every_layer(workshop):
    assert PLAN.plain and workshop.widths(PLAN) == [workshop.removed(s) for s in PLAN.sparsity]


@pytest.mark.parametrize("method", ["log_ramp", "lagrangian", "dynamic"])
def test_stage_by_stage_no_stage_costs_more(workshop, method):
    plan = replace(PLAN, allocation=method)
    for mine, equal in zip(
        workshop.stage_macs(plan)[:3], workshop.stage_macs(PLAN)[:3], strict=True
    ):
        assert mine <= equal
    if method != "log_ramp":  # those minimise just this sum
        for i in range(3):
            assert workshop.estimate(plan, i) <= workshop.estimate(PLAN, i) + 1e-12


def test_one_budget_costs_no_more_over_the_run_and_errs_no_more(workshop):
    plan, staged = (replace(PLAN, allocation="dynamic", scope=s) for s in ("run", "stage"))
    assert weighted(workshop, plan, workshop.stage_macs(plan)[:3]) <= weighted(
        workshop, PLAN, workshop.stage_macs(PLAN)[:3]
    )
    whole, parts = (
        weighted(workshop, p, [workshop.estimate(p, i) for i in range(3)]) for p in (plan, staged)
    )
    assert whole <= parts * (1 + 1e-9)


@pytest.mark.parametrize("steps", [(30, 2, 2), (2, 30, 2), (2, 2, 30)])
def test_one_budget_counts_the_steps_of_its_run(workshop, steps):
    """Karras sigmas, say, put most of their steps where little noise is left: what a run saves has
    to be saved there.
    """
    timesteps = [
        t
        for (low, _), n in zip(map(PLAN.stage_range, range(3)), steps, strict=True)
        for t in range(low, low + n)
    ]
    even = replace(PLAN, allocation="dynamic", scope="run")
    plan, equal = even.counted(timesteps), replace(PLAN, stage_steps=steps)
    assert plan.stage_steps == steps and workshop.widths(plan) != workshop.widths(even)
    cost, mind = (
        {
            name: weighted(workshop, equal, what(p))
            for name, p in (("plan", plan), ("even", even), ("equal", equal))
        }
        for what in (
            lambda p: workshop.stage_macs(p)[:3],
            lambda p: [workshop.estimate(p, i) for i in range(3)],
        )
    )
    assert cost["plan"] <= cost["equal"] and mind["plan"] <= mind["equal"] * (1 + 1e-9)
    # the plan for evenly spaced steps is dearer, or worse
    assert mind["plan"] <= mind["even"] * (1 + 1e-9) or cost["even"] > cost["equal"]


def test_kept_neurons_come_in_multiples_and_ends_are_spared(workshop):
    plan = replace(PLAN, sparsity=(0.4, 0.2, 0.45), allocation="dynamic", multiple=64, protect=0.5)
    for row in workshop.widths(plan):
        for layer, gone in zip(workshop.layers, row, strict=True):
            kept = layer.groups - gone
            assert kept % 64 == 0 if layer.kind == "neurons" else kept >= 1
            assert kept >= layer.groups / 2  # both blocks of this model are ends
    uniform = workshop.widths(replace(PLAN, sparsity=(0.4, 0.2, 0.4), multiple=64))
    assert all(
        (layer.groups - gone) % 64 == 0
        for row in uniform
        for layer, gone in zip(workshop.layers, row, strict=True)
        if layer.kind == "neurons"
    )


def starved(workshop) -> StagePlan:
    """A plan under which some attention goes altogether."""
    # neurons keep half, so heads must go
    plan = StagePlan((100, 600), (0.6, 0.6, 0.6), allocation="dynamic", min_heads=0, multiple=128)
    assert any(
        gone == layer.groups
        for row in workshop.widths(plan)
        for layer, gone in zip(workshop.layers, row, strict=True)
    )
    return plan


@torch.inference_mode()
def test_an_attention_that_goes_leaves_its_mean(workshop):
    plan = starved(workshop)
    slim, masked = (workshop.build(plan, masked=m) for m in (False, True))
    for t in (50, 300, 900):
        a, b = (forward_call(m.network(t), workshop.transformer, 2)() for m in (slim, masked))
        assert (a - b).abs().max() < 1e-5
    stage = next(i for i in range(3) if 0 in slim.kept(i))
    layer = slim.kept(stage).index(0)
    low, high = plan.stage_range(stage)
    gram, tokens = workshop.bank.gram(layer, low, high)
    mean = workshop.bank.mean(layer, low, high)
    weight = workshop.pruner.weight(layer).double().cpu()
    bias = (
        workshop.transformer.get_submodule(workshop.layers[layer].consumer)
        .bias.detach()
        .double()
        .cpu()
    )
    held = slim.stages[stage].get_submodule(workshop.layers[layer].module).bias.double().cpu()
    assert torch.allclose(held, bias + weight @ mean, atol=1e-5)
    spread = gram - tokens * torch.outer(mean, mean)  # sum (x - m)(x - m)^T
    expected = ((weight @ spread) * weight).sum() / ((weight @ gram) * weight).sum()
    fit, held_out = workshop.pruner.errors(layer, low, high, workshop.layers[layer].groups)
    assert fit == pytest.approx(float(expected), rel=1e-6) and 0 < held_out < 2
    assert fit < 1  # the mean takes over a part: better than nothing at all


def test_every_way_of_sharing_in_the_study_is_a_plan_that_can_run(workshop):
    plans = list(sharers(workshop, 10, 0))
    assert plans[0] == Contender("dense", None, 10, workshop)
    assert len({contender.name for contender in plans}) == len(plans) == 15
    # both blocks of this model are ends, so it cannot spare them
    for plan in (contender.plan for contender in plans[1:] if not contender.plan.protect):
        assert all(
            0 <= gone < layer.groups
            for row in workshop.widths(plan)
            for layer, gone in zip(workshop.layers, row, strict=True)
        )


def test_the_plan_file_carries_it_and_refuses_nonsense():
    plan = StagePlan(
        (93, 550),
        (0.3, 0.1, 0.4),
        allocation="lagrangian",
        scope="run",
        multiple=128,
        min_heads=0,
        protect=0.25,
    )
    assert StagePlan.from_json(plan.dumps()) == plan and not plan.plain
    assert "allocation" not in StagePlan((93, 550), (0.3, 0.1, 0.4)).to_json()
    for wrong, match in (
        ({"allocation": "magic"}, "allocation must be"),
        ({"scope": "day"}, "scope must be"),
        ({"multiple": 7}, "multiple must be one of"),
        ({"min_heads": -1}, "min_heads"),
        ({"protect": 2}, "protect must lie"),
        ({"protect": float("nan")}, "protect must lie"),
        ({"method": "magnitude", "allocation": "dynamic"}, "baseline with equal ratios"),
    ):
        with pytest.raises(PlanError, match=match):
            StagePlan((93, 550), (0.3, 0.1, 0.4), **wrong)


def test_a_budget_that_cannot_be_met_is_refused_in_a_sentence(workshop):
    with pytest.raises(
        StudioError, match="at most 0 % .* the last block are protected.*asks for 87.5 %"
    ):
        workshop.widths(
            StagePlan((100, 600), (0.95, 0.95, 0.95), allocation="dynamic", protect=1.0)
        )
