"""Measured claims, each from one command.

    python -m core.bench speed                     # realised against MAC-predicted speed-up, batch
        16, interleaved
    python -m core.bench quality --out study.json  # the study; resumes, about an hour on two CPU
        cores
    python -m core.bench sharing                   # the same for the ways in which layers share a
        cut: 10 steps, three seeds
    python -m core.bench weighting                 # the same for the weightings of calibration rows
        (core.row_weights)
    python -m core.bench table --out study.json    # the README's table and its sentences from it

`quality` samples in bf16 by default (twice as fast on CPUs that have it); it prints the latent MSE
that bf16 alone causes, so that no difference below that floor is mistaken for a result. Neither
runs beside anything else that wants the processor. All other ratios, on one page, are `python
app.py bench`.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from ..calibration.row_weights import WEIGHTINGS
from ..curves.plan import StagePlan
from ..curves.proposals import presets, propose_plan
from ..files import write_whole
from ..models.checkpoints import BUNDLED
from ..sampling.denoise import Denoiser, decode, start_noise
from ..sampling.metrics import latent_mse, psnr, ssim
from ..workshop.compare import sampler
from ..workshop.study import findings, load_study, markdown, verdicts
from ..workshop.workshop import Workshop, get_workshop
from .realised import TARGETS, speed_benchmark, timesteps_of

GUIDANCE = 1.5
SHARING_RUNS = ((10, 2000, (0, 1, 2)),)
# steps, images, seeds
RUNS = ((50, 2000, (0, 1, 2)), (10, 2000, (0, 1, 2)), (20, 1000, (0,)), (7, 1000, (0,)))


def contenders(
    workshop: Workshop, steps: int, seed: int
) -> Iterator[tuple[str, StagePlan | None, int]]:
    """(name, plan, steps): dense, the plans, and dense with as many steps as the plan's work pays
    for. The flatter preset on the first seed only.
    """
    timesteps = timesteps_of(workshop, steps)
    yield "dense", None, steps
    for target in TARGETS:
        known = presets(workshop.schedule, target, timesteps)
        formula, flatter, uniform = known["Formula"], known["Formula, flatter"], known["Uniform"]
        work = (
            workshop.predict(formula, timesteps).macs
            / workshop.predict(formula, timesteps).macs_dense
        )
        yield f"MosaicDiff {target}", formula, steps
        if seed == 0:
            yield f"MosaicDiff flatter {target}", flatter, steps
        yield f"uniform OBS {target}", uniform, steps
        yield f"magnitude, no compensation {target}", replace(uniform, method="magnitude"), steps
        fewer = max(1, round(steps * work))
        yield f"dense, {fewer} steps (work of {target})", None, fewer


def sharers(
    workshop: Workshop, steps: int, seed: int
) -> Iterator[tuple[str, StagePlan | None, int]]:
    """The formula's plan with its work shared out over the layers in every way there is, at equal
    MACs; one budget over evenly spaced steps.
    """
    yield "dense", None, steps
    for target in TARGETS:
        plan = presets(workshop.schedule, target, timesteps_of(workshop, steps))["Formula"]
        yield f"equal shares (the paper) {target}", plan, steps
        for method in ("log_ramp", "lagrangian", "dynamic"):
            yield (
                f"{method.replace('_', ' ')}, stage by stage {target}",
                replace(plan, allocation=method),
                steps,
            )
        yield f"equal shares, one budget {target}", replace(plan, scope="run"), steps
        yield (
            f"dynamic, one budget {target}",
            replace(plan, allocation="dynamic", scope="run"),
            steps,
        )
        yield (
            f"dynamic, stage by stage, ends keep half {target}",
            replace(plan, allocation="dynamic", protect=0.5),
            steps,
        )


def weighers(
    workshop: Workshop, steps: int, seed: int
) -> Iterator[tuple[str, StagePlan | None, int, Workshop]]:
    """The formula's plan from calibrations that weigh their rows in every way there is; each has a
    workshop of its own over the same model.
    """
    yield "dense", None, steps, workshop
    for weighting in WEIGHTINGS:
        settings = replace(workshop.settings, weighting=weighting, guidance=GUIDANCE)
        shop = Workshop(workshop.checkpoint, settings, workshop.cache)
        shop.calibrate(lambda d, t, text: print(f"[{d}/{t}] {text}", file=sys.stderr, flush=True))
        for target in TARGETS:
            plan = presets(workshop.schedule, target, timesteps_of(workshop, steps))["Formula"]
            yield (
                (
                    f"rows weighed by {weighting} {target}"
                    if weighting != "even"
                    else f"even rows {target}"
                ),
                plan,
                steps,
                shop,
            )


def quality(args: argparse.Namespace) -> None:
    """FID, class accuracy and distance to dense of every contender;
    one row at a time into --out.
    """
    who = STUDIES[args.what][0]
    workshop = get_workshop(args.model)
    workshop.calibrate(lambda d, t, text: print(f"[{d}/{t}] {text}", file=sys.stderr, flush=True))
    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    done = {(r["method"], r["base_steps"], r["seed"]) for r in rows}
    dtype = getattr(torch, args.dtype)
    for steps, n, seed in plan_of_runs(args):
        reference = None
        for name, plan, used, *own in who(workshop, steps, seed):
            if (name, steps, seed) in done and name != "dense":
                continue
            latents, images, macs = draw(*(own or [workshop]), plan, used, n, seed, dtype)
            if name == "dense":
                reference = (latents, images)
                if (name, steps, seed) in done:
                    continue
            labels = torch.arange(n) % len(workshop.class_names)
            decibel = psnr(images, reference[1])
            decibel = decibel[torch.isfinite(decibel)]
            rows.append(
                {
                    "method": name,
                    "base_steps": steps,
                    "steps": used,
                    "seed": seed,
                    "n": n,
                    "macs": macs,
                    "fid": workshop.judge.fid(images),
                    "class_accuracy": workshop.judge.class_accuracy(images, labels),
                    "variance_ratio": workshop.judge.variance_ratio(images, labels),
                    "latent_mse": float(latent_mse(latents, reference[0]).mean()),
                    "psnr": float(decibel.mean()) if len(decibel) else None,
                    "ssim": float(ssim(images, reference[1]).mean()),
                    "dtype": args.dtype,
                    "device": workshop.device_text,
                    "plan": plan and plan.to_json(),
                    "when": time.strftime("%Y-%m-%d %H:%M"),
                }
            )
            write_whole(args.out, lambda part: part.write_text(json.dumps(rows, indent=1) + "\n"))
            r = rows[-1]
            fid = "-" if r["fid"] is None else f"{r['fid']:.2f}"
            print(
                f"{steps:3d} steps, seed {seed}, {name:36s} FID {fid:>7s}  latent MSE"
                f" {r['latent_mse']:.5f}  accuracy {r['class_accuracy']:.3f}",
                flush=True,
            )
    if args.dtype != "float32":
        floor = rounding_floor(workshop, dtype)
        print(f"latent MSE that {args.dtype} alone causes (dense, 50 steps, n = 200): {floor:.6f}")


STUDIES = {  # contenders, runs, file beside the model
    "quality": (contenders, RUNS, "study.json"),
    "sharing": (sharers, SHARING_RUNS, "sharing.json"),
    "weighting": (weighers, SHARING_RUNS, "weighting.json"),
}


def plan_of_runs(args: argparse.Namespace) -> Iterator[tuple[int, int, int]]:
    """(steps, images, seed), first seeds first, so that an interrupted study has every row once."""
    wanted = (
        {tuple(map(int, pair.split(":"))) for pair in args.only.split(",")} if args.only else None
    )
    for k in range(args.seeds):
        for steps, n, seeds in STUDIES[args.what][1]:
            if k < len(seeds) and (wanted is None or (steps, seeds[k]) in wanted):
                yield steps, min(n, args.images or n), seeds[k]


def draw(
    workshop: Workshop,
    plan: StagePlan | None,
    steps: int,
    n: int,
    seed: int,
    dtype: torch.dtype,
    batch: int = 250,
):
    """Latents, pictures and MACs (all images, both guidance halves) of n seeded samples, classes in
    turn, DDIM, guidance 1.5.
    """
    model = workshop.dense if plan is None else workshop.build(plan)
    model = copy.deepcopy(model).to(dtype) if dtype != workshop.dtype else model
    side = Denoiser(model, sampler(workshop, "DDIM"), workshop.schedule, steps)
    conditions, noise = workshop.some_conditions(n), start_noise(n, workshop.latent_shape, seed)
    latents = (
        torch.cat(
            [
                side.run(noise[i : i + batch], conditions.rows(slice(i, i + batch)), GUIDANCE)[0]
                for i in range(0, n, batch)
            ]
        )
        .float()
        .cpu()
    )
    row_macs = workshop.stage_macs(plan)
    macs = sum(row_macs[s] for s in side.stages) * 2 * n
    return latents, decode(workshop.vae, latents), macs


def rounding_floor(workshop: Workshop, dtype: torch.dtype) -> float:
    """Latent MSE between dense runs in `dtype` and in the workshop's own precision."""
    low, high = (draw(workshop, None, 50, 200, 0, d)[0] for d in (dtype, workshop.dtype))
    return float(latent_mse(low, high).mean())


def speed(args: argparse.Namespace) -> None:
    """Whole sampling runs (50 DDIM steps, guidance) in turn: stock diffusers, dense with one
    embedder, the formula's plans.
    """
    workshop = get_workshop(args.model)
    workshop.calibrate(lambda d, t, text: print(f"[{d}/{t}] {text}", file=sys.stderr, flush=True))
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
    """The study as Markdown."""
    found = findings(load_study(args.out))
    print(markdown(found), *(f"- {sentence}" for sentence in verdicts(found)), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", *STUDIES, "table"])
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--out", type=Path, help="the study's file (default: beside the bundled model)"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
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
    args.out = args.out or BUNDLED / STUDIES.get(args.what, STUDIES["quality"])[2]
    {"speed": speed, "table": table}.get(args.what, quality)(args)
