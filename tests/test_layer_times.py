"""Times of single layers on this device, and a cut that is shared out in them."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.curves.plan import StagePlan
from core.errors import StudioError
from core.models.checkpoints import load_checkpoint
from core.models.layers import PrunableLayer
from core.sampling.layer_times import POINTS, LayerTimes, measure_layers, shape_name
from core.sampling.timing import LatencyTable
from core.workshop.workshop import Workshop

PLAN = StagePlan((100, 600), (0.5, 0.25, 0.5), allocation="dynamic", costs="latency")


@pytest.fixture(scope="module")
def shop(model_folder, small_settings, tmp_path_factory):
    """Make a calibrated workshop: the shared one must not get times."""
    found = Workshop(
        load_checkpoint(model_folder, "auto", dtype=torch.float32),
        small_settings,
        tmp_path_factory.mktemp("cache"),
    )
    found.calibrate()
    return found


def priced(shop, **seconds):
    """Give the workshop a made-up table: seconds for each kept group, by kind."""
    rows = 2 * shop.usual_images
    curves = {
        shape_name(x): ((0, x.groups), (0.0, x.groups * seconds[x.kind])) for x in shop.layers
    }
    shop.times.keep_layers(LayerTimes("made up", rows, curves))
    return shop


def test_one_layer_of_each_shape_is_timed_and_the_model_stays_as_it_was(shop):
    before = {name: p.clone() for name, p in shop.transformer.state_dict().items()}
    texts = []
    found = measure_layers(
        shop.transformer,
        shop.layers,
        4,
        "here",
        lambda done, total, text: texts.append((done, total)),
    )
    assert (
        set(found.curves) == {shape_name(x) for x in shop.layers}
        and len(found.curves) == 2
        and texts == [(0, 2), (1, 2)]
    )
    for layer in shop.layers:
        kept, seconds = found.curves[shape_name(layer)]
        assert (
            kept[0] == 0
            and kept[-1] == layer.groups
            and len(kept) == min(POINTS, layer.groups // layer.step + 1)
            and min(seconds) > 0
        )
        assert found(layer, np.array(kept)) == pytest.approx(seconds)
    assert all(torch.equal(p, before[name]) for name, p in shop.transformer.state_dict().items())
    assert not any(m._forward_pre_hooks for m in shop.transformer.modules())


def test_a_slow_layer_costs_its_own_time(shop, monkeypatch):
    """The module with its cut is timed.

    A wait inside the attention is in the times of heads and in no other.
    """
    model, slow = shop.transformer, type(shop.transformer.transformer_blocks[0].attn1)
    quick = slow.forward
    monkeypatch.setattr(
        slow,
        "forward",
        lambda self, *args, **kwargs: (time.sleep(0.02), quick(self, *args, **kwargs))[1],
    )
    found = measure_layers(model, shop.layers, 2, "here")
    heads, neurons = (found.curves[shape_name(x)][1] for x in shop.layers[:2])
    # without any head there is no attention to wait for
    assert min(heads[1:]) > 0.02 > heads[0] and max(neurons) < 0.02


def test_the_table_is_measured_once_kept_and_read_again(shop, monkeypatch, tmp_path):
    one = Workshop(shop.checkpoint, shop.settings, tmp_path)
    first = one.measure_layers()
    monkeypatch.setattr("core.workshop.device_times.measure_layers", None)
    assert one.measure_layers() is first and first.rows == 32
    again = Workshop(shop.checkpoint, shop.settings, tmp_path)
    assert again.layer_times == first and again.measure_layers() == first
    path = one.times.layers_path
    for damage in (
        "",
        "{}",
        '{"device": "x", "rows": 2, "curves": {"a": [[0, 0], [1, 1]]}}',
        path.read_text().replace("[", "", 1),
    ):
        path.write_text(damage)
        assert LayerTimes.load(path) is None


@pytest.mark.parametrize("dear", ["heads", "neurons"])
@pytest.mark.parametrize("scope", ["stage", "run"])
def test_the_dear_kind_gives_more_and_the_time_of_equal_shares_is_kept(shop, dear, scope):
    cheap = {"heads": "neurons", "neurons": "heads"}[dear]
    priced(shop, **{dear: 1.0, cheap: 1e-6})
    plan, equal = replace(PLAN, scope=scope), shop.widths(replace(PLAN, allocation="uniform"))
    gone = shop.widths(plan)
    spans = np.diff([0, *plan.boundaries, 1000])

    def seconds(widths):
        return spans @ [-shop.layer_times.saved(shop.layers, row) for row in widths]

    assert seconds(gone) <= seconds(equal) + 1e-9
    free = [i for i, x in enumerate(shop.layers) if x.kind == cheap]
    # they cost next to nothing, so they stay
    assert sum(row[i] for row in gone for i in free) < sum(row[i] for row in equal for i in free)
    assert "time" in shop.sharing(plan).text and shop.widths(plan) != shop.widths(
        replace(plan, costs="macs")
    )


def test_predicted_seconds_are_the_dense_ones_less_what_layers_save_scaled_to_whole_forwards(shop):
    priced(shop, heads=1e-7, neurons=1e-9)
    timesteps = list(range(0, 1000, 20))
    table = LatencyTable(
        "made up", 32, tuple(f * shop.forward_macs[0] for f in (0.2, 0.6, 1.0)), (0.3, 0.7, 1.0)
    )
    shop.times.keep_latency(table, tabulated=False)
    found, dense, equal = (
        shop.predict(PLAN, timesteps, tabulated=False),
        1.0,
        [shop.removed(s) for s in PLAN.sparsity],
    )
    scale = sum(dense - table.at(shop.row_macs(row)) for row in equal) / sum(
        shop.layer_times.saved(shop.layers, row) for row in equal
    )
    assert shop.predict(
        replace(PLAN, allocation="uniform"), timesteps, tabulated=False
    ).seconds == pytest.approx(
        sum(
            stage.steps * table.at(shop.row_macs(row))
            for stage, row in zip(found.stages, equal, strict=True)
        )
    )
    for stage, row in zip(found.stages, shop.widths(PLAN), strict=True):
        assert stage.seconds_dense == pytest.approx(stage.steps * dense)
        assert stage.seconds == pytest.approx(
            stage.steps * max(1e-9, dense - scale * shop.layer_times.saved(shop.layers, row))
        )
    assert (
        shop.predict(replace(PLAN, costs="macs"), timesteps, tabulated=False).seconds
        != found.seconds
    )


def test_before_the_layers_are_timed_it_is_said_and_building_times_them(
    model_folder, small_settings, tmp_path
):
    fresh = Workshop(
        load_checkpoint(model_folder, "auto", dtype=torch.float32), small_settings, tmp_path
    )
    fresh.calibrate()
    with pytest.raises(StudioError, match="were not timed here: measure this device's speed first"):
        fresh.widths(PLAN)
    mosaic = fresh.build(PLAN)
    groups = [x.groups for x in fresh.layers]
    assert [
        [n - k for n, k in zip(groups, mosaic.kept(i), strict=True)] for i in range(3)
    ] == fresh.widths(PLAN)


def test_stages_that_see_the_same_data_still_get_their_own_widths(shop):
    """One budget over stages gives equal data, but not always equal widths.

    Pooled calibration, equal sparsities.
    """
    for costs in ("macs", "latency"):
        priced(shop, heads=1.0, neurons=0.011)
        for step in range(20):
            plan = StagePlan(
                (100, 600),
                (0.3 + step / 50,) * 3,
                allocation="lagrangian",
                scope="run",
                calibration="pooled",
                costs=costs,
            )
            widths = shop.widths(plan)
            if len({tuple(row) for row in widths}) > 1:
                built = shop.build(plan)
                assert [
                    [x.groups - k for x, k in zip(shop.layers, built.kept(i), strict=True)]
                    for i in range(3)
                ] == widths
                return
    pytest.fail("No plan of these has stages that differ, so nothing was tested.")


def test_a_layer_that_was_not_timed_is_named():
    layer = PrunableLayer("block 9 heads", 8, "heads", "", "", 3, 1, 1, 1)
    with pytest.raises(StudioError, match="block 9 heads was not timed"):
        LayerTimes("x", 2, {})(layer, np.array([1]))
