"""Noise schedules against diffusers' own, and the timesteps that samplers visit."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

from core.curves.betas import BETA_SCHEDULES, betas
from core.curves.noise import NoiseSchedule
from core.curves.plan import StagePlan
from core.curves.samplers import OTHER_SCHEDULERS, SCHEDULERS, make_scheduler, sampling_timesteps
from core.errors import StudioError

HAS_SCIPY = importlib.util.find_spec("scipy") is not None
NAMES = [
    pytest.param(
        n, marks=pytest.mark.skipif(n == "LMS" and not HAS_SCIPY, reason="LMS needs scipy")
    )
    for n in SCHEDULERS
]
# 61: "trailing" visits -1 too in diffusers 0.42
STEPS = (1, 2, 3, 4, 7, 10, 20, 33, 61, 334, 1000)


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_has_the_closed_form_schedule(name, beta_schedule):
    scheduler = make_scheduler(name, beta_schedule)
    mine, theory = NoiseSchedule.from_scheduler(scheduler), NoiseSchedule.from_betas(beta_schedule)
    assert (mine.kind, mine.beta_schedule, len(mine)) == ("vp", beta_schedule, 1000)
    np.testing.assert_allclose(mine.a, theory.a, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mine.s, theory.s, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mine.a**2, scheduler.alphas_cumprod.numpy(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(mine.a**2 + mine.s**2, 1, atol=1e-12)


def test_sigmoid_through_trained_betas_is_the_native_branch():
    native = make_scheduler("DDPM", "sigmoid", trained_betas=None)
    np.testing.assert_allclose(native.betas.numpy(), betas("sigmoid"), rtol=1e-4)
    np.testing.assert_allclose(
        make_scheduler("Euler", "sigmoid").betas.numpy(), native.betas.numpy(), rtol=1e-4
    )


def test_unnamed_trained_betas_get_no_name():
    scheduler = make_scheduler("DDIM", trained_betas=np.linspace(1e-3, 1e-2, 1000).tolist())
    schedule = NoiseSchedule.from_scheduler(scheduler)
    assert schedule.beta_schedule == ""
    assert schedule.a[0] ** 2 == pytest.approx(1 - 1e-3)


def test_custom_betas_and_length():
    schedule = NoiseSchedule.from_scheduler(make_scheduler("DDIM", "linear", 5e-4, 0.01, 200))
    theory = NoiseSchedule.from_betas("linear", 5e-4, 0.01, 200)
    assert len(schedule) == 200
    np.testing.assert_allclose(schedule.a, theory.a, atol=1e-6)


def test_zero_terminal_snr_is_accepted():
    for name in ("DDIM", "Euler"):  # Euler replaces the last alphas_cumprod by 2^-24
        schedule = NoiseSchedule.from_scheduler(make_scheduler(name, rescale_betas_zero_snr=True))
        assert schedule.a[-1] < 1e-3


def test_flow_and_edm_grids():
    flow = NoiseSchedule.from_scheduler(make_scheduler("Flow matching"))
    np.testing.assert_allclose(flow.s, np.arange(1, 1001) / 1000, atol=1e-6)
    np.testing.assert_allclose(flow.a + flow.s, 1, atol=1e-12)
    shifted = NoiseSchedule.from_scheduler(make_scheduler("Flow matching", shift=3.0))
    assert shifted.s[499] == pytest.approx(3 * 0.5 / 2)
    edm = NoiseSchedule.from_scheduler(make_scheduler("EDM"))
    assert (edm.kind, len(edm)) == ("sigma", 1000) and (edm.a == 1).all()
    assert edm.s[0] == pytest.approx(0.002) and edm.s[-1] == pytest.approx(80)
    dpm_flow = NoiseSchedule.from_scheduler(
        make_scheduler("DPM-Solver++", use_flow_sigmas=True, prediction_type="flow_prediction")
    )
    assert dpm_flow.kind == "flow"


def test_the_schedule_of_a_scheduler_in_use_is_the_training_one():
    for name in ("Euler", *OTHER_SCHEDULERS):
        fresh, used = make_scheduler(name), make_scheduler(name)
        used.set_timesteps(7)
        np.testing.assert_array_equal(
            NoiseSchedule.from_scheduler(fresh).s, NoiseSchedule.from_scheduler(used).s
        )


def test_at_interpolates_between_timesteps():
    schedule = NoiseSchedule.from_betas("linear")
    assert schedule.at(10) == (schedule.a[10], schedule.s[10])
    assert schedule.at(10.25)[0] == pytest.approx(0.75 * schedule.a[10] + 0.25 * schedule.a[11])
    assert schedule.at(2000)[1] == schedule.s[-1] and schedule.at(-1)[1] == schedule.s[0]
    with pytest.raises(StudioError):
        schedule.at(float("nan"))


def test_a_schedule_cannot_be_changed():
    schedule = NoiseSchedule.from_betas("linear")
    with pytest.raises(ValueError):
        schedule.a[0] = 0.5


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", NAMES)
def test_every_step_of_every_scheduler_has_exactly_one_stage(name, spacing):
    scheduler, plan = (
        make_scheduler(name, timestep_spacing=spacing),
        StagePlan((93, 550), (0.4, 0.1, 0.55)),
    )
    for steps in STEPS:
        try:
            visited = sampling_timesteps(scheduler, steps)
        # a scheduler may refuse a number of steps, with a sentence, and never crash
        except StudioError as err:
            few, all_of_them = (
                steps <= 2,
                steps == 1000 and name in ("DPM-Solver++", "UniPC", "DEIS"),
            )
            assert "cannot sample in" in str(err) and (few or all_of_them), (name, spacing, steps)
            continue
        _check_stages(visited, plan)
        assert len(visited) >= steps


def test_every_number_of_steps_has_one_stage_per_step():
    plan = StagePlan((93, 550), (0.4, 0.1, 0.55))
    for spacing in ("leading", "trailing", "linspace"):
        scheduler = make_scheduler("DDIM", timestep_spacing=spacing)
        for steps in range(1, 1001, 1 if spacing == "leading" else 7):
            _check_stages(sampling_timesteps(scheduler, steps), plan)


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}])
def test_fractional_timesteps_have_a_stage(options):
    visited = sampling_timesteps(make_scheduler("Euler", **options), 37)
    assert any(t != int(t) for t in visited)
    _check_stages(visited, StagePlan((93, 550), (0.4, 0.1, 0.55)))


def test_other_samplings_are_placed_on_the_training_grid():
    plan = StagePlan((300, 700), (0.4, 0.1, 0.55))
    for scheduler in (
        make_scheduler("Flow matching"),
        make_scheduler("EDM"),
        make_scheduler(
            "Euler",
            prediction_type="v_prediction",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
    ):
        visited = sampling_timesteps(scheduler, 50)
        _check_stages(visited, plan)
        assert visited == sorted(visited, reverse=True) and visited[0] > 990 and visited[-1] < 20
        assert all(plan.steps_per_stage(visited).values())


def _check_stages(visited, plan):
    low, high = plan.boundaries
    assert visited and all(0 <= t <= 999 for t in visited)
    stages = plan.stages_of(visited)
    assert len(stages) == len(visited) == sum(plan.steps_per_stage(visited).values())
    for t, stage in zip(visited, stages, strict=True):
        assert [t < low, low <= t < high, t >= high].index(True) == stage
        lo, hi = plan.stage_range(stage)
        assert lo <= t < hi


def test_sampling_timesteps_leaves_the_scheduler_alone():
    scheduler = make_scheduler("DDIM")
    scheduler.set_timesteps(20)
    before = scheduler.timesteps.clone()
    assert sampling_timesteps(scheduler, 5) == [800, 600, 400, 200, 0]
    assert torch.equal(scheduler.timesteps, before) and scheduler.num_inference_steps == 20


def test_second_order_samplers_repeat_timesteps():
    assert len(sampling_timesteps(make_scheduler("Heun"), 10)) == 19


@pytest.mark.parametrize(
    "call",
    [
        lambda: make_scheduler("Dream"),
        lambda: make_scheduler("DDIM", "cubic"),
        lambda: make_scheduler("DDIM", "linear", 0.02, 1e-4),
        lambda: make_scheduler("DDIM", "linear", 0.0),
        lambda: make_scheduler("DDIM", "linear", 1e-4, 1.0),
        lambda: make_scheduler("DDIM", "linear", float("nan")),
        lambda: make_scheduler("DDIM", "linear", "0.1"),
        lambda: make_scheduler("DDIM", "linear", True),
        lambda: make_scheduler("DDIM", num_train_timesteps=2),
        lambda: make_scheduler("DDIM", num_train_timesteps=10.5),
        lambda: make_scheduler("DDIM", warp=9),
        lambda: sampling_timesteps(make_scheduler("DDIM"), 0),
        lambda: sampling_timesteps(make_scheduler("DDIM"), 1001),
        lambda: sampling_timesteps(make_scheduler("DDIM"), 2.5),
        lambda: sampling_timesteps(make_scheduler("DDIM"), True),
        lambda: NoiseSchedule.from_alphas_cumprod([0.9, 0.5, 1.2], "odd"),
        lambda: NoiseSchedule.from_alphas_cumprod([0.5, 0.7, 0.9], "backwards"),
        lambda: NoiseSchedule.from_alphas_cumprod([0.9], "short"),
        lambda: NoiseSchedule.from_scheduler(__import__("diffusers").IPNDMScheduler()),
    ],
)
def test_refusals_are_one_sentence(call):
    with pytest.raises(StudioError) as caught:
        call()
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.skipif(HAS_SCIPY, reason="scipy is installed")
def test_a_missing_package_is_named():
    with pytest.raises(StudioError, match="scipy"):
        make_scheduler("LMS")


def test_import_is_numpy_only():
    code = (
        "import sys, core.noise, core.dynamics, core.plan; print(sorted({'torch', 'diffusers',"
        " 'gradio', 'plotly'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
