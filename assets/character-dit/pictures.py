"""Render the data: ten styles of DiceBear pictures, 64 x 64 RGB, and the attributes behind them.

Packages (PyPI, needed here only): dicebear-core==10.7.0 dicebear-styles==10.6.0 resvg-py==0.5.0.
A picture is a function of (split, style, number): seeds are sha256 digests, because nearly equal
seed texts can give look-alike pictures. All ten styles are CC0 1.0 (README.md names the artists).
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64
CHUNK = 1000  # pictures per file: a killed run loses at most one file per process

PASTEL = ("b6e3f4 c0aede d1d4f9 ffd5dc ffdfbf fff3b0 d0f4de 93d5b0 f6a6a6 8ec9e8").split()
HAIR = "1a1a1a 4a2912 a55728 e8c07d d9381e 2a5fd1 7b2d8b 2e8b57".split()
SKIN = "ffffff fde0c5 d69d6a a5673f 6b3e20".split()


@dataclass(frozen=True)
class Style:
    """One class of the model: its name, the style that draws it, colours that the style lacks."""

    name: str
    style: str
    options: dict[str, list[str]]


STYLES = (
    Style("Critter", "critters", {}),
    Style("Potted plant", "sprouts", {}),
    Style("Planet", "planets", {}),
    Style("Landscape", "landscape", {}),
    Style("Robot", "voxel-bot", {}),
    Style("Marble", "marbles", {"backgroundColor": PASTEL}),
    Style("Clay figure", "clay", {}),
    Style("Portrait", "lorelei", {"backgroundColor": PASTEL, "hairColor": HAIR, "skinColor": SKIN}),
    Style("Pixel person", "pixel-art", {"backgroundColor": PASTEL}),
    Style("Peep", "open-peeps", {"backgroundColor": PASTEL}),
)


def seed_of(split: str, style: str, number: int) -> str:
    """Return the seed text of one picture."""
    return hashlib.sha256(f"{split}/{style}/{number}".encode()).hexdigest()


def attributes_of(options: dict) -> dict[str, str]:
    """Keep the options that choose a part or a colour: {"eyesVariant": "round", ...}."""
    found = {}
    for key, value in options.items():
        if key.startswith("animation"):
            continue  # a still picture does not show it
        if key.endswith("Variant"):
            found[key] = str(value)
        elif key.endswith("Color") and value:
            found[key] = str(value[0])
    return found


def render_chunk(job: tuple[str, int, int, str]) -> str:
    """Draw pictures [first, first + CHUNK) of one class into one .npz file; skip a finished one."""
    split, label, first, path = job
    target = Path(path)
    if target.exists():
        return path
    import resvg_py
    from dicebear import Avatar
    from dicebear import Style as Definition

    style = STYLES[label]
    text = files("dicebear_styles").joinpath(f"{style.style}.json").read_text("utf-8")
    definition = Definition(json.loads(text))
    images = np.empty((CHUNK, SIZE, SIZE, 3), dtype=np.uint8)
    attributes = []
    for i in range(CHUNK):
        seed = seed_of(split, style.style, first + i)
        drawn = Avatar(definition, {"seed": seed, "size": SIZE, **style.options}).to_json()
        png = resvg_py.svg_to_bytes(svg_string=drawn["svg"], skip_system_fonts=True)
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        images[i] = np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
        attributes.append(attributes_of(drawn["options"]))
    part = target.with_suffix(".part.npz")
    np.savez(part, images=images, attributes=np.array(json.dumps(attributes)))
    part.replace(target)
    return path


def render_split(folder: Path, split: str, per_class: int, processes: int) -> None:
    """Draw `per_class` pictures of each class; files that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (split, label, first, str(folder / f"{split}-{label}-{first:06d}.npz"))
        for first in range(0, per_class, CHUNK)
        for label in range(len(STYLES))
    ]
    with get_context("spawn").Pool(processes) as pool:
        for done, _ in enumerate(pool.imap_unordered(render_chunk, jobs), 1):
            if done % 10 == 0:
                print(f"{split}: {done * CHUNK}/{len(jobs) * CHUNK} pictures", flush=True)


def load_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (n, 64, 64, 3) uint8 and labels (n,), classes in turn."""
    paths = sorted(folder.glob(f"{split}-*-*.npz"), key=lambda p: (p.stem[-6:], p.stem))
    paths = [p for p in paths if not p.name.endswith(".part.npz")]
    images = np.empty((len(paths) * CHUNK, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.empty(len(paths) * CHUNK, dtype=np.int64)
    for i, path in enumerate(paths):
        images[i * CHUNK : (i + 1) * CHUNK] = np.load(path)["images"]
        labels[i * CHUNK : (i + 1) * CHUNK] = int(path.stem.split("-")[1])
    return images, labels


def load_attributes(folder: Path, split: str) -> list[dict[str, str]]:
    """Return the attributes of every picture of `load_split`, in the same order."""
    paths = sorted(folder.glob(f"{split}-*-*.npz"), key=lambda p: (p.stem[-6:], p.stem))
    paths = [p for p in paths if not p.name.endswith(".part.npz")]
    return [one for path in paths for one in json.loads(str(np.load(path)["attributes"]))]
