"""Float32 searches, the failure ladder, hard Grams, tiles: where `core.pruning.obs` must hold
although the numbers do not.
"""

from __future__ import annotations

import pytest
import torch
from layers import columns_of, error, layer, least_squares, naive_order
from torch import Tensor

from core.errors import StudioError
from core.graphs import CudaGraphs, Retracing
from core.pruning import damped_problem as path_problem
from core.pruning import greedy, order_search
from core.pruning import tiled as symmetric
from core.pruning.obs import RemovalPath, compensated_weights
from core.pruning.picker import Picker

SEEDS = (0, 1, 2)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that a small layer has many, the last of them ragged."""
    monkeypatch.setattr(symmetric, "TILE", 10)
    monkeypatch.setattr(symmetric, "PIVOTS", 4)


def test_duplicate_and_constant_columns() -> None:
    weight, inputs = layer(10, n=24)
    inputs[5], inputs[6] = inputs[4], 2 * inputs[4]
    inputs[20], inputs[21] = 3.0, 3.0
    path = RemovalPath.from_gram(weight, inputs @ inputs.T, damping=0.0)
    assert path.rung.startswith("damping raised") and 0 < path.damping <= 1e-7
    first = set(path.order[:3].tolist())
    assert len(first & {4, 5, 6}) == 2 and len(first & {20, 21}) == 1
    assert path.errors[3] < 1e-8 * path.energy < path.errors[4]
    for removed in range(25):
        exact = least_squares(weight, inputs, path.kept(removed))
        assert error(path.weights_at(removed), weight, inputs) == pytest.approx(
            error(exact, weight, inputs), abs=1e-8 * path.energy
        )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1, 4])
def test_fewer_tokens_than_columns(seed: int, size: int) -> None:
    weight, inputs = layer(seed, n=32, tokens=20)
    path = RemovalPath.from_gram(weight, inputs @ inputs.T, group_size=size, damping=0.0)
    assert path.rung != "plain" and path.damping <= 1e-7
    assert path.errors[12 // size] < 1e-7 * path.energy < path.errors[12 // size + 1]
    assert (path.errors.diff() >= 0).all()
    for removed in range(path.groups):
        kept = columns_of(path.kept(removed), size)
        best = error(least_squares(weight, inputs, kept), weight, inputs)
        assert error(path.weights_at(removed), weight, inputs) == pytest.approx(
            best, abs=1e-7 * path.energy
        )
    direct = compensated_weights(weight, inputs @ inputs.T, torch.arange(32), 0.0)
    assert torch.equal(direct, weight)


def test_eigenvalue_floor_for_a_gram_spoilt_by_rounding() -> None:
    weight, inputs = layer(11, n=32, tokens=20)
    gram = inputs @ inputs.T
    values, vectors = torch.linalg.eigh(gram)
    values[:4] = -1e-5 * values[-1]
    path = RemovalPath.from_gram(weight, (vectors * values) @ vectors.T, damping=0.0)
    assert path.rung == "eigenvalue floor" and path.errors.isfinite().all()
    assert error(path.weights_at(6), weight, inputs) < 1e-3 * path.energy


@pytest.mark.parametrize(("of_weight", "of_gram"), [(1e3, 1.0), (1.0, 1e-12), (1e-4, 1e9)])
def test_scale(of_weight: float, of_gram: float) -> None:
    weight, inputs = layer(7, n=32)
    gram = inputs @ inputs.T
    path = RemovalPath.from_gram(weight, gram, damping=1e-2)
    scaled = RemovalPath.from_gram(of_weight * weight, of_gram * gram, damping=1e-2)
    assert torch.equal(scaled.order, path.order)
    assert torch.allclose(scaled.errors / (of_weight**2 * of_gram), path.errors, rtol=1e-9)
    assert torch.allclose(scaled.weights_at(9) / of_weight, path.weights_at(9), atol=1e-9)


def test_nothing_alive() -> None:
    path = RemovalPath.from_gram(torch.ones(3, 4), torch.zeros(4, 4))
    assert path.order.tolist() == [0, 1, 2, 3] and (path.errors == 0).all() and path.energy == 0
    assert (path.weights_at(4) == 0).all()


@pytest.mark.parametrize("block", [1, 7, 64])
def test_order_in_tiles_is_the_textbook_order(
    block: int, small_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, inputs = layer(2, n=75, tokens=400, steep=1)
    inputs[[3, 40]] = 0
    gram = inputs @ inputs.T
    monkeypatch.setattr(greedy.order_columns, "__defaults__", (block,))
    alive = torch.tensor([j for j in range(75) if j not in (3, 40)])
    exact = [3, 40, *alive[naive_order(weight[:, alive], gram[alive][:, alive])].tolist()]
    assert RemovalPath.from_gram(weight, gram, damping=0.0).order.tolist() == exact


@pytest.mark.parametrize("size", [1, 5])
def test_paths_in_tiles_are_those_in_one_piece(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = layer(3, d=11, n=45, tokens=300)
    inputs[7] = 0
    gram, fresh = inputs[:, :200] @ inputs[:, :200].T, inputs[:, 200:] @ inputs[:, 200:].T
    whole = RemovalPath.from_gram(weight, gram, group_size=size, held_out=fresh)
    pieces = {removed: whole.weights_at(removed) for removed in range(whole.groups + 1)}
    assert whole.held_out_errors is not None
    monkeypatch.setattr(symmetric, "TILE", 10)
    monkeypatch.setattr(symmetric, "PIVOTS", 4)
    tiled = RemovalPath.from_gram(weight, gram, group_size=size, held_out=fresh)
    assert torch.equal(tiled.order, whole.order) and tiled.damping == whole.damping
    assert torch.allclose(tiled.errors, whole.errors, rtol=1e-10) and tiled.energy == pytest.approx(
        whole.energy
    )
    assert torch.allclose(
        tiled.held_out_errors, whole.held_out_errors, rtol=1e-9, atol=1e-9 * whole.energy
    )
    for removed, exact in pieces.items():
        assert torch.allclose(tiled.weights_at(removed), exact, atol=1e-10)
        direct = compensated_weights(
            weight, gram, columns_of(tiled.kept(removed), size), tiled.damping
        )
        assert torch.allclose(direct, exact, atol=1e-9)


@pytest.mark.parametrize("d", [3, 40])
@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_both_forms_of_the_weights_agree(d: int, damping: float, small_tiles: None) -> None:
    weight, inputs = layer(4, d=d, n=48, tokens=300, steep=1.5)
    path = RemovalPath.from_gram(weight, inputs @ inputs.T, damping=damping)
    chosen = set()
    for kept in range(1, 48):
        few, many = path._from_kept(kept), path._from_removed(kept)
        assert (few - many).norm() <= 1e-9 * few.norm()
        found = path._best(kept)
        assert torch.equal(found, few) or torch.equal(found, many)
        chosen.add(torch.equal(found, few))
    assert chosen == {True, False}


def near_duplicates(seed: int, n: int, apart: float) -> tuple[Tensor, Tensor]:
    """A weight and the Gram of inputs that come in pairs which are nearly equal."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5 + 0.3 * torch.eye(n)
    inputs = mix @ torch.randn(n, 4 * n, generator=generator, dtype=torch.float64)
    inputs[1::2] = inputs[::2] + apart * inputs[1::2]
    return torch.randn(n // 4, n, generator=generator, dtype=torch.float64), inputs @ inputs.T


def hidden_neurons(seed: int, n: int, rank: int = 16) -> tuple[Tensor, Tensor]:
    """A weight and the Gram of neurons as an MLP has them: GELU of few directions, with means of
    their own.
    """
    generator = torch.Generator().manual_seed(seed)
    few = (
        torch.randn(n, rank, generator=generator, dtype=torch.float64)
        @ torch.randn(rank, 4 * n, generator=generator, dtype=torch.float64)
        / rank**0.5
    )
    means, noise = (
        torch.randn(n, 1, generator=generator, dtype=torch.float64),
        torch.randn(n, 4 * n, generator=generator, dtype=torch.float64),
    )
    inputs = torch.nn.functional.gelu(few + means + 0.01 * noise)
    return torch.randn(n // 4, n, generator=generator, dtype=torch.float64), inputs @ inputs.T


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("kind", "damping", "condition"), [("pairs", 1e-4, 5e4), ("neurons", 1e-6, 1e5)]
)
def test_a_float32_order_achieves_what_a_float64_order_does(
    seed: int, kind: str, damping: float, condition: float
) -> None:
    weight, gram = (
        near_duplicates(seed, 256, 1e-3) if kind == "pairs" else hidden_neurons(seed, 256)
    )
    assert torch.linalg.cond(gram / gram.diagonal().mean() + damping * torch.eye(256)) > condition
    exact = RemovalPath.from_gram(weight, gram, damping=damping, precision="float64")
    quick = RemovalPath.from_gram(weight, gram, damping=damping, precision="float32")
    assert (exact.search, quick.search) == (
        "float64",
        "float32",
    ) and exact.rung == quick.rung == "plain"
    # which of two twins goes is left to rounding
    assert kind == "neurons" or not torch.equal(exact.order, quick.order)
    assert quick.errors.dtype == torch.float64
    levels = [13, 26, 64, 128, 192, 230]
    assert (quick.errors[levels] <= 1.01 * exact.errors[levels]).all()
    direct = compensated_weights(weight, gram, quick.kept(128), damping)
    # the weights are float64 whatever the search was
    assert (quick.weights_at(128) - direct).norm() <= 1e-8 * direct.norm()


@pytest.mark.parametrize("size", [1, 4])
def test_float32_search_of_a_harmless_layer_is_exact(size: int) -> None:
    weight, inputs = layer(5, n=48, tokens=400)
    gram = inputs @ inputs.T
    quick = RemovalPath.from_gram(
        weight.float(), gram.float(), group_size=size, precision="float32"
    )
    exact = RemovalPath.from_gram(
        weight.float(), gram.float(), group_size=size, precision="float64"
    )
    assert torch.equal(quick.order, exact.order) and torch.equal(quick.errors, exact.errors)


def test_large_layers_are_searched_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_problem, "LARGE", 30)
    for n, search in ((30, "float64"), (31, "float32")):
        weight, inputs = layer(6, n=n)
        assert RemovalPath.from_gram(weight, inputs @ inputs.T).search == search
        assert (
            RemovalPath.from_gram(weight, inputs @ inputs.T, precision="float64").search
            == "float64"
        )
    assert RemovalPath.from_order(weight, inputs @ inputs.T, range(31)).search == "given"
    with pytest.raises(StudioError):
        RemovalPath.from_gram(weight, inputs @ inputs.T, precision="half")


def test_an_order_that_float32_cannot_find_is_found_in_float64() -> None:
    weight, gram = near_duplicates(7, 48, 1e-4)
    quick = RemovalPath.from_gram(weight, gram, damping=0.0, precision="float32")
    exact = RemovalPath.from_gram(weight, gram, damping=0.0, precision="float64")
    assert (
        quick.rung == "order in float64"
        and quick.search == "float64"
        and quick.damping == 0
        and exact.rung == "plain"
    )
    assert torch.equal(quick.order, exact.order)


def test_the_ladder_goes_on_from_float32_to_damping() -> None:
    weight, inputs = layer(8, n=32, tokens=20)
    path = RemovalPath.from_gram(weight, inputs @ inputs.T, damping=0.0, precision="float32")
    assert (
        path.rung.startswith("damping raised")
        and path.search == "float64"
        and 0 < path.damping <= 1e-7
    )


def test_a_search_that_accounts_wrongly_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = layer(9, n=40)
    gram, search = inputs @ inputs.T, order_search.order_columns
    asked = []

    def drifting(state: Tensor, floor: Tensor, **options) -> tuple[Tensor, Tensor]:
        asked.append(state.dtype)
        order, costs = search(state, floor, **options)
        return order, costs * (1.05 if state.dtype == torch.float32 else 1)

    monkeypatch.setattr(order_search, "order_columns", drifting)
    path = RemovalPath.from_gram(weight, gram, precision="float32")
    assert asked == [torch.float32, torch.float64] and path.rung == "order in float64"


@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_products_spoilt_on_the_way_are_worked_out_anew(
    damping: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, inputs = layer(10, n=32)
    inputs[[5, 6]] = 0  # survivors are counted without dead columns
    gram = inputs @ inputs.T
    exact = RemovalPath.from_gram(weight, gram, damping=damping)
    alive = [j for j in range(32) if j not in (5, 6)]
    first, last = (alive.index(int(exact.order[k])) for k in (2, -1))
    search = order_search.order_columns

    def spoilt(
        state: Tensor, floor: Tensor, rebuild=None, picker=None, tick=None
    ) -> tuple[Tensor, Tensor] | None:
        assert picker is None
        bump = 1e3 * state[1].diagonal().max() * state[0, max(first, last), min(first, last)].sign()
        # after the first removal the last column's squared norm is far below zero
        state[1, first, last] += bump
        state[1, last, first] += bump
        return search(state, floor, 1, rebuild=rebuild if repair else None)

    monkeypatch.setattr(order_search, "order_columns", spoilt)
    repair = True
    repaired = RemovalPath.from_gram(weight, gram, damping=damping)
    assert repaired.rung == "plain" and torch.equal(repaired.order, exact.order)
    repair = False
    with pytest.raises(StudioError):
        RemovalPath.from_gram(weight, gram, damping=damping)


def test_norms_that_stay_negative_end_the_search() -> None:
    weight, inputs = layer(11, n=24)
    inverse, broken = torch.linalg.inv(inputs @ inputs.T), -torch.eye(24, dtype=torch.float64)
    calls = []

    def hopeless(survivors: Tensor) -> Tensor:
        calls.append(len(survivors))
        return broken[: len(survivors), : len(survivors)]

    assert (
        greedy.order_columns(
            torch.stack([inverse, broken]),
            torch.zeros(24, dtype=torch.float64),
            4,
            rebuild=hopeless,
        )
        is None
    )
    assert calls == [20, 16][: greedy.REBUILDS]


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_captured_picks_find_the_same_order(precision: str, small_tiles: None) -> None:
    """Through the twin of CUDA's graphs; searches of one width share them, another width drops."""
    picker = Picker(Retracing())
    for seed, n, tokens in ((12, 150, 600), (13, 150, 160), (14, 100, 400)):
        weight, inputs = layer(seed, n=n, tokens=tokens)
        gram = inputs @ inputs.T
        plain = RemovalPath.from_gram(weight, gram, precision=precision)
        found = RemovalPath.from_gram(weight, gram, precision=precision, picker=picker)
        assert torch.equal(found.order, plain.order) and torch.equal(found.errors, plain.errors)
        assert found.rung == plain.rung
    # 150, 86 and 22 columns left, then 100 and 36; a search that starts anew takes what is there
    assert picker.captured in (5, 10) and not picker.plain


def test_picks_go_on_one_by_one_where_nothing_can_be_captured() -> None:
    class Broken(Retracing):
        def capture(self, run):
            raise RuntimeError("operation not permitted when stream is capturing")

    weight, inputs = layer(12, n=150, tokens=600)
    gram, picker = inputs @ inputs.T, Picker(Broken())
    found = RemovalPath.from_gram(weight, gram, picker=picker)
    assert picker.plain and torch.equal(found.order, RemovalPath.from_gram(weight, gram).order)


cuda = pytest.mark.cuda


@cuda
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_cuda_captures_the_picks(precision: str) -> None:
    picker = Picker(CudaGraphs(torch.device("cuda")))
    for seed in (12, 13):
        weight, inputs = (x.cuda() for x in layer(seed, n=300, tokens=900))
        gram = inputs @ inputs.T
        plain = RemovalPath.from_gram(weight, gram, precision=precision)
        found = RemovalPath.from_gram(weight, gram, precision=precision, picker=picker)
        assert torch.equal(found.order, plain.order) and not picker.plain
    assert picker.captured == 5


@cuda
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("size", [1, 4])
def test_cuda_finds_the_same_path(size: int, precision: str, small_tiles: None) -> None:
    weight, inputs = layer(12, n=96, tokens=600)
    gram = inputs @ inputs.T
    here = RemovalPath.from_gram(weight, gram, group_size=size, precision=precision)
    there = RemovalPath.from_gram(weight.cuda(), gram.cuda(), group_size=size, precision=precision)
    assert (
        torch.equal(there.order, here.order)
        and there.rung == here.rung
        and torch.allclose(there.errors, here.errors)
    )
    for removed in (2, here.groups // 2, here.groups - 2):
        assert torch.allclose(there.weights_at(removed).cpu(), here.weights_at(removed))
