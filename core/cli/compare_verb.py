"""Compare two sides from the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ..errors import StudioError
from ..files import why_not_written
from ..mosaic.found import device_line
from ..workshop.compare import compare as run_sides
from ..workshop.comparison import Comparison, Preview
from ..workshop.picture_arrays import grid
from ..workshop.workshop import Workshop
from .output import (
    finite,
    make_folder,
    report_progress,
    write_result,
    write_text,
)
from .plan_options import DENSE, named_side, read_plan
from .settings import both_steps, calibrate_for, checked_size, run_settings

OpenWorkshop = Callable[[argparse.Namespace], Workshop]


def compare(args: argparse.Namespace, open_workshop: OpenWorkshop) -> int:
    """Sample the dense model (or --against) and a plan from the same noise, and time both."""
    plan = named_side(args)
    against = None if args.against in (None, DENSE) else read_plan(args.against)
    size = checked_size(args)
    workshop = open_workshop(args)
    settings = run_settings(args, workshop, size, both_steps(args.side_steps))
    out = make_folder(args.out) if args.out else None
    calibrate_for(workshop, (plan, against))
    comparison: Comparison | None = None
    for item in run_sides(workshop, against, plan, settings, previews=False):
        if isinstance(item, Preview):
            report_progress(item.done, item.total, item.text)
        else:
            comparison = item
    assert comparison is not None  # `run_sides` ends with one or raises
    result = comparison.to_json() | {"device_found": device_line(workshop.device)}
    if out is not None:
        write_pictures(comparison, out)
        write_text(out / "result.json", json.dumps(finite(result), indent=2))
    return write_result(args, result, _comparison_text(comparison, result["device_found"]))


def _comparison_text(comparison: Comparison, device: str) -> list[str]:
    """Return the lines that sum a comparison up. device: what was found of it, in words."""
    fid = ""
    if comparison.a.fid is not None and comparison.b.fid is not None:
        fid = f", FID {comparison.a.fid:.2f} -> {comparison.b.fid:.2f}"
    distances = (
        f"latent MSE {comparison.latent_mse:.4f}, SSIM {comparison.ssim:.3f}{fid} (n ="
        f" {comparison.n}, {comparison.device})"
    )
    lines = (comparison.verdict, comparison.notes, distances, f"Device: {device}")
    return [text for text in lines if text]


def write_pictures(comparison: Comparison, out: Path) -> None:
    """Write a lossless grid of each side's first hundred images; small ones twice as large.

    Raises StudioError.
    """
    sides = {
        "dense" if comparison.a.plan is None else "against": comparison.a,
        "mosaic": comparison.b,
    }
    for name, side in sides.items():
        scale = 2 if max(side.images.shape[-2:]) <= 128 else 1
        columns = min(10, len(side.images))
        try:
            picture = Image.fromarray(grid(side.images[:100], columns, scale=scale))
            picture.save(out / f"{name}.png")
        except OSError as err:
            raise StudioError(
                f"The pictures could not be written to {out}/ ({why_not_written(err)})."
            ) from err
