"""Every sampler against its stock pipeline: a small part of `tests/sampler_matrix.py`.

Also what the matrix rests on.
"""

from __future__ import annotations

import pytest
import torch
from sampler_matrix import CONFIGURATIONS, cell, make_models

from core.curves.noise import NoiseSchedule
from core.curves.samplers import SCHEDULERS, make_scheduler, sampling_timesteps
from core.errors import StudioError
from core.models.families import Conditions
from core.sampling.denoise import Denoiser, batch_seed, start_noise, step_generator

RANDOM = ("DDPM", "Euler ancestral", "DPM2 ancestral")  # draw noise in every step
UNSURE = ("DPM2 ancestral", "Euler ancestral")  # NaN in stock too with few steps of some schedules
WRONG = {"SDE, order 1": {"DEIS"}, "zero terminal SNR": {"DDIM", "DDPM"}}  # cannot be done at all


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("matrix"))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_same_pictures_as_stock_for_every_configuration(models, name):
    """The same bits from the same generator, or a refusal where stock gives none.

    Every sampler meets every fourth configuration; `python tests/sampler_matrix.py` runs them all.
    """
    first = list(SCHEDULERS).index(name) % 4
    for place, configuration in list(enumerate(CONFIGURATIONS))[first::4]:
        steps = 1 + place % 5
        said = cell(models, configuration, name, steps)
        if name in WRONG.get(configuration, ()) or (name in UNSURE and said == "refused"):
            assert said == "refused", (configuration, steps, said)
        else:
            assert said == "equal", (configuration, steps, said)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_as_many_steps_as_timesteps(models, name):
    """With 100 timesteps, 99 steps work everywhere.

    100 steps do not, with solvers that divide by a difference.
    """
    assert cell(models, "100 timesteps", name, -2) == "equal"
    expected = "refused" if name in ("DPM-Solver++", "UniPC", "DEIS") else "equal"
    assert cell(models, "100 timesteps", name, -1) == expected


class Perfect:
    """The exact denoiser of N(0, 1) data under a variance-preserving schedule: eps = s_t x_t."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, schedule: NoiseSchedule):
        self.schedule = schedule

    def stage_of(self, t: float) -> int:
        return -1

    def scales(self, guidance: float) -> tuple[float, ...]:
        return (guidance,) * 4

    def full_steps(self, stages: list[int]) -> list[bool]:
        return [True] * len(stages)

    def network(self, t: float):
        s = self.schedule.at(t)[1]
        return lambda x, times, **_: s * x


@pytest.mark.parametrize("name", RANDOM)
def test_step_noise_is_independent_of_the_start_noise(name):
    """E x_t^2 stays 1 all the way.

    With the start noise drawn again in the first step it was 1.95.
    """
    scheduler = make_scheduler(name, "linear")
    schedule, power = NoiseSchedule.from_scheduler(scheduler), []
    nothing = Conditions({"c": torch.zeros(500)}, {"c": torch.zeros(500)})
    side = Denoiser(Perfect(schedule), scheduler, schedule, 50)
    watch = lambda step: power.append(float(step.noisy.square().mean()))  # noqa: E731
    side.run(start_noise(500, (4, 8, 8), 7), nothing, 1.0, 7, None, watch)
    # later steps add up errors of the solver
    assert power[:5] == pytest.approx([1.0] * 5, abs=0.03)


def test_one_stream_of_noise():
    whole = torch.randn(7, 16, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.randn(4, 16, generator=step_generator((3, 16), 5)), whole[3:])


def test_batches_of_a_set_have_streams_of_their_own():
    seeds = {batch_seed(s, k) for s in range(20) for k in range(20)}
    assert len(seeds) == 400 and all(0 <= s < 2**32 for s in seeds)


@pytest.mark.parametrize("seed", [-1, 2**32, 5 + 2**32, 2**64, 1.0, True, None])
def test_seeds_that_would_be_read_in_part_are_refused(seed):
    with pytest.raises(StudioError, match="from 0 to 2\\^32 - 1"):
        start_noise(1, (4, 8, 8), seed)


def test_the_last_seed_has_a_picture_of_its_own():
    last = start_noise(1, (4, 8, 8), 2**32 - 1)
    assert not torch.equal(last, start_noise(1, (4, 8, 8), 0))


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "PNDM"])
def test_a_schedule_that_ends_in_pure_noise_is_refused_where_it_is_visited(name):
    """Stock divides by a_t = 0 and gives NaN; PNDM has no such option."""
    options = {"rescale_betas_zero_snr": True} if name != "PNDM" else {}
    scheduler = make_scheduler(name, timestep_spacing="trailing", **options)
    if name == "PNDM":
        assert sampling_timesteps(scheduler, 5)
        return
    with pytest.raises(StudioError, match="cannot sample in 5 steps"):
        sampling_timesteps(scheduler, 5)
    leading = make_scheduler(name, timestep_spacing="leading", **options)
    assert len(sampling_timesteps(leading, 5)) == 5  # never visits the last timestep
