"""Allocation: ratios, menus, floors, ties, costs, and what is refused."""

import numpy as np
import pytest
from allocation_cases import bundled, exhaustive, model, smooth_errors, tiny

from core.allocation.allocate import (
    ALLOCATION_METHODS,
    Budget,
    allocate,
    budget_of,
    uniform,
)
from core.allocation.problem import make_problem, relative_errors
from core.allocation.widths import Menu
from core.errors import StudioError
from core.models.layers import PrunableLayer, removed_groups

# --- ratios


@pytest.mark.parametrize("heads", [4, 8, 16])
def test_uniform_is_today_s_rule(heads):
    layers = model(blocks=5, heads=heads, neurons=512)
    problem = make_problem(layers, smooth_errors(layers), (1, 1, 1))
    for sparsity in np.linspace(0, 0.95, 77):
        assert uniform(problem, sparsity).removed == (tuple(removed_groups(layers, sparsity)),) * 3


@pytest.mark.parametrize("menu", [Menu(multiple=128), Menu(multiple=64), Menu(multiple=256)])
def test_equal_ratios_have_the_right_mean_on_a_coarse_menu(menu):
    layers = model(blocks=12)
    problem = make_problem(layers, smooth_errors(layers), (1, 1, 1), menu)
    for sparsity in (0.2, 0.33, 0.5, 0.7):
        for kind in ("heads", "neurons"):
            mine = [i for i, layer in enumerate(layers) if layer.kind == kind]
            widest = max(np.diff(menu.levels(layers)[mine[0]]))
            gone = [uniform(problem, sparsity).removed[0][i] for i in mine]
            assert (
                abs(sum(gone) - sparsity * sum(layers[i].groups for i in mine))
                <= 0.5 * widest + 1e-6
            )


def test_log_ramp():
    layers = model(blocks=28, heads=16, neurons=4608, width=1152)
    problem = make_problem(layers, smooth_errors(layers), (1, 1, 1))
    found = allocate(problem, "log_ramp", Budget.of_sparsity(problem, 0.33))
    for kind in (0, 1):
        gone = np.array(found.removed[0][kind::2])
        assert (np.diff(gone) >= 0).all()
    share = np.array(found.removed[0][1::2]) / 4608
    ramp = np.log(np.arange(1, 29)) / np.log(28)
    np.testing.assert_allclose(share, share[-1] * ramp, atol=16 / 4608)
    assert found.sparsity[0] == pytest.approx(0.33, abs=0.01) and found.sparsity[0] >= 0.33 - 1e-9
    # r_L = 1 is not enough: the first ratio rises
    deep = allocate(problem, "log_ramp", Budget.of_sparsity(problem, 0.85))
    assert deep.removed[0][1] > 16 and deep.sparsity[0] >= 0.85


# --- menus, floors, protection, ties


def test_menu_levels():
    layers = model(blocks=3, heads=6, neurons=1000, width=288)  # heads of 48 columns
    assert [x.tolist() for x in Menu().levels(layers)[:1]] == [[0, 1, 2, 3, 4, 5]]
    assert (np.diff(Menu().levels(layers)[1]) == 16).all() and 1000 - Menu().levels(layers)[1][
        -1
    ] >= 16
    for multiple in (16, 64, 128):
        kept = 1000 - Menu(multiple=multiple).levels(layers)[1]
        assert kept[0] == 1000 and (kept[1:] % multiple == 0).all() and kept[-1] == multiple
        assert len(kept) == 1 + 1000 // multiple and Menu(multiple=multiple).levels(layers)[
            0
        ].tolist() == [0, 1, 2, 3, 4, 5]
    bare = Menu(multiple=128, min_heads=0, min_neurons=0).levels(layers)
    assert bare[0][-1] == 6 and bare[1][-1] == 1000
    assert Menu(min_heads=2, min_neurons=300).levels(layers)[0].tolist() == [0, 1, 2, 3, 4]
    assert 1000 - Menu(multiple=64, min_neurons=300).levels(layers)[1][-1] == 320
    assert Menu(multiple=64).levels(model(1, 4, 48))[1].tolist() == [0]
    held = Menu(multiple=64, protect=0.5).levels(layers)
    assert (
        held[0].tolist() == held[4].tolist() == [0, 1, 2, 3]
        and 1000 - held[1][-1] == 512
        and held[2].tolist() == [0, 1, 2, 3, 4, 5]
    )
    assert [len(x) for x in Menu(protect=1).levels(layers)] == [1, 1, 6, 62, 1, 1]


@pytest.mark.parametrize("method", ALLOCATION_METHODS)
def test_a_menu_holds_over_all_stages(method):
    problem = bundled(Menu(multiple=256, protect=0.5))
    found = allocate(problem, method, Budget.of_sparsity(problem, (0.35, 0.1, 0.4)))
    widths = {
        layer.groups - gone
        for row in found.removed
        for layer, gone in zip(problem.layers, row, strict=True)
        if layer.kind == "neurons"
    }
    assert 1 < len(widths) <= 4 and all(w % 256 == 0 for w in widths)


@pytest.mark.parametrize("method", ALLOCATION_METHODS)
def test_floors_and_protection_hold(method):
    problem = bundled(Menu(min_heads=3, min_neurons=256, protect=0.75))
    for scope in ("stage", "run"):
        for row in allocate(problem, method, Budget.of_sparsity(problem, 0.5), scope).removed:
            assert all(
                r <= (5 if layer.kind == "heads" else 768)
                for layer, r in zip(problem.layers, row, strict=True)
            )
            assert all(row[i] <= 2 for i in (0, 14)) and all(row[i] <= 256 for i in (1, 15))
    problem = bundled(Menu(protect=1))
    found = allocate(problem, method, Budget.of_sparsity(problem, 0.5))
    assert all(row[:2] == row[14:] == (0, 0) for row in found.removed) and found.sparsity[0] >= 0.5


@pytest.mark.parametrize("method", ["lagrangian", "dynamic"])
def test_of_equal_layers_the_early_ones_are_removed_less(method):
    layers = model(blocks=4, heads=8, neurons=64)
    errors = [[x.groups * np.linspace(0, 1, x.groups // x.step + 1) ** 2 for x in layers]] * 3
    problem = make_problem(layers, errors, (2, 2, 2), Menu(min_heads=0, min_neurons=0))
    for sparsity in np.linspace(0.02, 0.98, 25):
        for row in allocate(problem, method, Budget.of_sparsity(problem, sparsity)).removed:
            assert (np.diff(row[0::2]) >= 0).all() and (np.diff(row[1::2]) >= 0).all()


# --- costs


def test_costs_from_a_latency_table():
    layers = model(blocks=4)
    errors = smooth_errors(layers)

    def seconds(layer, kept):  # a staircase: tiles of 128 neurons, heads by the pair
        return np.ceil(kept / (2 if layer.kind == "heads" else 128)) * 1e-3

    table = [
        seconds(layer, layer.groups - np.arange(0, layer.groups + 1, layer.step))
        for layer in layers
    ]
    called, listed = (
        make_problem(layers, errors, (1, 2, 3), costs=costs) for costs in (seconds, table)
    )
    assert called.dense == pytest.approx([4 * (4 + 8) * 1e-3] * 3)
    found = allocate(called, "dynamic", Budget.of_sparsity(called, 0.4), "run")
    assert (
        found.removed == allocate(listed, "dynamic", Budget.of_sparsity(listed, 0.4), "run").removed
        and "time" in found.text
    )
    for row in found.removed:  # neurons inside a tile cost nothing, so they stay
        assert all(
            (layer.groups - r) % (2 if layer.kind == "heads" else 128) == 0
            for layer, r in zip(layers, row, strict=True)
        )


def test_a_budget_taken_from_seconds_can_be_met_again():
    layers = model(blocks=7)
    rng = np.random.default_rng(0)
    table = [
        np.sort(rng.uniform(1e-4, 1e-2, layer.groups // layer.step + 1))[::-1] for layer in layers
    ]
    problem = make_problem(layers, smooth_errors(layers), (3, 7, 11), costs=table)
    for sparsity in np.linspace(0.05, 0.8, 16):
        paper = uniform(problem, sparsity)
        for scope in ("stage", "run"):  # the same sums in another order, so the last digit differs
            assert allocate(problem, "uniform", budget_of(paper), scope).removed == paper.removed
            assert allocate(problem, "dynamic", budget_of(paper), scope).cost <= paper.cost * (
                1 + 1e-11
            )


def test_a_width_slower_than_a_wider_one_is_never_chosen():
    errors, costs = np.array([[[0.0, 1.0, 2.0, 3.0]] * 3]), np.array([[[9.0, 9.5, 4.0, 1.0]] * 3])
    problem = tiny(errors, costs, (1,))
    for method in ("lagrangian", "dynamic"):
        for limit in np.linspace(3, 30, 30):
            found = allocate(problem, method, Budget(limit), "run")
            assert 1 not in found.removed[0]
            assert method == "lagrangian" or found.error == pytest.approx(
                exhaustive(problem, limit)
            )


def test_errors_between_two_measured_levels_lie_on_the_line():
    layer = PrunableLayer("block 1 neurons", 0, "neurons", "", "", 1000, 1, 1, 7)
    grid = np.arange(63) ** 2.0
    problem = make_problem([layer], [[grid]], (1,), Menu(multiple=64), stages=("all",))
    at = problem.curves[0][0]
    assert (
        at.levels[1] == 40 and at.errors[1] == pytest.approx((4 + 9) / 2) and at.costs[1] == 960 * 7
    )


def test_relative_errors_pool_bins_by_their_share():
    errors, energy = np.array([[0.0, 1.0], [0.0, 3.0]]), np.array([2.0, 10.0])
    np.testing.assert_allclose(relative_errors(errors, energy, np.array([1.0, 0.5])), [0, 2.5 / 7])


# --- refusals


@pytest.mark.parametrize(
    "make",
    [
        lambda: Menu(multiple=0),
        lambda: Menu(min_heads=-1),
        lambda: Menu(min_neurons=1.5),
        lambda: Menu(protect=1.1),
        lambda: bundled(steps=(0, 0, 0)),
        lambda: bundled(steps=(1, 2)),
        lambda: bundled(steps=(1, -1, 2)),
        lambda: tiny(np.full((2, 1, 2), np.nan), np.ones((2, 1, 2))),
        lambda: tiny(np.ones((2, 1, 2)), -np.ones((2, 1, 2))),
        lambda: make_problem(model(1), [[np.zeros(3)] * 2] * 3, (1, 1, 1)),
        lambda: make_problem(model(1), [[np.zeros(99)]] * 3, (1, 1, 1)),
        lambda: Budget(float("nan")),
        lambda: Budget.of_sparsity(bundled(), 1.5),
        lambda: Budget.of_sparsity(bundled(), (0.1, 0.2)),
        lambda: allocate(bundled(), "best", Budget(1)),
        lambda: allocate(bundled(), "dynamic", Budget(1e12), "stage"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(make):
    with pytest.raises(StudioError) as refused:
        make()
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
