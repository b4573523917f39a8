"""Which subnetworks a workshop keeps: bounded in bytes, the newest always, never one too many, and
what was dropped comes out the same again.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from core.curves.plan import StagePlan
from core.mosaic.network_cache import MAX_NETWORKS, NetworkCache, own_bytes
from core.mosaic.transformer import MosaicTransformer
from core.workshop.compare import compare
from core.workshop.comparison import Comparison, SampleSettings
from core.workshop.workshop import Workshop

PLANS = [StagePlan((100 + i, 600 + i), (0.5, 0.25, 0.75)) for i in range(8)]


def shop_of(workshop, **bounds):
    """Return a workshop on the same model and calibration, with a cache of networks of its own."""
    networks = NetworkCache(workshop.transformer, **bounds)
    return Workshop(workshop.checkpoint, workshop.settings, workshop.cache, networks=networks)


def stages_cut(shop, plan, **names):
    """Build a plan; return the mosaic and the bytes kept as each of its stages began."""
    before = []

    def note(done: int, total: int, text: str) -> None:
        if done % len(shop.layers) == 0:
            before.append(shop.networks.bytes)

    return shop.build(plan, note, **names), before


def apart(mosaic, dense) -> int:
    """Bytes of parameters and buffers whose memory the dense model does not have, one by one."""
    known = {t.untyped_storage().data_ptr() for t in [*dense.parameters(), *dense.buffers()]}
    found = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in [*mosaic.parameters(), *mosaic.buffers()]
    }
    return sum(size for address, size in found.items() if address not in known)


def same(one, two) -> bool:
    a, b = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_own_bytes_are_those_that_the_dense_model_does_not_hold(workshop):
    mosaic = workshop.build(PLANS[0])
    assert own_bytes(mosaic, workshop.transformer) == apart(mosaic, workshop.transformer) > 0
    assert (
        own_bytes(workshop.build(StagePlan((100, 600), (0.0, 0.0, 0.0))), workshop.transformer) == 0
    )


@pytest.mark.parametrize(
    "plan",
    [
        PLANS[0],
        replace(PLANS[0], calibration="pooled"),
        StagePlan((100, 600), (0.5, 0.5, 0.5), calibration="pooled"),
        StagePlan((100, 600), (0.0, 0.5, 0.0)),
        replace(PLANS[0], method="magnitude"),
        StagePlan((100, 600), (0.0, 0.0, 0.0)),
    ],
)
def test_the_size_of_what_is_not_built_yet_is_known_but_for_biases(workshop, plan):
    shop = shop_of(workshop)
    asked, make_room = [], shop.networks.make_room
    shop.networks.make_room = lambda coming: (asked.append(coming), make_room(coming))
    found = own_bytes(shop.build(plan), workshop.transformer)
    assert asked[1] == found and 0.97 * found <= asked[0] <= found


def test_the_bound_holds_while_one_is_built_and_afterwards(workshop):
    one = own_bytes(workshop.build(PLANS[0]), workshop.transformer)
    shop = shop_of(workshop, most_bytes=int(2.5 * one))
    built = []
    for i, plan in enumerate(PLANS[:4]):
        mosaic, before = stages_cut(shop, plan)
        built.append(mosaic)
        # a third is not begun beside two
        assert before == [one if i else 0] * 3
        assert len(shop.networks) == min(i + 1, 2)
        own = sum(own_bytes(m, workshop.transformer) for m in built[-2:])
        assert shop.networks.bytes == own <= 2.5 * one
    for plan, mosaic in ((PLANS[3], built[3]), (PLANS[2], built[2])):
        assert stages_cut(shop, plan) == (mosaic, [])
    again, before = stages_cut(shop, PLANS[0])
    assert again is not built[0] and same(again, built[0]) and len(before) == 3
    # PLANS[3] was the one that was asked for longest ago
    assert stages_cut(shop, PLANS[2]) == (built[2], [])


def test_the_newest_stays_though_it_alone_is_too_large(workshop):
    shop = shop_of(workshop, most_bytes=1)
    first, second = shop.build(PLANS[0]), shop.build(PLANS[1])
    # not the shared workshop's: where it keeps a layer's path, the last bits are another rounding
    whole = shop_of(workshop).build(PLANS[0])
    assert len(shop.networks) == 1 and shop.build(PLANS[1]) is second and same(first, whole)


def test_a_comparison_of_two_such_plans_runs(workshop):
    shop = shop_of(workshop, most_bytes=1)
    settings = SampleSettings(labels=(0, 1), steps=5, repeats=1)
    *_, narrow = compare(shop, PLANS[0], StagePlan((100, 600), (0.25, 0.25, 0.25)), settings)
    *_, wide = compare(workshop, PLANS[0], StagePlan((100, 600), (0.25, 0.25, 0.25)), settings)
    assert (
        isinstance(narrow, Comparison)
        and torch.equal(narrow.a.latents, wide.a.latents)
        and torch.equal(narrow.b.latents, wide.b.latents)
    )


def test_the_memory_of_a_dropped_one_is_free_at_once(workshop):
    shop = shop_of(workshop, most_bytes=1)
    layer = workshop.layers[0].consumer
    weight = weakref.ref(shop.build(PLANS[0]).stages[0].get_submodule(layer).weight)
    gc.disable()
    try:
        assert weight() is not None
        shop.build(PLANS[1])
        assert weight() is None
    finally:
        gc.enable()


def test_never_more_than_six(workshop):
    shop = shop_of(workshop)
    first = [shop.build(plan) for plan in PLANS]
    assert (
        len(shop.networks) == MAX_NETWORKS == 6
        and [shop.build(plan) for plan in PLANS[2:]] == first[2:]
    )
    assert shop.build(PLANS[0], masked=True) is not shop.build(PLANS[0])


def test_another_name_is_not_built_again_and_each_keeps_its_own(workshop, tmp_path):
    shop = shop_of(workshop)
    plain, first = stages_cut(shop, PLANS[0])
    named, second = stages_cut(shop, replace(PLANS[0], name="Mine"))
    assert (len(first), len(second)) == (3, 0) and len(shop.networks) == 1
    assert (plain.plan.name, named.plan.name) == ("", "Mine")
    assert (
        all(a is b for a, b in zip(plain.stages, named.stages, strict=True))
        and named.full is plain.full
    )
    assert shop.build(replace(PLANS[0], name="Mine")) is named
    named.disable()
    assert plain.enabled and named.stage_of(0) == -1 and plain.stage_of(0) == 0
    named.enable()
    named.save_pretrained(tmp_path / "mine")
    read = MosaicTransformer.from_pretrained(tmp_path / "mine", workshop.transformer)
    assert (
        read.plan == replace(PLANS[0], name="Mine")
        and read.summary() == plain.summary() == named.summary()
    )
