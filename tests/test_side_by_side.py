"""Searching the orders of several layers at once: the same bits as one layer after another."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
from layers import layer
from torch import Tensor, nn

from core.calibration.bank import GramBank
from core.calibration.settings import CalibrationSettings
from core.errors import Stopped
from core.graphs import Retracing
from core.models.layers import PrunableLayer
from core.pruning import greedy, layer_orders, tiled
from core.pruning.damped_problem import DampedProblem
from core.pruning.layer_orders import LayerOrders, OrderWatch, most_side_by_side
from core.pruning.obs import RemovalPath
from core.pruning.orders import find_orders
from core.pruning.picker import Picker


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles in a small matrix."""
    monkeypatch.setattr(tiled, "TILE", 48)
    monkeypatch.setattr(tiled, "PIVOTS", 16)


@pytest.fixture(params=[False, True], ids=["one by one", "together"])
def together(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Picks as on a CPU, then as on CUDA."""
    way = partial(greedy.pick_columns, together=request.param)
    monkeypatch.setattr(greedy, "pick_columns", way)
    return request.param


def searches(seeds: range, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the state and the floor of searches of several layers."""
    states, floors = [], []
    for seed in seeds:
        weight, inputs = layer(seed, n=n, tokens=4 * n)
        gram = inputs @ inputs.T
        states.append(torch.stack([torch.linalg.inv(gram), weight.T @ weight]))
        floors.append(1 / gram.diagonal())
    return torch.stack(states).to(dtype), torch.stack(floors).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [37, 150])
def test_layers_side_by_side_find_the_bits_of_a_search_of_their_own(
    dtype: torch.dtype, n: int, together: bool, small_tiles: None
) -> None:
    state, floor = searches(range(5), n, dtype)
    found = greedy.order_stack(state.clone(), floor)
    for i, pair in enumerate(found):
        alone = greedy.order_columns(state[i].clone(), floor[i])
        assert pair is not None and alone is not None
        assert torch.equal(pair[0], alone[0]) and torch.equal(pair[1], alone[1])
        assert sorted(alone[0].tolist()) == list(range(n))


def test_rows_formed_together_give_the_order_of_rows_formed_one_by_one(small_tiles: None) -> None:
    state, floor = searches(range(3), 150, torch.float64)
    results = {}
    for together in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            way = partial(greedy.pick_columns, together=together)
            patch.setattr(greedy, "pick_columns", way)
            results[together] = greedy.order_stack(state.clone(), floor)
    for one, other in zip(results[False], results[True], strict=True):
        assert one is not None and other is not None
        assert torch.equal(one[0], other[0])
        torch.testing.assert_close(one[1], other[1], rtol=1e-9, atol=0)


def test_a_layer_that_is_given_up_leaves_the_others_alone(together: bool) -> None:
    state, floor = searches(range(3), 90, torch.float64)
    state[1, 1].neg_()  # no squared norm is negative
    found = greedy.order_stack(state.clone(), floor)
    assert found[1] is None
    for i in (0, 2):
        pair, alone = found[i], greedy.order_columns(state[i].clone(), floor[i])
        assert pair is not None and alone is not None
        assert torch.equal(pair[0], alone[0]) and torch.equal(pair[1], alone[1])


def test_a_spoilt_layer_is_worked_out_anew_beside_the_others() -> None:
    state, floor = searches(range(2), 90, torch.float64)
    exact = greedy.order_columns(state[1].clone(), floor[1])
    asked = []

    def anew(survivors: Tensor) -> Tensor:
        """Return W'^T W' of the removals so far, from the inverse alone."""
        asked.append(len(survivors))
        weight, inputs = layer(1, n=90, tokens=360)
        gram = inputs @ inputs.T
        best = torch.linalg.solve(gram[survivors][:, survivors], gram[survivors] @ weight.T)
        return best @ best.T

    spoilt = state.clone()
    last = int(exact[0][-1])
    spoilt[1, 1, last, last] = -1e6  # stands until the first flush
    found = greedy.order_stack(spoilt, floor, rebuilds=[anew, anew])
    assert asked[0] == 26 and found[0] is not None and found[1] is not None
    assert torch.equal(found[1][0][-1:], exact[0][-1:]) or len(asked) == 1


def heads(
    seeds: range, n: int, size: int, damping: float, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Return inverses (layers, n, n) and weights (layers, d, n) of searches of groups."""
    inverses, weights = [], []
    for seed in seeds:
        weight, inputs = layer(seed, n=n, tokens=4 * n)
        gram = inputs @ inputs.T
        gram.diagonal().add_(damping * gram.diagonal().mean())
        inverses.append(torch.linalg.inv(gram))
        weights.append(weight)
    return torch.stack(inverses).to(dtype), torch.stack(weights).to(dtype)


def same_search(found: greedy.Found | None, alone: greedy.Found | None, rtol: float) -> None:
    """Assert one order, and costs that are equal up to rounding."""
    assert found is not None and alone is not None
    assert torch.equal(found[0], alone[0])
    torch.testing.assert_close(found[1], alone[1], rtol=rtol, atol=0)


@pytest.mark.parametrize("damping", [0.0, 1e-2])
@pytest.mark.parametrize(("n", "size", "layers"), [(48, 8, 5), (60, 20, 2), (24, 24, 3), (9, 3, 1)])
def test_heads_side_by_side_find_the_order_of_a_search_of_their_own(
    n: int, size: int, layers: int, damping: float
) -> None:
    inverse, w = heads(range(layers), n, size, damping)
    ticks: list[int] = []
    found = greedy.order_groups(inverse.clone(), w.clone(), size, tick=lambda: ticks.append(1))
    assert len(found) == layers and len(ticks) == n // size
    for i, pair in enumerate(found):
        own = greedy.order_groups(inverse[i : i + 1].clone(), w[i : i + 1].clone(), size)
        same_search(pair, own[0], 1e-9)
        assert pair is not None and sorted(pair[0].tolist()) == list(range(n // size))


def test_equal_heads_go_in_the_order_of_their_numbers_side_by_side_too() -> None:
    """Heads without any part in the output cost nothing, and the first of equals goes first."""
    inverse, w = heads(range(3), 48, 8, 1e-2)
    w[1, :, 8:40] = 0
    inverse[2] = torch.eye(48, dtype=torch.float64)
    w[2] = w[2, :, :8].repeat(1, 6)
    found = greedy.order_groups(inverse.clone(), w.clone(), 8)
    orders = [pair[0].tolist() for pair in found if pair is not None]
    assert orders[1][:4] == [1, 2, 3, 4] and orders[2] == [0, 1, 2, 3, 4, 5]
    for i, pair in enumerate(found):
        own = greedy.order_groups(inverse[i : i + 1].clone(), w[i : i + 1].clone(), 8)
        same_search(pair, own[0], 1e-9)


def test_heads_that_are_given_up_leave_the_others_alone() -> None:
    inverse, w = heads(range(3), 48, 8, 0.0)
    inverse[1].neg_()  # no inverse of a Gram
    found = greedy.order_groups(inverse.clone(), w.clone(), 8)
    assert found[1] is None
    for i in (0, 2):
        own = greedy.order_groups(inverse[i : i + 1].clone(), w[i : i + 1].clone(), 8)
        same_search(found[i], own[0], 1e-9)


@pytest.mark.cuda
@pytest.mark.parametrize("size", [4, 72])
def test_cuda_gives_heads_side_by_side_the_order_of_single_searches(size: int) -> None:
    inverse, w = (x.cuda() for x in heads(range(9), 4 * size, size, 1e-2))
    for i, pair in enumerate(greedy.order_groups(inverse.clone(), w.clone(), size)):
        own = greedy.order_groups(inverse[i : i + 1].clone(), w[i : i + 1].clone(), size)
        same_search(pair, own[0], 1e-9)


def mixed() -> list[tuple[Tensor, Tensor, int]]:
    """Return weights, Grams and group sizes.

    Two widths, dead columns, heads of two sizes with one dead, a singular Gram.
    """
    cases = []
    for seed, n, size, tokens in (
        (0, 150, 1, 600),
        (1, 96, 1, 400),
        (2, 150, 1, 600),
        (3, 96, 8, 400),
        (4, 150, 1, 600),
        (5, 96, 8, 400),
        (7, 96, 8, 400),
        (8, 96, 12, 400),
        (6, 96, 1, 60),
    ):
        weight, inputs = layer(seed, n=n, tokens=tokens)
        if seed == 2:
            inputs[[3, 70]] = 0
        if seed == 5:
            inputs[8:16] = 0
        cases.append((weight, inputs @ inputs.T, size))
    return cases


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("captured", [False, True])
def test_paths_of_mixed_layers_equal_those_made_one_after_another(
    precision: str, captured: bool, together: bool, small_tiles: None
) -> None:
    picker = Picker(Retracing()) if captured else None
    cases = mixed()
    problems = [
        replace(DampedProblem.checked(w, gram, size, None), picker=picker)
        for w, gram, size in cases
    ]
    ticks: list[int] = []
    paths = RemovalPath.from_problems(problems, 0.0, precision, tick=lambda: ticks.append(1))
    rungs = []
    for (weight, gram, size), path in zip(cases, paths, strict=True):
        alone = RemovalPath.from_gram(weight, gram, size, 0.0, precision=precision)
        assert torch.equal(path.order, alone.order) and torch.equal(path.errors, alone.errors)
        assert (path.rung, path.search, path.damping) == (alone.rung, alone.search, alone.damping)
        assert torch.equal(path.weights_at(3), alone.weights_at(3))
        rungs.append(path.rung)
    assert rungs[0] == "plain" and rungs[-1].startswith("damping raised")
    assert len(ticks) > len(cases)


def test_a_stop_ends_the_searches_between_two_blocks() -> None:
    problems = [DampedProblem.checked(w, gram, size, None) for w, gram, size in mixed()[:3]]

    def stop() -> None:
        raise Stopped("enough")

    with pytest.raises(Stopped):
        next(RemovalPath.from_problems(problems, tick=stop))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cuda_gives_a_stack_the_bits_of_single_searches(dtype: torch.dtype) -> None:
    state, floor = (x.cuda() for x in searches(range(5), 300, dtype))
    for i, pair in enumerate(greedy.order_stack(state.clone(), floor)):
        alone = greedy.order_columns(state[i].clone(), floor[i])
        assert pair is not None and alone is not None
        assert torch.equal(pair[0], alone[0]) and torch.equal(pair[1], alone[1])


# ------------------------------------------------------------ memory


def linears(widths: list[int], sizes: list[int]) -> tuple[nn.ModuleDict, list[PrunableLayer]]:
    """Return a model of linear layers with 4 outputs, and what may shrink in it."""
    model = nn.ModuleDict({f"m{i}": nn.Linear(n, 4) for i, n in enumerate(widths)})
    layers = [
        PrunableLayer("neurons", i, f"layer {i}", "", f"m{i}", n // size, size, 1, 1)
        for i, (n, size) in enumerate(zip(widths, sizes, strict=True))
    ]
    return model, layers


def test_memory_decides_how_many_walk_side_by_side(monkeypatch, tmp_path) -> None:
    one = most_side_by_side(4608, 1152, torch.float32, 0)
    assert one == 1
    sizes = [
        most_side_by_side(4608, 1152, torch.float32, gigabytes * 10**9) for gigabytes in (4, 16, 70)
    ]
    assert 1 < sizes[0] < sizes[1] < 28 < sizes[2]
    model, layers = linears([64, 32, 64, 64, 32, 64, 64, 64], [1, 1, 1, 1, 1, 8, 1, 1])
    bank = GramBank(tmp_path, layers, CalibrationSettings(edges=(0, 1000), images=2, held_out=1))
    finder = LayerOrders(model, layers, bank, None, OrderWatch(layers))
    every = list(range(8))
    assert finder.stacks(every) == [[i] for i in every]  # on a CPU, one after another
    assert finder.stacks(every, 8) == [[0, 2, 3, 6, 7], [1, 4], [5]]
    assert finder.stacks(every, 3) == [[0, 2, 3], [1, 4], [5], [6, 7]]
    fit = {room: most_side_by_side(64, 4, torch.float64, room) for room in range(0, 10**7, 20_000)}
    room = next(room for room, layers_of_64 in fit.items() if layers_of_64 == 2)
    monkeypatch.setattr(layer_orders, "free_memory", lambda device: room)
    limited = [stack for stack in finder.stacks(every, 8) if layers[stack[0]].width == 64]
    assert limited == [[0, 2], [3, 6], [5], [7]]
    monkeypatch.setattr(layer_orders, "free_memory", lambda device: 0)
    assert finder.stacks(every, 8) == [[i] for i in every]


def test_heads_walk_with_as_many_heads_of_their_size_as_memory_holds(monkeypatch, tmp_path) -> None:
    model, layers = linears([64, 64, 64, 64, 64, 72], [8, 8, 8, 16, 8, 8])
    model["m4"] = nn.Linear(64, 5)
    layers.append(replace(layers[0], name="one more", module="m6", consumer="m6"))
    model["m6"] = nn.Linear(64, 4)
    bank = GramBank(tmp_path, layers, CalibrationSettings(edges=(0, 1000), images=2, held_out=1))
    finder = LayerOrders(model, layers, bank, None, OrderWatch(layers))
    every = list(range(7))
    assert finder.stacks(every) == [[i] for i in every]
    # other sizes of heads, other outputs and other numbers of heads stay apart
    assert finder.stacks(every, 8) == [[0, 1, 2, 6], [3], [4], [5]]
    fit = {
        room: most_side_by_side(64, 4, torch.float64, room, 8) for room in range(0, 10**7, 20_000)
    }
    room = next(room for room, many in fit.items() if many == 2)
    assert most_side_by_side(64, 4, torch.float64, room) == 1  # neurons take more memory each
    monkeypatch.setattr(layer_orders, "free_memory", lambda device: room)
    assert finder.stacks(every, 8) == [[0, 1], [2, 6], [3], [4], [5]]
    monkeypatch.setattr(layer_orders, "free_memory", lambda device: 0)
    assert finder.stacks(every, 8) == [[i] for i in every]


# ------------------------------------------------------------ a whole run


@pytest.fixture
def bank(workshop, tmp_path) -> GramBank:
    """The workshop's own bins, copied, with nothing ordered yet."""
    for path in workshop.folder.glob("bin-*"):
        shutil.copy2(path, tmp_path)
    return GramBank(tmp_path, workshop.layers, workshop.settings)


def same(a, b) -> bool:
    """Say whether two runs gave the same bits."""
    pairs = [
        pair
        for name in ("order", "errors", "energy")
        for pair in zip(getattr(a, name), getattr(b, name), strict=True)
    ]
    return all(torch.equal(x, y) for x, y in pairs) and (a.damping, a.rungs) == (
        b.damping,
        b.rungs,
    )


def test_orders_and_curves_do_not_depend_on_how_many_walk_side_by_side(workshop, bank) -> None:
    alone = find_orders(workshop.transformer, workshop.layers, bank, "here")
    for path in bank.folder.glob("ordered-*"):
        path.unlink()
    asked = []
    found = find_orders(
        workshop.transformer,
        workshop.layers,
        bank,
        "here",
        lambda done, total, text: asked.append((done, total, text)),
        side_by_side=8,
    )
    assert same(found, alone)
    assert [done for done, _, text in asked if "curves" in text] == [0, 1, 2, 3]
    assert not list(bank.folder.glob("searched-*"))


def test_a_stop_between_the_curves_of_a_stack_keeps_its_orders(workshop, bank, monkeypatch) -> None:
    whole = find_orders(workshop.transformer, workshop.layers, bank, "here")
    for path in bank.folder.glob("ordered-*"):
        path.unlink()
    stop = threading.Event()

    def progress(done: int, total: int, text: str) -> None:
        if "curves" in text:
            stop.set()

    arguments = (workshop.transformer, workshop.layers, bank, "here")
    with pytest.raises(Stopped, match="0 of 4 layers are kept"):
        find_orders(*arguments, progress, stop, side_by_side=8)
    kept = {path.name for path in bank.folder.glob("*ed-*")}
    assert kept == {f"{name}.safetensors" for name in ("searched-000", "searched-002")}
    searched = []
    once = layer_orders.LayerOrders.search

    def counted(self, stack):
        searched.extend(stack)
        return once(self, stack)

    monkeypatch.setattr(layer_orders.LayerOrders, "search", counted)
    resumed = find_orders(*arguments, side_by_side=8)
    assert same(resumed, whole) and searched == [1, 3]
    resumed.save(bank.folder)
    assert not list(bank.folder.glob("*ed-0*"))
