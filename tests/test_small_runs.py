"""Small runs for the tour: a head that is gone is really gone, and nothing else has changed."""

from __future__ import annotations

import copy
import threading

import pytest
import torch

from core.errors import Stopped, StudioError
from core.mosaic.transformer import MosaicTransformer
from core.pruning.cuts import consumer_of, kept_columns
from core.workshop import small_runs
from core.workshop.small_runs import (
    PICTURES,
    STEPS,
    check_small,
    head_layers,
    run_small,
    without_heads,
)


def zeroed(workshop, layer: int, heads: list[int]) -> MosaicTransformer:
    """The dense model with the columns of these heads set to zero, on a copy."""
    model = copy.deepcopy(workshop.transformer)
    prunable = workshop.layers[layer]
    columns = kept_columns(prunable, torch.tensor(heads), torch.device("cpu"))
    with torch.no_grad():
        consumer_of(model, prunable).weight[:, columns] = 0
    return MosaicTransformer(model, None, [None] * 3)


@pytest.mark.parametrize("place, heads", [(0, [1]), (1, [0, 3])])
def test_a_network_without_heads_is_the_dense_one_with_their_columns_zeroed(workshop, place, heads):
    layer = head_layers(workshop)[place]
    before = {name: value.clone() for name, value in workshop.transformer.state_dict().items()}
    model, macs = without_heads(workshop, layer, heads)
    found = run_small(workshop, model, macs)
    reference = run_small(workshop, zeroed(workshop, layer, heads), macs)
    assert (found.images - reference.images).abs().max() < 1e-4
    dense = run_small(workshop, workshop.dense)
    assert (found.images - dense.images).abs().max() > 1e-3  # something did change
    per_head = workshop.layers[layer].macs_per_group
    rows = PICTURES * STEPS * (2 if workshop.guidance > 1 else 1)
    assert dense.macs - found.macs == pytest.approx(len(heads) * per_head * rows)
    after = workshop.transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_no_head_away_is_the_dense_model_itself(workshop):
    model, macs = without_heads(workshop, head_layers(workshop)[0], [])
    assert model is workshop.dense and macs == workshop.row_macs(0)


def test_a_film_has_every_step_and_ends_in_the_picture(workshop):
    run = run_small(workshop, workshop.dense, seed=3, film=True)
    assert len(run.noisy) == len(run.guesses) == len(run.timesteps) == STEPS
    assert {tuple(images.shape) for images in run.noisy + run.guesses} == {tuple(run.images.shape)}
    assert torch.equal(run.images, run_small(workshop, workshop.dense, seed=3).images)
    assert not torch.equal(run.images, run_small(workshop, workshop.dense, seed=4).images)


def test_what_cannot_go_is_refused(workshop):
    layer = head_layers(workshop)[0]
    heads = workshop.layers[layer].groups
    neurons = next(i for i, one in enumerate(workshop.layers) if one.kind == "neurons")
    for place, gone in [(layer, range(heads)), (layer, [heads]), (layer, [-1]), (neurons, [0])]:
        with pytest.raises(StudioError):
            without_heads(workshop, place, list(gone))
    for junk in (True, None, 99):
        with pytest.raises(StudioError):
            without_heads(workshop, junk, [0])


def test_a_model_that_needs_minutes_or_has_no_vae_says_so(workshop, monkeypatch):
    monkeypatch.setitem(small_runs.MOST_MACS, "cpu", 1e3)
    with pytest.raises(StudioError, match="needs minutes"):
        run_small(workshop, workshop.dense)
    monkeypatch.undo()
    check_small(workshop)
    monkeypatch.setattr(workshop, "vae", None)
    with pytest.raises(StudioError, match="without a VAE"):
        check_small(workshop)


def test_a_small_run_stops(workshop):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        run_small(workshop, workshop.dense, stop=stop)
