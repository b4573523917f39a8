"""Define the verbs of the command line and the options that each of them alone has.

Nothing heavy is imported, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, TypeAlias

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
STAGE_GUIDANCE = (
    "guidance of stages in the plan, such as early=1,late=1: 1 runs the conditional half alone,"
    " half the work; own takes back what the plan sets"
)


def add_stage_guidance(verb: argparse.ArgumentParser) -> None:
    """Add the guidance of single stages; without it what was given before the verb stays."""
    more: dict[str, Any] = {"metavar": "STAGE=G,...", "help": STAGE_GUIDANCE}
    verb.add_argument("--stage-guidance", default=argparse.SUPPRESS, **more)


def _add_curves(verbs: Verbs, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the verb for theoretical curves."""
    verb = verbs.add_parser(
        "curves",
        parents=[common],
        help="theoretical curves, boundaries and sparsities of a noise schedule",
    )
    verb.add_argument(
        "--beta-schedule",
        help=(
            "linear, scaled_linear, squaredcos_cap_v2, sigmoid (default: the --model's own; without"
            " a model linear)"
        ),
    )
    verb.add_argument("--beta-start", type=float)
    verb.add_argument("--beta-end", type=float)
    verb.add_argument(
        "--scheduler",
        default="DDIM",
        help="sampler whose steps are counted, e.g. DDIM, Euler, DPM-Solver++",
    )
    verb.add_argument(
        "--target",
        type=float,
        default=0.33,
        help="mean sparsity over the sampling steps (default 0.33)",
    )
    verb.add_argument("--steps", type=int, default=50, help="sampling steps (default 50)")
    verb.add_argument(
        "--preset",
        choices=["formula", "interval"],
        default="formula",
        help="the paper's formula (default), or nothing pruned and guidance in an interval only",
    )
    add_stage_guidance(verb)
    verb.add_argument(
        "--variance", type=float, default=1.0, help="mean square of a latent value (default 1)"
    )
    return verb


def _add_prune(verbs: Verbs, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the verb that writes the subnetworks of a plan."""
    verb = verbs.add_parser("prune", parents=[common], help="write the subnetworks of a plan")
    verb.add_argument(
        "--plan", metavar="FILE|JSON", required=True, help="a plan file, or the JSON of one"
    )
    verb.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="folder for safetensors and manifest.json (new or empty)",
    )
    verb.add_argument(
        "--steps",
        type=int,
        default=50,
        help=(
            "sampling steps that MACs are counted over and a budget over all stages weighed by"
            " (default 50)"
        ),
    )
    add_stage_guidance(verb)
    verb.add_argument(
        "--without-adaln",
        action="store_true",
        help=(
            "write a whole DiT, no base needed, without adaLN weights: it runs the timesteps of"
            " --steps with --scheduler and the classes of --labels, and refuses others"
        ),
    )
    verb.add_argument(
        "--scheduler", help="with --without-adaln: sampler it is for (default: the model's own)"
    )
    verb.add_argument(
        "--labels",
        metavar="N,N,...",
        help="with --without-adaln: classes it is for (default: all that have a name)",
    )
    return verb


def _add_compare(verbs: Verbs, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the verb that samples two sides from the same noise."""
    verb = verbs.add_parser(
        "compare",
        parents=[common],
        help="sample dense and a plan from the same noise, timed in turn",
    )
    verb.add_argument(
        "--plan",
        metavar="FILE|JSON",
        required=True,
        help="a plan file, the JSON of one, or dense for the whole model",
    )
    add_stage_guidance(verb)
    verb.add_argument("--against", metavar="FILE|JSON", help="a plan in dense's place")
    _add_sampled(verb)
    verb.add_argument(
        "--side-steps",
        metavar="A,B",
        help="steps of each side where they differ: of dense (or --against), then of the plan",
    )
    verb.add_argument("--out", metavar="DIR", help="folder for the pictures and result.json")
    return verb


def _add_sampled(verb: argparse.ArgumentParser) -> None:
    """Add the options of what both sides sample, and how."""
    verb.add_argument(
        "--images", type=int, help="how many (default 16, or one for each prompt); FID from 200"
    )
    verb.add_argument(
        "--classes",
        metavar="N,...",
        help="DiT: the numbers of the classes to paint in turn (default: all of them)",
    )
    verb.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="SDXL: what to paint; give it several times for several prompts in turn",
    )
    verb.add_argument("--negative", metavar="TEXT", help="SDXL: what to keep out")
    verb.add_argument(
        "--size",
        metavar="HxW",
        help="SDXL: height x width in pixels, multiples of 64 (default: the model's own)",
    )
    verb.add_argument("--steps", type=int, default=50)
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument(
        "--guidance", type=float, help="default: the model's own, 1.5 for DiT and 5 for SDXL"
    )
    verb.add_argument("--scheduler", default="DDIM")
    verb.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="timed runs of each side (default 3; large sets time every batch of 100)",
    )
    verb.add_argument(
        "--no-adaln-table",
        dest="adaln_table",
        action="store_false",
        help=(
            "both sides of a DiT work their adaLN vectors out at every step, as a stock pipeline"
            " does (default: once for all steps, wherever the table fits)"
        ),
    )
    # the option of version 0.1, when the table had to be asked for
    verb.add_argument("--tabulate", dest="adaln_table", action="store_true", help=argparse.SUPPRESS)
    verb.set_defaults(adaln_table=True)
    _add_mode(verb)
    verb.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "float16"],
        help="both sides' networks are cast to it once they are made (default: as they are)",
    )


def _add_sweep(verbs: Verbs, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the verb that compares over a grid of settings."""
    verb = verbs.add_parser(
        "sweep",
        parents=[common],
        help="compare dense with a plan over a grid of one or two settings, every cell kept",
    )
    verb.add_argument(
        "--x",
        required=True,
        metavar="NAME=VALUES",
        help=(
            "what changes along a row, as START:STOP:STEP (both ends count) or a,b,c: target,"
            " sparsity.early|middle|late, boundaries.low|high, m, steps, scheduler, guidance,"
            " guidance.early|middle|late, sharing, mode"
        ),
    )
    verb.add_argument(
        "--y", metavar="NAME=VALUES", help="what changes down a column (default: nothing)"
    )
    verb.add_argument(
        "--plan",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="plan that every cell starts from (default: the paper's formula, target 0.33)",
    )
    add_stage_guidance(verb)
    _add_sampled(verb)
    verb.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="begin no new cell after so many; the same command goes on later",
    )
    verb.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run the cells on a Ray cluster, such as auto or 10.0.0.5:6379 (needs ray)",
    )
    verb.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="folder for table, pictures and page; the same command goes on from it",
    )
    return verb


def _add_mode(verb: argparse.ArgumentParser) -> None:
    """Add the option that says how networks run."""
    verb.add_argument(
        "--mode",
        default="plain",
        help=(
            "how networks run, dense ones too: plain, graphs (captured, CUDA only) or compiled"
            " (blocks by torch.compile); default plain"
        ),
    )


def _add_tune(verbs: Verbs, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the verb that searches for a plan."""
    verb = verbs.add_parser(
        "tune",
        parents=[common],
        help="search for steps, solver and plan with the best pictures within a budget",
    )
    goal = verb.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--speedup", type=float, metavar="X", help="so many times faster than the dense reference"
    )
    goal.add_argument(
        "--run-seconds",
        type=float,
        metavar="S",
        help="at most so many seconds of the denoiser for the usual images, as predicted",
    )
    goal.add_argument(
        "--match-dense",
        action="store_true",
        help="no worse than the dense reference on held-out noises, as fast as possible",
    )
    verb.add_argument(
        "--cost",
        choices=["macs", "seconds"],
        default="macs",
        help="what --speedup and --match-dense count (default macs)",
    )
    _add_mode(verb)
    verb.add_argument(
        "--steps",
        type=int,
        help="of the dense reference, and then of the plan too (default: 50, and open)",
    )
    verb.add_argument(
        "--scheduler",
        help="of the dense reference, and then of the plan too (default: DDIM, and open)",
    )
    verb.add_argument("--guidance", type=float, help="of the reference; default: the model's own")
    verb.add_argument(
        "--seconds",
        type=float,
        default=300.0,
        metavar="BUDGET",
        help="for everything but the calibration (default 300)",
    )
    verb.add_argument(
        "--evaluations", type=int, default=60, metavar="N", help="at most so many (default 60)"
    )
    verb.add_argument(
        "--images", type=int, default=256, metavar="N", help="of one evaluation (default 256)"
    )
    verb.add_argument(
        "--held-out",
        type=int,
        default=500,
        metavar="N",
        help="images from other noise, by which the best is chosen in the end (default 500)",
    )
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument(
        "--quality",
        choices=["auto", "features", "latents"],
        default="auto",
        help=(
            "features: Fréchet distance on the model's own feature network; latents: distance to"
            " dense, with the guidance as it is; auto: features where the model has a network"
        ),
    )
    verb.add_argument(
        "--encoder",
        metavar="FOLDER|ID",
        help="judge by the features of this transformers image encoder instead",
    )
    verb.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="folder for the plan and every evaluation; the same command goes on from it",
    )
    return verb


def _add_bench(verbs: Verbs, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the verb that measures the engine."""
    verb = verbs.add_parser(
        "bench",
        parents=[common],
        help="measure the engine on this machine: ratios with their spread, memory, MACs",
    )
    verb.add_argument(
        "--only",
        metavar="NAME",
        help=(
            "one part: macs, memory, allocation, plans, path, adaln, modes, layouts, xl, forward,"
            " realised or calibration"
        ),
    )
    verb.add_argument(
        "--quick", action="store_true", help="small sizes and two rounds, to see that it runs"
    )
    verb.add_argument(
        "--seconds", type=float, metavar="S", help="stop after so many; needs --keep to go on later"
    )
    verb.add_argument(
        "--keep",
        metavar="FILE",
        help="file for finished parts: the same command goes on from it",
    )
    return verb


VERBS: dict[str, Callable[[Verbs, argparse.ArgumentParser], argparse.ArgumentParser]] = {
    "curves": _add_curves,
    "prune": _add_prune,
    "compare": _add_compare,
    "sweep": _add_sweep,
    "tune": _add_tune,
    "bench": _add_bench,
}
