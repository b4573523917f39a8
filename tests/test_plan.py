"""Stage plans: what they mean, what is proposed, what is refused, and JSON both ways."""

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from core.curves.betas import BETA_SCHEDULES
from core.curves.noise import NoiseSchedule
from core.curves.plan import STAGES, StagePlan
from core.curves.proposals import INTERVAL, interval_plan, preset, presets, propose_plan
from core.curves.samplers import make_scheduler, sampling_timesteps
from core.errors import PlanError

LINEAR, SCALED = NoiseSchedule.from_betas("linear"), NoiseSchedule.from_betas("scaled_linear")
FLOW = NoiseSchedule("flow", "flow", 1 - np.arange(1, 1001) / 1000, np.arange(1, 1001) / 1000)
# Karras et al. 2022, eq. 5
EDM = NoiseSchedule(
    "edm", "sigma", np.ones(1000), np.linspace(0.002 ** (1 / 7), 80 ** (1 / 7), 1000) ** 7
)
DDIM_50 = list(range(980, -1, -20))
PLANS = Path(__file__).parent.parent / "assets" / "plans"
GOOD = {"boundaries": [93, 550], "sparsity": {"late": 0.3, "middle": 0.1, "early": 0.4}}


# --- the proposal


@pytest.mark.parametrize(
    ("schedule", "lam", "boundaries"),
    [
        (LINEAR, 0.0, (108, 581)),
        (LINEAR, None, (93, 550)),
        (SCALED, 0.0, (119, 865)),
        (SCALED, None, (90, 831)),
    ],
)
def test_boundaries_check_values(schedule, lam, boundaries):
    proposal = propose_plan(schedule, lam=lam)
    assert proposal.plan.boundaries == boundaries and not proposal.fallback
    assert (
        f"[{boundaries[0]}, {boundaries[1]}]" in proposal.rule
        and "paper's rule" in proposal.rule
        and "M = 0.55" in proposal.rule
    )


@pytest.mark.parametrize("timesteps", [None, DDIM_50])
def test_sparsity_example(timesteps):
    steep = propose_plan(LINEAR, 0.33, timesteps).plan.sparsity
    flat = propose_plan(LINEAR, 0.33, timesteps, flat=True).plan.sparsity
    np.testing.assert_allclose(steep, [0.40, 0.10, 0.55], atol=0.005)
    np.testing.assert_allclose(flat, [0.38, 0.18, 0.48], atol=0.0075)
    assert max(abs(s - 0.33) for s in flat) == pytest.approx(0.15)


@pytest.mark.parametrize("schedule", [NoiseSchedule.from_betas("squaredcos_cap_v2"), FLOW, EDM])
def test_schedules_that_peak_at_the_end_fall_back_to_thirds_of_the_mse(schedule):
    proposal = propose_plan(schedule)
    low, high = proposal.plan.boundaries
    assert proposal.fallback and "our fallback" in proposal.rule
    mse = (1 - schedule.a) ** 2 + schedule.s**2
    assert mse[low - 1] < mse[-1] / 3 <= mse[low] and mse[high - 1] < 2 * mse[-1] / 3 <= mse[high]
    assert min(low, high - low, 1000 - high) >= 20


def test_a_large_lambda_still_gives_one_contiguous_middle_or_a_named_fallback():
    for lam in (0.05, 0.1, 0.5, 5.0):
        proposal = propose_plan(LINEAR, lam=lam)
        low, high = proposal.plan.boundaries
        assert min(low, high - low, 1000 - high) >= 20 and proposal.lam == lam
        assert proposal.fallback == ("fallback" in proposal.rule)


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("steps", [1, 4, 10, 50, 1000])
@pytest.mark.parametrize("target", [0.0, 0.1, 0.33, 0.5, 0.65, 0.7])
def test_the_step_weighted_mean_is_the_target(beta_schedule, steps, target):
    schedule, visited = (
        NoiseSchedule.from_betas(beta_schedule),
        sampling_timesteps(make_scheduler("DDIM", beta_schedule), steps),
    )
    plans = presets(schedule, target, visited)
    assert plans.pop(INTERVAL).mean_sparsity(visited) == 0
    for plan in plans.values():
        assert plan.mean_sparsity(visited) == pytest.approx(target, abs=1e-12)
        assert all(0 <= s <= 0.7 + 1e-12 for s in plan.sparsity)
    flat = presets(schedule, target, visited)["Formula, flatter"].sparsity
    assert all(abs(s - target) <= 0.15 + 1e-12 for s in flat)


def test_clipping_shares_out_in_proportion():
    plan = propose_plan(SCALED, 0.45, DDIM_50).plan
    assert plan.sparsity[2] == 0.7 and plan.mean_sparsity(DDIM_50) == pytest.approx(0.45)


def test_a_stage_without_steps_has_no_weight():
    plan = StagePlan((93, 550), (0.95, 0.2, 0.4))
    assert plan.steps_per_stage([600, 300]) == {"late": 0, "middle": 1, "early": 1}
    assert plan.mean_sparsity([600, 300]) == pytest.approx(0.3)


def test_presets_are_named_and_differ():
    plans = presets(LINEAR, 0.33, DDIM_50)
    formulas = ["Formula", "Formula, flatter", "Paper's eye [200, 600]", "Uniform"]
    assert list(plans) == [*formulas, "Guidance interval"]
    assert plans["Paper's eye [200, 600]"].boundaries == (200, 600)
    assert plans["Uniform"].sparsity == (0.33,) * 3 and plans["Uniform"].calibration == "pooled"
    assert all(plan.name == name for name, plan in plans.items())


@pytest.mark.parametrize("schedule", [LINEAR, SCALED, FLOW, EDM])
def test_the_interval_guides_between_the_published_noise_levels(schedule):
    plan = interval_plan(schedule)
    with np.errstate(divide="ignore"):
        sigma = schedule.s / schedule.a
    low, high = plan.boundaries
    assert sigma[low - 1] <= 0.28 < sigma[low] and sigma[high - 1] <= 5.42 < sigma[high]
    assert plan.guidance == (1, None, 1) and plan.halves(2) == (1, 2, 1)
    assert plan.sparsity == (0, 0, 0) and plan == preset(schedule, INTERVAL, target=0.9)


def test_an_interval_that_a_schedule_does_not_have_is_refused_in_one_sentence():
    ends_below = NoiseSchedule.from_betas("linear", num=100)
    assert INTERVAL not in presets(ends_below)
    with pytest.raises(PlanError, match="the 100 timesteps of this schedule go from") as refused:
        preset(ends_below, INTERVAL)
    assert "\n" not in str(refused.value)
    to_nothing = NoiseSchedule(
        "zero terminal", "vp", np.linspace(1, 0, 50), np.linspace(0.01, 1, 50)
    )
    assert interval_plan(to_nothing).guidance == (1, None, 1)  # a = 0 at the last timestep


def test_a_shorter_schedule_has_its_own_boundaries():
    short = NoiseSchedule.from_betas("linear", 1e-3, 0.2, 100)
    plans = presets(short)
    assert plans["Paper's eye [20, 60]"].num_train_timesteps == 100
    assert all(0 < p.boundaries[0] < p.boundaries[1] < 100 for p in plans.values())


@pytest.mark.parametrize(
    "kwargs",
    [
        {"target": 0.8},
        {"target": float("nan")},
        {"target": True},
        {"target": -0.1},
        {"m": 0},
        {"m": 1.5},
        {"timesteps": []},
    ],
)
def test_impossible_proposals_are_refused(kwargs):
    _refused(lambda: propose_plan(LINEAR, **kwargs))


# --- what a plan means


def test_a_boundary_belongs_to_the_noisier_stage():
    plan = StagePlan((93, 550), (0.4, 0.1, 0.55))
    assert plan.stages_of([0, 92, 92.999, 93, 549.5, 550, 999]) == [0, 0, 0, 1, 1, 2, 2]
    assert [plan.stage_range(i) for i in range(3)] == [(0, 93), (93, 550), (550, 1000)]
    assert plan.steps_per_stage(DDIM_50) == {"late": 5, "middle": 23, "early": 22}
    assert tuple(STAGES) == ("late", "middle", "early")


def test_a_plan_cannot_be_changed_but_copied():
    plan = StagePlan((93, 550), (0.4, 0.1, 0.55), name="mine")
    with pytest.raises(FrozenInstanceError):
        plan.boundaries = (1, 2)
    assert plan.with_boundaries(100, 600) == StagePlan((100, 600), (0.4, 0.1, 0.55), name="mine")
    assert plan.with_sparsity(0, 0, 0).sparsity == (0.0, 0.0, 0.0)
    assert len({plan, StagePlan([93, 550], [0.4, 0.1, 0.55], name="mine")}) == 1
    _refused(lambda: plan.with_boundaries(600, 100))


def test_scaling_keeps_proportions_until_the_cap():
    plan = StagePlan((93, 550), (0.4, 0.1, 0.5))
    half = plan.scaled_to(plan.mean_sparsity(DDIM_50) / 2, DDIM_50)
    np.testing.assert_allclose(half.sparsity, [0.2, 0.05, 0.25])
    hard = plan.scaled_to(0.7, DDIM_50)
    assert hard.sparsity[2] == 0.95 and hard.mean_sparsity(DDIM_50) == pytest.approx(0.7)
    assert plan.scaled_to(0.95, DDIM_50).sparsity == pytest.approx((0.95,) * 3)
    assert plan.scaled_to(0, DDIM_50).sparsity == (0, 0, 0)
    assert plan.with_sparsity(0, 0, 0).scaled_to(0.3, DDIM_50).sparsity == pytest.approx((0.3,) * 3)
    _refused(lambda: plan.with_sparsity(0, 0.5, 0).scaled_to(0.9, DDIM_50))
    _refused(lambda: plan.scaled_to(0.3, []))
    _refused(lambda: plan.scaled_to(0.96, DDIM_50))


@pytest.mark.parametrize("t", [float("nan"), float("inf")])
def test_a_timestep_must_be_a_number(t):
    _refused(lambda: StagePlan((93, 550), (0.4, 0.1, 0.55)).stage_of(t))


def test_one_budget_is_counted_by_the_steps_of_its_run():
    plan = StagePlan((93, 550), (0.3, 0.1, 0.4), scope="run")
    assert plan.stage_steps is None and plan.stage_weights == (93, 457, 450)
    assert plan.counted(DDIM_50).stage_weights == tuple(plan.steps_per_stage(DDIM_50).values())
    assert plan.counted([10.0, 20.5]).stage_steps == (2, 0, 0)
    # other boundaries, other counts
    assert plan.counted(DDIM_50).with_boundaries(50, 550).stage_steps is None
    staged = StagePlan((93, 550), (0.3, 0.1, 0.4))
    assert staged.counted(DDIM_50) == staged


# --- JSON


@pytest.mark.parametrize(
    "plan",
    [
        StagePlan((93, 550), (0.3, 0.1, 0.4)),
        StagePlan((93, 550), (0.3, 0.1, 0.4), scope="run", stage_steps=(5, 23, 0)),
        StagePlan(
            (1, 2),
            (0.0, 0.95, 1 / 3),
            name='Ärmel \u2192 "x"\n',
            method="magnitude",
            calibration="pooled",
            num_train_timesteps=50,
        ),
    ],
)
def test_json_round_trip(plan, tmp_path):
    assert StagePlan.from_json(plan.to_json()) == plan
    assert StagePlan.from_json(plan.dumps()) == plan
    file = tmp_path / "plan.json"
    file.write_text(plan.dumps(), encoding="utf-8")
    assert StagePlan.load(file) == plan == StagePlan.load(str(file))
    file.write_text("\ufeff" + plan.dumps(), encoding="utf-8")  # as Windows editors save it
    assert StagePlan.load(file) == plan


def test_json_has_optional_fields_only_when_they_differ():
    assert StagePlan.from_json(GOOD).to_json() == GOOD
    assert set(StagePlan((93, 550), (0, 0, 0), method="magnitude").to_json()) == {
        "boundaries",
        "sparsity",
        "method",
    }
    # numpy numbers become plain ones
    json.dumps(StagePlan((np.int64(93), 550), (np.float32(0.5), 0, 0)).to_json())


def test_the_example_plans_are_the_presets():
    plans = presets(LINEAR, 0.33, DDIM_50)
    for file, name in (
        ("formula", "Formula"),
        ("paper", "Paper's eye [200, 600]"),
        ("uniform", "Uniform"),
    ):
        plan = StagePlan.load(PLANS / f"{file}.json")
        assert (plan.name, plan.boundaries, plan.calibration) == (
            name,
            plans[name].boundaries,
            plans[name].calibration,
        )
        np.testing.assert_allclose(plan.sparsity, plans[name].sparsity, atol=1e-9)


def _with(**changes):
    return {**GOOD, **changes}


def _sparsity(**changes):
    return _with(sparsity={**GOOD["sparsity"], **changes})


@pytest.mark.parametrize(
    "plan",
    [
        _sparsity(late=float("nan")),
        _sparsity(late=float("inf")),
        _sparsity(late=-0.1),
        _sparsity(late=0.96),
        _sparsity(late=30),
        _sparsity(late=True),
        _sparsity(late="0.3"),
        _sparsity(late=None),
        _sparsity(late=10**400),
        _sparsity(late=[0.3]),
        _sparsity(noon=0.3),
        _with(sparsity=[0.3, 0.1, 0.4]),
        _with(sparsity=0.3),
        _with(sparsity={"late": 0.3, "middle": 0.1}),
        _with(boundaries=[550, 93]),
        _with(boundaries=[93, 93]),
        _with(boundaries=[0, 550]),
        _with(boundaries=[93, 1000]),
        _with(boundaries=[-1, 550]),
        _with(boundaries=[93, 10**5000]),
        _with(boundaries=[93.0, 550]),
        _with(boundaries=[True, 550]),
        _with(boundaries=["93", 550]),
        _with(boundaries=[93]),
        _with(boundaries=[93, 550, 700]),
        _with(boundaries="93,550"),
        _with(boundaries=None),
        _with(boundaries={"low": 93, "high": 550}),
        _with(colour="red"),
        _with(name=7),
        _with(name="x" * 201),
        _with(method="random"),
        _with(method=None),
        _with(method=["obs"]),
        _with(calibration="none"),
        _with(stage_steps=[5, 23, 22]),
        _with(stage_steps={"late": 5, "middle": 23}),
        _with(stage_steps={"late": -1, "middle": 23, "early": 22}),
        _with(stage_steps={"late": 0, "middle": 0, "early": 0}),
        _with(stage_steps={"late": 0.5, "middle": 23, "early": 22}),
        _with(num_train_timesteps=500),
        _with(num_train_timesteps="1000"),
        _with(num_train_timesteps=True),
        _with(num_train_timesteps=2),
        {"boundaries": [93, 550]},
        {"sparsity": GOOD["sparsity"]},
        {},
        [],
        None,
        3,
        "",
        "{",
        "null",
        "[93, 550]",
        '{"boundaries": [93, 550], "sparsity": {"late": NaN, "middle": 0.1, "early": 0.4}}',
        '{"boundaries": [93, 550], "sparsity": {"late": 1e999, "middle": 0.1, "early": 0.4}}',
        (
            '{"boundaries": [93, 550], "boundaries": [94, 550], "sparsity": {"late": 0, "middle":'
            ' 0.1, "early": 0.4}}'
        ),
        '{"boundaries": [93, 550], "sparsity": {"late": 0.3, "middle": 0.1, "early": 0.4},}',
        '{"boundaries": [' + "9" * 5000 + ", 550]}",
        "[" * 100_000,
    ],
    ids=lambda plan: str(type(plan).__name__),
)
def test_bad_plans_are_refused_in_one_sentence(plan):
    _refused(lambda: StagePlan.from_json(plan))


@pytest.mark.parametrize(
    "name", ["missing.json", "", "binary.json", "big.json", "empty.json", "bad\0name"]
)
def test_bad_files_are_refused_in_one_sentence(name, tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "big.json").write_bytes(b" " * 1_000_001)
    (tmp_path / "empty.json").write_bytes(b"")
    _refused(lambda: StagePlan.load(tmp_path / name))


def _refused(call):
    with pytest.raises(PlanError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and 15 < len(message) < 300, message
