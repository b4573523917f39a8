"""Our sampling loop against the stock pipeline, every scheduler, and what a comparison reports."""

from __future__ import annotations

import copy
import json
import math
import threading

import diffusers
import numpy as np
import pytest
import torch

from core.curves.plan import StagePlan
from core.curves.samplers import SCHEDULERS, make_scheduler
from core.errors import Stopped, StudioError
from core.models.families import DiT
from core.sampling.denoise import Denoiser, decode, start_noise
from core.sampling.metrics import FeatureNetwork, Judge, ReferenceStatistics
from core.workshop import sample_settings
from core.workshop.compare import compare, sampler
from core.workshop.comparison import Comparison, Preview, SampleSettings, grid, pictures

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers with NumPy 2

PLAN = StagePlan((100, 600), (0.5, 0.25, 0.75))
ZERO = StagePlan((100, 600), (0.0, 0.0, 0.0))
LABELS = torch.tensor([1, 5])
COND = DiT.conditions(LABELS)


def noise(n: int = 2, seed: int = 3) -> torch.Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def finish(steps) -> Comparison:
    *previews, last = steps
    assert all(isinstance(p, Preview) for p in previews) and isinstance(last, Comparison)
    return last


@pytest.fixture(scope="module")
def pair(workshop) -> tuple[list[Preview], Comparison]:
    """Dense against a plan, small enough to be shown while it runs."""
    *previews, last = compare(workshop, None, PLAN, SampleSettings((1, 5, 7), steps=10, repeats=2))
    return previews, last


# ------------------------------------------------------------ the loop


@pytest.mark.parametrize("guidance", [1.5, 1.0])
def test_ddim_gives_the_stock_pipelines_bits(workshop, guidance):
    pipeline, seen = workshop.checkpoint.pipeline, []
    handle = pipeline.vae.post_quant_conv.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].clone())
    )
    try:
        random = torch.Generator().manual_seed(3)
        images = pipeline(
            LABELS.tolist(),
            guidance_scale=guidance,
            num_inference_steps=7,
            generator=random,
            output_type="np",
        ).images
    finally:
        handle.remove()
    side = Denoiser(workshop.dense, sampler(workshop, "DDIM"), workshop.schedule, 7, tabulate=False)
    ours, seconds = side.run(noise(), COND, guidance)
    assert torch.equal(ours / workshop.vae.config.scaling_factor, seen[0])
    assert len(seconds) == 7 and all(s > 0 for s in seconds)
    decoded = decode(workshop.vae, ours)[:, 0].numpy()
    assert np.abs((decoded / 2 + 0.5) - images.reshape(decoded.shape)).max() < 1e-6


@pytest.fixture
def decoded(workshop):
    """Shapes of what the VAE's decoder is given, call by call."""
    seen: list[tuple[int, ...]] = []
    handle = workshop.vae.decoder.register_forward_pre_hook(
        lambda _, args: seen.append(tuple(args[0].shape))
    )
    yield seen
    handle.remove()


@pytest.mark.parametrize(
    ("n", "side", "calls", "on_cpu"),
    [
        (120, 8, [100, 20], [64, 56]),
        (5, 128, [4, 1], [1] * 5),
        (2, 256, [1, 1], [1, 1]),
        (2, 264, [1, 1], [1, 1]),
    ],
)
def test_decoding_is_cut_by_pixels(workshop, decoded, n, side, calls, on_cpu):
    """Large pictures are decoded one at a time, with the same result as in a batch.

    100 of 32 x 32 at a time (64 on a CPU), one of 1024 x 1024; the VAE makes each side four times
    as long.
    """
    calls = on_cpu if workshop.device.type == "cpu" else calls
    latents = torch.randn(n, 4, side, side, generator=torch.Generator().manual_seed(0))
    found = decode(workshop.vae, latents)
    assert [shape[0] for shape in decoded] == calls
    assert found.shape == (n, 1, 4 * side, 4 * side) and torch.allclose(
        found[-2:], decode(workshop.vae, latents[-2:], batch=1), atol=1e-5
    )


def test_without_previews_only_final_latents_are_decoded(workshop, decoded, pair):
    del decoded[:]
    *previews, found = compare(
        workshop, None, PLAN, SampleSettings((1, 5, 7), steps=10, repeats=2), previews=False
    )
    assert decoded == [(3, 4, 8, 8)] * 2 and not found.a.film and not found.b.film_timesteps
    assert [p.step for p in previews] == [p.step for p in pair[0]] and all(
        p.image_a is None and p.image_b is None for p in previews
    )
    assert all(
        torch.equal(x.images, y.images) for x, y in ((found.a, pair[1].a), (found.b, pair[1].b))
    )


def test_a_step_is_decoded_once_for_preview_and_film(workshop, decoded):
    found = finish(compare(workshop, None, ZERO, SampleSettings((1,), steps=20, repeats=1)))
    assert (
        len(found.a.film) == 8
        and len(decoded)
        == 2 * len({*np.linspace(0, 19, 8).round(), *np.linspace(0, 19, 16).round()}) + 2
    )


def reference(workshop, name, steps):
    """Run the loop of diffusers' own documentation.

    Scheduler from the model's config, start at init_noise_sigma, scale the model input, step.
    """
    device, options = workshop.device, {"skip_prk_steps": True} if name == "PNDM" else {}
    scheduler = getattr(diffusers, SCHEDULERS[name]).from_config(
        workshop.checkpoint.pipeline.scheduler.config, **options
    )
    scheduler.set_timesteps(steps, device=device)
    # one stream: the start noise, then the noise of every step
    random = torch.Generator().manual_seed(11)
    x = torch.randn(noise().shape, generator=random).to(device) * scheduler.init_noise_sigma
    extra = (
        {"generator": random}
        if name in ("DDIM", "DDPM", "Euler", "Euler ancestral", "DPM-Solver++", "DPM2 ancestral")
        else {}
    )
    labels = torch.cat([LABELS, torch.full((2,), 1000)]).to(device)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            rows = scheduler.scale_model_input(torch.cat([x, x]), t)
            eps, null = workshop.transformer(
                rows, timestep=t.expand(4), class_labels=labels
            ).sample.chunk(2)
            x = scheduler.step(null + 1.5 * (eps - null), t, x, **extra).prev_sample
    return x


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_is_run_as_diffusers_means_it(workshop, name):
    ours, seconds = Denoiser(workshop.dense, sampler(workshop, name), workshop.schedule, 6).run(
        noise(seed=11), COND, 1.5, seed=11
    )
    assert torch.isfinite(ours).all()
    assert torch.allclose(ours, reference(workshop, name, 6), atol=1e-4, rtol=1e-4)


def test_euler_ends_where_ddim_ends(workshop):
    """Both follow the same ODE: with many steps they meet.

    Without init_noise_sigma or input scaling they would not.
    """
    ends = {
        n: (
            Denoiser(workshop.dense, sampler(workshop, n), workshop.schedule, 200).run(
                noise(), COND, 1.0
            )[0]
        )
        for n in ("DDIM", "Euler")
    }
    coarse = Denoiser(workshop.dense, sampler(workshop, "DDIM"), workshop.schedule, 10).run(
        noise(), COND, 1.0
    )[0]
    gap = (ends["DDIM"] - ends["Euler"]).square().mean()
    assert gap < 0.02 * ends["DDIM"].square().mean()
    assert gap < (ends["DDIM"] - coarse).square().mean()


def test_the_guess_of_the_clean_latents_is_right(workshop):
    """With DDIM the last step ends on its own guess.

    In every step x_t = a x_0 + s e holds for the scheduler's own guess.
    """
    model, scheduler = (
        Denoiser(workshop.dense, sampler(workshop, "DDIM"), workshop.schedule, 5),
        sampler(workshop, "DDIM"),
    )
    steps = list(model.session(noise(), COND, 1.5))
    assert torch.allclose(steps[-1].clean, steps[-1].latents, atol=1e-4)
    assert scheduler.config.set_alpha_to_one
    euler = Denoiser(workshop.dense, sampler(workshop, "Euler"), workshop.schedule, 5)
    *_, last = euler.session(noise(), COND, 1.5)
    assert torch.allclose(last.clean, last.latents, atol=2e-3)


def test_two_sessions_of_one_denoiser_do_not_meet(workshop):
    """Walked in turn, step by step, each ends where it ends alone."""
    side = Denoiser(workshop.dense, sampler(workshop, "UniPC"), workshop.schedule, 5)
    alone = [list(side.session(start, COND, 1.5))[-1].latents for start in (noise(), -noise())]
    for step, other in zip(
        side.session(noise(), COND, 1.5), side.session(-noise(), COND, 1.5), strict=True
    ):
        together = step.latents, other.latents
    assert torch.equal(together[0], alone[0]) and torch.equal(together[1], alone[1])
    assert not torch.equal(*together)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_step_runs_the_network_of_its_stage(workshop, name):
    mosaic = workshop.build(PLAN)
    model, ran = Denoiser(mosaic, sampler(workshop, name), workshop.schedule, 12), []
    handles = [
        network.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, network in enumerate(mosaic.stages)
    ]
    try:
        steps = list(model.session(noise(), COND, 1.5))
    finally:
        for handle in handles:
            handle.remove()
    expected = [0 if t < 100 else 1 if t < 600 else 2 for t in model.timesteps]
    assert ran == expected == model.stages == [s.stage for s in steps]
    assert set(expected) == {0, 1, 2} and [s.timestep for s in steps] == model.timesteps


def test_runs_do_not_depend_on_runs_before(workshop):
    """A second run starts fresh, and the given scheduler is not changed.

    Multistep and stochastic schedulers carry state.
    """
    for name in ("UniPC", "DDPM", "Euler ancestral", "PNDM"):
        scheduler = sampler(workshop, name)
        before = copy.deepcopy(scheduler.__dict__)
        model = Denoiser(workshop.dense, scheduler, workshop.schedule, 5)
        assert torch.equal(
            model.run(noise(), COND, 1.5, seed=2)[0], model.run(noise(), COND, 1.5, seed=2)[0]
        )
        assert str(before) == str(scheduler.__dict__)


def test_start_noise_is_seeded(workshop):
    shape = workshop.latent_shape
    assert torch.equal(start_noise(3, shape, 5), start_noise(3, shape, 5)) and not torch.equal(
        start_noise(3, shape, 5), start_noise(3, shape, 6)
    )
    # the stock pipeline's noise for this seed
    assert torch.equal(start_noise(2, shape, 3), noise(2, 3))


def test_stop_within_one_step(workshop):
    stop, seen = threading.Event(), []

    def watch(step):
        seen.append(step.index)
        if step.index == 2:
            stop.set()

    with pytest.raises(Stopped, match="step 3 of 20"):
        Denoiser(workshop.dense, sampler(workshop, "DDIM"), workshop.schedule, 20).run(
            noise(), COND, 1.5, stop=stop, watch=watch
        )
    assert seen == [0, 1, 2]


# ------------------------------------------------------------ comparisons


def test_dense_against_a_plan_of_zeros_gives_equal_pictures(workshop):
    found = finish(compare(workshop, None, ZERO, SampleSettings((1, 5), steps=4, repeats=1)))
    assert torch.equal(found.a.latents, found.b.latents) and torch.equal(
        found.a.images, found.b.images
    )
    assert (
        found.latent_mse == 0
        and found.ssim == pytest.approx(1)
        and found.psnr is None
        and found.speedup_macs == 1
    )
    assert "same network" in found.verdict
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["psnr"] is None


def test_both_sides_start_from_the_same_noise_also_when_the_sampler_draws(workshop):
    found = finish(
        compare(
            workshop,
            None,
            ZERO,
            SampleSettings((1, 5), steps=4, repeats=1, scheduler="Euler ancestral"),
        )
    )
    assert torch.equal(found.a.latents, found.b.latents)


def test_pictures_are_those_of_the_loop(workshop, pair):
    found = pair[1]
    start = start_noise(3, workshop.latent_shape, 0)
    for side, model in ((found.a, workshop.dense), (found.b, workshop.build(PLAN))):
        latents = Denoiser(model, sampler(workshop, "DDIM"), workshop.schedule, 10).run(
            start, DiT.conditions(torch.tensor([1, 5, 7])), 1.5
        )[0]
        assert torch.equal(side.latents, latents.cpu()) and torch.equal(
            side.images, decode(workshop.vae, latents)
        )
        assert side.images.shape == (3, 1, 32, 32) and side.images.abs().max() <= 1
    assert (
        found.latent_mse
        == pytest.approx(float((found.a.latents - found.b.latents).square().mean()), rel=1e-5)
        and found.latent_mse > 0
    )


def test_figures_of_a_comparison(workshop, pair):
    previews, found = pair
    # no feature network beside this model
    assert found.n == 3 and found.a.fid is None and found.b.class_accuracy is None
    # the adaLN vectors of 10 steps and 3 labels and the null label are made once: 40 pairs in 64
    spared, dense = workshop.macs.conditioning, workshop.forward_macs[0]
    assert found.a.macs == (dense - spared) * 2 * 10 * 3 + 64 * spared
    steps = [PLAN.stage_of(t) for t in found.b.timesteps]
    assert found.b.stages == steps and found.a.stages == [-1] * 10
    rows = sum(int(workshop.row_macs(PLAN.sparsity[s])) - spared for s in steps) * 2 * 3
    assert found.b.macs == rows + 64 * spared
    assert (
        found.speedup_macs == pytest.approx(found.a.macs / found.b.macs) and found.speedup_macs > 1
    )
    assert found.b.macs == pytest.approx(3 * workshop.predict(PLAN, found.b.timesteps, 3).macs)
    assert found.speedup_predicted == pytest.approx(
        workshop.predict(PLAN, found.b.timesteps, batch=3).speedup_seconds
    )
    assert len(found.a.step_seconds) == len(found.b.step_seconds) == 2 and all(
        len(run) == 10 for run in found.a.step_seconds
    )
    assert found.a.seconds == pytest.approx(np.median([sum(run) for run in found.a.step_seconds]))
    assert sum(row["steps"] for row in found.stage_rows()) == 10
    assert len(found.a.film) == len(found.b.film) == len(
        found.a.film_timesteps
    ) == 8 and found.a.film[0].shape == (3, 1, 32, 32)
    shown = [p for p in previews if p.image_a is not None]
    assert (
        len(shown) == 10
        and shown[0].image_a.dtype == np.uint8
        and shown[0].image_b.shape == (3, 32, 32)
    )
    assert [p.stage for p in shown] == steps and [p.step for p in shown] == list(range(10))


KEYS = {
    "dense",
    "mosaic",
    "speedup_measured",
    "speedup_predicted",
    "speedup_macs",
    "psnr",
    "ssim",
    "latent_mse",
    "n",
    "device",
}


def test_json_has_what_the_command_line_promises(pair):
    # strict JSON: no NaN, no tensors
    found = json.loads(json.dumps(pair[1].to_json(), allow_nan=False))
    assert found.keys() >= KEYS
    for side in ("dense", "mosaic"):
        assert found[side].keys() >= {"seconds", "seconds_spread", "macs", "fid", "class_accuracy"}
        assert isinstance(found[side]["macs"], int) and found[side]["fid"] is None
    assert found["dense"]["plan"] is None and StagePlan.from_json(found["mosaic"]["plan"]) == PLAN
    assert found["speedup_predicted"] > 0 and found["verdict"].endswith(".")


def test_a_comparison_there_and_back(pair, tmp_path):
    found = pair[1]
    found.save(tmp_path)
    back = Comparison.load(tmp_path)
    assert back.to_json() == found.to_json() and back.settings == found.settings
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]
    for a, b in ((found.a, back.a), (found.b, back.b)):
        assert (a.images - b.images).abs().max() <= 1 / 255 + 1e-6 and (
            pictures(a.images) == pictures(b.images)
        ).all()
        assert (
            torch.allclose(a.latents, b.latents, rtol=1e-3, atol=1e-3)
            and len(b.film) == 8
            and b.stages == a.stages
        )
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(StudioError, match="cannot be read"):
        Comparison.load(tmp_path)


def test_each_side_may_have_its_own_steps(workshop):
    """Same noise, own film and times; a dense side is cut where the plan cuts."""
    settings = SampleSettings((1, 5), steps=10, repeats=1, side_steps=(12, 5))
    found = finish(compare(workshop, None, PLAN, settings))
    assert [len(side.timesteps) for side in (found.a, found.b)] == [12, 5]
    assert [len(side.step_seconds[0]) for side in (found.a, found.b)] == [12, 5]
    assert [len(side.film) for side in (found.a, found.b)] == [8, 5]
    assert found.b.film_timesteps == found.b.timesteps
    assert [PLAN.stage_of(t) for t in found.a.timesteps] == found.a.cut_like(found.b)
    spared = workshop.macs.conditioning  # 12 steps of 3 labels are made as 64 pairs
    assert found.a.macs == (workshop.forward_macs[0] - spared) * 2 * 12 * 2 + 64 * spared
    alone = finish(compare(workshop, None, PLAN, SampleSettings((1, 5), steps=5, repeats=0)))
    assert torch.equal(alone.b.latents, found.b.latents)


def test_settings_with_own_steps_go_there_and_back(workshop, tmp_path):
    settings = SampleSettings((1,), steps=4, repeats=0, side_steps=(4, 3))
    found = finish(compare(workshop, None, PLAN, settings))
    found.save(tmp_path)
    assert Comparison.load(tmp_path).settings == settings
    assert SampleSettings((1,), steps=4, side_steps=(4, 4)).side_steps is None


def test_pictures_come_before_their_times(workshop):
    *previews, last = compare(workshop, None, PLAN, SampleSettings((1,), steps=4, repeats=2))
    first = next(p.found for p in previews if p.found is not None)
    assert first.speedup_measured is None and first.psnr == last.psnr
    assert first.verdict.startswith("Not timed") and torch.equal(first.b.images, last.b.images)
    assert [p.timing for p in previews][-2:] == [True, True] and last.timed_runs == 2


def test_timing_can_be_left_out_or_skipped(workshop):
    skip = threading.Event()
    for item in compare(workshop, None, PLAN, SampleSettings((1,), steps=4, repeats=9), skip=skip):
        if isinstance(item, Preview) and item.timing and item.done == 1:
            skip.set()
    assert item.timed_runs == 1 and "Timing skipped after 1 of 9" in item.notes
    untimed = finish(compare(workshop, None, PLAN, SampleSettings((1,), steps=4, repeats=0)))
    assert untimed.timed_runs == 0 and untimed.to_json()["speedup_measured"] is None


def test_names_tell_the_sides_apart(workshop):
    found = finish(
        compare(
            workshop,
            PLAN,
            StagePlan((100, 600), (0.5, 0.5, 0.5)),
            SampleSettings((1,), steps=2, repeats=1),
        )
    )
    assert (found.a.name, found.b.name) == ("MosaicDiff (A)", "MosaicDiff (B)")


def test_a_slower_plan_is_called_slower(pair):
    found = copy.copy(pair[1])
    found.a, found.b = copy.copy(found.a), copy.copy(found.b)
    # not what a busy machine made of it: such a prediction would be said to have foreseen it
    found.a.predicted_seconds, found.b.predicted_seconds = [0.1] * 10, [0.05] * 10
    found.a.step_seconds, found.b.step_seconds = [[0.1] * 10] * 3, [[0.2] * 10] * 3
    assert (
        "is slower: it took 100 % more" in found.verdict
        and "compare again" in found.verdict
        and found.speedup_measured == pytest.approx(0.5)
        and found.speedup_spread == 0
    )
    found.b.step_seconds = [[0.1] * 10] * 3
    assert "not measurably faster" in found.verdict
    found.b.step_seconds = [[0.05] * 10] * 3
    assert "50 % less time" in found.verdict and "×2.00" in found.verdict


# ------------------------------------------------------------ large sets


@pytest.fixture
def judged(workshop, monkeypatch):
    torch.manual_seed(0)
    judge = Judge(
        FeatureNetwork(width=2, features=4).eval(),
        ReferenceStatistics(torch.zeros(4), torch.eye(4), torch.ones(10), 10),
    )
    monkeypatch.setitem(workshop.__dict__, "judge", judge)


def test_large_sets_are_timed_batch_by_batch(workshop, judged, monkeypatch):
    monkeypatch.setattr(sample_settings, "BATCH", 8)
    monkeypatch.setattr(sample_settings, "IN_STEP", 4)
    monkeypatch.setattr("core.sampling.metrics.MIN_IMAGES_FOR_FID", 20)
    found = finish(
        compare(workshop, None, PLAN, SampleSettings(tuple(i % 10 for i in range(20)), steps=2))
    )
    # two full batches; the rest is not timed
    assert found.n == 20 and found.a.images.shape[0] == 20 and len(found.a.step_seconds) == 2
    assert found.a.seconds == pytest.approx(
        20 / 8 * np.median([sum(r) for r in found.a.step_seconds])
    )
    spared = workshop.macs.conditioning  # a table of at most 18 pairs, so of 32, per batch
    assert found.a.macs == (workshop.forward_macs[0] - spared) * 2 * 2 * 20 + 3 * 32 * spared
    assert found.a.fid > 0 and found.b.fid > 0 and 0 <= found.a.class_accuracy <= 1
    first = Denoiser(workshop.dense, sampler(workshop, "DDIM"), workshop.schedule, 2)
    start = start_noise(20, workshop.latent_shape, 0)
    rows = slice(8, 16)  # the second batch is rows 8 to 15 of the one seed's noise
    again = first.run(
        start[rows], DiT.conditions(torch.tensor([i % 10 for i in range(20)])[rows]), 1.5
    )[0].cpu()
    assert torch.equal(found.a.latents[rows], again)


def test_one_short_batch_is_timed_too(workshop, monkeypatch):
    monkeypatch.setattr(sample_settings, "BATCH", 8)
    monkeypatch.setattr(sample_settings, "IN_STEP", 4)
    found = finish(compare(workshop, None, PLAN, SampleSettings((1,) * 6, steps=2, repeats=2)))
    assert len(found.a.step_seconds) == 2 and found.a.scale == 1


def test_no_fid_below_200(workshop, judged):
    found = finish(compare(workshop, None, PLAN, SampleSettings((1, 2), steps=2, repeats=1)))
    assert found.a.fid is None and found.b.fid is None and found.a.class_accuracy is not None


# ------------------------------------------------------------ stop


def test_stop_while_both_sides_walk(workshop):
    stop, seen = threading.Event(), []
    with pytest.raises(Stopped, match="before anything was timed"):
        for item in compare(workshop, None, PLAN, SampleSettings((1,), steps=10, repeats=1), stop):
            if item.step is not None:
                seen.append(item.step)
                stop.set()
    assert seen == [0]


def test_stop_while_timing_keeps_the_complete_runs(workshop):
    stop, last = threading.Event(), None
    for last in compare(workshop, None, PLAN, SampleSettings((1,), steps=3, repeats=4), stop):
        if isinstance(last, Preview) and last.text.startswith("timing run 3"):
            stop.set()
    assert last.timed_runs == 2 and "2 of 4 timed runs" in last.notes


def test_stop_in_a_large_set(workshop, monkeypatch):
    monkeypatch.setattr(sample_settings, "BATCH", 4)
    monkeypatch.setattr(sample_settings, "IN_STEP", 2)
    stop = threading.Event()
    with pytest.raises(Stopped):
        for item in compare(workshop, None, PLAN, SampleSettings((1,) * 12, steps=3), stop):
            if item.text.startswith("batch 1"):
                stop.set()


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": ()},
        {"labels": (1,) * 10_001},
        {"steps": 0},
        {"steps": 1001},
        {"steps": 2.0},
        {"steps": True},
        {"guidance": math.nan},
        {"guidance": -1},
        {"guidance": "2"},
        {"seed": -1},
        {"seed": 1.5},
        {"seed": 2**60},
        {"repeats": -1},
        {"side_steps": (5,)},
        {"side_steps": (5, 0)},
        {"repeats": 99},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(StudioError) as err:
        SampleSettings(**{"labels": (1,)} | wrong)
    assert str(err.value).endswith(".") and "\n" not in str(err.value)


@pytest.mark.parametrize("label", [-1, 1000, 1.0, "3"])
def test_unknown_classes_are_refused(workshop, label):
    with pytest.raises(StudioError, match="is not a class"):
        next(compare(workshop, None, PLAN, SampleSettings((label,))))


@pytest.mark.parametrize("name", ["Flow matching", "EDM", "Karras"])
def test_schedulers_that_do_not_suit_the_model_are_refused_before_anything_runs(workshop, name):
    with pytest.raises(StudioError, match="choose one of DDIM"):
        next(compare(workshop, None, PLAN, SampleSettings((1,), scheduler=name)))


def test_steps_a_scheduler_cannot_do_are_refused(workshop, monkeypatch):
    monkeypatch.setattr(
        workshop.checkpoint.pipeline,
        "scheduler",
        make_scheduler("DDIM", timestep_spacing="linspace"),
    )
    with pytest.raises(StudioError, match="cannot sample in 2 steps"):
        next(
            compare(workshop, None, PLAN, SampleSettings((1,), steps=2, scheduler="DPM2 ancestral"))
        )


def test_numpy_numbers_become_plain_ones():
    settings = SampleSettings(tuple(np.arange(3)), steps=np.int64(5), seed=np.int32(1))
    assert json.loads(json.dumps(settings.to_json()))["labels"] == [0, 1, 2]


def test_trained_betas_of_the_model_are_used(workshop, monkeypatch):
    from diffusers import DDIMScheduler

    own = np.linspace(0.0002, 0.03, 1000).tolist()
    monkeypatch.setattr(
        workshop.checkpoint.pipeline,
        "scheduler",
        DDIMScheduler(trained_betas=own, clip_sample=False),
    )
    assert sampler(workshop, "DPM-Solver++").betas.tolist() == pytest.approx(own)


def test_a_scheduler_takes_over_what_the_models_own_one_says(workshop, monkeypatch):
    """As diffusers' from_config; and what the model's config does not say is chosen for latents."""
    said = dict(
        timestep_spacing="trailing",
        steps_offset=1,
        rescale_betas_zero_snr=False,
        variance_type="learned_range",
        clip_sample=False,
    )
    own = diffusers.DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.001, beta_end=0.011, **said
    )
    monkeypatch.setattr(workshop.checkpoint.pipeline, "scheduler", own)
    for name in SCHEDULERS:
        config = sampler(workshop, name).config
        assert (config.timestep_spacing, config.steps_offset) == ("trailing", 1), name
        assert (config.beta_schedule, config.beta_start, config.beta_end) == (
            "scaled_linear",
            0.001,
            0.011,
        ), name
        assert name == "DDPM" or config.get("variance_type") in (None, "fixed_small"), name
    euler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)  # does not know of clipping
    monkeypatch.setattr(workshop.checkpoint.pipeline, "scheduler", euler)
    assert (
        sampler(workshop, "DDIM").config.clip_sample is False
        and sampler(workshop, "PNDM").config.skip_prk_steps is True
    )
    # Euler's own default was not said
    assert sampler(workshop, "DDIM").config.timestep_spacing == "leading"
    assert sampler(workshop, "UniPC").config.use_karras_sigmas is True


# ------------------------------------------------------------ pictures


def test_grid_is_row_by_row():
    images = torch.stack([torch.full((1, 2, 2), v) for v in (-1.0, 0.0, 1.0)])
    sheet = grid(images, columns=2, scale=2)
    assert sheet.shape == (8, 8) and sheet.dtype == np.uint8
    assert (
        (sheet[:4, :4] == 0).all()
        and (sheet[:4, 4:] == 128).all()
        and (sheet[4:, :4] == 255).all()
        and (sheet[4:, 4:] == 255).all()
    )
    assert grid(torch.zeros(4, 3, 5, 5)).shape == (10, 10, 3)
