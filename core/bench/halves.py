"""Measure what it buys to prune a stage without guidance from the rows that it runs.

    python -m core.bench halves --model fashion-dit

A calibration sums up conditional and unconditional rows alike. A stage whose guidance is off runs
the conditional ones alone, so its cuts can be made from these: the weighting of rows by guidance 1
counts the others 0. Pictures of a plan whose early stage runs without guidance, early cuts from
both halves against those from the conditional half, the latter with as many images and with twice
as many, which is as many rows. The last column says how much another draw of both halves moves FID.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch

from ..curves.plan import STAGES, StagePlan
from ..curves.proposals import presets
from ..mosaic.transformer import MosaicTransformer
from ..pruning.cuts import Cut
from ..sampling.denoise import decode
from ..tuner.configuration import Configuration
from ..tuner.front_rows import Row
from ..workshop.drawing import draw_latents
from ..workshop.workshop import Workshop, get_workshop
from .row_file import RowFile, circumstances, file_beside, study_parser
from .studies import AUTO, dtype_of, picture_scores, print_progress

FILE = "halves.json"  # beside the model
STEPS = (10, 7)  # of UniPC
TARGETS = (0.33, 0.5)
SHAPES = ("Formula", "Uniform")
IMAGES, SEEDS, BATCH = 1000, (7, 8, 9), 250
BOTH, CONDITIONAL, TWICE, AGAIN = (
    "both halves",
    "conditional rows",
    "conditional rows, twice the images",
    "both halves, another draw",
)


def calibrations(workshop: Workshop) -> dict[str, Workshop]:
    """Return a workshop of the same model for every way to calibrate the early stage."""
    settings = workshop.settings
    alone = replace(settings, weighting="guidance", guidance=1.0)
    twice = replace(alone, images=2 * settings.images, held_out=2 * settings.held_out)
    others = {
        CONDITIONAL: alone,
        TWICE: twice,
        AGAIN: replace(settings, seed=settings.seed + 1),
    }
    return {
        BOTH: workshop,
        **{
            name: Workshop(workshop.checkpoint, own, workshop.cache) for name, own in others.items()
        },
    }


def built_from(workshop: Workshop, early: Workshop, plan: StagePlan) -> MosaicTransformer:
    """Return a plan's subnetworks: the early stage from another calibration than the others."""
    plan = workshop.predictor.built(plan)
    widths = workshop.predictor.widths(plan)
    cuts: list[list[Cut] | None] = []
    for stage, removed in enumerate(widths):
        shop = early if STAGES[stage] == "early" else workshop
        low, high = shop.predictor.calibrated_range(plan, stage)
        own = [shop.pruner.cut(i, low, high, gone, plan.method) for i, gone in enumerate(removed)]
        cuts.append(own if any(removed) else None)
    return MosaicTransformer(workshop.transformer, plan, cuts, False, workshop.layers)


def halves_rows(
    workshop: Workshop,
    kept: RowFile,
    n: int = IMAGES,
    seeds: Sequence[int] = SEEDS,
    steps: Sequence[int] = STEPS,
    dtype: torch.dtype | None = None,
) -> None:
    """Add the missing rows and write the file after each. Raises StudioError.

    dtype: of the denoiser; None: bfloat16 where it is quicker, else the model's.
    """
    dtype = dtype or dtype_of(AUTO, workshop)
    shops = calibrations(workshop)
    for shop in shops.values():
        shop.calibrate(print_progress)
    for seed, count, target, shape in product(seeds, steps, TARGETS, SHAPES):
        what = Configuration(None, "UniPC", count, workshop.guidance)
        timesteps = what.timesteps(workshop)
        plan = presets(workshop.schedule, target, timesteps)[shape].with_guidance(early=1)
        plan = plan.counted(timesteps)
        for name, early in shops.items():
            named = f"{shape.lower()} {target}"
            key = {"plan": named, "steps": count, "early": name, "seed": seed, "n": n}
            if kept.has(**key):
                continue
            model = built_from(workshop, early, plan)
            latents = draw_latents(
                workshop, model, "UniPC", count, workshop.guidance, n, seed, BATCH, dtype
            )
            scores = picture_scores(workshop, decode(workshop.vae, latents))
            facts = {"dtype": str(dtype).removeprefix("torch."), **circumstances(workshop)}
            kept.add(key | scores | facts)
            print_progress(len(kept.rows), 0, f"{key}: FID {scores['fid']:.2f}")


def table(rows: Sequence[Row]) -> str:
    """Return FID with early cuts from both halves, and how much other cuts move it, as Markdown.

    Means over the seeds, and the standard deviation of the paired differences.
    """
    lines = [
        "| plan, guidance off early | UniPC steps | n | both halves | conditional rows |"
        " twice the images | another draw of both |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in dict.fromkeys((r["plan"], r["steps"], r["n"]) for r in rows):
        own = [r for r in rows if (r["plan"], r["steps"], r["n"]) == group]
        base = {r["seed"]: r["fid"] for r in own if r["early"] == BOTH}
        cells = [f"{statistics.fmean(base.values()):.2f}"]
        for name in (CONDITIONAL, TWICE, AGAIN):
            moved = [r["fid"] - base[r["seed"]] for r in own if r["early"] == name]
            around = f" ± {statistics.stdev(moved):.2f}" if len(moved) > 1 else ""
            cells.append(f"{statistics.fmean(moved):+.2f}{around}")
        lines.append("| " + " | ".join([*map(str, group), *cells]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = study_parser(__doc__, len(SEEDS))
    parser.add_argument("--images", type=int, default=IMAGES)
    args = parser.parse_args(arguments)
    kept = RowFile(file_beside(args.model, FILE, args.out))
    halves_rows(get_workshop(args.model, args.device), kept, args.images, SEEDS[: args.seeds])
    print(table(kept.rows))
