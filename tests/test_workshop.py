"""The workshop: predictions against what the built networks really do, tables, and that plans are
arithmetic, not forwards.
"""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
import torch

from core.calibration.settings import CalibrationSettings
from core.curves.plan import STAGES, StagePlan
from core.curves.samplers import make_scheduler, sampling_timesteps
from core.errors import NotCalibrated, PlanError, Stopped, StudioError
from core.models.layers import PrunableLayer, removed_groups
from core.mosaic.transformer import MosaicTransformer
from core.pruning.layer_cuts import LayerPruner
from core.pruning.orders import RemovalOrders, orders_file
from core.sampling.timing import LatencyTable, count_macs, forward_call, module_forward, spread
from core.workshop.workshop import Workshop

PLAN = StagePlan((100, 600), (0.5, 0.25, 0.75))
CUT = StagePlan((150, 555), (0.5, 0.25, 0.75))  # boundaries inside bins


@pytest.fixture(scope="module")
def timesteps() -> list[float]:
    return sampling_timesteps(make_scheduler("DDIM"), 50)


def macs_of(workshop, network) -> int:
    return count_macs(forward_call(network, workshop.transformer, 1))[0]


# ------------------------------------------------------------ MACs


def test_predicted_macs_are_those_of_the_built_networks(workshop, timesteps):
    mosaic = workshop.build(PLAN)
    prediction = workshop.predict(PLAN, timesteps, tabulated=False)
    for stage, t, sparsity in zip(prediction.stages, (50, 300, 900), PLAN.sparsity, strict=True):
        counted = macs_of(workshop, mosaic.network(t))
        assert counted == workshop.row_macs(sparsity)
        assert stage.macs == counted * 2 * stage.steps
        assert stage.macs_dense == macs_of(workshop, workshop.dense.network(t)) * 2 * stage.steps
    assert [s.steps for s in prediction.stages] == list(
        PLAN.steps_per_stage(timesteps).values()
    ) and sum(s.steps for s in prediction.stages) == 50
    assert prediction.macs == sum(s.macs for s in prediction.stages) and prediction.speedup_macs > 1


def test_the_stock_module_differs_by_the_shared_embedder_only(workshop):
    """Every block of the stock DiT works out the same embedding; here it is worked out once."""
    stock = macs_of(workshop, module_forward(workshop.transformer))
    emb = workshop.transformer.transformer_blocks[0].norm1.emb.timestep_embedder
    once = sum(m.weight.numel() for m in (emb.linear_1, emb.linear_2))  # one row, one product
    calls = []
    handles = [
        b.norm1.emb.register_forward_hook(lambda *_: calls.append(1))
        for b in workshop.transformer.transformer_blocks
    ]
    forward_call(module_forward(workshop.transformer), workshop.transformer, 1)()
    for handle in handles:
        handle.remove()
    assert (
        stock - workshop.forward_macs[0] == (len(calls) - 1) * once
        and len(calls) >= workshop.blocks
    )


def test_attention_products_stand_apart(workshop):
    # blocks x (scores and mixing: tokens x tokens x width each)
    assert workshop.forward_macs[1] == 2 * (2 * 16 * 16 * 64)


def test_without_guidance_half_the_work(workshop, timesteps):
    assert (
        2 * workshop.predict(PLAN, timesteps, halves=1, tabulated=False).macs
        == workshop.predict(PLAN, timesteps, tabulated=False).macs
    )


# ------------------------------------------------------------ errors


def direct(workshop, plan, stage, held_out) -> float:
    """Mean of ||W'X - WX||^2 / ||WX||^2 with W' read off the masked network and X X^T from the
    bank.
    """
    low, high = plan.stage_range(stage)
    network, relative = workshop.build(plan, masked=True).stages[stage], []
    for i, layer in enumerate(workshop.layers):
        w, cut = (
            m.get_submodule(layer.consumer).weight.double().cpu()
            for m in (workshop.transformer, network)
        )
        gram, _ = workshop.bank.gram(i, low, high, held_out)
        relative.append(float((((cut - w) @ gram) * (cut - w)).sum() / ((w @ gram) * w).sum()))
    return float(np.mean(relative))


@pytest.mark.parametrize("method", ["obs", "magnitude"])
def test_exact_prediction_is_the_error_of_the_built_weights(workshop, timesteps, method):
    plan = StagePlan(CUT.boundaries, CUT.sparsity, method=method)
    prediction = workshop.predict(plan, timesteps, exact=True)
    assert prediction.exact
    for i, stage in enumerate(prediction.stages):
        assert stage.error == pytest.approx(direct(workshop, plan, i, False), rel=1e-4)
        assert stage.error_held_out == pytest.approx(direct(workshop, plan, i, True), rel=1e-4)


def test_compensation_beats_magnitude(workshop, timesteps):
    exact = {
        m: (
            workshop.predict(
                StagePlan((100, 600), (0.5,) * 3, method=m), timesteps, exact=True
            ).error
        )
        for m in ("obs", "magnitude")
    }
    assert exact["obs"] < 0.5 * exact["magnitude"]


def test_estimate_is_near_the_exact_error(workshop, timesteps):
    """The curve of a bin is the damped objective, so on a stage of one bin it lies above the error
    itself, by the damping term only.
    """
    one = StagePlan((100, 300), (0.5, 0.5, 0.0))  # late = bin 0, middle = bin 1
    exact, estimate = (workshop.predict(one, timesteps, exact=e).stages for e in (True, False))
    for a, b in zip(exact[:2], estimate[:2], strict=True):
        assert a.error * 0.999 <= b.error <= 1.6 * a.error
    wide = StagePlan((100, 999), (0.0, 0.5, 0.0))
    assert workshop.predict(wide, timesteps).stages[1].error == pytest.approx(
        workshop.predict(wide, timesteps, exact=True).stages[1].error, rel=0.6
    )


def test_errors_grow_with_sparsity_and_start_at_zero(workshop, timesteps):
    found = []
    for s in (0.0, 0.25, 0.5, 0.75, 0.95):
        plan = StagePlan((100, 600), (s,) * 3)
        found.append(
            (
                workshop.predict(plan, timesteps).error,
                workshop.predict(plan, timesteps, exact=True).error,
            )
        )
    for column in zip(*found, strict=True):
        assert (
            column[0] == 0 and list(column) == sorted(column) and 0 < column[1] < column[-1] <= 1.2
        )


def test_overall_error_is_weighted_by_steps(workshop, timesteps):
    prediction = workshop.predict(PLAN, timesteps, exact=True)
    assert prediction.error == pytest.approx(sum(s.error * s.steps for s in prediction.stages) / 50)


# ------------------------------------------------------------ how much goes


def layers(kind: str, groups: int, blocks: int) -> list[PrunableLayer]:
    return [
        PrunableLayer(f"block {i + 1} {kind}", i, kind, "", "", groups, 1, 1, 1)
        for i in range(blocks)
    ]


def test_coarse_heads_come_out_right_on_average():
    # 2.64 each, 21.12 in all
    assert sorted(removed_groups(layers("heads", 8, 8), 0.33)) == [2, 2, 2, 3, 3, 3, 3, 3]
    for s in np.linspace(0, 0.87, 30):
        assert abs(sum(removed_groups(layers("heads", 8, 8), s)) - 8 * 8 * s) <= 0.5 + 1e-6


def test_removed_groups_grow_with_sparsity_in_every_block():
    for kind, groups in (("heads", 8), ("heads", 3), ("neurons", 1024), ("neurons", 100)):
        steps = [removed_groups(layers(kind, groups, 6), s) for s in np.linspace(0, 0.95, 96)]
        assert sum(steps[0]) == 0
        for before, after in zip(steps, steps[1:], strict=False):
            # no block regains a head
            assert all(a >= b for a, b in zip(after, before, strict=True))


def test_something_is_always_kept():
    assert removed_groups(layers("heads", 8, 4), 0.95) == [7] * 4
    assert removed_groups(layers("heads", 1, 3), 0.95) == [0] * 3
    assert removed_groups(layers("neurons", 1024, 2), 0.95) == [976] * 2  # 972.8 to the nearest 16
    assert removed_groups(layers("neurons", 16, 1), 0.95) == [0]
    assert removed_groups(layers("neurons", 8, 1), 0.95) == [0]


def test_rounding_does_not_depend_on_floating_point_luck():
    assert removed_groups(layers("heads", 10, 1), 0.15) == [2]  # 1.5
    # 1.5 each, 3 in all, though 0.3 * 5 is not exact
    assert removed_groups(layers("heads", 5, 2), 0.3) == [1, 2]


def test_achieved_share_is_reported(workshop, timesteps):
    for stage, asked in zip(workshop.predict(PLAN, timesteps).stages, PLAN.sparsity, strict=True):
        assert stage.sparsity == asked and stage.achieved == pytest.approx(asked, abs=0.05)


# ------------------------------------------------------------ tables


def test_kept_share_is_what_the_built_blocks_hold(workshop):
    share = workshop.kept_share(PLAN)
    assert share.shape == (3, workshop.blocks)
    names = (
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "ff.net.0.proj",
        "ff.net.2",
    )

    def size(block) -> int:
        """Parameters of the prunable layers without the two output biases, which always stay."""
        biases = block.attn1.to_out[0].bias.numel() + block.ff.net[2].bias.numel()
        return sum(p.numel() for n in names for p in block.get_submodule(n).parameters()) - biases

    mosaic = workshop.build(PLAN)
    for i, network in enumerate(mosaic.stages):
        for j, block in enumerate(network.transformer_blocks):
            assert share[i, j] == pytest.approx(
                size(block) / size(workshop.transformer.transformer_blocks[j])
            )


def test_layer_table_adds_up(workshop):
    rows = workshop.layer_table(PLAN, exact=True)
    assert len(rows) == 3 * len(workshop.layers) and [r["stage"] for r in rows[:4]] == ["late"] * 4
    for stage, sparsity in zip(STAGES, PLAN.sparsity, strict=True):
        mine = [r for r in rows if r["stage"] == stage]
        assert workshop.forward_macs[0] - sum(
            r["macs_dense"] - r["macs_pruned"] for r in mine
        ) == workshop.row_macs(sparsity)
        assert [r["of"] - r["kept"] for r in mine] == workshop.removed(sparsity)
        assert all(r["params_pruned"] * r["of"] == r["params_dense"] * r["kept"] for r in mine)
        error = workshop.exact_error(PLAN, STAGES.index(stage))
        assert np.mean([r["error"] for r in mine]) == pytest.approx(error[0])
        assert np.mean([r["error_held_out"] for r in mine]) == pytest.approx(error[1])
    assert all(r["error"] is None for r in workshop.layer_table(PLAN))


# ------------------------------------------------------------ plans are arithmetic


def test_any_plan_is_built_without_a_forward(workshop):
    calls = []
    handle = workshop.transformer.pos_embed.register_forward_hook(lambda *_: calls.append(1))
    try:
        for plan in (
            CUT,
            StagePlan((1, 2), (0.95, 0.95, 0.95)),
            StagePlan((333, 998), (0.1, 0.0, 0.6)),
            StagePlan((1, 999), (0.3, 0.3, 0.3)),
        ):
            assert isinstance(workshop.build(plan), MosaicTransformer)
            workshop.layer_table(plan, exact=True)
        assert calls == []
        workshop.transformer.pos_embed(
            torch.zeros(1, 4, 8, 8, device=workshop.device, dtype=workshop.dtype)
        )
        assert calls == [1]  # the counter does count
    finally:
        handle.remove()


def test_a_plan_is_built_once(workshop):
    assert workshop.build(PLAN) is workshop.build(StagePlan(PLAN.boundaries, PLAN.sparsity))


def test_weights_do_not_depend_on_what_was_predicted_before(workshop):
    """`build` takes a level from a stored path or from the kept columns alone: the same weights
    either way.
    """
    plan = StagePlan((220, 700), (0.5, 0.5, 0.5))
    pruner = LayerPruner(workshop.transformer, workshop.layers, workshop.bank, workshop.orders)
    places = [(i, 220, 700, lost) for i, lost in enumerate(workshop.widths(plan)[1])]
    fresh = [pruner.cut(*place) for place in places]
    for place in places:
        pruner.errors(*place)  # keeps the paths
    for a, b in zip(fresh, [pruner.cut(*place) for place in places], strict=True):
        assert torch.equal(a.kept, b.kept) and (a.weight - b.weight).abs().max() < 1e-5


def test_build_stops(workshop):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        workshop.build(StagePlan((222, 777), (0.5, 0.5, 0.5)), stop=stop)


def test_two_threads_build_and_predict_at_once(workshop, timesteps):
    plans = [StagePlan((90 + i, 560 + i), (0.5, 0.25, 0.5)) for i in range(3)]
    errors, results = [], [[], []]

    def work(mine: list) -> None:
        try:
            for plan in plans:
                mine.append(
                    (
                        workshop.predict(plan, timesteps, exact=True).error,
                        workshop.build(plan),
                        workshop.predict(plan, timesteps).error,
                    )
                )
        except Exception as err:  # reported below, in the test's own thread
            errors.append(err)

    threads = [threading.Thread(target=work, args=(r,)) for r in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(results[0]) == 3
    for one, two in zip(*results, strict=True):
        assert one[0] == two[0] and one[1] is two[1] and one[2] == two[2]


def test_a_network_begun_before_a_calibration_is_not_kept_after_it(workshop, tmp_path):
    """Its cuts are of the old orders: the caller gets it, the next caller gets a new one."""
    few = CalibrationSettings(edges=(0, 500, 1000), images=6, held_out=2)
    shop = Workshop(workshop.checkpoint, few, tmp_path)
    plan = StagePlan((100, 600), (0.5, 0.25, 0.75), method="magnitude")
    calibrated = []

    def calibrate_once(done: int, total: int, text: str) -> None:
        if not calibrated:
            calibrated.append(done)
            shop.calibrate()

    old = shop.build(plan, calibrate_once)
    assert calibrated and shop.calibrated and len(shop.networks) == 0
    assert shop.build(plan) is not old and len(shop.networks) == 1


def test_a_calibration_replaces_every_answer_at_once(workshop, tmp_path):
    """Allocations, paths and errors of the old orders are not served after a new calibration."""
    first = CalibrationSettings(edges=(0, 500, 1000), images=6, held_out=2)
    shop = Workshop(workshop.checkpoint, first, tmp_path)
    plan = StagePlan((100, 600), (0.5, 0.25, 0.75), allocation="lagrangian")
    with pytest.raises(NotCalibrated):
        shop.sharing(plan)
    shop.calibrate()
    old, pruner, orders = shop.sharing(plan), shop.pruner, shop.orders
    assert shop.sharing(plan) is old
    RemovalOrders.drop(shop.folder, orders_file(shop.settings))
    shop.calibrate()
    assert shop.orders is not orders and shop.pruner is not pruner
    assert shop.sharing(plan) is not old and shop.sharing(plan) == old
    assert pruner.orders is orders  # an answer in progress keeps what it began with


def test_refusals_that_cost_nothing_come_before_pictures_are_read(workshop, tmp_path, monkeypatch):
    def hash_pictures(*_, **__):
        pytest.fail("The pictures were read for a model that cannot be pruned.")

    monkeypatch.setattr("core.workshop.workshop.choose_source", hash_pictures)
    scheduler = make_scheduler("DDIM")
    scheduler.register_to_config(prediction_type="v_prediction")
    monkeypatch.setattr(workshop.checkpoint.pipeline, "scheduler", scheduler)
    with pytest.raises(StudioError, match="predicts v_prediction"):
        Workshop(workshop.checkpoint, workshop.settings, tmp_path)


def test_two_threads_run_the_same_network_at_once(workshop):
    """They share one embedder; neither may see what the other made of it."""
    network = workshop.build(PLAN).network(300)
    config, device = workshop.transformer.config, workshop.device
    inputs = [
        (
            torch.randn(2, config.in_channels, 8, 8, device=device),
            torch.tensor([t, t], device=device),
            torch.tensor([t % 9, 1000], device=device),
        )
        for t in (200, 500)
    ]
    with torch.inference_mode():
        expected = [network(*i) for i in inputs]
    errors = []

    def work(i: int) -> None:
        try:
            with torch.inference_mode():
                for _ in range(25):
                    assert torch.allclose(network(*inputs[i]), expected[i], atol=1e-6)
        except BaseException as err:
            errors.append(err)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_snap_lands_on_bin_edges_everywhere(workshop):
    inner = workshop.settings.edges[1:-1]
    assert workshop.snap(StagePlan((93, 550), (0.1, 0.2, 0.3))) == StagePlan(
        (100, 600), (0.1, 0.2, 0.3)
    )
    for boundaries in ((1, 2), (1, 999), (580, 610), (900, 950), (998, 999)):
        low, high = workshop.snap(StagePlan(boundaries, (0.1, 0.2, 0.3))).boundaries
        assert low in inner and high in inner and low < high


def test_refuses_a_plan_for_another_model(workshop, timesteps):
    plan = StagePlan((100, 600), (0.5, 0.25, 0.5), num_train_timesteps=4000)
    for attempt in (lambda: workshop.build(plan), lambda: workshop.predict(plan, timesteps)):
        with pytest.raises(PlanError, match="4000 training timesteps"):
            attempt()


def test_without_a_calibration(workshop, timesteps, tmp_path):
    shop = Workshop(workshop.checkpoint, workshop.settings, tmp_path)
    assert not shop.calibrated
    prediction = shop.predict(PLAN, timesteps)
    assert (
        prediction.error is None
        and prediction.seconds is None
        and prediction.speedup_seconds is None
        and prediction.macs > 0
    )
    with pytest.raises(
        StudioError, match="not been calibrated on this machine yet: calibrate it first"
    ):
        shop.predict(PLAN, timesteps, exact=True)
    # nothing to compensate: no calibration needed
    assert shop.build(StagePlan((100, 600), (0.0, 0.0, 0.0))).stages[0] is not None
    assert not shop.calibrated


# ------------------------------------------------------------ time


def test_latency_table_is_measured_once_and_kept(workshop, timesteps):
    table = workshop.measure_latency(2)
    assert (
        table.rows == 4
        and list(table.macs) == sorted(table.macs)
        and table.macs[-1] == workshop.forward_macs[0] - workshop.macs.conditioning
    )
    assert LatencyTable.load(workshop.times.latency_path(4)) == table
    assert workshop.measure_latency(2) is table
    prediction = workshop.predict(PLAN, timesteps, batch=2)
    # 50 steps of two labels and the null label are made as 160 pairs
    made = 160 * workshop.macs.conditioning * table.per_mac
    assert prediction.seconds_dense == pytest.approx(50 * table.seconds[-1] + made)
    assert prediction.speedup_seconds == pytest.approx(
        prediction.seconds_dense / prediction.seconds
    )


def test_latency_lines():
    table = LatencyTable("x", 1, (1.0, 2.0, 4.0), (10.0, 12.0, 20.0))
    assert [table.at(m) for m in (1, 1.5, 2, 3, 4)] == pytest.approx([10, 11, 12, 16, 20])
    assert table.at(0.5) == pytest.approx(9) and table.at(5) == pytest.approx(24)


def test_a_broken_latency_table_is_measured_again(tmp_path):
    path = tmp_path / "latency.json"
    assert LatencyTable.load(path) is None
    path.write_text('{"device": "x", "rows": 2')
    assert LatencyTable.load(path) is None


def test_a_latency_table_keeps_when_it_was_measured(tmp_path):
    path = tmp_path / "latency.json"
    table = LatencyTable("x", 1, (1.0, 2.0), (10.0, 12.0), "2026-10-03 14:22")
    table.save(path)
    assert LatencyTable.load(path) == table
    path.write_text('{"device": "x", "rows": 1, "macs": [1, 2], "seconds": [10, 12]}')
    os.utime(path, (0, time.mktime((2026, 10, 2, 7, 8, 9, 0, 0, -1))))
    assert LatencyTable.load(path).when == "2026-10-02 07:08"  # an older file has none


def test_spread():
    assert spread([1.0]) == 0 and spread([1.0, 3.0]) == 1
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1.5)  # quartiles 1.5 and 4.5
