"""Guidance of its own in each stage: plan files, our loop, stock pipelines, predictions, counts."""

from __future__ import annotations

import copy
import json
import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from mosaics import cuts_of
from running import KINDS, denoiser, make_pipelines

from core.curves.plan import StagePlan
from core.errors import PlanError, StudioError
from core.guidance import rows_of, scales_of
from core.models.families import DiT
from core.mosaic.transformer import MosaicTransformer
from core.sampling.denoise import Denoiser, start_noise
from core.workshop.compare import compare, sampler
from core.workshop.sample_settings import SampleSettings

PLAN = StagePlan((200, 600), (0.5, 0.25, 0.5))
LABELS = torch.tensor([1, 5, 7])
STEPS = 8  # of DDIM: timesteps 875, 750, ... 0: late 2, middle 3, early 3


# ------------------------------------------------------------ plan files


def test_guidance_goes_into_a_plan_file_and_back():
    plan = PLAN.with_guidance(late=0, early=1.5)
    plain = plan.to_json()
    assert plain["guidance"] == {"late": 0, "early": 1.5}
    assert StagePlan.from_json(json.loads(plan.dumps())) == plan
    assert plan.guidance == (0.0, None, 1.5) and plan.sets_guidance
    assert StagePlan(PLAN.boundaries, PLAN.sparsity, guidance={"early": 1.5, "late": 0}) == plan
    assert hash(plan) != hash(PLAN) and plan.cut == PLAN


def test_a_plan_file_of_before_still_loads():
    assert "guidance" not in PLAN.to_json() and not PLAN.sets_guidance
    assert StagePlan.from_json(PLAN.to_json() | {"guidance": None}) == PLAN
    assert StagePlan.from_json(PLAN.to_json() | {"guidance": {}}) == PLAN


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"early": math.nan}, "guidance of the early stage must be a number from 0 to 20, not nan"),
        ({"early": -1}, "guidance of the early stage"),
        ({"late": 20.5}, "guidance of the late stage"),
        ({"late": True}, "not True"),
        ({"late": "much"}, "guidance of the late stage"),
        ({"late": None}, "leave it out"),
        ({"soon": 1}, "unknown key 'soon'"),
        (1, "must be an object with some of the stages"),
        ([1, 2], "must be an object with some of the stages"),
        ({"late": 10**400}, "a huge number"),
    ],
)
def test_wrong_guidance_is_one_sentence(wrong, said):
    with pytest.raises(PlanError, match=said) as refused:
        StagePlan.from_json(PLAN.to_json() | {"guidance": wrong})
    assert "\n" not in str(refused.value)


def test_rows_of_a_scale():
    assert [rows_of(g) for g in (0, 0.5, 1, 1.5)] == [1, 2, 1, 2]
    assert scales_of((None, 0.0, 3.0), 0.3) == (1.0, 0.0, 3.0, 1.0)
    assert PLAN.with_guidance(1, 0, 0.5).halves(1) == (1, 1, 2) and PLAN.halves(2) == (2, 2, 2)


# ------------------------------------------------------------ our own loop


@contextmanager
def rows_seen(mosaic):
    """Note (network, rows) of every forward of a mosaic."""
    names = {id(network): i for i, network in enumerate(mosaic.stages)}
    seen = []

    def note(network, args, kwargs):
        x = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        seen.append((names[id(network)], len(x)))

    handles = [n.register_forward_pre_hook(note, with_kwargs=True) for n in mosaic.networks()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def by_hand(workshop, mosaic, scales, guidance):
    """DDIM with the guidance of each stage written out, every row from a batch of its own kind."""
    scheduler = sampler(workshop, "DDIM")
    scheduler.set_timesteps(STEPS)
    x = start_noise(3, workshop.latent_shape, 3)
    null = torch.full_like(LABELS, 1000)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            network = mosaic.network(float(t))
            g = scales[mosaic.stage_of(float(t))]
            g = guidance if g is None else g
            if g in (0, 1):
                eps = network(x, t.expand(3), class_labels=LABELS if g else null)
            else:
                rows, labels = torch.cat([x, x]), torch.cat([LABELS, null])
                c, u = network(rows, t.expand(6), class_labels=labels).chunk(2)
                eps = u + g * (c - u)
            x = scheduler.step(eps, t, x).prev_sample
    return x


@pytest.mark.parametrize("scales", [(None, None, 1.0), (1.0, None, 0.0), (3.0, 0.5, 1.0)])
def test_the_loop_runs_the_rows_that_a_stage_needs(workshop, scales):
    plan = PLAN.with_guidance(*scales)
    mosaic = workshop.build(plan)
    assert mosaic.plan == plan
    side = Denoiser(mosaic, sampler(workshop, "DDIM"), workshop.schedule, STEPS, tabulate=False)
    with rows_seen(mosaic) as seen:
        found, _ = side.run(
            start_noise(3, workshop.latent_shape, 3), DiT.conditions(LABELS), 1.5, 3
        )
    expected = [(s, 3 * plan.halves(2)[s]) for s in side.stages]
    assert seen == expected and sum(n for _, n in seen) < 6 * STEPS
    assert torch.equal(found, by_hand(workshop, mosaic, scales, 1.5))


def test_guidance_one_in_every_stage_is_a_run_with_guidance_one(workshop):
    noise, conditions = start_noise(3, workshop.latent_shape, 3), DiT.conditions(LABELS)

    def run(plan, guidance):
        mosaic = workshop.build(plan)
        side = Denoiser(mosaic, sampler(workshop, "UniPC"), workshop.schedule, STEPS)
        return side.run(noise, conditions, guidance)[0]

    assert torch.equal(run(PLAN.with_guidance(1, 1, 1), 4.0), run(PLAN, 1.0))
    assert torch.equal(run(PLAN.with_guidance(4, 4, 4), 1.0), run(PLAN, 4.0))


def test_plans_that_differ_in_guidance_share_their_networks(workshop):
    first, second = workshop.build(PLAN), workshop.build(PLAN.with_guidance(early=1))
    assert all(a is b for a, b in zip(first.stages, second.stages, strict=True))
    assert (first.plan, second.plan) == (PLAN, PLAN.with_guidance(early=1))


def test_a_table_of_adaln_vectors_knows_the_rows(workshop):
    plan = PLAN.with_guidance(early=1, late=0)
    noise, conditions = start_noise(3, workshop.latent_shape, 3), DiT.conditions(LABELS)
    plain, tabled = (
        Denoiser(
            workshop.build(plan), sampler(workshop, "DDIM"), workshop.schedule, STEPS, tabulate=t
        ).run(noise, conditions, 1.5)[0]
        for t in (False, True)
    )
    assert (plain - tabled).abs().max() < 1e-4 * plain.abs().max()


# ------------------------------------------------------------ what is counted and predicted


def test_work_is_counted_from_the_rows_that_run(workshop):
    plan = PLAN.with_guidance(early=1)
    settings = SampleSettings((1, 5, 7), steps=STEPS, repeats=1)
    *_, found = compare(workshop, None, plan, settings)
    late, middle, early, dense = workshop.stage_macs(plan, tabulated=True)
    pair = workshop.macs.conditioning
    # 8 steps of 4 labels, the null label among them; of B 5 steps of 4 and 3 of 3: 32 rows each
    assert found.a.macs == int(dense * 2 * 3 * STEPS) + 32 * pair
    rows = (2 * 2 * late + 3 * 2 * middle + 3 * early) * 3
    assert found.b.macs == int(rows) + 2 * 32 * pair
    predicted = workshop.predict(plan, found.b.timesteps, batch=3)
    assert predicted.macs * 3 == pytest.approx(found.b.macs)
    assert [stage.rows for stage in predicted.stages] == [2, 2, 1]
    # both tables were measured for the comparison, so seconds are known stage by stage
    assert found.b.predicted_seconds is not None and len(found.b.predicted_seconds) == STEPS
    whole, half = workshop.latency(6), workshop.latency(3)
    stage = predicted.stages[2]
    # the early stage comes first, so both sides make a table in it
    made = 32 * pair * whole.per_mac
    assert stage.seconds == pytest.approx(3 * half.at(early) + made)
    assert stage.seconds_dense == pytest.approx(3 * whole.at(dense) + made)


def test_a_half_batch_not_timed_yet_is_predicted_in_proportion(workshop, monkeypatch):
    plan, timesteps = PLAN.with_guidance(early=1), [900.0, 100.0]
    table = workshop.measure_latency(5)
    monkeypatch.setattr(
        workshop.times,
        "latency",
        lambda rows, shape=None, tabulated=True: table if rows == 10 else None,
    )
    stage = workshop.predict(plan, timesteps, batch=5).stages[2]
    made = 32 * workshop.macs.conditioning * table.per_mac
    early = workshop.stage_macs(plan, tabulated=True)[2]
    assert stage.seconds == pytest.approx(table.at(early) / 2 + made)


# ------------------------------------------------------------ stock pipelines


@pytest.fixture(scope="module")
def pipelines(model_folder, tmp_path_factory):
    return make_pipelines(model_folder, tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


def mosaic_over(pipeline, guidance):
    model = denoiser(pipeline)
    plan = replace(PLAN, guidance=guidance)
    return MosaicTransformer(
        model, plan, [cuts_of(model, 1), cuts_of(model, 2, 0.9), cuts_of(model, 3)]
    )


def drawn(pipeline, mosaic, scale, batch=2):
    """Final latents of a stock pipeline with this mosaic in the place of its denoiser."""
    seen = []
    random = torch.Generator().manual_seed(3)
    if hasattr(pipeline, "unet"):
        stand_in = type(pipeline)(**{**pipeline.components, "unet": mosaic})
        stand_in.set_progress_bar_config(disable=True)
        return (
            stand_in,
            lambda: (
                stand_in(
                    ["a fox", "a red house"][:batch],
                    negative_prompt=["blurred"] * batch,
                    guidance_scale=scale,
                    num_inference_steps=STEPS,
                    generator=random,
                    output_type="latent",
                ).images
            ),
        )
    stand_in = type(pipeline)(transformer=mosaic, vae=pipeline.vae, scheduler=pipeline.scheduler)
    stand_in.set_progress_bar_config(disable=True)

    def run():
        handle = pipeline.vae.post_quant_conv.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].clone())
        )
        try:
            stand_in(
                [1, 5][:batch],
                guidance_scale=scale,
                num_inference_steps=STEPS,
                generator=random,
                output_type="np",
            )
        finally:
            handle.remove()
        return seen[0]

    return stand_in, run


class Reference:
    """A mosaic that runs every pair whole, and answers as the guidance of its stage wants.

    It changes nothing but the prediction: u + g (c - u) in both halves.
    """

    def __init__(self, mosaic, scales, first):
        self.mosaic, self.scales, self.first = mosaic, scales, first

    def __call__(self, network, sample, timestep, args, conditions):
        stage = self.mosaic.plan.stage_of(float(timestep.flatten()[0]))
        g = self.scales[stage]
        found = network(sample, timestep, *args, **conditions)
        if g is None:
            return found
        halves = found.chunk(2)
        c, u = halves if self.first else halves[::-1]
        wanted = u + g * (c - u)
        return torch.cat([wanted, wanted])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scales", [(None, None, 1.0), (0.0, None, 1.0), (2.0, 1.0, None)])
def test_a_stock_pipeline_saves_and_is_exact(pipelines, kind, scales, monkeypatch):
    pipeline = pipelines[kind]
    mosaic = mosaic_over(pipeline, scales).bind(4.0)
    stand_in, run = drawn(pipeline, mosaic, 4.0)
    with rows_seen(mosaic) as seen:
        found = run()
    stages = [mosaic.plan.stage_of(float(t)) for t in stand_in.scheduler.timesteps]
    assert seen == [(s, 2 * mosaic.plan.halves(2)[s]) for s in stages]

    plain = mosaic_over(pipeline, (None, None, None))
    answer = Reference(plain, scales, first=kind == "dit")
    run_network = plain._run
    monkeypatch.setattr(
        plain,
        "_run",
        lambda network, x, t, *args, **conditions: answer(
            lambda *a, **k: run_network(network, *a, **k), x, t, args, conditions
        ),
    )
    _, whole = drawn(pipeline, plain, 4.0)
    expected = whole()
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_guidance_one_in_a_stock_pipeline_gives_the_loops_bits(workshop):
    plan = PLAN.with_guidance(early=1, late=1)
    mosaic = workshop.build(plan)
    _, run = drawn(workshop.checkpoint.pipeline, mosaic, 1.5)
    side = Denoiser(mosaic, sampler(workshop, "DDIM"), workshop.schedule, STEPS, tabulate=False)
    noise = torch.randn(2, *workshop.latent_shape, generator=torch.Generator().manual_seed(3))
    ours, _ = side.run(noise, DiT.conditions(torch.tensor([1, 5])), 1.5)
    assert torch.equal(ours / workshop.vae.config.scaling_factor, run())


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_without_guidance_passes_through(pipelines, kind):
    pipeline = pipelines[kind]
    runs = [
        drawn(pipeline, mosaic_over(pipeline, g), 1.0)[1]() for g in ((1, 1, 1), (None, None, None))
    ]
    assert torch.equal(*runs)
    _, run = drawn(pipeline, mosaic_over(pipeline, (None, None, 0.0)), 1.0)
    with pytest.raises(StudioError, match="run the pipeline with a guidance scale above 1"):
        run()


@pytest.mark.parametrize("kind", KINDS)
def test_another_scale_needs_the_pipelines_own(pipelines, kind):
    mosaic = mosaic_over(pipelines[kind], (None, None, 2.0))
    _, run = drawn(pipelines[kind], mosaic, 4.0)
    with pytest.raises(StudioError, match=r"call bind\(scale\)"):
        run()
    assert copy.deepcopy(mosaic.bind(4.0)).pipeline_scale.now() == 4.0


def test_a_pipeline_that_says_its_scale_is_read(pipelines):
    pipeline = pipelines["sdxl"]
    mosaic = mosaic_over(pipeline, (None, 2.0, 1.0))
    stand_in, run = drawn(pipeline, mosaic, 4.0)
    mosaic.bind(stand_in)
    found = run()
    other = mosaic_over(pipeline, (None, 2.0, 1.0)).bind(4.0)
    assert torch.equal(found, drawn(pipeline, other, 4.0)[1]())
    assert mosaic.pipeline_scale.paired
    assert copy.deepcopy(mosaic).pipeline_scale.pipeline is None


def test_equal_latents_without_guidance_are_no_pair_to_a_bound_mosaic(pipelines):
    """Unbound, two prompts on the same noise look like a guided pair."""
    found = []
    for scales in ((1.0, 1.0, 1.0), (None, None, None)):
        mosaic = mosaic_over(pipelines["sdxl"], scales)
        stand_in, _ = drawn(pipelines["sdxl"], mosaic, 1.0)
        mosaic.bind(stand_in)
        size = mosaic.config.sample_size
        x = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(5))
        found.append(
            stand_in(
                ["a fox", "a red house"],
                guidance_scale=1.0,
                num_inference_steps=STEPS,
                latents=x.expand(2, -1, -1, -1).clone(),
                output_type="latent",
            ).images
        )
    assert torch.equal(*found) and not torch.equal(*found[0])


def test_saved_subnetworks_keep_their_guidance(workshop, tmp_path):
    plan = PLAN.with_guidance(early=1)
    workshop.build(plan).save_pretrained(tmp_path / "saved")
    loaded = MosaicTransformer.from_pretrained(tmp_path / "saved", workshop.transformer)
    assert loaded.plan is not None and loaded.plan.guidance == (None, None, 1.0)
    assert loaded.scales(1.5) == (1.5, 1.5, 1.0, 1.5)


@pytest.mark.parametrize("wrong", [math.nan, -1, "4", None, object()])
def test_a_mosaic_is_bound_to_a_scale_or_its_own_pipeline(pipelines, wrong):
    mosaic = mosaic_over(pipelines["dit"], (None, None, 2.0))
    with pytest.raises(StudioError, match="Give the guidance scale"):
        mosaic.bind(wrong)
    with pytest.raises(StudioError, match="Give the guidance scale"):
        mosaic.bind(pipelines["dit"])  # runs its dense transformer
    stand_in, run = drawn(pipelines["dit"], mosaic, 4.0)
    mosaic.bind(stand_in)  # a DiT pipeline does not say its scale
    with pytest.raises(StudioError, match="own scale is not known"):
        run()
    assert mosaic.bind(stand_in, guidance_scale=4.0).pipeline_scale.now() == 4.0


def test_a_disabled_mosaic_keeps_the_runs_guidance(workshop):
    mosaic = copy.deepcopy(workshop.build(PLAN.with_guidance(1, 1, 1)))
    assert mosaic.scales(1.5) == (1.0, 1.0, 1.0, 1.5)
    mosaic.disable()
    assert mosaic.scales(1.5) == (1.5, 1.5, 1.5, 1.5)
