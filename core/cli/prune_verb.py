"""Write the subnetworks of a plan from the command line."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from ..curves.guidance_words import rows_words, scale_words
from ..curves.plan import STAGES, StagePlan
from ..curves.samplers import sampling_timesteps
from ..mosaic.damping_report import damping_facts, damping_sentence, with_dampings
from ..mosaic.exported import export_without_adaln
from ..mosaic.found import device_line
from ..mosaic.transformer import MosaicTransformer
from ..workshop.prediction import Prediction
from ..workshop.workshop import Workshop
from .export_options import (
    check_export,
    export_report,
    labels_to_export,
    scheduler_to_export,
)
from .output import finite, fresh_folder, report_progress, warn_of_scarcity, write_result
from .plan_options import named_plan
from .settings import check_steps

OpenWorkshop = Callable[[argparse.Namespace], Workshop]


def prune(args: argparse.Namespace, open_workshop: OpenWorkshop) -> int:
    """Write the subnetworks of a plan: safetensors and a readable manifest.

    `MosaicTransformer.from_pretrained` reads them.
    """
    plan = named_plan(args)
    check_steps(args.steps)
    check_export(args)
    out = fresh_folder(args.out)
    workshop = open_workshop(args)
    labels = labels_to_export(args, workshop)
    timesteps = sampling_timesteps(scheduler_to_export(args, workshop), args.steps)
    plan = workshop.built(plan.counted(timesteps))
    # a calibration that is there is checked, and mended where it was damaged
    if workshop.calibrated or workshop.needs_calibration(plan, errors=True):
        workshop.calibrate(report_progress)
        warn_of_scarcity(workshop.calibration_warnings)
    start = time.perf_counter()
    mosaic = workshop.build(plan, report_progress, measured=True)
    seconds = time.perf_counter() - start
    # saved subnetworks run in a stock pipeline, which works adaLN vectors out at every step
    prediction = workshop.predict(plan, timesteps, exact=True, tabulated=args.without_adaln)
    layers = with_dampings(workshop.layer_table(plan, exact=True), mosaic)
    result = _prune_report(workshop, plan, prediction, args.steps)
    result |= {"layers": layers, "seconds": seconds, "warnings": workshop.width_warnings(plan)}
    facts = finite(subnetwork_facts(workshop, mosaic, result))
    exported: list[str] = []
    if args.without_adaln:
        export = export_without_adaln(
            mosaic, out, timesteps, labels, facts, progress=report_progress
        )
        files, exported = export.files, [export.sentence]
        result["without_adaln"] = export_report(export, args, workshop, labels)
    else:
        files = mosaic.save_pretrained(out, facts, progress=report_progress)
    result |= {"out": str(args.out), "files": files}
    text = [
        f"{s.stage}: {s.steps} steps, {s.macs / 1e9:.2f} of {s.macs_dense / 1e9:.2f} GMACs, layer"
        f" error {s.error:.4f}{_guidance_words(scale)}"
        for s, scale in zip(prediction.stages, plan.guidance, strict=True)
    ]
    text += result["warnings"]
    dampings = damping_sentence(mosaic)
    if dampings is not None:
        text.append(dampings)
    text.append(
        f"×{prediction.speedup_macs:.2f} fewer MACs over the whole run; {len(STAGES)} subnetworks"
        f" in {args.out}"
    )
    text += exported
    text.append(f"Device: {result['device_found']}")
    return write_result(args, result, text)


def _guidance_words(scale: float | None) -> str:
    """Return the end of a stage's line where the plan sets its guidance."""
    return "" if scale is None else f", guidance {scale_words(scale)}"


def _prune_report(
    workshop: Workshop, plan: StagePlan, prediction: Prediction, steps: int
) -> dict[str, Any]:
    """Return what `prune` reports of a plan before layers and time."""
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
