"""Define the options of the command line, and refuse those that a verb does not use.

Nothing heavy is imported, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from .errors import LatentsShipped, ParameterError, StudioError, Unmet, with_remedies
from .output import in_options
from .paths import given_path

CALIBRATION = (
    "bins",
    "images_per_bin",
    "tokens_per_column",
    "damping",
    "weigh",
    "calibration_images",
    "self_calibrate",
    "calibration_count",
    "calibration_steps",
    "calibration_guidance",
)
PAGE = ("host", "port", "share")
# options that a verb reads in order to refuse them by name; None is the page
UNUSED: dict[str | None, tuple[str, ...]] = {
    None: (),
    "curves": ("dtype", *CALIBRATION, *PAGE, "plan"),
    "prune": PAGE,
    "compare": PAGE,
    "tune": (*PAGE, "plan", "stage_guidance"),
    "bench": (*CALIBRATION, *PAGE, "plan", "stage_guidance"),
}
PATHS = ("model", "plan", "against", "out", "keep", "calibration_images")
STAGE_GUIDANCE = (
    "guidance of stages in the plan, such as early=1,late=1: 1 runs the conditional half alone,"
    " half the work; own takes back what the plan sets"
)
REMEDIES: dict[type[Unmet], str] = {
    LatentsShipped: "add --self-calibrate or --calibration-images to use others",
}


def command_sentence(error: BaseException) -> str:
    """Return the sentence of an error as the command line prints it, with the options to give."""
    if isinstance(error, ParameterError):
        return in_options(error)
    return with_remedies(error, REMEDIES)


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


# argparse has no public name for it
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


@dataclass(frozen=True)
class _Options:
    """The options that all verbs share, as one verb offers them.

    `--help` leaves out the options that the verb does not use.
    """

    verb: str | None
    parser: argparse.ArgumentParser

    def add(self, flag: str, text: str, group: Any = None, **more: Any) -> None:
        """Add one option to the parser, or to a group of it where the verb uses the option."""
        used = flag[2:].replace("-", "_") not in UNUSED[self.verb]
        target = group if used and group is not None else self.parser
        target.add_argument(flag, help=text if used else argparse.SUPPRESS, **more)


def _common(suppress: bool, verb: str | None = None) -> argparse.ArgumentParser:
    """Return a parser of the options of every verb.

    suppress: defaults leave alone what was given before the verb.
    """
    common = argparse.ArgumentParser(
        add_help=False, argument_default=argparse.SUPPRESS if suppress else None
    )
    common.add_argument(
        "--model",
        metavar="FOLDER|ID",
        help=(
            "the name of a bundled model (character-dit, fashion-dit), or a diffusers pipeline, DiT"
            " or SDXL: a folder or a hub id (default: character-dit)"
        ),
    )
    common.add_argument("--revision", help="branch or commit of a hub id, e.g. refs/pr/1")
    default: dict[str, Any] = {} if suppress else {"default": "auto"}
    common.add_argument("--device", help="auto, cpu, cuda, cuda:1, ... (default: auto)", **default)
    options = _Options(verb, common)
    options.add(
        "--dtype",
        "precision (default: float32 on a CPU, bfloat16 on CUDA)",
        choices=["auto", "float32", "bfloat16", "float16"],
        **default,
    )
    _add_calibration(options)
    _add_calibration_data(options)
    return common


def _add_calibration(options: _Options) -> None:
    """Add the options of how much is measured."""
    options.add(
        "--bins",
        "calibration: so many timestep bins of equal width (default: 11, finer where t is small)",
        type=int,
    )
    options.add(
        "--images-per-bin",
        "calibration: images fitted in each bin (default 192; a third as many more are held out)",
        type=int,
    )
    options.add(
        "--tokens-per-column",
        "calibration: tokens that a layer takes at most, per column and bin, 4 or more: faster on"
        " many tokens, but fewer make the compensation less exact (default: all)",
        type=int,
        metavar="N",
    )
    options.add(
        "--damping",
        "calibration: one ridge for all layers, as a share of mean(diag H) (default: chosen per"
        " layer)",
        type=float,
    )
    options.add(
        "--weigh",
        "calibration: which rows count more (default: even)",
        choices=["even", "guidance", "gate", "timestep"],
    )


def _add_calibration_data(options: _Options) -> None:
    """Add the options of what is measured on, in a group of their own where they are used."""
    data = None
    if "calibration_images" not in UNUSED[options.verb]:
        data = options.parser.add_argument_group(
            "what to calibrate on",
            "by default the latents shipped with the model, else samples of its own",
        )
    options.add(
        "--calibration-images",
        "pictures with metadata.jsonl or labels.csv, with name.txt beside each, or in sub-folders"
        " by class",
        data,
        metavar="FOLDER",
    )
    options.add(
        "--self-calibrate",
        "the model's own samples, even where latents are shipped",
        data,
        action="store_true",
    )
    options.add(
        "--calibration-count",
        "different pictures or samples (default: as many as a timestep bin takes)",
        data,
        type=int,
        metavar="N",
    )
    options.add(
        "--calibration-steps",
        "sampling steps of own samples (default 20)",
        data,
        type=int,
        metavar="N",
    )
    options.add(
        "--calibration-guidance",
        "guidance of own samples and of --weigh guidance (default: the model's own)",
        data,
        type=float,
        metavar="G",
    )


def refuse_unused(args: argparse.Namespace) -> None:
    """Raise StudioError for given options that the verb does not use."""
    values = {name: getattr(args, name, None) for name in UNUSED[args.verb]}
    given = [
        f"--{name.replace('_', '-')}"
        for name, value in values.items()
        if value is not None and value is not False and value != "auto"
    ]
    if given:
        raise StudioError(
            f"{args.verb} does not use {', '.join(given)}: leave"
            f" {'it' if len(given) == 1 else 'them'} out."
        )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line.

    `--model`, `--revision` and `--device` mean the same on every verb, and before it.
    """
    root = Parser(
        prog="app.py",
        description="See, tune and prove training-free pruning of diffusion models.",
        parents=[_common(suppress=False), _page()],
    )
    verbs: Verbs = root.add_subparsers(
        dest="verb",
        metavar="curves|prune|compare|tune|bench",
        title="without a browser",
        parser_class=Parser,
    )
    for name, add in VERBS.items():
        verb = add(verbs, _common(suppress=True, verb=name))
        verb.add_argument(
            "--json",
            action="store_true",
            help="one JSON object on stdout (progress goes to stderr)",
        )
    return root


def _page() -> argparse.ArgumentParser:
    """Return a parser of the options of the page."""
    page = argparse.ArgumentParser(add_help=False)
    page.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    page.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    page.add_argument(
        "--share",
        action="store_true",
        help="public link through Gradio's tunnel: leaves this machine, never the default",
    )
    page.add_argument("--plan", metavar="FILE", help="plan file to open with")
    page.add_argument("--stage-guidance", metavar="STAGE=G,...", help=STAGE_GUIDANCE)
    return page


def _add_stage_guidance(verb: argparse.ArgumentParser) -> None:
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
    _add_stage_guidance(verb)
    verb.add_argument(
        "--variance", type=float, default=1.0, help="mean square of a latent value (default 1)"
    )
    return verb


def _add_prune(verbs: Verbs, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the verb that writes the subnetworks of a plan."""
    verb = verbs.add_parser("prune", parents=[common], help="write the subnetworks of a plan")
    verb.add_argument("--plan", metavar="FILE", required=True)
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
    _add_stage_guidance(verb)
    return verb


def _add_compare(verbs: Verbs, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the verb that samples two sides from the same noise."""
    verb = verbs.add_parser(
        "compare",
        parents=[common],
        help="sample dense and a plan from the same noise, timed in turn",
    )
    verb.add_argument("--plan", metavar="FILE", required=True)
    _add_stage_guidance(verb)
    verb.add_argument("--against", metavar="FILE", help="a plan in dense's place")
    verb.add_argument(
        "--images", type=int, help="how many (default 16, or one for each prompt); FID from 200"
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
        "--tabulate",
        action="store_true",
        help=(
            "both sides take a DiT's adaLN vectors from a table: faster at few images, no predicted"
            " times"
        ),
    )
    _add_mode(verb)
    verb.add_argument("--out", metavar="DIR", help="folder for the pictures and result.json")
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
            "one part: macs, memory, allocation, plans, path, adaln, modes, xl, forward, realised"
            " or calibration"
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
    "tune": _add_tune,
    "bench": _add_bench,
}


def read_paths(args: argparse.Namespace) -> None:
    """Replace `~` and the like in the options that are paths.

    Raises StudioError for an empty option: its default would be taken instead.
    """
    for name in PATHS:
        value = getattr(args, name, None)
        if value is not None:
            setattr(args, name, given_path(value, f"--{name.replace('_', '-')}"))
    for name in ("revision", "host"):
        value = getattr(args, name, None)
        if value is not None and not value.strip():
            raise StudioError(f"--{name} is empty: give one, or leave it out.")
