"""Reuse of block outputs from step to step: the loop, stock pipelines, plan files, counted work."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from mosaics import cuts_of, mosaic_of
from running import KINDS, denoiser, make_pipelines

from core.curves.plan import StagePlan
from core.errors import PlanError, StudioError
from core.models.families import DiT
from core.mosaic.reuse import Walk, continuation, reusing
from core.mosaic.transformer import MosaicTransformer
from core.sampling.denoise import Denoiser, start_noise
from core.workshop.compare import compare, sampler
from core.workshop.sample_settings import SampleSettings

PLAN = StagePlan((200, 600), (0.5, 0.25, 0.5))
LABELS = torch.tensor([1, 5, 7])
STEPS = 8  # of DDIM: late 2, middle 3, early 3


# ------------------------------------------------------------ plan files


def test_reuse_goes_into_a_plan_file_and_back():
    plan = replace(PLAN, reuse=(1, 3, 2), reuse_order=1)
    assert plan.to_json()["reuse"] == {"middle": 3, "early": 2}
    assert StagePlan.from_json(plan.dumps()) == plan and plan.reuses and plan.cut == PLAN
    assert StagePlan(PLAN.boundaries, PLAN.sparsity, reuse={"middle": 3, "early": 2}).reuse == (
        1,
        3,
        2,
    )
    assert "reuse" not in PLAN.to_json() and not PLAN.reuses


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"middle": 0}, "between 1 .* and 10, not at 0"),
        ({"middle": 11}, "not at 11"),
        ({"middle": 2.0}, "whole numbers"),
        ({"middle": True}, "whole numbers"),
        ({"soon": 2}, "unknown key"),
        (2, "must be an object"),
    ],
)
def test_wrong_reuse_is_one_sentence(wrong, said):
    with pytest.raises(PlanError, match=said):
        StagePlan.from_json(PLAN.to_json() | {"reuse": wrong})
    with pytest.raises(PlanError, match="reuse_order must be 0, 1 or 2"):
        replace(PLAN, reuse_order=3)


def test_every_kth_step_of_a_stage_runs_in_full():
    plan = replace(PLAN, reuse=(2, 1, 3))
    stages = [2, 2, 2, 2, 2, 1, 1, 0, 0, 0, -1, -1]
    assert plan.full_steps(stages) == [bool(int(x)) for x in "100101110111"]


# ------------------------------------------------------------ what is kept


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_polynomial_of_its_order_is_continued_exactly(order):
    times = [900.0, 830.0, 700.0][: order + 1]
    weights = continuation(times, 650.0)
    for power in range(order + 1):
        found = sum(w * t**power for w, t in zip(weights, times, strict=True))
        assert found == pytest.approx(650.0**power)


class Steps(torch.nn.Module):
    """A part whose output is a parabola in the timestep that it was told."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, t):
        self.calls.append(t)
        return torch.tensor([1.0, t, t * t], dtype=torch.float64)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_walk_keeps_the_last_full_steps(order):
    walk, inner = Walk(order), Steps()
    with pytest.raises(StudioError, match="must run in full"), walk.step(5.0, full=False):
        pass
    found = {}
    for t, full in [(90.0, True), (80.0, True), (75.0, True), (60.0, False), (50.0, False)]:
        with walk.step(t, full):
            found[t] = walk.part(0, inner, (t,), {})
    assert inner.calls == [90.0, 80.0, 75.0]
    wanted = inner(50.0)
    exact = (found[50.0] - wanted).abs() < 1e-6
    assert exact.tolist() == [True, order >= 1, order >= 2]
    if not order:
        assert torch.equal(found[60.0], inner(75.0))
    walk.restart()
    with pytest.raises(StudioError), walk.step(40.0, full=False):
        pass


# ------------------------------------------------------------ our own loop


def run(workshop, plan, steps=STEPS, guidance=1.5, name="DDIM", tabulate=False):
    """Without a table: stock pipelines work adaLN vectors out at every step."""
    side = Denoiser(
        workshop.build(plan), sampler(workshop, name), workshop.schedule, steps, tabulate=tabulate
    )
    noise = start_noise(3, workshop.latent_shape, 3)
    return side.run(noise, DiT.conditions(LABELS), guidance)[0]


def by_hand(workshop, plan, steps=STEPS):
    """DDIM where a reused step takes the outputs that hooks saw in the last full one."""
    mosaic = workshop.build(plan)
    scheduler = sampler(workshop, "DDIM")
    scheduler.set_timesteps(steps)
    x, null = start_noise(3, workshop.latent_shape, 3), torch.full_like(LABELS, 1000)
    labels = torch.cat([LABELS, null])
    last, count, kept = None, 0, {}
    with torch.inference_mode():
        for t in scheduler.timesteps:
            stage = mosaic.stage_of(float(t))
            network = mosaic.stages[stage]
            count = count + 1 if stage == last else 0
            last = stage
            full = count % plan.reuse[stage] == 0

            def swap(module, args, out, full=full):
                if full:
                    kept[id(module)] = out
                return kept[id(module)]

            parts = [network.get_submodule(layer.module) for layer in mosaic.layers]
            handles = [part.register_forward_hook(swap) for part in parts]
            try:
                eps = network(torch.cat([x, x]), t.expand(6), class_labels=labels).sample
            finally:
                for handle in handles:
                    handle.remove()
            c, u = eps.chunk(2)
            x = scheduler.step(u + 1.5 * (c - u), t, x).prev_sample
    return x


@pytest.mark.parametrize("reuse", [(2, 3, 2), (1, 2, 1), (2, 1, 3)])
def test_the_loop_reuses_what_the_last_full_step_gave(workshop, reuse):
    plan = replace(PLAN, reuse=reuse)
    assert torch.equal(run(workshop, plan), by_hand(workshop, plan))
    assert not torch.equal(run(workshop, plan), run(workshop, PLAN))


def test_full_steps_alone_are_the_plain_run(workshop):
    """A walk in which every step is full: the same bits as the networks themselves."""
    mosaic = workshop.build(PLAN)
    x, walk = start_noise(3, workshop.latent_shape, 3), Walk(2)
    with torch.inference_mode():
        for t in (900, 700, 650):
            times = torch.full((3,), t)
            plain = mosaic.network(t)(x, times, class_labels=LABELS)
            with walk.step(float(t), full=True):
                assert torch.equal(mosaic.reusable(2)(x, times, class_labels=LABELS), plain)


def test_a_stage_may_reuse_and_go_without_guidance(workshop):
    plan = replace(PLAN, reuse=(1, 1, 2)).with_guidance(early=1)
    assert torch.isfinite(run(workshop, plan)).all()
    whole = replace(PLAN, reuse=(2, 2, 2)).with_guidance(1, 1, 1)
    assert torch.equal(run(workshop, whole, guidance=4.0), run(workshop, whole, guidance=1.0))


def test_forecasts_follow_a_smooth_run_more_closely(workshop):
    """50 steps, every second in full: a line through the last two is nearer than the last one."""
    errors = []
    for order in (0, 1):
        plan = replace(PLAN.with_sparsity(0, 0, 0), reuse=(2, 2, 2), reuse_order=order)
        found = run(workshop, plan, steps=50)
        errors.append(float((found - run(workshop, plan.cut, steps=50)).square().mean()))
    assert 0 < errors[1] < errors[0]


def test_two_threads_over_the_same_networks_do_not_meet(workshop):
    plan = replace(PLAN, reuse=(2, 2, 2))
    alone, found = run(workshop, plan), []
    threads = [threading.Thread(target=lambda: found.append(run(workshop, plan))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all(torch.equal(one, alone) for one in found)


def test_a_walk_over_one_mosaic_is_not_seen_by_another(workshop):
    mosaic = workshop.build(PLAN)
    twin = reusing(mosaic.stages[2], mosaic.layers)
    x, times = start_noise(3, workshop.latent_shape, 3), torch.full((3,), 900)
    with torch.inference_mode():
        assert torch.equal(
            twin(x, times, class_labels=LABELS).sample,
            mosaic.stages[2](x, times, class_labels=LABELS).sample,
        )
    assert {id(p) for p in twin.parameters()} == {id(p) for p in mosaic.stages[2].parameters()}


# ------------------------------------------------------------ counted and predicted


def test_work_is_counted_from_what_runs(workshop):
    """Against the multiply-accumulates of the linear layers that really ran, seen by hooks."""
    plan = replace(PLAN, reuse=(2, 1, 3)).with_guidance(early=1)
    *_, found = compare(workshop, None, plan, SampleSettings((1, 5, 7), steps=STEPS, repeats=0))
    seen = 0

    def count(layer, args, out):
        nonlocal seen
        seen += out.numel() * layer.weight[0].numel()

    mosaic = workshop.build(plan)
    leaves = {
        id(m): m
        for network in mosaic.networks()
        for m in network.modules()
        if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))
    }
    handles = [m.register_forward_hook(count) for m in leaves.values()]
    try:
        run(workshop, plan, tabulate=True)
    finally:
        for handle in handles:
            handle.remove()
    assert found.b.macs == pytest.approx(seen, rel=1e-9)
    predicted = workshop.predict(plan, found.b.timesteps, batch=3)
    assert predicted.macs * 3 == pytest.approx(found.b.macs)
    assert [(s.steps, s.full_steps) for s in predicted.stages] == [(2, 1), (3, 3), (3, 1)]


# ------------------------------------------------------------ stock pipelines


@pytest.fixture(scope="module")
def pipelines(model_folder, tmp_path_factory):
    return make_pipelines(model_folder, tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


def stock(pipeline, plan):
    """A stock pipeline over a mosaic of this plan, and one run of it: its final latents."""
    model = denoiser(pipeline)
    cuts = [cuts_of(model, 1), cuts_of(model, 2, 0.9), cuts_of(model, 3)]
    mosaic = MosaicTransformer(model, plan, cuts)
    if hasattr(pipeline, "unet"):
        stand_in = type(pipeline)(**{**pipeline.components, "unet": mosaic})
        asked, latent = {"prompt": ["a fox", "a house"], "output_type": "latent"}, True
    else:
        parts = {"vae": pipeline.vae, "scheduler": pipeline.scheduler}
        stand_in = type(pipeline)(transformer=mosaic, **parts)
        asked, latent = {"class_labels": [1, 5], "output_type": "np"}, False
    stand_in.set_progress_bar_config(disable=True)

    def go(steps=STEPS):
        random = torch.Generator().manual_seed(3)
        found = stand_in(
            **asked, guidance_scale=4.0, num_inference_steps=steps, generator=random
        ).images
        return found if latent else torch.from_numpy(found)

    return stand_in, mosaic, go


@pytest.mark.parametrize("kind", KINDS)
def test_a_stock_pipeline_reuses_and_each_run_starts_anew(pipelines, kind):
    plan = replace(PLAN, reuse=(2, 3, 2))
    stand_in, mosaic, go = stock(pipelines[kind], plan)
    with pytest.raises(StudioError, match=r"call bind\(pipeline\)"):
        go()
    mosaic.bind(stand_in)
    calls = []
    attention = mosaic.stages[2].get_submodule(mosaic.layers[0].module)
    handle = attention.register_forward_hook(lambda *_: calls.append(1))
    first = go()
    handle.remove()
    assert len(calls) == 2  # of three early steps, the first and the third
    assert torch.equal(go(), first)
    go(1)  # ends in the early stage, where the next run begins
    assert torch.equal(go(), first)
    _, _, plain = stock(pipelines[kind], plan.cut)
    assert not torch.equal(plain(), first)


def test_reuse_and_guidance_together_in_a_stock_pipeline(workshop):
    plan = replace(PLAN, reuse=(2, 2, 2)).with_guidance(early=1)
    pipeline = workshop.checkpoint.pipeline
    mosaic = workshop.build(plan)
    stand_in = type(pipeline)(
        transformer=mosaic, vae=pipeline.vae, scheduler=pipeline.scheduler, id2label=None
    )
    stand_in.set_progress_bar_config(disable=True)
    mosaic.bind(stand_in, guidance_scale=1.5)
    seen = []
    handle = pipeline.vae.post_quant_conv.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].clone())
    )
    try:
        stand_in(
            LABELS.tolist(),
            guidance_scale=1.5,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
        )
    finally:
        handle.remove()
    assert torch.equal(run(workshop, plan) / workshop.vae.config.scaling_factor, seen[0])


def test_reuse_does_not_run_compiled(model_folder, workshop):
    mosaic = mosaic_of(workshop.transformer)
    mosaic.plan = replace(mosaic.plan, reuse=(1, 2, 1))
    with pytest.raises(StudioError, match="run plain only"):
        mosaic.compile_stages()


def test_a_plan_rebuilt_with_equal_shares_keeps_guidance_and_reuse():
    plan = replace(PLAN, reuse=(1, 2, 1), reuse_order=1).with_guidance(early=1)
    shared = replace(plan, allocation="dynamic", scope="run", protect=0.5, name="mine")
    assert shared.with_equal_shares() == plan and plan.plain
