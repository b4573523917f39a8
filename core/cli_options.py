"""Define the options of the command line, and refuse those that a verb does not use.

Nothing heavy is imported, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, NoReturn

from .cli_verbs import STAGE_GUIDANCE, VERBS, Verbs
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
PAGE = ("host", "port", "share", "root_path")
# options that a verb reads in order to refuse them by name; None is the page
UNUSED: dict[str | None, tuple[str, ...]] = {
    None: (),
    "curves": ("dtype", *CALIBRATION, *PAGE, "plan"),
    "prune": PAGE,
    "compare": PAGE,
    "sweep": PAGE,
    "tune": (*PAGE, "plan", "stage_guidance"),
    "bench": (*CALIBRATION, *PAGE, "plan", "stage_guidance"),
}
PATHS = ("model", "plan", "against", "out", "keep", "calibration_images")
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
        metavar="curves|prune|compare|sweep|tune|bench",
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
        "--root-path",
        metavar="/PATH",
        help="where a reverse proxy shows the page, as /studio or https://host/studio",
    )
    page.add_argument(
        "--share",
        action="store_true",
        help="public link through Gradio's tunnel: leaves this machine, never the default",
    )
    page.add_argument("--plan", metavar="FILE", help="plan file to open with")
    page.add_argument("--stage-guidance", metavar="STAGE=G,...", help=STAGE_GUIDANCE)
    return page


def is_json(plan: str) -> bool:
    """Say whether the value of a plan's option is the plan itself, and no file."""
    return plan.lstrip().startswith("{")


def read_paths(args: argparse.Namespace) -> None:
    """Replace `~` and the like in the options that are paths.

    Raises StudioError for an empty option: its default would be taken instead.
    """
    for name in PATHS:
        value = getattr(args, name, None)
        if value is not None and not (name in ("plan", "against") and is_json(value)):
            setattr(args, name, given_path(value, f"--{name.replace('_', '-')}"))
    for name in ("revision", "host", "root_path"):
        value = getattr(args, name, None)
        if value is not None and not value.strip():
            option = name.replace("_", "-")
            raise StudioError(f"--{option} is empty: give one, or leave it out.")
