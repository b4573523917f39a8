"""MosaicDiff Studio: `python app.py` opens the page, `python app.py curves|prune|compare|bench --json` does the same work without one.

Heavy imports happen inside the verbs, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # says that torchvision is missing, which nothing here needs

BUNDLED = "the bundled model"


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _common(suppress: bool) -> argparse.ArgumentParser:
    """Options of every verb. Suppressed defaults leave alone what was given before the verb."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS if suppress else None)
    common.add_argument("--model", metavar="FOLDER|ID", help=f"diffusers pipeline, DiT or SDXL, a folder or a hub id (default: {BUNDLED})")
    common.add_argument("--revision", help="branch or commit of a hub id, e.g. refs/pr/1")
    device = {} if suppress else {"default": "auto"}
    common.add_argument("--device", help="auto, cpu, cuda, cuda:1, ... (default: auto)", **device)
    common.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="precision (default: float32 on a CPU, bfloat16 on CUDA)", **device)
    common.add_argument("--bins", type=int, help="calibration: so many timestep bins of equal width (default: 11, finer where t is small)")
    common.add_argument("--images-per-bin", type=int, help="calibration: images fitted in each bin (default 192; a third as many more are held out)")
    common.add_argument("--damping", type=float, help="calibration: one ridge for all layers, as a share of mean(diag H) (default: chosen per layer)")
    common.add_argument("--weigh", choices=["even", "guidance", "gate", "timestep"], help="calibration: which rows count more (default: even)")
    data = common.add_argument_group("what to calibrate on", "by default the latents shipped with the model, else samples of its own")
    data.add_argument("--calibration-images", metavar="FOLDER", help="pictures with labels.csv or .json, with name.txt beside each, or in sub-folders by class")
    data.add_argument("--self-calibrate", action="store_true", help="the model's own samples, even where latents are shipped")
    data.add_argument("--calibration-count", type=int, metavar="N", help="different pictures or samples (default: as many as a timestep bin takes)")
    data.add_argument("--calibration-steps", type=int, metavar="N", help="sampling steps of own samples (default 20)")
    data.add_argument("--calibration-guidance", type=float, metavar="G", help="guidance of own samples (default: 1.5 for DiT, 5 for SDXL)")
    return common


def parser() -> argparse.ArgumentParser:
    """The command line. `--model`, `--revision` and `--device` mean the same on every verb, and before it."""
    common = _common(suppress=True)
    page = argparse.ArgumentParser(add_help=False)
    page.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    page.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    page.add_argument("--share", action="store_true", help="public link through Gradio's tunnel: leaves this machine, never the default")
    page.add_argument("--plan", metavar="FILE", help="plan file to open with")

    root = Parser(prog="app.py", description="See, tune and prove training-free pruning of diffusion models.", parents=[_common(suppress=False), page])
    verbs = root.add_subparsers(dest="verb", metavar="curves|prune|compare|bench", title="without a browser")

    curves = verbs.add_parser("curves", parents=[common], help="theoretical curves, boundaries and sparsities of a noise schedule")
    curves.add_argument("--beta-schedule", default="linear", help="linear, scaled_linear, squaredcos_cap_v2, sigmoid")
    curves.add_argument("--beta-start", type=float)
    curves.add_argument("--beta-end", type=float)
    curves.add_argument("--scheduler", default="DDIM", help="sampler whose steps are counted, e.g. DDIM, Euler, DPM-Solver++")
    curves.add_argument("--target", type=float, default=0.33, help="mean sparsity over the sampling steps (default 0.33)")
    curves.add_argument("--steps", type=int, default=50, help="sampling steps (default 50)")
    curves.add_argument("--variance", type=float, default=1.0, help="mean square of a latent value (default 1)")

    prune = verbs.add_parser("prune", parents=[common], help="write the subnetworks of a plan")
    prune.add_argument("--plan", metavar="FILE", required=True)
    prune.add_argument("--out", metavar="DIR", required=True, help="folder for safetensors and manifest.json (new or empty)")
    prune.add_argument("--steps", type=int, default=50, help="sampling steps that MACs are counted over (default 50)")

    compare = verbs.add_parser("compare", parents=[common], help="sample dense and a plan from the same noise, timed in turn")
    compare.add_argument("--plan", metavar="FILE", required=True)
    compare.add_argument("--against", metavar="FILE", help="a plan in dense's place")
    compare.add_argument("--images", type=int, help="how many (default 16, or one for each prompt); FID from 200")
    compare.add_argument("--prompt", action="append", metavar="TEXT", help="SDXL: what to paint; give it several times for several prompts in turn")
    compare.add_argument("--negative", metavar="TEXT", help="SDXL: what to keep out")
    compare.add_argument("--size", metavar="HxW", help="SDXL: height x width in pixels, multiples of 64 (default: the model's own)")
    compare.add_argument("--steps", type=int, default=50)
    compare.add_argument("--seed", type=int, default=0)
    compare.add_argument("--guidance", type=float, help="default 1.5, or 5 for SDXL")
    compare.add_argument("--scheduler", default="DDIM")
    compare.add_argument("--repeats", type=int, default=3, help="timed runs of each side (default 3; large sets time every batch of 100)")
    compare.add_argument("--out", metavar="DIR", help="folder for the pictures and result.json")

    bench = verbs.add_parser("bench", parents=[common], help="measure the engine on this machine: ratios with their spread, memory, MACs")
    bench.add_argument("--only", metavar="NAME", help="one part: macs, memory, allocation, path, forward, realised or calibration")
    bench.add_argument("--quick", action="store_true", help="small sizes and two rounds, to see that it runs")
    for verb in (curves, prune, compare, bench):
        verb.add_argument("--json", action="store_true", help="one JSON object on stdout (progress goes to stderr)")
    return root


def main(arguments: list[str] | None = None) -> int:
    """Run a verb or open the page; 0 when it worked, 2 for something the user can mend (one sentence on stderr)."""
    args = parser().parse_args(arguments)
    from core.errors import StudioError

    try:
        if args.verb is None:
            return open_studio(args)
        from core import commands

        return getattr(commands, args.verb)(args)
    except StudioError as err:
        print(f"app.py: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("app.py: stopped; finished calibration bins are kept.", file=sys.stderr)
        return 130


def open_studio(args: argparse.Namespace) -> int:
    """Build the page and serve it until Ctrl-C."""
    from core.plan import StagePlan

    plan = StagePlan.load(args.plan) if args.plan else None  # a bad plan is refused before anything heavy is loaded
    from core.calibration import calibration_settings
    from core.checkpoints import BUNDLED as bundled
    from core.commands import data_options
    from core.workshop import get_workshop

    workshop = get_workshop(args.model or bundled, args.device, args.revision, args.dtype, calibration_settings(args), data_options(args))
    from mosaic_ui.model_facts import batch, large
    from mosaic_ui.studio import build_studio, launch_options

    if not large(workshop) or workshop.device.type == "cuda":
        workshop.measure_latency(batch(workshop))  # about a second, once per device: so that the page opens with times, not with dashes
        workshop.measure_layers()
    elif plan is not None and plan.costs == "latency" and not plan.plain:
        workshop.measure_layers()
    host = args.host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    if host not in ("127.0.0.1", "localhost", "::1"):
        print(f"Listening on {host}: anybody who can reach this machine can use the studio.", file=sys.stderr)
    demo = build_studio(workshop, plan)
    demo.launch(server_name=host, server_port=args.port, share=args.share, **launch_options())
    return 0


if __name__ == "__main__":
    sys.exit(main())
