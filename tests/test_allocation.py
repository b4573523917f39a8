"""Allocation: every method against exhaustive search on small problems, budgets, and stages."""

import itertools
import json

import numpy as np
import pytest
from allocation_cases import bundled, exhaustive, model, random_problem, smooth_errors, tiny

from core.allocation.allocate import ALLOCATION_METHODS, Budget, allocate, budget_of, uniform
from core.allocation.problem import AllocationProblem, Curve, make_problem
from core.allocation.solvers import cheapest, least_errors, solve_dynamic, solve_lagrangian, total
from core.allocation.widths import Menu
from core.bench.allocation import allocation_benchmark
from core.errors import StudioError
from core.models.layers import PrunableLayer

# --- against exhaustive search


@pytest.mark.parametrize("seed", range(40))
def test_dynamic_is_the_exhaustive_optimum(seed):
    problem = random_problem(seed)
    run = float(np.dot(problem.steps, problem.dense))
    for share in (0.95, 0.8, 0.6, 0.5):
        found, best = None, exhaustive(problem, share * run)
        if best == np.inf:
            with pytest.raises(StudioError, match="can lose at most"):
                allocate(problem, "dynamic", Budget(share * run), "run")
            continue
        found = allocate(problem, "dynamic", Budget(share * run), "run")
        assert found.cost <= share * run and found.error == pytest.approx(best, rel=1e-12)
        assert "exact optimum" in found.text


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("buckets", [5, 20, 10_000])
def test_dynamic_with_rounded_costs_is_within_its_buckets(seed, buckets):
    problem = random_problem(seed, whole=False)
    weights = np.tile(problem.steps, 3)[:, None]
    errors, costs = weights * problem.table.errors, weights * problem.table.costs
    for share in (0.9, 0.8, 0.7):
        limit = share * costs[:, 0].sum()
        solved = solve_dynamic(errors, costs, limit, buckets)
        assert total(costs, solved.choice) <= limit
        assert (
            total(errors, solved.choice)
            >= exhaustive(problem, limit) * (1 - 1e-12)
            >= solved.bound - 1e-9
        )
        assert total(errors, solved.choice) <= exhaustive(problem, limit - 6 * solved.width) * (
            1 + 1e-12
        )
        # and the same of the recurrence alone, without the Lagrangian solution to fall back on
        least = costs.min(axis=1, keepdims=True)
        room = limit - float(least.sum())
        choice = least_errors(
            errors, costs - least, np.ones_like(costs, dtype=bool), room / buckets, room
        )
        assert total(costs, choice) <= limit * (1 + 1e-12)
        assert total(errors, choice) <= exhaustive(problem, limit - 6 * room / buckets) * (
            1 + 1e-12
        )


@pytest.mark.parametrize("seed", range(8))
def test_lagrangian_is_the_optimum_on_convex_curves_of_equal_steps(seed):
    problem = random_problem(seed, convex=True, equal_costs=True)
    for saved in range(19):
        limit, table = float(problem.dense.sum()) - saved, problem.table
        best = exhaustive(problem, limit)
        assert allocate(problem, "lagrangian", Budget(limit), "run").error == pytest.approx(
            best, rel=1e-12
        )
        # every budget is a corner here
        assert solve_lagrangian(table.errors, table.costs, limit).bound == pytest.approx(
            best, rel=1e-9
        )


@pytest.mark.parametrize("seed", range(8))
def test_lagrangian_keeps_the_budget_and_its_bound_is_one(seed):
    problem = random_problem(seed, whole=False)
    errors, costs = problem.table.errors, problem.table.costs
    for share in (1.0, 0.9, 0.7, 0.6):
        limit = share * costs[:, 0].sum()
        if total(costs, cheapest(errors, costs)) > limit:
            continue
        solved = solve_lagrangian(errors, costs, limit)
        best = exhaustive(problem, limit, (1, 1))
        assert total(costs, solved.choice) <= limit
        assert solved.bound - 1e-9 <= best <= total(errors, solved.choice) + 1e-12
        spare = limit - total(costs, solved.choice)
        now_e, now_c = (x[np.arange(6), solved.choice][:, None] for x in (errors, costs))
        # nothing that would help still fits
        assert not ((errors < now_e) & (costs - now_c <= spare)).any()


def test_dynamic_beats_the_lagrangian_where_a_curve_is_not_convex():
    # A budget of 9 keeps the first layer at its middle level, which lies above the hull, or else
    # the second: the better rate, the worse end.
    first, second = (
        Curve(np.arange(3), np.array([0.0, 3.0, 10.0]), np.array([10.0, 9.0, 0.0])),
        Curve(np.arange(2), np.array([0.0, 5.9]), np.array([6.0, 0.0])),
    )
    layers = [PrunableLayer(f"block {b} heads", b, "heads", "", "", 3, 1, 1, 1) for b in (1, 2)]
    problem = AllocationProblem(layers, [[first, second]], (1,), (True, True), ("all",))
    relaxed, exact = (allocate(problem, m, Budget(9), "run") for m in ("lagrangian", "dynamic"))
    assert relaxed.removed == ((2, 0),) and relaxed.error == 10.0
    assert exact.removed == ((1, 1),) and exact.error == 8.9 == exhaustive(problem, 9)


def test_levels_above_the_convex_hull_are_used_to_fill_the_budget():
    errors, costs = np.array([[[0.0, 9.0, 10.0]]]), np.array([[[10.0, 5.0, 0.0]]])
    assert allocate(tiny(errors, costs, (1,)), "lagrangian", Budget(7), "run").removed == ((1,),)


# --- budgets


@pytest.mark.parametrize("scope", ["stage", "run"])
@pytest.mark.parametrize("method", ALLOCATION_METHODS)
@pytest.mark.parametrize(
    "menu",
    [
        Menu(),
        Menu(multiple=64),
        Menu(multiple=128, protect=0.5),
        Menu(min_heads=0, min_neurons=0),
    ],
)
def test_no_method_exceeds_its_budget(method, scope, menu):
    problem = bundled(menu)
    for sparsity in ((0.4, 0.1, 0.55), 0.05, 0.5):
        budget = Budget.of_sparsity(problem, sparsity)
        found = allocate(problem, method, budget, scope)
        assert found.cost <= budget.total * (1 + 1e-9)
        macs = [
            sum((x.groups - r) * x.macs_per_group for x, r in zip(problem.layers, row, strict=True))
            for row in found.removed
        ]
        assert list(found.forward) == macs and found.cost == np.dot(problem.steps, macs)
        if scope == "stage":
            assert all(
                f <= b * (1 + 1e-9) for f, b in zip(found.forward, budget.forward, strict=True)
            )
        allowed = menu.levels(problem.layers)
        assert all(
            gone in levels
            for row in found.removed
            for gone, levels in zip(row, allowed, strict=True)
        )


def test_at_equal_cost_each_method_is_at_least_as_good_as_the_one_before():
    problem = bundled()
    paper = uniform(problem, (0.4, 0.1, 0.55))
    budget = budget_of(paper)
    within, over = (
        {m: allocate(problem, m, budget, scope).error for m in ALLOCATION_METHODS}
        for scope in ("stage", "run")
    )
    assert within["dynamic"] <= within["lagrangian"] <= within["uniform"] == paper.error
    assert over["dynamic"] <= over["lagrangian"] < within["lagrangian"]


def test_equal_ratios_within_the_budget_of_the_paper_s_rule_are_the_paper_s_rule():
    problem = bundled()
    for sparsity in ((0.4, 0.1, 0.55), (0.0, 0.3, 0.95)):
        paper = uniform(problem, sparsity)
        assert allocate(problem, "uniform", budget_of(paper)).removed == paper.removed


@pytest.mark.parametrize("method", ["lagrangian", "dynamic"])
def test_more_budget_never_raises_the_error(method):
    problems = [(bundled(), np.linspace(0.05, 1, 60))] + [
        (random_problem(seed), np.linspace(0.5, 1, 40)) for seed in range(6)
    ]
    for problem, shares in problems:
        run = np.dot(problem.steps, problem.dense)
        least = total(
            np.tile(problem.steps, len(problem.layers))[:, None] * problem.table.costs,
            problem.table.count - 1,
        )
        errors = [
            allocate(problem, method, Budget(s * run), "run").error
            for s in shares
            if s * run >= least
        ]
        assert len(errors) > 10 and all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(errors))
        assert errors[-1] == 0


@pytest.mark.parametrize("method", ALLOCATION_METHODS)
@pytest.mark.parametrize("scope", ["stage", "run"])
def test_the_ends_of_the_budget(method, scope):
    layers = model(blocks=3)
    problem = make_problem(
        layers, smooth_errors(layers), (1, 2, 3), Menu(min_heads=0, min_neurons=0)
    )
    everything = allocate(problem, method, Budget.of_sparsity(problem, 1.0), scope)
    assert (
        everything.removed == ((8, 1024) * 3,) * 3
        and everything.cost == 0
        and everything.sparsity == (1.0,) * 3
    )
    nothing = allocate(problem, method, Budget.of_sparsity(problem, 0.0), scope)
    assert nothing.removed == ((0,) * 6,) * 3 and nothing.error == 0


def test_a_budget_that_cannot_be_met_says_what_can():
    layers = model(blocks=2, heads=4, neurons=64)
    problem = make_problem(layers, smooth_errors(layers), (1, 1, 1))
    # a head and 16 neurons stay in each block: a quarter
    least = 2 * (layers[0].macs_per_group + 16 * layers[1].macs_per_group)
    for method in ALLOCATION_METHODS:
        with pytest.raises(
            StudioError,
            match=(
                "The middle stage can lose at most 75 % of the MACs .* the plan asks for 90 %:"
                " lower the sparsity of"
            ),
        ):
            allocate(problem, method, Budget.of_sparsity(problem, (0, 0.9, 0)))
        with pytest.raises(
            StudioError,
            match="The whole run can lose at most 75 % of the MACs .* lower the sparsities",
        ):
            allocate(problem, method, Budget.of_sparsity(problem, 0.9), "run")
        assert allocate(problem, method, Budget.of_sparsity(problem, 0.75)).forward == (least,) * 3


def test_what_keeps_a_budget_from_being_met_is_named_with_its_remedy():
    layers = model(blocks=4, heads=4, neurons=64)
    problem = make_problem(layers, smooth_errors(layers), (1, 1, 1), Menu(protect=1, multiple=16))
    with pytest.raises(StudioError) as refused:
        allocate(problem, "uniform", Budget.of_sparsity(problem, (0, 0, 0.9)))
    told = str(refused.value)  # two of four blocks give three quarters each
    assert (
        told.startswith("The early stage can lose at most 37.5 % of the MACs of its prunable")
        and told.count(".") == 2
        and "e+" not in told
    )
    assert (
        "(the first and the last block are protected and neurons stay in multiples of 16)" in told
        and "protect no block, or allow finer widths" in told
    )


def test_facts_of_an_allocation_stand_beside_its_words():
    problem = bundled(steps=(5, 22, 23))
    for method in ALLOCATION_METHODS:
        found = allocate(problem, method, Budget.of_sparsity(problem, (0.4, 0.1, 0.55)), "run")
        assert (
            found.saved == pytest.approx(np.dot((5, 22, 23), found.sparsity) / 50)
            and f"{100 * found.saved:.1f} %" in found.text
        )
        assert (
            (found.fineness > 0) == ("up to" in found.text)
            and "e+" not in found.text
            and f"{len(problem.layers)} layers, one budget" in found.text
        )


# --- stages


def test_error_counts_as_often_as_a_stage_runs():
    errors = np.array([[[0.0, 1.0]], [[0.0, 1.5]]])
    costs = np.array([[[2.0, 0.0]], [[2.0, 0.0]]])
    # Ten of 16 may be spent, so the stage with more steps may stay and the other one goes, although
    # a forward of b loses more.
    assert allocate(tiny(errors, costs, (5, 3)), "dynamic", Budget(10), "run").removed == (
        (0,),
        (1,),
    )
    assert allocate(tiny(errors, costs, (3, 5)), "dynamic", Budget(10), "run").removed == (
        (1,),
        (0,),
    )


def test_a_stage_without_steps_stays_dense_in_one_budget_and_keeps_its_own_otherwise():
    problem, full = bundled(steps=(0, 10, 10)), bundled(steps=(10, 10, 10))
    for method in ALLOCATION_METHODS:
        one = allocate(problem, method, Budget.of_sparsity(problem, 0.3), "run")
        assert (
            not any(one.removed[0])
            and one.sparsity[0] == 0
            and any(one.removed[1])
            and "late stage, which stays dense" in one.text
        )
        own = allocate(problem, method, Budget.of_sparsity(problem, 0.3))
        assert own.removed == allocate(full, method, Budget.of_sparsity(full, 0.3)).removed
        assert one.cost <= 20 * 0.7 * problem.dense[1] * (1 + 1e-9)


def test_the_sparsity_of_a_run_is_the_step_weighted_mean():
    problem = bundled(steps=(5, 22, 23))
    budget = Budget.of_sparsity(problem, (0.4, 0.1, 0.55))
    assert budget.total == pytest.approx(
        (1 - (5 * 0.4 + 22 * 0.1 + 23 * 0.55) / 50) * 50 * problem.dense[0]
    )
    found = allocate(problem, "dynamic", budget, "run")
    assert np.dot((5, 22, 23), found.sparsity) / 50 == pytest.approx(
        (5 * 0.4 + 22 * 0.1 + 23 * 0.55) / 50, abs=1e-3
    )
    assert found.error == pytest.approx(np.dot((5, 22, 23), found.errors))


# --- benchmark


def test_the_benchmark_reports_all_methods_at_equal_budgets():
    found = json.loads(json.dumps(allocation_benchmark(rounds=1)))
    assert (found["layers"], found["stages"]) == (56, 3) and {
        r["method"] for r in found["results"]
    } == set(ALLOCATION_METHODS)
    by = {(r["method"], r["levels"], r["scope"]): r for r in found["results"]}
    assert all(r["median_ms"] > 0 for r in by.values())
    assert (
        by["dynamic", 17, "one budget"]["error"]
        <= by["lagrangian", 17, "one budget"]["error"]
        < by["uniform", 17, "one budget"]["error"]
    )
    assert (
        by["lagrangian", 289, "one budget"]["error"] <= by["lagrangian", 17, "one budget"]["error"]
    )
