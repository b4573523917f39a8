"""Compensating several layers in one batch: the single results up to rounding, rungs included."""

from __future__ import annotations

import pytest
import torch
from layers import layer

from core.curves.plan import StagePlan
from core.pruning.compensation import compensation, compensations
from core.pruning.layer_cuts import LayerPruner

BOUND = 1e-9  # of the largest weight, at condition numbers of some thousands


@pytest.mark.parametrize("kept", [10, 38])  # solved for the outputs, and for the removed columns
@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_a_batch_gives_the_single_weights(kept: int, damping: float) -> None:
    cases = [layer(seed, d=12, n=40, tokens=400) for seed in range(4)]
    cases[2][1][5] = 0  # a dead column
    weights, grams = [w for w, _ in cases], [x @ x.T for _, x in cases]
    columns = [torch.randperm(40)[:kept].sort().values for _ in cases]
    dampings = [damping * (i + 1) for i in range(4)]
    found = compensations(weights, grams, columns, dampings)
    for i, (best, in_force, rung) in enumerate(found):
        alone = compensation(weights[i], grams[i], columns[i], dampings[i])
        assert (best - alone[0]).abs().max() <= BOUND * alone[0].abs().max()
        assert (in_force, rung) == alone[1:] and rung == "plain"
        gone = torch.ones(40, dtype=torch.bool).index_fill_(0, columns[i], False)
        assert not best[:, gone].any()


def test_a_layer_without_a_factor_climbs_alone() -> None:
    few = layer(8, d=6, n=40, tokens=20)
    cases = [layer(1, d=6, n=40), few, layer(2, d=6, n=40)]
    weights, grams = [w for w, _ in cases], [x @ x.T for _, x in cases]
    columns = [torch.arange(30)] * 3
    found = compensations(weights, grams, columns, [0.0] * 3)
    rungs = [rung for _, _, rung in found]
    assert rungs[0] == rungs[2] == "plain" and rungs[1].startswith("damping raised")
    alone = compensation(weights[1], grams[1], columns[1], 0.0)
    assert torch.equal(found[1][0], alone[0]) and found[1][1:] == alone[1:]


def test_cuts_of_a_batch_are_those_of_single_layers(workshop) -> None:
    pruner = LayerPruner(workshop.transformer, workshop.layers, workshop.bank, workshop.orders)
    removed = workshop.widths(StagePlan((220, 700), (0.5, 0.5, 0.5)))[1]
    assert pruner.batches(220, 700, removed) == [[0], [1], [2], [3]]  # on a CPU, one by one
    batches = pruner.batches(220, 700, removed, together=8)
    assert batches == [[0, 2], [1, 3]]
    assert pruner.batches(220, 700, removed, "magnitude", 8) == [[0], [1], [2], [3]]
    assert pruner.batches(220, 700, [0, removed[1], removed[2], 1], together=8) == [
        [i] for i in range(4)
    ]
    for batch in batches:
        for i, cut in zip(batch, pruner.cuts(batch, 220, 700, removed), strict=True):
            alone = pruner.cut(i, 220, 700, removed[i])
            assert torch.equal(cut.kept, alone.kept) and cut.damping == alone.damping
            assert cut.weight.dtype == alone.weight.dtype
            torch.testing.assert_close(cut.weight, alone.weight, rtol=1e-5, atol=1e-6)
    pruner.path(1, 220, 700)  # a path at hand is used, so its layer goes alone
    assert pruner.batches(220, 700, removed, together=8) == [[0, 2], [1], [3]]
