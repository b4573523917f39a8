"""Start MosaicDiff Studio.

`python app.py` opens the page; `python app.py curves|prune|compare|sweep|tune|bench --json` does
the same work without a page. Heavy imports happen inside the verbs, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from core.cli_options import command_sentence, parser, read_paths, refuse_unused

if TYPE_CHECKING:  # heavy: `--help` answers without them
    from core.curves.plan import StagePlan
    from core.workshop.workshop import Workshop

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
# says that torchvision is missing, which nothing here needs
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

CLOSED_PIPE = 141  # 128 + SIGPIPE, as the shell reports other tools whose reader has gone


def main(arguments: list[str] | None = None) -> int:
    """Run a verb or open the page; return the exit code.

    0 when it worked, 2 for an error that the user can mend (one sentence on standard error).
    """
    from core.errors import StudioError, plain_memory_errors
    from core.output import PipeClosed, check_output, note, prepare_streams

    prepare_streams()
    args = parser().parse_args(arguments)

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
        note(f"app.py: {command_sentence(err)}")
        return 2
    except PipeClosed:
        return CLOSED_PIPE
    except KeyboardInterrupt:
        note("app.py: stopped; finished calibration bins are kept.")
        return 130


def script() -> int | str | None:
    """Run `main` as a program; return the exit code.

    What is left in the buffer of standard output (--help) is written before Python ends, or
    dropped.
    """
    from core.output import drop_output, note

    code: int | str | None
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
    """Raise StudioError for an address that cannot be listened on.

    port: None where Gradio looks for a free one.
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
    from core.output import note

    port = environment_port() if args.port is None else args.port

    root = root_path(args.root_path)
    # a bad plan is refused before anything heavy is loaded
    plan = opening_plan(args)
    if os.environ.get("SPACE_ID", "").strip():
        prepare_space(args)
    from core.errors import OutOfMemory, StudioError

    workshop, others, unavailable = open_models(args)
    host = args.host or os.environ.get("GRADIO_SERVER_NAME", "").strip() or "127.0.0.1"
    ask_itself_directly(host, args.share)  # the model is there: what follows needs no network
    try:
        from mosaic_ui.studio import build_studio, launch_options
    # Gradio prepares for proxies and certificates when it is imported
    except (OSError, ValueError) as err:
        raise StudioError(why_no_page(err)) from err

    measure_device(workshop, plan)
    with suppress(OutOfMemory):  # the sentence of the first is enough
        for other in others:
            measure_speed(other)
    if host not in ("127.0.0.1", "localhost", "::1"):
        note(f"Listening on {host}: anybody who can reach this machine can use the studio.")
    check_address(host, port)
    demo = build_studio(workshop, plan, others, unavailable)
    # Gradio puts it into an address
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    try:
        demo.launch(
            server_name=name,
            server_port=port,
            share=args.share,
            root_path=root,
            **launch_options(root),
        )
    except BrokenPipeError:
        raise
    except (OSError, ValueError, ImportError) as err:
        raise StudioError(why_no_page(err)) from err
    return 0


def prepare_space(args: argparse.Namespace) -> None:
    """Prepare for a Hugging Face Space, and say what is kept where. Raises StudioError.

    Where GPUs are lent per call, the page's own models lie on the CPU.
    """
    from core.output import note
    from mosaic_ui import lent
    from mosaic_ui.space import prepare

    for sentence in filter(None, [*prepare(), lent.prepare()]):
        note(f"app.py: {sentence}")
    if lent.lends():
        args.device = "cpu"


def opening_plan(args: argparse.Namespace) -> StagePlan | None:
    """Return the plan that the page opens with, None for its own. Raises StudioError."""
    from core.curves.plan import StagePlan
    from core.errors import StudioError

    if args.stage_guidance is not None:
        from core.cli.plan_options import named_plan

        if args.plan:
            return named_plan(args)
        raise StudioError(
            "--stage-guidance changes the plan of --plan: name one, or set guidance in the page."
        )
    return StagePlan.load(args.plan) if args.plan else None


def open_models(args: argparse.Namespace) -> tuple[Workshop, list[Workshop], list[str]]:
    """Return the model of the first page, those of the other pages, and what could not be opened.

    The first is the one of --model, else the first bundled model that opens. Raises StudioError
    where there is none.
    """
    from core.cli.settings import calibration_settings, data_options
    from core.errors import StudioError
    from core.models.bundled import BUNDLED_MODELS, bundled_name
    from core.output import note
    from core.workshop.workshop import get_workshop

    opened: list[Workshop] = []
    unavailable: list[str] = []

    def open_one(model: str, revision: str | None = None) -> Workshop:
        """Open a model; what to calibrate on is said of the first one."""
        data = None if opened else data_options(args)
        settings = calibration_settings(args)
        return get_workshop(model, args.device, revision, args.dtype, settings, data)

    if args.model:
        opened = [open_one(args.model, args.revision)]
    have = {bundled_name(workshop.checkpoint.folder) for workshop in opened}
    for name, title in BUNDLED_MODELS.items():
        if name in have:
            continue
        try:
            workshop = open_one(name)
            workshop.check_shipped()
            opened.append(workshop)
        except StudioError as err:
            unavailable.append(f"{title} could not be opened: {err}")
            note(f"app.py: {unavailable[-1]}")
    if not opened:
        raise StudioError(" ".join(unavailable))
    return opened[0], opened[1:], unavailable


def measure_device(workshop: Workshop, plan: StagePlan | None) -> None:
    """Measure the device's speed once, so that the page opens with times and not with dashes.

    It takes about a second; a large model on a CPU is measured only where the plan needs it.
    """
    from core.errors import OutOfMemory
    from core.output import note
    from mosaic_ui.model_facts import large

    try:
        measure_speed(workshop, plan)
    except OutOfMemory as err:
        note(f"app.py: the device's speed was not measured. {err}")
    if plan is not None and plan.costs == "latency" and not plan.plain and large(workshop):
        workshop.measure_layers()


def measure_speed(workshop: Workshop, plan: StagePlan | None = None) -> None:
    """Time whole networks and single layers, unless that takes long. Raises OutOfMemory.

    Where the plan sets guidance, the half batch is timed too.
    """
    from core.errors import plain_memory_errors
    from mosaic_ui.model_facts import batch, large, rows_timed

    if not large(workshop) or workshop.device.type == "cuda":
        with plain_memory_errors():
            for rows in rows_timed(plan):
                workshop.measure_latency(batch(workshop), rows)
            workshop.measure_layers()


def environment_port() -> int | None:
    """Return GRADIO_SERVER_PORT, or None where it is not set.

    Checks the other numbers that Gradio reads when it is imported. Raises StudioError for values
    that are no numbers.
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
            del os.environ[name]  # an empty value counts as not set
        elif value is not None and not value.strip().isdecimal():
            raise StudioError(
                f"The variable {name} is {value!r} and must be a whole number: correct or unset it."
            )
    value = os.environ.get("GRADIO_SERVER_PORT")
    return None if value is None else int(value)


def root_path(given: str | None) -> str:
    """Return where a reverse proxy shows the page: "/studio", a whole address, or nothing.

    given: --root-path; without it GRADIO_ROOT_PATH counts. Raises StudioError for what is no path
    of an address.
    """
    from urllib.parse import urlsplit

    from core.errors import StudioError

    name = "GRADIO_ROOT_PATH" if given is None else "--root-path"
    text = (os.environ.get("GRADIO_ROOT_PATH", "") if given is None else given).strip()
    path = text.rstrip("/")
    parts = urlsplit(path)
    whole = parts.scheme in ("http", "https") and bool(parts.netloc)
    odd = any(sign in path for sign in "?#\\\"'<> ") or "//" in parts.path or ".." in path
    if path and (odd or not (whole or (path.startswith("/") and not parts.netloc))):
        raise StudioError(
            f"{name} is {text!r} and must be a path that begins with /, as /studio, or a whole"
            " address, as https://host/studio: correct it or leave it out."
        )
    return path


def ask_itself_directly(host: str, share: bool) -> None:
    """Let requests to this machine pass by any proxy of http_proxy, ALL_PROXY and the like.

    Gradio asks this machine whether the page answers. Without a public link no other request
    follows, so no proxy is used at all, and an unusable proxy does no harm.
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
