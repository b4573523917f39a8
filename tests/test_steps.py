"""Every sampling step, with every scheduler: the right stage and level of noise.

Nothing is read back from the device.
"""

from __future__ import annotations

import copy

import pytest
import torch
from mosaics import PLAN, mosaic_of
from running import KINDS, SCHEDULE, denoiser, inputs, make_pipelines
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from core.curves.samplers import SCHEDULERS, make_scheduler
from core.errors import StudioError
from core.models.families import SDXL, Conditions, DiT
from core.mosaic.transformer import MosaicTransformer
from core.sampling.denoise import Denoiser, start_noise, step_generator, visits_from

SPACINGS = ("leading", "linspace", "trailing")


@pytest.fixture(scope="module")
def pipelines(model_folder, tmp_path_factory):
    """Return pipelines that tests must not change."""
    return make_pipelines(model_folder, tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


@pytest.fixture
def dit(pipelines):
    return pipelines["dit"]


@pytest.fixture
def sdxl(pipelines):
    return pipelines["sdxl"]


def classes(n=2):
    return DiT.conditions(torch.arange(n))


# ------------------------------------------------------------ the device is never asked


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("start", [0, 3])
def test_our_loop_reads_nothing_back(dit, name, start):
    """On the device "meta" tensors have no values: reading one fails.

    That holds for the loop, the networks and the scheduler.
    """
    mosaic = mosaic_of(dit.transformer).to("meta")
    side = Denoiser(mosaic, make_scheduler(name), SCHEDULE, 8, start)
    noise = torch.randn(2, 4, 8, 8)
    latents, seconds = side.run(noise, classes(), 1.5, origin=noise if start else None)
    assert (
        latents.device.type == "meta"
        and latents.shape == noise.shape
        and len(seconds) == len(side.stages)
    )


def test_our_loop_reads_nothing_back_with_prompts(sdxl):
    mosaic = mosaic_of(sdxl.unet).to("meta")
    conditions = SDXL.conditions(sdxl, ["a fox"])
    assert (
        Denoiser(mosaic, sdxl.scheduler, SCHEDULE, 6)
        .run(torch.randn(1, 4, 16, 16), conditions, 5.0)[0]
        .device.type
        == "meta"
    )


@pytest.mark.parametrize(
    "look",
    [
        torch.Tensor.item,
        torch.Tensor.tolist,
        torch.Tensor.cpu,
        torch.Tensor.numpy,
        torch.Tensor.nonzero,
        float,
        int,
        bool,
    ],
)
def test_a_read_on_meta_is_an_error(look):
    with pytest.raises((RuntimeError, TypeError)):
        look(torch.zeros(1, device="meta"))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["DDIM", "Euler", "Heun"])
def test_our_loop_never_waits_for_the_gpu(dit, name):
    mosaic = mosaic_of(copy.deepcopy(dit.transformer).cuda())
    side, noise = Denoiser(mosaic, make_scheduler(name), SCHEDULE, 8), torch.randn(2, 4, 8, 8)
    side.run(noise, classes(), 1.5)
    session = side.session(noise, classes(), 1.5)
    next(session)  # sends noise and conditions to the GPU
    torch.cuda.set_sync_debug_mode("error")
    try:
        clocks = [step.clock for step in session]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(clock.seconds > 0 for clock in clocks)


class Reads(TorchFunctionMode):
    """Counts what is read of tensors by Python."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        names = (
            "item",
            "tolist",
            "__float__",
            "__int__",
            "__bool__",
            "__index__",
            "numpy",
            "__array__",
            "nonzero",
            "cpu",
        )
        self.count += getattr(function, "__name__", "") in names
        return function(*args, **(kwargs or {}))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "timestep"),
    [
        ("dit", torch.tensor([300]).expand(2)),
        ("dit", torch.tensor([300, 599])),
        ("dit", torch.tensor([300.5, 300.5])),
        ("sdxl", torch.tensor(300)),
        ("sdxl", torch.tensor([300]).expand(2)),
        ("sdxl", 300),
    ],
)
def test_a_stock_pipelines_call_reads_at_most_once(pipelines, kind, timestep):
    mosaic, (x, _), conditions = mosaic_of(denoiser(pipelines[kind])), *inputs(pipelines[kind], 300)
    with Reads() as reads:
        expected = mosaic.network(300.0)(x, timestep, **conditions)
    assert reads.count == 0
    with Reads() as reads:
        assert torch.equal(mosaic(x, timestep, **conditions).sample, expected)
    assert reads.count == torch.is_tensor(timestep)


# ------------------------------------------------------------ what runs


class Operations(TorchDispatchMode):
    """The names of what is computed."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_fused_and_nothing_is_gathered(pipelines, kind):
    model = denoiser(pipelines[kind])
    mosaic, (x, _), arguments = mosaic_of(model), *inputs(pipelines[kind], 300)
    for t in (50, 300, 900):
        with Operations() as ran:
            mosaic.network(t)(x, torch.full((2,), t), **arguments)
        kept = zip(mosaic.layers, mosaic.kept(PLAN.stage_of(t)), strict=True)
        assert sum("scaled_dot_product" in name for name in ran.names) == sum(
            layer.kind == "heads" and n > 0 for layer, n in kept
        )
        for word in ("softmax", "index", "gather", "take", "masked_select", "_local_scalar_dense"):
            assert not any(word in name for name in ran.names), (t, word)
        # the UNet's linear layers in front of its blocks see permuted pixels, which torch
        # multiplies batch by batch
        assert sum("bmm" in name for name in ran.names) == sum(
            name.endswith("proj_in") for name, _ in model.named_modules()
        )


@pytest.mark.parametrize("spacing", [*SPACINGS, "karras"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_step_has_one_stage(name, spacing):
    """Every step has one stage, and stages go down with the timesteps.

    Whatever the spacing, fractional timesteps (Karras) and later starts included.
    """
    try:
        scheduler = make_scheduler(
            name,
            **(
                {"use_karras_sigmas": True}
                if spacing == "karras"
                else {"timestep_spacing": spacing}
            ),
        )
    except StudioError:
        pytest.skip(f"{name} has no {spacing}")
    mosaic, fractional = Routes(), False
    for steps in (4, 20, 61):
        full = Denoiser(mosaic, scheduler, SCHEDULE, steps)
        for start in (0, 1, steps // 2, steps - 1):
            side = Denoiser(mosaic, scheduler, SCHEDULE, steps, start)
            assert (
                side.stages
                == [0 if t < 100 else 1 if t < 600 else 2 for t in side.timesteps]
                == [n.stage for n in side.networks]
            )
            assert side.stages == sorted(side.stages, reverse=True)
            assert (
                set(side.timesteps) <= set(full.timesteps)
                and side.timesteps[-1] == full.timesteps[-1]
            )
            assert len(set(side.timesteps)) >= steps - start
            fractional |= any(t % 1 for t in side.timesteps)
    # these round
    assert fractional or spacing != "karras" or name in ("DPM-Solver++", "UniPC", "DEIS")


class Routes:
    """A model that only knows which stage is asked for."""

    device, dtype, stage_of = torch.device("cpu"), torch.float64, staticmethod(PLAN.stage_of)

    def scales(self, guidance):
        return (guidance,) * 4

    def full_steps(self, stages):
        return [True] * len(stages)

    def tabulate(self, timesteps, labels):
        """Return that there is no table."""

    def network(self, timestep):
        def run(x, t, **conditions):
            return x

        run.stage = self.stage_of(timestep)
        return run


@torch.inference_mode()
@pytest.mark.parametrize("name", SCHEDULERS)
def test_slim_pictures_are_the_masked_ones(dit, name):
    noise, ends = start_noise(2, (4, 8, 8), 0), []
    for masked in (False, True):
        side = Denoiser(
            mosaic_of(dit.transformer, masked),
            make_scheduler(name, timestep_spacing="leading"),
            SCHEDULE,
            10,
        )
        assert set(side.stages) == {0, 1, 2}
        ends.append(side.run(noise, classes(), 1.5, seed=5)[0])
    assert (ends[0] - ends[1]).abs().max() < 1e-4 * ends[1].abs().max()


# ------------------------------------------------------------ starting later


MEAN, DEVIATION = 0.7, 0.5
FIRST_ORDER = ("DDIM", "DDPM", "Euler", "Euler ancestral")
STOCHASTIC = ("DDPM", "Euler ancestral", "DPM2 ancestral")


class Gaussian(Routes):
    """Every sampler ends in the distribution of the data N(MEAN, DEVIATION^2).

    The noise prediction is exact; the deterministic samplers end on a known point.
    """

    def network(self, timestep):
        a, s = SCHEDULE.at(timestep)

        def run(x, t, **conditions):
            return s * (x - a * MEAN) / (a * a * DEVIATION**2 + s * s)

        run.stage = self.stage_of(timestep)
        return run


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_run_ends_on_the_data_wherever_it_starts(name, spacing):
    random = torch.Generator().manual_seed(1)
    noise, data = (
        torch.randn(8, 4, 16, 16, generator=random, dtype=torch.float64) for _ in range(2)
    )
    # 61: diffusers adds a timestep -1
    runs = [(40, start) for start in (0, 1, 20, 39)] + [(61, 0), (61, 60)] * (spacing == "trailing")
    for steps, start in runs:
        origin = MEAN + DEVIATION * data if start else None
        side = Denoiser(
            Gaussian(), make_scheduler(name, timestep_spacing=spacing), SCHEDULE, steps, start
        )
        end, _ = side.run(
            noise,
            Conditions({"class_labels": torch.zeros(8)}, {"class_labels": torch.zeros(8)}),
            1.0,
            origin=origin,
        )
        a, s = SCHEDULE.at(side.timesteps[0])
        place = ((a * origin + s * noise if start else noise) - a * MEAN) / (
            a * a * DEVIATION**2 + s * s
        ) ** 0.5
        assert abs(end.mean() - MEAN) < 0.02
        if name in STOCHASTIC:
            assert abs(end.std() - DEVIATION) < 0.08
        else:
            assert (end - MEAN - DEVIATION * place).std() < (
                0.04 if name in FIRST_ORDER else 0.02
            ), (steps, start)


@torch.inference_mode()
# diffusers starts those two later with the first steps of a run from 0
@pytest.mark.parametrize("name", [n for n in SCHEDULERS if n not in ("PNDM", "LMS")])
def test_a_later_start_is_that_of_diffusers_image_to_image(dit, name):
    """A later start equals StableDiffusionXLImg2ImgPipeline's.

    Timesteps from t_start * order on, begin index set, latents noised to the first.
    """
    scheduler, noise, origin = (
        make_scheduler(name),
        torch.randn(2, 4, 8, 8),
        torch.randn(2, 4, 8, 8),
    )
    side = Denoiser(
        MosaicTransformer(dit.transformer, None, [None] * 3),
        scheduler,
        SCHEDULE,
        6,
        start=2,
        tabulate=False,
    )
    ours, _ = side.run(noise, classes(), 1.0, seed=3, origin=origin)
    scheduler.set_timesteps(6)
    timesteps = scheduler.timesteps[2 * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(2 * scheduler.order)
    x, extra = (
        scheduler.add_noise(origin, noise, timesteps[:1].repeat(2)),
        {"generator": step_generator(noise.shape, 3)} if side.takes_generator else {},
    )
    for t in timesteps:
        eps = dit.transformer(
            scheduler.scale_model_input(x, t), timestep=t.expand(2), class_labels=torch.arange(2)
        ).sample
        x = scheduler.step(eps, t, x, **extra).prev_sample
    assert torch.equal(ours, x)


@pytest.mark.parametrize("start", [0, 1, 2, 4, 5])
def test_pndm_repeats_its_second_timestep_wherever_it_starts(start):
    """PNDM repeats its second timestep at every start.

    Cut from the middle of a run from 0, as diffusers does it, the list has no repetition and every
    later step is taken one level too early.
    """
    scheduler = make_scheduler("PNDM")
    scheduler.set_timesteps(6)
    levels = [830, 664, 498, 332, 166, 0][start:]
    assert visits_from(scheduler, start).tolist() == levels[:2] + levels[1:]


def test_starts_that_cannot_be(dit):
    dense = MosaicTransformer(dit.transformer, None, [None] * 3)
    for scheduler in (make_scheduler("DDIM"), make_scheduler("Heun"), make_scheduler("PNDM")):
        for start in (-1, 6, 2.0, True):
            with pytest.raises(StudioError, match="whole number from 0 to 5"):
                Denoiser(dense, scheduler, SCHEDULE, 6, start)
        Denoiser(dense, scheduler, SCHEDULE, 6, 5)
    with pytest.raises(StudioError, match="Runge-Kutta"):
        Denoiser(dense, make_scheduler("PNDM", skip_prk_steps=False), SCHEDULE, 6, 2)
    noise = torch.zeros(1, 4, 8, 8)
    for start, origin in ((0, noise), (2, None)):
        with pytest.raises(StudioError, match="both or neither"):
            Denoiser(dense, make_scheduler("DDIM"), SCHEDULE, 6, start).run(
                noise, classes(1), 1.0, origin=origin
            )
