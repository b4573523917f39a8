"""Read the plan that the options of a verb name."""

from __future__ import annotations

import argparse
import math

from ..cli_options import is_json
from ..curves.plan import STAGES, StagePlan
from ..curves.plan_checks import short
from ..errors import StudioError
from ..guidance import MAX_GUIDANCE, is_guidance

DENSE = "dense"  # in the place of a plan: the whole model


def named_plan(args: argparse.Namespace) -> StagePlan:
    """Return the plan of --plan with the guidance of --stage-guidance. Raises StudioError."""
    return guided(read_plan(args.plan), args.stage_guidance)


def named_side(args: argparse.Namespace) -> StagePlan | None:
    """Return the plan of --plan as `named_plan` does, or None for "dense". Raises StudioError."""
    if args.plan != DENSE:
        return named_plan(args)
    if args.stage_guidance is not None:
        raise StudioError("--stage-guidance changes a plan, and --plan dense is none: name a plan.")
    return None


def read_plan(text: str) -> StagePlan:
    """Return the plan of a file, or of JSON that stands in its place. Raises PlanError."""
    return StagePlan.from_json(text) if is_json(text) else StagePlan.load(text)


def guided(plan: StagePlan, text: str | None) -> StagePlan:
    """Return the plan with the guidance that --stage-guidance sets, "early=1,late=own".

    Stages that are not named keep theirs. Raises StudioError.
    """
    if text is None:
        return plan
    scales: dict[str, float | None] = {}
    for part in text.split(","):
        stage, equals, value = (word.strip() for word in part.partition("="))
        if not equals or stage not in STAGES:
            raise StudioError(
                "--stage-guidance names stages (early, middle, late) with numbers, such as"
                f" early=1,late=1, not {short(text)}."
            )
        if stage in scales:
            raise StudioError(f"--stage-guidance names a stage twice: {short(text)}; keep one.")
        scales[stage] = _scale(stage, value)
    return plan.with_guidance(**dict(zip(STAGES, plan.guidance, strict=True)) | scales)


def _scale(stage: str, value: str) -> float | None:
    """Return the guidance of a stage, None for "own". Raises StudioError."""
    if value == "own":
        return None
    try:
        scale = float(value)
    except ValueError:
        scale = math.nan
    if not is_guidance(scale):
        raise StudioError(
            f"--stage-guidance of the {stage} stage must be a number from 0 to {MAX_GUIDANCE:g}, or"
            f" own, not {short(value)}."
        )
    return scale
