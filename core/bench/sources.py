"""Measure the cost of having no real data: one plan, calibrated from several sources.

    python -m core.bench sources --plan plan.json --out sources.json

The plan is built from shipped latents and from the model's own samples, each compared with the
other. No other program may run beside it; it takes minutes on two CPU cores. A third build, from
the shipped latents under another seed, shows how far two calibrations on equal data lie apart: a
difference between the sources that is no larger than that is none.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..calibration.data import DataOptions
from ..curves.plan import STAGES, StagePlan
from ..errors import StudioError
from ..files import write_whole
from ..models.bundled import BUNDLED
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..pruning.layer_error import relative_error
from ..sampling.metrics import latent_mse
from ..workshop.workshop import Workshop, get_workshop
from .studies import draw_samples, print_progress


def calibration_sources(
    workshop: Workshop,
    plan: StagePlan,
    n: int,
    steps: int,
    seed: int,
    options: DataOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Build the plan from each source of calibration data, and measure pictures and errors.

    n pictures of `steps` DDIM steps from `seed`, classes in turn, the same noise for all. `options`
    (of own samples) also decides whether pictures of a folder stand for the real ones. Per source:
    `fid` and `class_accuracy` (None without a judge or under 200 pictures), `latent_mse` to dense.
    `error[a][b]`: mean relative layer error per stage of the weights built from `a` on tokens held
    out of `b`. Raises StudioError for a model that ships no latents when no folder is given either.
    """
    options = options or DataOptions()
    shops = _shops(workshop, options)
    for shop in shops.values():
        shop.calibrate(progress)
    dense = draw_samples(workshop, None, steps, n=n, seed=seed, dtype=workshop.dtype)
    built = {name: shop.build(plan) for name, shop in shops.items()}
    rows: dict[str, Any] = {"dense": _scores(workshop, dense.images, n)}
    for name, shop in shops.items():
        samples = draw_samples(shop, plan, steps, n=n, seed=seed, dtype=shop.dtype)
        rows[name] = _scores(workshop, samples.images, n) | {
            "latent_mse": float(latent_mse(samples.latents, dense.latents).mean()),
            "from": shop.source.text,
            "different": shop.source.different,
            "tokens_per_column": shop.orders.tokens_per_column,
            "damping": shop.orders.damping,
        }
    error = {
        a: {b: cross_error(shops[a], built[a], shop) for b, shop in shops.items()} for a in shops
    }
    return {
        "sources": rows,
        "error": error,
        "plan": plan.to_json(),
        "n": n,
        "steps": steps,
        "seed": seed,
        "guidance": workshop.guidance,
        "model": workshop.name,
        "settings": {
            "images": workshop.settings.images,
            "held_out": workshop.settings.held_out,
            "edges": list(workshop.settings.edges),
        },
        "device": workshop.device_text,
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }


def _shops(workshop: Workshop, options: DataOptions) -> dict[str, Workshop]:
    """Return one workshop per source, over the same model and cache."""
    real = options if options.images is not None else DataOptions()
    if real.images is None and workshop.checkpoint.latents is None:
        raise StudioError(
            f"{workshop.name} ships no calibration latents to compare with: give"
            " --calibration-images."
        )
    own = replace(options, images=None, self_calibrate=True)
    settings = workshop.settings
    return {
        "real": Workshop(workshop.checkpoint, settings, workshop.cache, real),
        "real, another seed": Workshop(
            workshop.checkpoint, replace(settings, seed=settings.seed + 1), workshop.cache, real
        ),
        "own samples": Workshop(workshop.checkpoint, settings, workshop.cache, own),
    }


def cross_error(maker: Workshop, mosaic: MosaicTransformer, judge: Workshop) -> dict[str, float]:
    """Return the mean over layers of ||W'X - WX||^2 / ||WX||^2, per stage.

    W' as `maker` built it, X the tokens that `judge` held out in that stage.
    """
    if mosaic.plan is None:
        raise StudioError("These subnetworks have no plan, so they have no stages to measure.")
    bank = judge.bank
    found = {}
    for stage, name in enumerate(STAGES):
        low, high = mosaic.plan.stage_range(stage)
        errors = []
        for i in range(len(mosaic.layers)):
            weight = maker.pruner.weight(i).double()
            difference = mosaic.weight(stage, i).double() - weight
            errors.append(
                relative_error(
                    difference,
                    weight,
                    bank.gram(i, low, high, held_out=True, device=weight.device)[0],
                )
            )
        found[name] = float(np.mean(errors))
    return found


def _scores(workshop: Workshop, images: torch.Tensor, n: int) -> dict[str, float | None]:
    """Return FID and class accuracy of pictures; None without a judge."""
    judge = workshop.judge
    if judge is None:
        return {"fid": None, "class_accuracy": None}
    # as `Workshop.some_conditions` asks for them
    labels = torch.arange(n) % len(workshop.class_names)
    found = judge.scores(images, labels)
    return {"fid": found["fid"], "class_accuracy": found["class_accuracy"]}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--calibration-images",
        metavar="FOLDER",
        help="pictures that stand for real data, in the place of shipped latents",
    )
    parser.add_argument("--calibration-steps", type=int, default=20)
    parser.add_argument("--calibration-guidance", type=float)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    options = DataOptions(
        images=args.calibration_images,
        steps=args.calibration_steps,
        guidance=args.calibration_guidance,
    )
    found = calibration_sources(
        get_workshop(args.model),
        StagePlan.load(args.plan),
        n=args.images,
        steps=args.steps,
        seed=args.seed,
        options=options,
        progress=print_progress,
    )
    text = json.dumps(found, indent=2) + "\n"
    sys.stdout.write(text)
    if args.out is not None:
        write_whole(args.out, lambda part: part.write_text(text))
