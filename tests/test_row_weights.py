"""Rows that count more than others, against brute force."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from core.calibration.measure import calibrate
from core.calibration.packed_gram import GramSum
from core.calibration.row_weights import WEIGHTINGS, RowWeights, bin_weights
from core.calibration.settings import CalibrationSettings
from core.errors import StudioError
from core.models.families import DiT, family_of
from core.workshop.workshop import Workshop

TINY = CalibrationSettings(edges=(0, 200, 500, 1000), images=6, held_out=2)


def measured(workshop, folder, **settings):
    conditions = DiT.conditions(workshop.labels)
    return calibrate(
        workshop.transformer,
        workshop.layers,
        workshop.schedule,
        workshop.latents,
        conditions,
        folder,
        replace(TINY, **settings),
    )


def recorded(workshop, folder):
    """Return every layer's input and every block's gates.

    Fitted then held out, bin by bin, one batch each.
    """
    inputs, gates = {}, {}
    handles = [
        workshop.transformer.get_submodule(x.consumer).register_forward_pre_hook(
            lambda _, args, i=i: inputs.setdefault(i, []).append(args[0].double().cpu())
        )
        for i, x in enumerate(workshop.layers)
    ]
    handles += [
        block.norm1.register_forward_hook(
            lambda _, args, out, k=k: gates.setdefault(k, []).append(
                (out[1].double().cpu(), out[4].double().cpu())
            )
        )
        for k, block in enumerate(workshop.transformer.transformer_blocks)
    ]
    try:
        measured(workshop, folder)
    finally:
        for handle in handles:
            handle.remove()
    return inputs, gates


@pytest.mark.parametrize("weighting", ["guidance", "gate"])
def test_weighted_grams_are_weighted_sums_of_outer_products(workshop, tmp_path, weighting):
    bank = measured(workshop, tmp_path / "weighted", weighting=weighting, guidance=3.0)
    inputs, gates = recorded(workshop, tmp_path / "even")
    for b, (low, high) in enumerate(((0, 200), (200, 500), (500, 1000))):
        for i, layer in enumerate(workshop.layers):
            x = inputs[i][2 * b]  # (rows, tokens, n)
            if weighting == "guidance":
                weights = torch.tensor([9.0] * 6 + [4.0] * 6, dtype=torch.float64)
            else:
                weights = gates[layer.block][2 * b][layer.kind == "neurons"].square().mean(-1)
            weights = weights / weights.mean()
            expected = torch.einsum("r,rtn,rtm->nm", weights, x, x)
            found, tokens = bank.gram(i, low, high)
            assert tokens == x.shape[0] * x.shape[1]
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())
            assert torch.allclose(
                bank.mean(i, low, high), torch.einsum("r,rtn->n", weights, x) / tokens, atol=1e-4
            )


def test_timestep_weights_bins_and_nothing_else(workshop, tmp_path):
    even, weighted = (
        measured(workshop, tmp_path / "a"),
        measured(workshop, tmp_path / "b", weighting="timestep"),
    )
    weights = bin_weights(TINY.edges, "timestep")
    assert (
        weights == sorted(weights)
        and 0.5 < weights[0] < weights[-1] < 1
        and bin_weights(TINY.edges, "even") == [1.0] * 3
    )
    parts = [even.gram(0, *span)[0] for span in ((0, 200), (200, 500), (500, 1000))]
    assert torch.allclose(
        weighted.gram(0, 0, 1000)[0], sum(w * p for w, p in zip(weights, parts, strict=True))
    )
    assert weighted.overlap(100, 500) == pytest.approx([0.5 * weights[0], weights[1], 0])


def test_a_sum_of_tokens_with_equal_weights_is_the_plain_sum():
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    plain, same, some = GramSum(7), GramSum(7), GramSum(7)
    plain.add(x)
    same.add(x[:20], weights=torch.full((20,), 3.0))
    same.add(x[20:], weights=torch.full((30,), 3.0))
    assert torch.allclose(plain.triangle(), same.triangle(), rtol=1e-5) and torch.allclose(
        plain.vector, same.mean_sum, atol=1e-5
    )
    picked, weights = torch.tensor([3, 8, 40]), torch.arange(50.0)
    some.add(x, picked, weights)
    expected = torch.einsum("t,tn,tm->nm", weights[picked], x[picked], x[picked]) * 3 / 51
    assert torch.allclose(some.triangle(), expected[tuple(torch.triu_indices(7, 7))], rtol=1e-4)


def test_each_weighting_is_a_calibration_of_its_own_and_the_one_by_timestep_reads_even_bins(
    model_folder, tmp_path
):
    from core.models.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(model_folder, "cpu", dtype=torch.float32)
    keys = {w: Workshop(checkpoint, replace(TINY, weighting=w), tmp_path).key for w in WEIGHTINGS}
    assert len(set(keys.values())) == len(WEIGHTINGS) - 1 and keys["timestep"] == keys["even"]


def test_what_cannot_be_is_refused(workshop):
    with pytest.raises(StudioError, match="must be one of even, guidance, gate, timestep"):
        CalibrationSettings(weighting="loud")
    model = torch.nn.Module()
    model.block = torch.nn.Module()
    model.block.norm1 = torch.nn.LayerNorm(3)
    layer = replace(workshop.layers[0], module="block.attn1")
    with pytest.raises(StudioError, match="Only a DiT's blocks have gates"):
        RowWeights(model, [layer], "gate", 1.5)
    assert family_of(workshop.transformer) is DiT


def test_hooks_on_the_gates_are_gone_afterwards(workshop, tmp_path):
    measured(workshop, tmp_path, weighting="gate")
    assert not any(m._forward_hooks for m in workshop.transformer.modules())
