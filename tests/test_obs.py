"""core.obs against brute force: the textbook greedy loop, and least squares on the tokens
themselves.
"""

from __future__ import annotations

import pytest
import torch
from layers import brute_force, columns_of, error, layer, least_squares, naive_order, with_ridge

from core.errors import StudioError
from core.pruning import greedy
from core.pruning.obs import DAMPINGS, RemovalPath, compensated_weights

SEEDS = (0, 1, 2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("size", "damping"), [(1, 0.0), (1, 0.05), (3, 0.0), (4, 0.05)])
def test_order_is_brute_force_greedy(seed: int, size: int, damping: float) -> None:
    weight, inputs = layer(seed, n=12 if size == 1 else 24)
    path = RemovalPath.from_gram(weight, inputs @ inputs.T, group_size=size, damping=damping)
    assert path.order.tolist() == brute_force(weight, with_ridge(inputs, damping), size)
    assert path.rung == "plain" and path.damping == damping


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("block", [1, 5, 16, 200])
def test_lazy_blocks_change_nothing(seed: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = layer(seed, n=64, tokens=400, steep=2)
    gram = inputs @ inputs.T
    monkeypatch.setattr(greedy.order_columns, "__defaults__", (block,))
    assert RemovalPath.from_gram(weight, gram, damping=0.0).order.tolist() == naive_order(
        weight, gram
    )


def test_default_block_with_flushes() -> None:
    weight, inputs = layer(5, n=150, tokens=800, steep=1)
    gram = inputs @ inputs.T
    assert RemovalPath.from_gram(weight, gram, damping=0.0).order.tolist() == naive_order(
        weight, gram
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_weights_and_errors_are_least_squares(seed: int, size: int, damping: float) -> None:
    weight, inputs = layer(seed, n=32)
    gram = inputs @ inputs.T
    path = RemovalPath.from_gram(weight, gram, group_size=size, damping=damping)
    augmented = with_ridge(inputs, damping)
    assert len(path.errors) == path.groups + 1 == 32 // size + 1
    for removed in range(1, path.groups + 1):
        kept = columns_of(path.kept(removed), size)
        exact = least_squares(weight, augmented, kept)
        for found in (path.weights_at(removed), compensated_weights(weight, gram, kept, damping)):
            assert (found - exact).norm() <= 1e-8 * weight.norm()
            gone = torch.ones(32, dtype=torch.bool)
            gone[kept] = False
            assert (found[:, gone] == 0).all()
        assert path.errors[removed].item() == pytest.approx(
            error(exact, weight, augmented), rel=1e-8
        )
    assert path.energy == pytest.approx((weight @ inputs).square().sum().item())
    assert path.errors[-1].item() == pytest.approx((weight @ augmented).square().sum().item())


def test_ends_and_monotony() -> None:
    weight, inputs = layer(3, n=40)
    path = RemovalPath.from_gram(weight, inputs @ inputs.T)
    assert path.damping == 1e-2
    assert path.errors[0] == 0 and (path.errors.diff() >= 0).all()
    assert torch.equal(path.weights_at(0), weight)
    assert (path.weights_at(40) == 0).all()
    path.weights_at(0).zero_()  # a caller's own copy
    assert torch.equal(path.weights_at(0), weight)
    assert path.kept(0).tolist() == list(range(40)) and len(path.kept(40)) == 0


@pytest.mark.parametrize("size", [1, 4])
def test_from_order_repeats_from_gram(size: int) -> None:
    weight, inputs = layer(4, n=32)
    gram = inputs @ inputs.T
    path = RemovalPath.from_gram(weight, gram, group_size=size, damping=1e-3)
    again = RemovalPath.from_order(weight, gram, path.order, group_size=size, damping=1e-3)
    assert torch.equal(again.order, path.order) and torch.equal(again.errors, path.errors)
    assert torch.equal(again.weights_at(3), path.weights_at(3))


def test_an_order_from_elsewhere_still_has_the_best_weights() -> None:
    weight, inputs = layer(4, n=24)
    path = RemovalPath.from_order(weight, inputs @ inputs.T, list(range(23, -1, -1)), damping=0.0)
    exact = least_squares(weight, inputs, torch.arange(14))
    assert torch.allclose(path.weights_at(10), exact, atol=1e-9)
    assert path.errors[10].item() == pytest.approx(error(exact, weight, inputs))


def test_column_permutation() -> None:
    weight, inputs = layer(6, n=32)
    shuffle = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    path = RemovalPath.from_gram(weight, inputs @ inputs.T, damping=1e-3)
    shuffled = RemovalPath.from_gram(
        weight[:, shuffle], inputs[shuffle] @ inputs[shuffle].T, damping=1e-3
    )
    assert torch.equal(shuffle[shuffled.order], path.order)
    assert torch.allclose(shuffled.errors, path.errors, rtol=1e-9)
    assert torch.allclose(shuffled.weights_at(11), path.weights_at(11)[:, shuffle], atol=1e-9)


@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_dead_columns_go_first_and_cost_nothing(damping: float) -> None:
    weight, inputs = layer(8, n=24)
    dead = [3, 10, 17]
    inputs[dead] = 0
    weight[:, dead] *= 100
    path = RemovalPath.from_gram(weight, inputs @ inputs.T, damping=damping)
    assert sorted(path.order[:3].tolist()) == dead and path.rung == "plain"
    assert (path.errors[:4] == 0).all() and path.errors[4] > 0
    alive = torch.tensor([j for j in range(24) if j not in dead])
    assert torch.allclose(path.weights_at(3)[:, alive], weight[:, alive], atol=1e-9)
    assert (path.weights_at(3)[:, dead] == 0).all()
    assert torch.allclose(path.weights_at(2)[:, path.order[2]], weight[:, path.order[2]])


@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_dead_heads_and_half_dead_heads(damping: float) -> None:
    weight, inputs = layer(9, n=24)
    inputs[8:12] = 0  # head 2 whole
    inputs[[1, 2, 21]] = 0
    path = RemovalPath.from_gram(weight, inputs @ inputs.T, group_size=4, damping=damping)
    assert path.order[0] == 2 and path.errors[1] == 0
    if damping == 0:
        assert path.order[1:].tolist() == [g for g in brute_force(weight, inputs, 4) if g != 2]
        assert path.errors[4].item() == pytest.approx(error(path.weights_at(4), weight, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_keep_their_type(dtype: torch.dtype) -> None:
    weight, inputs = layer(12, n=24)
    low = torch.nn.Parameter(weight.to(dtype))  # parameters come with gradients on
    path = RemovalPath.from_gram(low, (inputs @ inputs.T).float())
    assert path.errors.dtype == torch.float64 and not path.errors.requires_grad
    assert torch.equal(path.weights_at(0), low)
    for found in (
        path.weights_at(0),
        path.weights_at(5),
        compensated_weights(low, inputs @ inputs.T, path.kept(5), 1e-2),
    ):
        assert found.dtype == dtype and not found.requires_grad


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_held_out_curve_is_direct_evaluation(size: int, damping: float) -> None:
    weight, inputs = layer(13, n=32, tokens=300)
    fresh = inputs[:, 200:]
    inputs = inputs[:, :200].clone()
    inputs[5] = 0  # dead in calibration, alive in the held-out tokens
    path = RemovalPath.from_gram(
        weight, inputs @ inputs.T, group_size=size, damping=damping, held_out=fresh @ fresh.T
    )
    assert path.held_out_errors.shape == path.errors.shape and path.held_out_errors[0] == 0
    for removed in range(1, path.groups + 1):
        assert path.held_out_errors[removed].item() == pytest.approx(
            error(path.weights_at(removed), weight, fresh), rel=1e-7
        )


def test_without_held_out_there_is_no_held_out_curve() -> None:
    weight, inputs = layer(13)
    assert RemovalPath.from_gram(weight, inputs @ inputs.T).held_out_errors is None


def test_damping_is_chosen_on_held_out_tokens() -> None:
    chosen = {}
    for tokens in (36, 6000):
        weight, inputs = layer(14, n=48, tokens=8000, steep=2)
        held_out = inputs[:, 6000:] @ inputs[:, 6000:].T
        gram = inputs[:, :tokens] @ inputs[:, :tokens].T
        path = RemovalPath.from_gram(weight, gram, held_out=held_out)
        rivals = [
            RemovalPath.from_gram(weight, gram, damping=rho, held_out=held_out) for rho in DAMPINGS
        ]
        means = [rival.held_out_errors[[12, 24, 36]].mean() for rival in rivals]
        assert path.damping == DAMPINGS[means.index(min(means))]
        chosen[tokens] = path.damping
    assert chosen[36] > chosen[6000]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda w, h: (w, h.fill_(float("nan"))),
        lambda w, h: (w, h.index_fill(0, torch.tensor([2]), float("inf"))),
        lambda w, h: (w.index_fill(1, torch.tensor([2]), float("nan")), h),
        lambda w, h: (w, h[:-1, :-1]),
        lambda w, h: (w[0], h),
        lambda w, h: (w.long(), h),
        lambda w, h: (w, -h),
        lambda w, h: (w, h.triu()),
        lambda w, h: (w, h - 0.5 * h.diagonal().mean() * torch.eye(len(h))),
    ],
)
def test_impossible_layers_are_refused(spoil) -> None:
    weight, inputs = layer(15)
    weight, gram = spoil(weight, inputs @ inputs.T)
    with pytest.raises(StudioError):
        RemovalPath.from_gram(weight, gram)
    with pytest.raises(StudioError):
        compensated_weights(weight, gram, [0, 1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"damping": -0.1},
        {"damping": float("nan")},
        {"damping": "big"},
        {"group_size": 5},
        {"group_size": 0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    weight, inputs = layer(15)
    with pytest.raises(StudioError):
        RemovalPath.from_gram(weight, inputs @ inputs.T, **wrong)


def test_impossible_levels_and_orders_are_refused() -> None:
    weight, inputs = layer(15)
    gram = inputs @ inputs.T
    path = RemovalPath.from_gram(weight, gram)
    for removed in (-1, 25, 1.5, True):
        with pytest.raises(StudioError):
            path.weights_at(removed)
    for order in ([0, 1, 2], [0] * 24, list(range(1, 25)), [0.5] * 24):
        with pytest.raises(StudioError):
            RemovalPath.from_order(weight, gram, order)
    with pytest.raises(StudioError):
        compensated_weights(weight, gram, [0, 99])
    with pytest.raises(StudioError):
        RemovalPath.from_gram(weight, gram, held_out=gram[:3, :3])


@pytest.mark.cuda
@pytest.mark.parametrize("size", [1, 4])
def test_cuda_agrees_with_the_cpu(size: int) -> None:
    weight, inputs = layer(16, n=32)
    gram = inputs @ inputs.T
    here = RemovalPath.from_gram(weight, gram, group_size=size, held_out=gram)
    there = RemovalPath.from_gram(weight.cuda(), gram.cuda(), group_size=size, held_out=gram.cuda())
    assert torch.equal(there.order, here.order) and torch.allclose(there.errors, here.errors)
    assert torch.allclose(there.held_out_errors, here.held_out_errors)
    assert there.weights_at(3).is_cuda and torch.allclose(
        there.weights_at(3).cpu(), here.weights_at(3)
    )
    assert torch.allclose(
        compensated_weights(weight.cuda(), gram.cuda(), [1, 5, 7]).cpu(),
        compensated_weights(weight, gram, [1, 5, 7]),
    )
