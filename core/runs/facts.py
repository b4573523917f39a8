"""Write down what the database keeps of a comparison: a dictionary of column and value."""

from __future__ import annotations

import json
import secrets
import time
from importlib import metadata

import torch

from .. import __version__
from ..cache import fingerprint
from ..curves.plan import StagePlan
from ..words import some
from ..workshop.comparison import Comparison, SampleSettings, Side
from .database import Row
from .texts import finite, storable

PROMPT_SHOWN = 60  # characters of a prompt in a line about images


def new_id() -> str:
    """Return a name for a run or a plan that sorts by time and is good as a folder's name."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def setting_facts(settings: SampleSettings) -> Row:
    """Return the columns of what both sides share."""
    height, width = settings.size or (None, None)
    words = [list(settings.labels), list(settings.prompts), settings.negative]
    return {
        "steps": settings.steps,
        "scheduler": settings.scheduler,
        "guidance": float(settings.guidance),
        "seed": settings.seed,
        "repeats": settings.repeats,
        "n": settings.n,
        "dtype": settings.dtype,
        "tabulate": int(settings.tabulate),
        "mode": settings.mode,
        "height": height,
        "width": width,
        "images": storable(image_words(settings)),
        "images_key": fingerprint(words),
        "settings": json.dumps(settings.to_json()),
    }


def side_facts(letter: str, name: str, plan: StagePlan | None) -> Row:
    """Return the columns of a side that are known before it runs. letter: "a" or "b"."""
    return {
        f"{letter}_name": storable(name),
        f"{letter}_plan_json": None if plan is None else plan.dumps_short(),
    }


def model_facts(model: str, model_key: str, device: str) -> Row:
    """Return the columns of the model, the device and the versions."""
    return {
        "model": storable(model),
        "model_key": model_key,
        "device": storable(device),
        "mosaicdiff": __version__,
        "torch": str(torch.__version__),
        "diffusers": _version("diffusers"),
        "gradio": _version("gradio"),
    }


def found_facts(comparison: Comparison) -> Row:
    """Return the columns of what a comparison found. Numbers that are not finite become None."""
    c = comparison
    return {
        "when": storable(c.when),
        "tabulate": int(c.settings.tabulate),  # what was asked for may not have fitted
        "timed_runs": c.timed_runs,
        "speedup": finite(c.speedup_measured),
        "speedup_spread": finite(c.speedup_spread),
        "speedup_predicted": finite(c.speedup_predicted),
        "speedup_macs": finite(c.speedup_macs),
        "psnr": finite(c.psnr),
        "ssim": finite(c.ssim),
        "latent_mse": finite(c.latent_mse),
        "verdict": storable(c.verdict),
        "remarks": storable(c.notes),
        **_side_found("a", c.a),
        **_side_found("b", c.b),
    }


def _side_found(letter: str, side: Side) -> Row:
    """Return the columns of one side of a comparison."""
    predicted = side.predicted_seconds
    return side_facts(letter, side.name, side.plan) | {
        f"{letter}_seconds": finite(side.seconds),
        f"{letter}_seconds_spread": finite(side.seconds_spread),
        f"{letter}_macs": side.macs,
        f"{letter}_predicted_seconds": None if predicted is None else finite(sum(predicted)),
        f"{letter}_calls": len(side.timesteps),
        f"{letter}_fid": finite(side.fid),
        f"{letter}_class_accuracy": finite(side.class_accuracy),
    }


def image_words(settings: SampleSettings) -> str:
    """Return in a line how many images are made, and of what."""
    count = f"{settings.n} image{'' if settings.n == 1 else 's'}"
    if not settings.prompts:
        return f"{count}, {_classes(sorted(set(settings.labels)))}"
    prompts = [f"“{_short(p)}”" for p in dict.fromkeys(settings.prompts)]
    without = f", without “{_short(settings.negative)}”" if settings.negative else ""
    return f"{count}, {some(prompts)}{without}"


def _classes(labels: list[int]) -> str:
    """Return distinct sorted classes in words."""
    if len(labels) == 1:
        return f"class {labels[0]}"
    if len(labels) > 2 and labels == list(range(labels[0], labels[-1] + 1)):
        return f"classes {labels[0]} to {labels[-1]}"
    return f"classes {some(map(str, labels), 8)}"


def _short(prompt: str) -> str:
    """Return a prompt on one line, cut where it is long."""
    line = " ".join(prompt.split())
    return line if len(line) <= PROMPT_SHOWN else f"{line[: PROMPT_SHOWN - 1]}…"


def _version(package: str) -> str | None:
    """Return the version of an installed package, without importing it, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
