"""Hold the work of a run while a boundary moves: the sparsities follow, in their proportions.

The boundaries alone change the work, because a stage with more steps counts for more; then nobody
can see which boundary is better. The step-weighted mean of the sparsities gives the work nearly,
as heads and neurons go whole; a few corrections bring it as near as whole ones allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.curves.plan import StagePlan
from core.errors import PlanError, StudioError
from core.workshop.same_work import run_macs
from core.workshop.workshop import Workshop

from ..text import macs_text, percent

FAR = 0.02  # of the work: further off, guidance of its own keeps it from being held
CLOSE = 5e-4  # of the work; nearer than this is not looked for
TRIES = 4
PLACES = 4  # decimals of a sparsity that follows


def with_same_work(
    workshop: Workshop, plan: StagePlan, low: int, high: int, timesteps: Sequence[float]
) -> StagePlan:
    """Return the plan with other boundaries and the same work, as nearly as it can be held.

    A plan whose layers share by their errors keeps its mean sparsity: sharing out takes too long to
    try again. Raises StudioError where no sparsities reach the work.
    """
    moved = plan.with_boundaries(low, high)
    mean = plan.mean_sparsity(timesteps)
    if moved.boundaries == plan.boundaries:
        return moved
    if mean == 0:
        _check_held(workshop, plan, moved, timesteps)
        return moved
    if not plan.plain:
        return _scaled(moved, mean, timesteps)
    goal = run_macs(workshop, plan, timesteps)
    dense = run_macs(workshop, plan.with_sparsity(0, 0, 0), timesteps)
    per_mean = (dense - goal) / mean or 1.0  # work that one unit of mean sparsity saves, nearly
    best, nearest = None, float("inf")
    for _ in range(TRIES):
        try:
            after = _scaled(moved, mean, timesteps)
        except StudioError:  # a correction beyond what a plan can lose
            if best is None:
                raise
            break
        off = run_macs(workshop, after, timesteps) - goal
        if abs(off) < nearest:
            best, nearest = after, abs(off)
        if nearest <= CLOSE * goal:
            break
        mean = max(0.0, mean + off / per_mean)
    assert best is not None
    _check_held(workshop, plan, best, timesteps)
    return best


def _check_held(
    workshop: Workshop, plan: StagePlan, after: StagePlan, timesteps: Sequence[float]
) -> None:
    """Raise PlanError where stages of one guidance half cannot be made up for by sparsities."""
    if plan.sets_guidance:
        goal = run_macs(workshop, plan, timesteps)
        if abs(run_macs(workshop, after, timesteps) - goal) > FAR * goal:
            raise PlanError(
                "The sparsities cannot hold the work with the boundaries there, as stages differ in"
                " their guidance halves."
            )


def _scaled(plan: StagePlan, mean: float, timesteps: Sequence[float]) -> StagePlan:
    if plan.mean_sparsity(timesteps) == 0:
        raise PlanError(
            "No sampling step falls into a stage that loses anything, so the work cannot be held"
            " with the boundaries there."
        )
    scaled = plan.scaled_to(mean, timesteps)
    late, middle, early = (round(share, PLACES) for share in scaled.sparsity)
    return scaled.with_sparsity(late, middle, early)


def anchor_of(
    workshop: Workshop, anchor: StagePlan, plan: StagePlan, timesteps: Sequence[float]
) -> StagePlan:
    """Return the plan whose work and proportions are held: the first one of a row of moves.

    Else each move would hold what the last one rounded to. `anchor` counts as long as `plan` is
    what came of it, and nothing else was edited meanwhile.
    """
    try:
        came = with_same_work(workshop, anchor, *plan.boundaries, timesteps)
    except StudioError:
        return plan
    same = replace(came, name="", stage_steps=None) == replace(plan, name="", stage_steps=None)
    return anchor if same else plan


def held_sentence(
    workshop: Workshop, anchor: StagePlan, plan: StagePlan, timesteps: Sequence[float]
) -> str:
    """Say what is held while a boundary moves, and how near. Raises StudioError."""
    if not plan.plain:
        return f"Mean sparsity held at {percent(plan.mean_sparsity(timesteps), 1)}."
    goal = run_macs(workshop, anchor, timesteps)
    off = run_macs(workshop, plan, timesteps) / goal - 1
    near = "exactly" if abs(off) < 5e-5 else f"within {percent(abs(off), 2)}"
    return f"Work held at {macs_text(goal)} an image, {near}; the sparsities follow."
