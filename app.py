"""MosaicDiff Studio: `python app.py` opens the page, `python app.py curves|prune|compare|bench
--json` does the same work without one.

Heavy imports happen inside the verbs, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, NoReturn

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
# says that torchvision is missing, which nothing here needs
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

BUNDLED = "the bundled model"
CLOSED_PIPE = 141  # 128 + SIGPIPE, as the shell reports other tools whose reader has gone


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


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
UNUSED = {
    None: (),
    "curves": ("dtype", *CALIBRATION, *PAGE, "plan"),
    "prune": PAGE,
    "compare": PAGE,
    "bench": (*CALIBRATION, *PAGE, "plan"),
}


def _common(suppress: bool, verb: str | None = None) -> argparse.ArgumentParser:
    """Options of every verb. Suppressed defaults leave alone what was given before the verb.

    Those that `verb` does not use are read all the same, so that `main` can refuse them by name,
    but `--help` leaves them out.
    """
    common = argparse.ArgumentParser(
        add_help=False, argument_default=argparse.SUPPRESS if suppress else None
    )
    common.add_argument(
        "--model",
        metavar="FOLDER|ID",
        help=f"diffusers pipeline, DiT or SDXL, a folder or a hub id (default: {BUNDLED})",
    )
    common.add_argument("--revision", help="branch or commit of a hub id, e.g. refs/pr/1")
    device = {} if suppress else {"default": "auto"}
    common.add_argument("--device", help="auto, cpu, cuda, cuda:1, ... (default: auto)", **device)

    def option(flag: str, help: str, into: Any = common, **more: Any) -> None:
        used = flag[2:].replace("-", "_") not in UNUSED[verb]
        (into if used else common).add_argument(
            flag, help=help if used else argparse.SUPPRESS, **more
        )

    option(
        "--dtype",
        "precision (default: float32 on a CPU, bfloat16 on CUDA)",
        choices=["auto", "float32", "bfloat16", "float16"],
        **device,
    )
    option(
        "--bins",
        "calibration: so many timestep bins of equal width (default: 11, finer where t is small)",
        type=int,
    )
    option(
        "--images-per-bin",
        "calibration: images fitted in each bin (default 192; a third as many more are held out)",
        type=int,
    )
    option(
        "--tokens-per-column",
        "calibration: tokens that a layer takes at most, per column and bin, 4 or more: faster on"
        " many tokens, but fewer make the compensation less exact (default: all)",
        type=int,
        metavar="N",
    )
    option(
        "--damping",
        "calibration: one ridge for all layers, as a share of mean(diag H) (default: chosen per"
        " layer)",
        type=float,
    )
    option(
        "--weigh",
        "calibration: which rows count more (default: even)",
        choices=["even", "guidance", "gate", "timestep"],
    )
    data = common
    if "calibration_images" not in UNUSED[verb]:
        data = common.add_argument_group(
            "what to calibrate on",
            "by default the latents shipped with the model, else samples of its own",
        )
    option(
        "--calibration-images",
        "pictures with metadata.jsonl or labels.csv, with name.txt beside each, or in sub-folders"
        " by class",
        data,
        metavar="FOLDER",
    )
    option(
        "--self-calibrate",
        "the model's own samples, even where latents are shipped",
        data,
        action="store_true",
    )
    option(
        "--calibration-count",
        "different pictures or samples (default: as many as a timestep bin takes)",
        data,
        type=int,
        metavar="N",
    )
    option(
        "--calibration-steps",
        "sampling steps of own samples (default 20)",
        data,
        type=int,
        metavar="N",
    )
    option(
        "--calibration-guidance",
        "guidance of own samples and of --weigh guidance (default: 1.5 for DiT, 5 for SDXL)",
        data,
        type=float,
        metavar="G",
    )
    return common


def refuse_unused(args: argparse.Namespace) -> None:
    """Raise StudioError for an option that the verb would pass over in silence, wherever it stands
    on the line.
    """
    from core.errors import StudioError

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
    """The command line. `--model`, `--revision` and `--device` mean the same on every verb, and
    before it.
    """
    common = {verb: _common(suppress=True, verb=verb) for verb in UNUSED if verb}
    page = argparse.ArgumentParser(add_help=False)
    page.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    page.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    page.add_argument(
        "--share",
        action="store_true",
        help="public link through Gradio's tunnel: leaves this machine, never the default",
    )
    page.add_argument("--plan", metavar="FILE", help="plan file to open with")

    root = Parser(
        prog="app.py",
        description="See, tune and prove training-free pruning of diffusion models.",
        parents=[_common(suppress=False), page],
    )
    verbs = root.add_subparsers(
        dest="verb", metavar="curves|prune|compare|bench", title="without a browser"
    )

    curves = verbs.add_parser(
        "curves",
        parents=[common["curves"]],
        help="theoretical curves, boundaries and sparsities of a noise schedule",
    )
    curves.add_argument(
        "--beta-schedule",
        help=(
            "linear, scaled_linear, squaredcos_cap_v2, sigmoid (default: the --model's own; without"
            " a model linear)"
        ),
    )
    curves.add_argument("--beta-start", type=float)
    curves.add_argument("--beta-end", type=float)
    curves.add_argument(
        "--scheduler",
        default="DDIM",
        help="sampler whose steps are counted, e.g. DDIM, Euler, DPM-Solver++",
    )
    curves.add_argument(
        "--target",
        type=float,
        default=0.33,
        help="mean sparsity over the sampling steps (default 0.33)",
    )
    curves.add_argument("--steps", type=int, default=50, help="sampling steps (default 50)")
    curves.add_argument(
        "--variance", type=float, default=1.0, help="mean square of a latent value (default 1)"
    )

    prune = verbs.add_parser(
        "prune", parents=[common["prune"]], help="write the subnetworks of a plan"
    )
    prune.add_argument("--plan", metavar="FILE", required=True)
    prune.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="folder for safetensors and manifest.json (new or empty)",
    )
    prune.add_argument(
        "--steps",
        type=int,
        default=50,
        help=(
            "sampling steps that MACs are counted over and a budget over all stages weighed by"
            " (default 50)"
        ),
    )

    compare = verbs.add_parser(
        "compare",
        parents=[common["compare"]],
        help="sample dense and a plan from the same noise, timed in turn",
    )
    compare.add_argument("--plan", metavar="FILE", required=True)
    compare.add_argument("--against", metavar="FILE", help="a plan in dense's place")
    compare.add_argument(
        "--images", type=int, help="how many (default 16, or one for each prompt); FID from 200"
    )
    compare.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="SDXL: what to paint; give it several times for several prompts in turn",
    )
    compare.add_argument("--negative", metavar="TEXT", help="SDXL: what to keep out")
    compare.add_argument(
        "--size",
        metavar="HxW",
        help="SDXL: height x width in pixels, multiples of 64 (default: the model's own)",
    )
    compare.add_argument("--steps", type=int, default=50)
    compare.add_argument("--seed", type=int, default=0)
    compare.add_argument("--guidance", type=float, help="default 1.5, or 5 for SDXL")
    compare.add_argument("--scheduler", default="DDIM")
    compare.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="timed runs of each side (default 3; large sets time every batch of 100)",
    )
    compare.add_argument(
        "--tabulate",
        action="store_true",
        help=(
            "both sides take a DiT's adaLN vectors from a table: faster at few images, no predicted"
            " times"
        ),
    )
    compare.add_argument("--out", metavar="DIR", help="folder for the pictures and result.json")

    bench = verbs.add_parser(
        "bench",
        parents=[common["bench"]],
        help="measure the engine on this machine: ratios with their spread, memory, MACs",
    )
    bench.add_argument(
        "--only",
        metavar="NAME",
        help=(
            "one part: macs, memory, allocation, plans, path, adaln, forward, realised or"
            " calibration"
        ),
    )
    bench.add_argument(
        "--quick", action="store_true", help="small sizes and two rounds, to see that it runs"
    )
    for verb in (curves, prune, compare, bench):
        verb.add_argument(
            "--json",
            action="store_true",
            help="one JSON object on stdout (progress goes to stderr)",
        )
    return root


PATHS = ("model", "plan", "against", "out", "calibration_images")


def read_paths(args: argparse.Namespace) -> None:
    """Put what paths stand for in the place of `~` and the like. Raises StudioError for empty ones,
    where a default would step in unasked.
    """
    from core.errors import StudioError
    from core.paths import given_path

    for name in PATHS:
        value = getattr(args, name, None)
        if value is not None:
            setattr(args, name, given_path(value, f"--{name.replace('_', '-')}"))
    for name in ("revision", "host"):
        value = getattr(args, name, None)
        if value is not None and not value.strip():
            raise StudioError(f"--{name} is empty: give one, or leave it out.")


def main(arguments: list[str] | None = None) -> int:
    """Run a verb or open the page; 0 when it worked, 2 for something the user can mend (one
    sentence on stderr).
    """
    from core.output import PipeClosed, check_output, note, prepare_streams

    prepare_streams()
    args = parser().parse_args(arguments)
    from core.errors import StudioError, plain_memory_errors

    try:
        refuse_unused(args)
        read_paths(args)
        with plain_memory_errors():
            if args.verb is None:
                return open_studio(args)
            check_output()
            from core import cli as commands

            return getattr(commands, args.verb)(args)
    except StudioError as err:
        note(f"app.py: {err}")
        return 2
    except PipeClosed:
        return CLOSED_PIPE
    except KeyboardInterrupt:
        note("app.py: stopped; finished calibration bins are kept.")
        return 130


def script() -> int:
    """Run `main` as a program: what is left in the buffer of standard output (--help) is written
    before Python ends, or dropped.
    """
    from core.output import drop_output, note

    try:
        code = main()
    except SystemExit as end:  # from the parser
        code = end.code
    except BrokenPipeError:  # the page's first lines
        drop_output()
        return CLOSED_PIPE
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        return CLOSED_PIPE
    except OSError as err:
        drop_output()
        note(
            f"app.py: standard output could not be written ({err.strerror or err}): send it"
            " elsewhere."
        )
        return 2
    return code


def check_address(host: str, port: int | None) -> None:
    """Raise StudioError for an address that cannot be listened on; without a port Gradio looks for
    a free one.
    """
    import socket

    from core.errors import StudioError

    if port is not None and not 1 <= port <= 65535:
        raise StudioError(f"--port must lie between 1 and 65535, not {port}.")
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as tried:
            # as servers do, or a port would stay taken for a while after its last visitor
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as err:
        where = host if port is None else f"{host}, port {port}"
        raise StudioError(
            f"The studio cannot listen on {where} ({err.strerror or err}): choose another --port or"
            " --host."
        ) from err


def open_studio(args: argparse.Namespace) -> int:
    """Build the page and serve it until Ctrl-C."""
    from core.curves.plan import StagePlan
    from core.output import note

    port = environment_port() if args.port is None else args.port

    # a bad plan is refused before anything heavy is loaded
    plan = StagePlan.load(args.plan) if args.plan else None
    from core.cli import calibration_settings, data_options
    from core.errors import OutOfMemory, StudioError, plain_memory_errors
    from core.models.checkpoints import BUNDLED as bundled
    from core.workshop.workshop import get_workshop

    workshop = get_workshop(
        args.model or bundled,
        args.device,
        args.revision,
        args.dtype,
        calibration_settings(args),
        data_options(args),
    )
    host = args.host or os.environ.get("GRADIO_SERVER_NAME", "").strip() or "127.0.0.1"
    ask_itself_directly(host, args.share)  # the model is there: what follows asks nobody else
    try:
        from mosaic_ui.model_facts import batch, large
        from mosaic_ui.studio import build_studio, launch_options
    # Gradio prepares for proxies and certificates when it is imported
    except (OSError, ValueError) as err:
        raise StudioError(why_no_page(err)) from err

    if not large(workshop) or workshop.device.type == "cuda":
        try:
            with plain_memory_errors():
                # about a second, once per device: so that the page opens with times, not with
                # dashes
                workshop.measure_latency(batch(workshop))
                workshop.measure_layers()
        except OutOfMemory as err:
            note(f"app.py: the device's speed was not measured. {err}")
    elif plan is not None and plan.costs == "latency" and not plan.plain:
        workshop.measure_layers()
    if host not in ("127.0.0.1", "localhost", "::1"):
        note(f"Listening on {host}: anybody who can reach this machine can use the studio.")
    check_address(host, port)
    demo = build_studio(workshop, plan)
    # Gradio puts it into an address
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    try:
        demo.launch(server_name=name, server_port=port, share=args.share, **launch_options())
    except BrokenPipeError:
        raise
    except (OSError, ValueError, ImportError) as err:
        raise StudioError(why_no_page(err)) from err
    return 0


def environment_port() -> int | None:
    """Read GRADIO_SERVER_PORT and the other numbers that Gradio reads when it is imported. Raises
    StudioError for those that are none.
    """
    from core.errors import StudioError

    for name in (
        "GRADIO_SERVER_PORT",
        "GRADIO_NUM_PORTS",
        "GRADIO_NUM_WORKERS",
        "GRADIO_NODE_SERVER_PORT",
    ):
        value = os.environ.get(name)
        if value is not None and not value.strip():
            del os.environ[name]  # set to nothing: as good as not set
        elif value is not None and not value.strip().isdecimal():
            raise StudioError(
                f"The variable {name} is {value!r} and must be a whole number: correct or unset it."
            )
    value = os.environ.get("GRADIO_SERVER_PORT")
    return None if value is None else int(value)


def ask_itself_directly(host: str, share: bool) -> None:
    """Keep a proxy of http_proxy, ALL_PROXY and the like out of the question whether the page
    answers, which goes to this machine.

    Without a public link nothing goes elsewhere any more, so no proxy is asked at all: one that
    cannot be used does no harm then.
    """
    if not share:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*"
        # left by an environment that has gone, nothing could be opened
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            if not os.path.exists(os.environ.get(name, os.sep)):
                del os.environ[name]
        return
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    here = dict.fromkeys(
        [
            *filter(None, (word.strip() for word in given.split(","))),
            "127.0.0.1",
            "localhost",
            "::1",
            host,
        ]
    )
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(here)


def why_no_page(err: Exception) -> str:
    """Say in one sentence why Gradio did not open the page."""
    said = " ".join(str(err).split())
    if "Cannot find empty port" in said:
        return "The studio found no free port to listen on: choose another --port."
    if isinstance(err, FileNotFoundError) and "SSL_CERT_FILE" in os.environ:
        return (
            "The page could not be opened: the certificates of SSL_CERT_FILE"
            f" ({os.environ['SSL_CERT_FILE']}) are not there; correct or unset it."
        )
    if any(word in said.lower() for word in ("localhost", "proxy", "socks")):
        return (
            "The page does not answer on this machine, most likely because of a proxy (http_proxy,"
            f" ALL_PROXY): set no_proxy=127.0.0.1,localhost and start again ({type(err).__name__}:"
            f" {said[:120]})."
        )
    return f"The page could not be opened ({type(err).__name__}: {said[:160]})."


if __name__ == "__main__":
    sys.exit(script())
