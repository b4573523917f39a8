"""Report a tune as plain data: what was asked, the best plan, the front and its points."""

from __future__ import annotations

from typing import Any

from ..curves.plan import StagePlan
from ..workshop.workshop import Workshop
from .found import Tuned
from .record import Evaluation


def as_plan(workshop: Workshop, one: Evaluation) -> StagePlan:
    """Return the plan of an evaluation; for the dense model one that removes nothing."""
    if one.configuration.plan is not None:
        return one.configuration.plan
    total = len(workshop.schedule)
    return StagePlan((1, 2), (0.0, 0.0, 0.0), name="dense", num_train_timesteps=total)


def tune_report(workshop: Workshop, found: Tuned, batch: int) -> dict[str, Any]:
    """Return what a tune reports as plain data.

    batch: images that predicted seconds are for.
    """
    best = found.best.configuration
    return {
        "plan": as_plan(workshop, found.best).to_json(),
        "steps": best.steps,
        "scheduler": best.scheduler,
        "guidance": best.guidance,
        "speedup_macs": found.speedup_macs,
        "speedup_measured": None if found.speedup is None else found.speedup[0],
        "speedup_measured_spread": None if found.speedup is None else found.speedup[1],
        "evaluations": len(found.evaluations),
        "front": [_point(workshop, e) for e in found.front],
        "contenders": [_point(workshop, e) for e in found.evaluations if e.configuration.label],
        "reference": _point(workshop, found.reference),
        "best": _point(workshop, found.best),
        "goal": found.goal.text,
        "quality": found.quality,
        "quality_n": found.best.n,
        "macs_unit": "one image, the whole run, all rows, linear and convolution layers",
        "seconds_unit": f"denoiser of {batch} images, predicted from forwards timed on this device",
        "model": workshop.name,
        "device": workshop.device_text,
        "seconds_tuning": found.seconds,
        "stopped": found.stopped,
        "notes": list(found.notes),
    }


def _point(workshop: Workshop, one: Evaluation) -> dict[str, Any]:
    """Return one evaluation as a point of the front."""
    return {
        "plan": as_plan(workshop, one).to_json(),
        "steps": one.configuration.steps,
        "scheduler": one.configuration.scheduler,
        "guidance": one.configuration.guidance,
        "label": one.configuration.label,
        "macs": one.macs,
        "seconds": one.seconds,
        "quality": one.quality,
        "quality_held_out": one.held_out,
    }
