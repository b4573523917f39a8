"""Build the subnetworks of a plan and report them: MACs, errors, layers, warnings."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..curves.guidance_words import rows_words
from ..curves.plan import STAGES, StagePlan
from ..mosaic.damping_report import damping_facts, with_dampings
from ..mosaic.found import device_line
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from .prediction import Prediction
from .workshop import Workshop


@dataclass(frozen=True)
class Pruned:
    """The subnetworks of a plan, with what is predicted and reported of them."""

    plan: StagePlan  # as it was built: counted for its run, with this device's multiple
    mosaic: MosaicTransformer
    prediction: Prediction
    report: dict[str, Any]  # plain data; NaN and infinity are still in it


def prune_for(
    workshop: Workshop,
    plan: StagePlan,
    timesteps: Sequence[float],
    steps: int,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    tabulated: bool = False,
) -> Pruned:
    """Build the subnetworks of a plan for the run of these timesteps, and report them.

    steps: sampling steps of that run, which may call the network more often. tabulated: count a
    DiT's adaLN vectors once per run. The seconds of the report are those of the build alone.
    Raises StudioError, NotCalibrated and Stopped.
    """
    visited = list(timesteps)
    plan = workshop.built(plan.counted(visited))
    start = time.perf_counter()
    mosaic = workshop.build(plan, progress, stop, measured=True)
    seconds = time.perf_counter() - start
    prediction = workshop.predict(plan, visited, exact=True, tabulated=tabulated)
    layers = with_dampings(workshop.layer_table(plan, exact=True), mosaic)
    report = prune_report(workshop, plan, prediction, steps)
    report |= {"layers": layers, "seconds": seconds, "warnings": workshop.width_warnings(plan)}
    return Pruned(plan, mosaic, prediction, report)


def prune_report(
    workshop: Workshop, plan: StagePlan, prediction: Prediction, steps: int
) -> dict[str, Any]:
    """Return what is reported of a plan before its layers and the time of its build."""
    return {
        "plan": plan.to_json(),
        "model": workshop.name,
        "device": workshop.device_text,
        "device_found": device_line(workshop.device),
        "calibration": workshop.calibration_text,
        "macs": {
            s.stage: {
                "steps": s.steps,
                "rows": s.rows,
                "dense": s.macs_dense,
                "pruned": s.macs,
            }
            for s in prediction.stages
        },
        "macs_unit": (
            f"one image, {steps} steps, linear and convolution layers; dense: both guidance"
            f" halves, pruned: {rows_words([s.rows for s in prediction.stages])}"
        ),
        "guidance": dict(zip(STAGES, plan.guidance, strict=True)),
        "speedup_macs": prediction.speedup_macs,
        "error": {s.stage: s.error for s in prediction.stages},
        "error_held_out": {s.stage: s.error_held_out for s in prediction.stages},
    }


def subnetwork_facts(
    workshop: Workshop, mosaic: MosaicTransformer, report: dict[str, Any]
) -> dict[str, Any]:
    """Return what the manifest of saved subnetworks holds beside their files.

    Where they come from, damping and errors of every layer, and the verb's own report.
    """
    damping = None
    if mosaic.plan is not None and mosaic.plan.method == "obs" and workshop.calibrated:
        damping = damping_facts(mosaic, workshop.orders)
    errors: dict[str, dict[str, Any]] = {}
    for row in report["layers"]:
        errors.setdefault(row["stage"], {})[row["layer"]] = {
            "calibration": row["error"],
            "held_out": row["error_held_out"],
        }
    calibration = {"hash": workshop.key, "text": workshop.calibration_text}
    return {
        "model": workshop.name,
        "calibration": calibration,
        "damping": damping,
        "errors": errors,
        "report": report,
    }
