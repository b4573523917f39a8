"""Measure the claims of the README, each from one command.

    python -m core.bench speed                     # realised against MAC-predicted speed-up
    python -m core.bench quality --out study.json  # the study; resumes, about an hour on two cores
    python -m core.bench sharing                   # the ways in which layers share a cut: 10 steps
    python -m core.bench weighting                 # the weightings of calibration rows
    python -m core.bench table --out study.json    # the README's table and its sentences

`quality` samples in bf16 where that is quicker: twice as fast on CPUs with units for it, a hundred
times slower on others, which take fp32. It prints the latent MSE that bf16 alone causes, so that no
difference below that floor is mistaken for a result. `speed` and `quality` need the processor for
themselves. All other ratios, on one page, are `python app.py bench`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..calibration.row_weights import WEIGHTINGS
from ..curves.plan import StagePlan
from ..curves.proposals import presets, propose_plan
from ..errors import StudioError
from ..models.bundled import BUNDLED
from ..sampling.denoise import decode
from ..sampling.metrics import latent_mse, psnr, ssim
from ..tuner.quality import quick_dtype
from ..workshop.drawing import draw_latents
from ..workshop.prediction import TableLabels
from ..workshop.study import findings, load_study, markdown, verdicts
from ..workshop.workshop import Workshop, get_workshop
from .realised import TARGETS, speed_benchmark, timesteps_of
from .row_file import RowFile, file_beside

AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16")
SHARING_RUNS = ((10, 2000, (0, 1, 2)),)
# steps, images, seeds
RUNS = ((50, 2000, (0, 1, 2)), (10, 2000, (0, 1, 2)), (20, 1000, (0,)), (7, 1000, (0,)))


@dataclass(frozen=True)
class Contender:
    """One way to draw the pictures of a study: a plan (None: dense) in so many steps."""

    name: str
    plan: StagePlan | None
    steps: int
    workshop: Workshop  # whose calibration the plan is built from


def contenders(workshop: Workshop, steps: int, seed: int) -> Iterator[Contender]:
    """Yield dense, the plans, and dense with as many steps as a plan's work pays for.

    The flatter preset is there on the first seed only.
    """
    timesteps = timesteps_of(workshop, steps)
    yield Contender("dense", None, steps, workshop)
    for target in TARGETS:
        known = presets(workshop.schedule, target, timesteps)
        formula, uniform = known["Formula"], known["Uniform"]
        plans = {f"MosaicDiff {target}": formula}
        if seed == 0:
            plans[f"MosaicDiff flatter {target}"] = known["Formula, flatter"]
        plans[f"uniform OBS {target}"] = uniform
        plans[f"magnitude, no compensation {target}"] = replace(uniform, method="magnitude")
        for name, plan in plans.items():
            yield Contender(name, plan, steps, workshop)
        predicted = workshop.predict(formula, timesteps)
        fewer = max(1, round(steps * (predicted.macs / predicted.macs_dense)))
        yield Contender(f"dense, {fewer} steps (work of {target})", None, fewer, workshop)


def sharers(workshop: Workshop, steps: int, _seed: int) -> Iterator[Contender]:
    """Yield the formula's plan, its work shared over the layers in every way, at equal MACs.

    One budget counts evenly spaced steps.
    """
    yield Contender("dense", None, steps, workshop)
    for target in TARGETS:
        plan = presets(workshop.schedule, target, timesteps_of(workshop, steps))["Formula"]
        dynamic = replace(plan, allocation="dynamic")
        plans = {"equal shares (the paper)": plan}
        for method in ("log_ramp", "lagrangian", "dynamic"):
            name = f"{method.replace('_', ' ')}, stage by stage"
            plans[name] = replace(plan, allocation=method)
        plans["equal shares, one budget"] = replace(plan, scope="run")
        plans["dynamic, one budget"] = replace(dynamic, scope="run")
        plans["dynamic, stage by stage, ends keep half"] = replace(dynamic, protect=0.5)
        for name, shared in plans.items():
            yield Contender(f"{name} {target}", shared, steps, workshop)


def weighers(workshop: Workshop, steps: int, _seed: int) -> Iterator[Contender]:
    """Yield the formula's plan from calibrations with every weighting of rows.

    Each weighting has a workshop of its own over the same model.
    """
    yield Contender("dense", None, steps, workshop)
    for weighting in WEIGHTINGS:
        settings = replace(workshop.settings, weighting=weighting, guidance=workshop.guidance)
        own = Workshop(workshop.checkpoint, settings, workshop.cache)
        own.calibrate(print_progress)
        name = "even rows" if weighting == "even" else f"rows weighed by {weighting}"
        for target in TARGETS:
            plan = presets(workshop.schedule, target, timesteps_of(workshop, steps))["Formula"]
            yield Contender(f"{name} {target}", plan, steps, own)


def dtype_of(name: str, workshop: Workshop) -> torch.dtype:
    """Return the precision of a study's denoiser; "auto": bfloat16 where it is quicker."""
    if name == AUTO:
        return quick_dtype(workshop) or workshop.dtype
    found: torch.dtype = getattr(torch, name)
    return found


def print_progress(done: int, total: int, text: str) -> None:
    """Print the progress of a long run to standard error."""
    print(f"[{done}/{total}] {text}", file=sys.stderr, flush=True)


def quality(args: argparse.Namespace) -> None:
    """Write FID, class accuracy and distance to dense of every contender, row by row."""
    make = STUDIES[args.what].contenders
    workshop = get_workshop(args.model)
    workshop.calibrate(print_progress)
    kept = RowFile(args.out)
    done = {(r["method"], r["base_steps"], r["seed"]) for r in kept.rows}
    dtype = dtype_of(args.dtype, workshop)
    named = str(dtype).removeprefix("torch.")
    for steps, n, seed in plan_of_runs(args):
        dense: Samples | None = None
        for contender in make(workshop, steps, seed):
            known = (contender.name, steps, seed) in done
            if known and contender.name != "dense":
                continue
            own = contender.workshop
            plan = contender.plan
            samples = draw_samples(own, plan, contender.steps, n=n, seed=seed, dtype=dtype)
            dense = samples if dense is None else dense
            if known:
                continue
            kept.add(
                {"method": contender.name, "base_steps": steps, "steps": contender.steps}
                | {"seed": seed, "n": n}
                | scores(workshop, samples, dense)
                | {
                    "guidance": workshop.guidance,
                    "dtype": named,
                    "device": workshop.device_text,
                    "plan": None if plan is None else plan.to_json(),
                    "when": time.strftime("%Y-%m-%d %H:%M"),
                }
            )
            print(_row_text(kept.rows[-1]), flush=True)
    if dtype != torch.float32:
        floor = rounding_floor(workshop, dtype)
        print(f"latent MSE that {named} alone causes (dense, 50 steps, n = 200): {floor:.6f}")


def picture_scores(workshop: Workshop, images: Tensor) -> dict[str, float | None]:
    """Return the scores of pictures of the classes in turn, by the model's feature network.

    Raises StudioError for a model without one.
    """
    judge = workshop.judge
    if judge is None:
        raise StudioError(f"{workshop.name} has no judge to score pictures with.")
    labels = torch.arange(len(images)) % len(workshop.class_names)
    return judge.scores(images, labels)


def scores(workshop: Workshop, samples: Samples, dense: Samples) -> dict[str, float | None]:
    """Return the scores of samples, and their distance to the dense model's samples.

    Raises StudioError for a model without a judge.
    """
    images = samples.images
    decibel = psnr(images, dense.images)
    decibel = decibel[torch.isfinite(decibel)]
    return {
        "macs": samples.macs,
        **picture_scores(workshop, images),
        "latent_mse": float(latent_mse(samples.latents, dense.latents).mean()),
        "psnr": float(decibel.mean()) if len(decibel) else None,
        "ssim": float(ssim(images, dense.images).mean()),
    }


def _row_text(row: dict[str, Any]) -> str:
    """Return a row as one line to print."""
    fid = "-" if row["fid"] is None else f"{row['fid']:.2f}"
    return (
        f"{row['base_steps']:3d} steps, seed {row['seed']}, {row['method']:36s} FID {fid:>7s}"
        f"  latent MSE {row['latent_mse']:.5f}  accuracy {row['class_accuracy']:.3f}"
    )


@dataclass(frozen=True)
class Study:
    """One comparison of contenders, and the file beside the model that holds its rows."""

    contenders: Callable[[Workshop, int, int], Iterator[Contender]]
    runs: Sequence[tuple[int, int, tuple[int, ...]]]  # steps, images, seeds
    file: str


STUDIES = {
    "quality": Study(contenders, RUNS, "study.json"),
    "sharing": Study(sharers, SHARING_RUNS, "sharing.json"),
    "weighting": Study(weighers, SHARING_RUNS, "weighting.json"),
}


def plan_of_runs(args: argparse.Namespace) -> Iterator[tuple[int, int, int]]:
    """Yield (steps, images, seed), first seeds first.

    So an interrupted study has every row once.
    """
    wanted = (
        {tuple(map(int, pair.split(":"))) for pair in args.only.split(",")} if args.only else None
    )
    for k in range(args.seeds):
        for steps, n, seeds in STUDIES[args.what].runs:
            if k < len(seeds) and (wanted is None or (steps, seeds[k]) in wanted):
                yield steps, min(n, args.images or n), seeds[k]


class Samples(NamedTuple):
    """Pictures that were drawn, and the work that they took."""

    latents: Tensor  # (n, channels, height, width) float32, on the CPU
    images: Tensor  # (n, channels, height, width)
    macs: float  # of all images, both guidance halves


def draw_samples(
    workshop: Workshop,
    plan: StagePlan | None,
    steps: int,
    n: int,
    seed: int,
    dtype: torch.dtype,
    batch: int = 250,
) -> Samples:
    """Draw n seeded samples, classes in turn, DDIM, with the model's own guidance."""
    model = workshop.dense if plan is None else workshop.build(plan)
    latents = draw_latents(workshop, model, "DDIM", steps, workshop.guidance, n, seed, batch, dtype)
    timesteps, classes = timesteps_of(workshop, steps), list(workshop.class_names)
    drawn = TableLabels.of([classes[i % len(classes)] for i in range(n)], batch)
    labels = drawn if workshop.macs.has_table(len(timesteps), drawn.most) else None
    macs = sum(step.total for step in workshop.work(plan, timesteps, labels=labels)) * n
    return Samples(latents, decode(workshop.vae, latents), macs)


def rounding_floor(workshop: Workshop, dtype: torch.dtype) -> float:
    """Return the latent MSE between dense runs in `dtype` and in the workshop's precision."""
    low, high = (
        draw_samples(workshop, None, steps=50, n=200, seed=0, dtype=d).latents
        for d in (dtype, workshop.dtype)
    )
    return float(latent_mse(low, high).mean())


def speed(args: argparse.Namespace) -> None:
    """Measure whole sampling runs (50 DDIM steps, guidance) in turn, and print the speed-ups.

    Stock diffusers, dense with one embedder, the formula's plans.
    """
    workshop = get_workshop(args.model)
    workshop.calibrate(print_progress)
    timesteps = timesteps_of(workshop, 50)
    plans = {target: propose_plan(workshop.schedule, target, timesteps).plan for target in TARGETS}
    results = speed_benchmark(workshop, plans, args.batch, args.repeats)
    facts = {
        "device": workshop.device_text,
        "batch": args.batch,
        "rounds": args.repeats,
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "results": results,
    }
    if args.json:
        print(json.dumps(facts))
        return
    print(
        f"{facts['device']}, {args.batch} images with guidance, 50 DDIM steps, {args.repeats}"
        f" rounds in turn, {facts['when']}"
    )
    for r in results:
        print(
            f"target {r['target']}: MACs ×{r['speedup_macs']:.3f}, measured"
            f" ×{r['speedup_measured']:.3f} ± {r['spread']:.3f}, {r['realised']:.3f} of it; against"
            f" diffusers' own forward ×{r['against_stock_measured']:.3f} ±"
            f" {r['against_stock_spread']:.3f} (MACs ×{r['against_stock_macs']:.3f});"
            f" {r['seconds']:.2f} s, dense {r['dense_seconds']:.2f} s, stock"
            f" {r['stock_seconds']:.2f} s"
        )


def table(args: argparse.Namespace) -> None:
    """Print the study as Markdown."""
    found = findings(load_study(args.out))
    print(markdown(found), *(f"- {sentence}" for sentence in verdicts(found)), sep="\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["speed", *STUDIES, "table"])
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="the study's file (default: beside the model)")
    parser.add_argument("--dtype", default=AUTO, choices=DTYPES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only",
        metavar="STEPS:SEED,...",
        help="these runs only, so that two processes of one thread each can share the work",
    )
    parser.add_argument(
        "--images", type=int, help="fewer images than the table's, for a quick look"
    )
    args = parser.parse_args()
    if args.what == "speed":
        speed(args)
        return
    file = STUDIES.get(args.what, STUDIES["quality"]).file
    args.out = file_beside(args.model, file, args.out)
    if args.what == "table":
        table(args)
    else:
        quality(args)
