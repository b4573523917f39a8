"""Test the rivals of a plan, and how long a comparison will take."""

from __future__ import annotations

import pytest

from core.curves.plan import StagePlan
from core.curves.samplers import sampling_timesteps
from core.errors import StudioError
from core.sampling.timing import LatencyTable
from core.workshop.compare import sampler
from core.workshop.comparison import SampleSettings
from core.workshop.estimate import estimate
from core.workshop.same_work import dense_steps, uniform_of_same_work, without_compensation
from core.workshop.workshop import Workshop

PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55))


def visited(workshop, steps, name="DDIM"):
    return sampling_timesteps(sampler(workshop, name), steps)


def test_uniform_of_the_same_work_does_the_plans_work(workshop):
    timesteps = visited(workshop, 20)
    uniform = uniform_of_same_work(workshop, PLAN, timesteps)
    ours, theirs = (workshop.predict(p, timesteps).macs for p in (PLAN, uniform))
    coarsest = max(layer.macs_per_group for layer in workshop.macs.layers)
    assert abs(ours - theirs) <= coarsest * len(workshop.macs.layers) * 2 * 20
    assert len(set(uniform.sparsity)) == 1 and uniform.calibration == "pooled"
    # the mean sparsity is another thing than the work
    assert uniform.sparsity[0] != pytest.approx(PLAN.mean_sparsity(timesteps), abs=1e-6)


@pytest.mark.parametrize("name", ["DDIM", "Heun"])
def test_dense_with_fewer_steps_costs_what_the_plan_costs(workshop, name):
    timesteps = visited(workshop, 20, name)

    def calls(steps):
        return len(visited(workshop, steps, name))

    steps = dense_steps(workshop, PLAN, timesteps, calls)
    found = workshop.predict(PLAN, timesteps)
    per_call = found.macs_dense / len(timesteps)
    assert steps < 20 and abs(calls(steps) * per_call - found.macs) <= 1.5 * per_call


def test_the_same_time_needs_times(workshop, tmp_path):
    timesteps = visited(workshop, 20)
    fresh = Workshop(workshop.checkpoint, workshop.settings, tmp_path)
    with pytest.raises(StudioError, match="not known yet"):
        dense_steps(fresh, PLAN, timesteps, lambda n: n, "seconds")
    settings = SampleSettings((0, 1), steps=20, repeats=3)
    assert estimate(fresh, (None, None), settings) is None


def test_magnitude_is_the_same_plan_without_compensation():
    plan = StagePlan((93, 550), (0.4, 0.1, 0.55), allocation="lagrangian", scope="run")
    bare = without_compensation(plan)
    assert bare.method == "magnitude" and bare.sparsity == plan.sparsity
    assert bare.boundaries == plan.boundaries and bare.plain


def test_the_time_of_a_comparison_is_both_sides_drawn_and_then_timed(workshop, tmp_path):
    fresh = Workshop(workshop.checkpoint, workshop.settings, tmp_path)
    full, pair = fresh.stage_macs(None, tabulated=True)[-1], fresh.macs.conditioning
    made = 32 * pair * 0.2 / (full * 4)  # seconds of the table of one side
    fresh.times.keep_latency(LatencyTable("here", 4, (full / 2, full), (0.1, 0.2)))
    flat = StagePlan((93, 550), (0.0, 0.0, 0.0))
    found = estimate(fresh, (None, flat), SampleSettings((0, 1), steps=10, repeats=3))
    assert found.measured
    assert found.pictures == pytest.approx(2 * (10 * 0.2 + made))
    assert found.timing == pytest.approx(3 * found.pictures)
    own = SampleSettings((0, 1), steps=10, repeats=0, side_steps=(10, 5))
    assert estimate(fresh, (None, None), own).seconds == pytest.approx(15 * 0.2 + 2 * made)
