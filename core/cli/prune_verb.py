"""Write the subnetworks of a plan from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..curves.guidance_words import scale_words
from ..curves.plan import STAGES
from ..curves.samplers import sampling_timesteps
from ..mosaic.damping_report import damping_sentence
from ..mosaic.exported import export_without_adaln
from ..words import percent
from ..workshop.prune_report import prune_for, subnetwork_facts
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
    # saved subnetworks run in a stock pipeline, which works adaLN vectors out at every step
    done = prune_for(
        workshop, plan, timesteps, args.steps, report_progress, tabulated=args.without_adaln
    )
    plan, mosaic, prediction, result = done.plan, done.mosaic, done.prediction, done.report
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
        f"{percent(1 - 1 / prediction.speedup_macs)} fewer MACs over the whole run;"
        f" {len(STAGES)} subnetworks in {args.out}"
    )
    text += exported
    text.append(f"Device: {result['device_found']}")
    return write_result(args, result, text)


def _guidance_words(scale: float | None) -> str:
    """Return the end of a stage's line where the plan sets its guidance."""
    return "" if scale is None else f", guidance {scale_words(scale)}"
