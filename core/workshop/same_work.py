"""Find the rivals of a plan: uniform pruning, or fewer steps of the dense model, at equal cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from ..curves.plan import StagePlan
from ..curves.plan_checks import MAX_SPARSITY
from ..errors import StudioError
from .device_times import USUAL_IMAGES
from .workshop import Workshop

HALVINGS = 14  # of the sparsity, finer than any layer's groups

Cost = Literal["macs", "seconds"]


def uniform_of_same_work(workshop: Workshop, plan: StagePlan, timesteps: list[float]) -> StagePlan:
    """Return one network for all timesteps whose run has the MACs of this plan's run.

    As near as whole heads and neurons allow. One pooled calibration, equal shares in every layer.
    The stages keep the plan's guidance and reuse, so that the two differ in what is pruned alone.
    Raises StudioError where the plan's own widths are not known.
    """
    workshop.predictor.check(plan)
    target = run_macs(workshop, plan, timesteps)

    def uniform(sparsity: float) -> StagePlan:
        same = plan.with_equal_shares().with_sparsity(sparsity, sparsity, sparsity)
        return replace(same, calibration="pooled", name="Uniform, same work")

    def off(sparsity: float) -> float:
        return run_macs(workshop, uniform(sparsity), timesteps) - target

    low, high = 0.0, MAX_SPARSITY
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if off(middle) >= 0:  # still as much work as the plan's, or more
            low = middle
        else:
            high = middle
    return uniform(min((low, high), key=lambda sparsity: abs(off(sparsity))))


def without_compensation(plan: StagePlan) -> StagePlan:
    """Return the plan's sparsities cut by magnitude in equal shares, nothing compensated."""
    return replace(
        plan,
        method="magnitude",
        allocation="uniform",
        scope="stage",
        costs="macs",
        stage_steps=None,
        name="Magnitude, no compensation",
    )


def dense_steps(
    workshop: Workshop,
    plan: StagePlan,
    timesteps: list[float],
    calls_of: Callable[[int], int],
    cost: Cost = "macs",
    batch: int = 16,
) -> int:
    """Return the sampling steps in which the dense model costs what this plan's run costs.

    timesteps: of the plan's run. calls_of: denoiser calls per image of so many steps. `batch`
    images are what seconds are predicted for. Raises StudioError where the cost is not known.
    """
    found = workshop.predict(plan.counted(timesteps), timesteps, batch)
    spent, dense = found.macs, found.macs_dense
    if cost == "seconds":
        if found.seconds is None or found.seconds_dense is None:
            raise StudioError(
                "How long a forward takes on this device is not known yet: compare once with other"
                " sides, which measures it, or take fewer steps of the same MACs."
            )
        spent, dense = found.seconds, found.seconds_dense
    wanted = len(timesteps) * spent / dense  # denoiser calls
    # calls grow with steps; second-order samplers make two of most steps
    steps = next((n for n in range(1, len(timesteps) + 1) if calls_of(n) >= wanted), len(timesteps))
    below = max(1, steps - 1)
    return min((below, steps), key=lambda n: abs(calls_of(n) - wanted))


def run_macs(
    workshop: Workshop, plan: StagePlan | None, timesteps: Sequence[float], halves: int = 2
) -> float:
    """Return the MACs of one image over a run; a plan of None is dense.

    halves: denoiser rows per image where the run's own guidance holds, 2 with guidance. As
    `predict` counts a batch of USUAL_IMAGES. Raises StudioError where the plan's widths are not
    known.
    """
    labels = workshop.usual_labels(len(timesteps), USUAL_IMAGES)
    work = workshop.work(plan and plan.counted(timesteps), timesteps, halves, labels=labels)
    return sum(step.total for step in work)
