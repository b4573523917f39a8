"""Random subnetworks over a small model, and what it means that two are the same."""

from __future__ import annotations

import torch

from core.curves.plan import StagePlan
from core.models.layers import find_layers
from core.mosaic.transformer import MosaicTransformer
from core.pruning.cuts import Cut, kept_columns
from core.sampling.timing import forward_call

PLAN = StagePlan((100, 600), (0.5, 0.25, 0.75), name="Mine")
TIMES = (50, 300, 900)  # one in each stage
FACTS = {
    "model": "tiny",
    "calibration": {"hash": "0123456789abcdef"},
    "damping": {"block 1 heads": 0.01},
    "errors": {"late": {"block 1 heads": 0.2}},
}


def cuts_of(model, seed=0, share=0.6, nothing=(), untouched=()):
    """Random groups with random weights on what stays; some layers lose everything (with a new
    bias), some stay as they are.
    """
    random, cuts = torch.Generator().manual_seed(seed), []
    for i, layer in enumerate(find_layers(model)):
        weight = model.get_submodule(layer.consumer).weight.detach()
        count = 0 if i in nothing else max(1, int(layer.groups * share))
        kept = torch.randperm(layer.groups, generator=random)[:count].sort().values
        values = (torch.randn(weight.shape, generator=random) * 0.1).to(weight)
        values = values[:, kept_columns(layer, kept, weight.device)]
        bias = torch.randn(len(weight), generator=random).to(weight) if i in nothing else None
        cuts.append(
            Cut(torch.arange(layer.groups), None) if i in untouched else Cut(kept, values, bias)
        )
    return cuts


def mosaic_of(model, masked=False):
    """Three different stages; the early one with a layer that lost everything and one that is
    dense.
    """
    return MosaicTransformer(
        model,
        PLAN,
        [
            cuts_of(model, 1),
            cuts_of(model, 2, 0.9),
            cuts_of(model, 3, 0.3, nothing=(0, 3), untouched=(1,)),
        ],
        masked,
    )


@torch.inference_mode()
def outputs(mosaic):
    return [forward_call(mosaic.network(t), mosaic.full, 2)() for t in TIMES]


def same(a, b):
    assert (
        a.plan == b.plan
        and a.enabled == b.enabled
        and [a.kept(i) for i in range(3)] == [b.kept(i) for i in range(3)]
    )
    for x, y in zip(a.stages, b.stages, strict=True):
        x, y = x.state_dict(), y.state_dict()
        assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
    return all(torch.equal(x, y) for x, y in zip(outputs(a), outputs(b), strict=True))
