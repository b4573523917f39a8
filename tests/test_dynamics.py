"""The curves against the check values of the method, and sampled against theory.

t counts from 1 in the tables.
"""

import numpy as np
import pytest
import torch

from core.curves.betas import BETA_SCHEDULES
from core.curves.dynamics import (
    curves,
    default_lambda,
    expected_mse,
    gradient,
    log_snr,
    sample_forward,
    sample_trajectory,
    score,
)
from core.curves.noise import NoiseSchedule
from core.curves.samplers import make_scheduler
from core.errors import StudioError

LINEAR, SCALED = NoiseSchedule.from_betas("linear"), NoiseSchedule.from_betas("scaled_linear")
FLOW = NoiseSchedule("flow", "flow", 1 - np.arange(1, 1001) / 1000, np.arange(1, 1001) / 1000)
AT = np.array([100, 200, 550, 600, 1000]) - 1


@pytest.mark.parametrize(
    ("schedule", "peak", "height", "mse"),
    [
        (LINEAR, 313, 3.837e-3, [0.106, 0.376, 1.570, 1.678, 1.987]),
        (SCALED, 490, 2.541e-3, [0.107, 0.262, 1.072, 1.196, 1.864]),
    ],
)
def test_mse_and_gradient_check_values(schedule, peak, height, mse):
    c = curves(schedule)
    assert c.gradient.argmax() + 1 == peak
    assert c.gradient.max() == pytest.approx(height, abs=5e-7)
    np.testing.assert_allclose(c.mse[AT], mse, atol=5.5e-4)  # the table's 1.864 is 1.86347


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(LINEAR, [9.21, 2.17, -3.03, -10.1]), (SCALED, [7.07, 2.15, -1.29, -5.36])],
)
def test_log_snr_check_values(schedule, expected):
    # the table's 2.17 is 2.16452
    np.testing.assert_allclose(log_snr(schedule)[[0, 99, 549]], expected[:3], atol=5.6e-3)
    # one decimal for linear
    assert log_snr(schedule)[999] == pytest.approx(
        expected[3], abs=0.051 if schedule is LINEAR else 5.1e-3
    )


@pytest.mark.parametrize("schedule", [LINEAR, SCALED])
def test_the_peak_is_the_same_from_a_scheduler_in_fp32(schedule):
    c = curves(NoiseSchedule.from_scheduler(make_scheduler("Euler", schedule.beta_schedule)))
    assert c.gradient.argmax() == curves(schedule).gradient.argmax()


def test_index_0_is_the_first_noised_step():
    """No off-by-one: alphas_cumprod[0] belongs to t = 1, and the MSE before it is 0."""
    c = curves(LINEAR)
    assert c.timesteps[0] == 0
    assert c.mse[0] == pytest.approx(2 * (1 - np.sqrt(1 - 1e-4)))
    assert c.gradient[0] == c.mse[0]
    assert c.gradient[7] == pytest.approx(c.mse[7] - c.mse[6])


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
def test_identities(beta_schedule):
    schedule = NoiseSchedule.from_betas(beta_schedule)
    c = curves(schedule)
    # v = 1, variance preserving
    np.testing.assert_allclose(c.mse, 2 * (1 - schedule.a), atol=1e-12)
    assert c.gradient.sum() == pytest.approx(c.mse[-1])
    assert (np.diff(c.log_snr) <= 0).all() and (np.abs(c.log_snr) <= 20).all()
    np.testing.assert_allclose(c.score, c.gradient / c.gradient.max() + c.lam * c.log_snr)
    assert c.lam == default_lambda(schedule) == (0.026 if beta_schedule == "linear" else 0.020)


def test_variance_enters_both_curves():
    np.testing.assert_allclose(expected_mse(LINEAR, 0.5), 0.5 * (1 - LINEAR.a) ** 2 + LINEAR.s**2)
    assert log_snr(LINEAR, 0.5)[300] - log_snr(LINEAR)[300] == pytest.approx(np.log(0.5))


def test_flow_and_sigma_space():
    np.testing.assert_allclose(expected_mse(FLOW), 2 * FLOW.s**2)
    assert gradient(expected_mse(FLOW)).argmax() == 999
    assert log_snr(FLOW)[-1] == -20
    edm = NoiseSchedule.from_scheduler(make_scheduler("EDM"))
    np.testing.assert_allclose(expected_mse(edm), edm.s**2)
    assert gradient(expected_mse(edm)).argmax() == 999


def test_squaredcos_peaks_at_the_noisy_end():
    assert curves(NoiseSchedule.from_betas("squaredcos_cap_v2")).gradient.argmax() + 1 == 999


@pytest.mark.parametrize("schedule", [LINEAR, SCALED, FLOW])
def test_forward_sampling_agrees_with_theory_within_one_percent(schedule):
    latents = torch.randn(4096, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    sampled, theory = sample_forward(latents, schedule, seed=2), curves(schedule)
    at = sampled.timesteps.astype(int)
    assert len(at) == 41 and at[0] == 0 and at[-1] == 999
    assert (sampled.n, sampled.seed, sampled.source) == (4096, 2, "forward")
    np.testing.assert_allclose(sampled.mse, theory.mse[at], rtol=0.01)
    np.testing.assert_allclose(sampled.gradient, theory.gradient[at], rtol=0.01)
    finite = np.abs(theory.log_snr[at]) < 20
    np.testing.assert_allclose(sampled.log_snr[finite], theory.log_snr[at][finite], atol=0.02)


def test_forward_spread_is_the_standard_deviation_over_draws():
    latents = torch.randn(2000, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    sampled = sample_forward(latents, FLOW, timesteps=[499])
    # x_t - x_0 = s (e - x_0) has variance 2 s^2 per element: a mean of 64 squares spreads by 2 s^2
    # sqrt(2 / 64)
    assert sampled.mse_spread[0] == pytest.approx(2 * 0.25 * np.sqrt(2 / 64), rel=0.1)
    assert sample_forward(latents[:1], FLOW, timesteps=[499]).mse_spread[0] == 0


def test_forward_is_seeded_and_takes_fractional_timesteps():
    latents = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    one, same, other = (
        sample_forward(latents, LINEAR, [0, 0.5, 99.5, 400], seed=s) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.mse, same.mse)
    assert not np.array_equal(one.mse, other.mse)
    assert one.gradient[0] == one.mse[0] and one.mse[0] < one.mse[1] < one.mse[2] < one.mse[3]


def test_forward_in_pieces_covers_every_latent(monkeypatch):
    latents = torch.randn(50, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    whole = sample_forward(latents, LINEAR, [300])
    monkeypatch.setattr("core.curves.dynamics.CHUNK_ELEMENTS", 256 * 7)
    np.testing.assert_allclose(sample_forward(latents, LINEAR, [300]).mse, whole.mse, rtol=0.1)


def test_trajectory_of_an_exact_path_is_the_forward_curve():
    g = torch.Generator().manual_seed(6)
    x0, e = torch.randn(512, 4, 8, 8, generator=g), torch.randn(512, 4, 8, 8, generator=g)
    visited = list(range(980, -1, -20))
    path = sample_trajectory([(t, LINEAR.a[t] * x0 + LINEAR.s[t] * e) for t in visited], x0, seed=6)
    theory = curves(LINEAR)
    assert (
        path.timesteps.tolist() == visited[::-1] and path.source == "trajectory" and path.n == 512
    )
    np.testing.assert_allclose(path.mse, theory.mse[path.timesteps.astype(int)], rtol=0.02)
    # difference quotient = mean of the true gradient between two visits
    np.testing.assert_allclose(
        path.gradient[1:],
        [theory.gradient[t - 19 : t + 1].mean() for t in visited[::-1][1:]],
        rtol=0.02,
    )
    # below, chance correlation of x_0 and e shows
    clear = theory.log_snr[path.timesteps.astype(int)] > -5
    np.testing.assert_allclose(
        path.log_snr[clear], theory.log_snr[path.timesteps.astype(int)][clear], atol=0.2
    )


def test_trajectory_counts_the_last_visit_of_a_repeated_timestep():
    x0 = torch.ones(2, 1, 2, 2)
    path = sample_trajectory([(10, x0 + 5), (10, x0 + 2), (0, x0 + 1)], x0, seed=0)
    assert path.timesteps.tolist() == [0, 10] and path.mse.tolist() == [1, 4]


@pytest.mark.parametrize(
    "call",
    [
        lambda: curves(LINEAR, variance=0),
        lambda: curves(LINEAR, variance=float("nan")),
        lambda: curves(LINEAR, lam=float("inf")),
        lambda: score(np.ones(3), np.ones(3), -1.0),
        lambda: sample_forward(torch.zeros(0, 4, 8, 8), LINEAR),
        lambda: sample_forward(torch.full((2, 4, 8, 8), float("nan")), LINEAR),
        lambda: sample_forward(torch.ones(2, 4, 8, 8), LINEAR, [1000]),
        lambda: sample_forward(torch.ones(2, 4, 8, 8), LINEAR, []),
        lambda: sample_trajectory([], torch.ones(1, 1, 2, 2), 0),
        lambda: sample_trajectory([(5, torch.ones(1, 1, 3, 3))], torch.ones(1, 1, 2, 2), 0),
        lambda: sample_trajectory(
            [(float("nan"), torch.ones(1, 1, 2, 2))], torch.ones(1, 1, 2, 2), 0
        ),
    ],
)
def test_refusals_are_one_sentence(call):
    with pytest.raises(StudioError) as caught:
        call()
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
