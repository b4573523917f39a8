"""Pictures that a user gives for calibration: a folder, what each picture shows, and the pixels as a model takes them.

What a picture shows is looked up in one of three places, the same for the whole folder: `labels.csv` or `labels.json` (file name,
then class number, class name or caption), else `name.txt` beside `name.png`, else the sub-folder it lies in (ImageFolder layout).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import StudioError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")
LABEL_FILES = ("labels.csv", "labels.json")
MAX_PIXELS = 2**26  # 8192 x 8192: 200 MB once unpacked; beyond that a small file may be meant to fill the memory


@dataclass(frozen=True)
class Picture:
    """One file and what the folder says it shows."""

    path: Path
    name: str  # inside the folder, "cats/1.png"
    shows: str | int  # class number, class name or caption, as it was written

    def digest(self) -> str:
        """SHA-256 of the file's bytes."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as err:
            raise StudioError(f"The picture {self.name} cannot be read ({err.strerror}).") from err


def list_pictures(folder: Path, count: int, seed: int = 0) -> list[Picture]:
    """Up to `count` pictures of a folder and its sub-folders, drawn with `seed`, in the order of their names; what each shows is looked up.

    Raises StudioError for a folder without pictures and, naming it, for a picture of which nothing says what it shows.
    """
    folder = Path(folder)
    try:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())
    except OSError as err:
        raise StudioError(f"The folder {folder.name}/ cannot be read ({err.strerror}).") from err
    if not paths:
        raise StudioError(f"The folder {folder.name}/ holds no pictures: put PNG, JPEG or WebP files there.")
    chosen = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[:count].sort().values.tolist()
    lookup = _lookup(folder, paths)
    found = []
    for path in (paths[i] for i in chosen):
        name = path.relative_to(folder).as_posix()
        shows = lookup(path, name)
        if shows is None or shows == "":
            raise StudioError(f"Nothing says what {name} shows: put it into labels.csv or {path.stem}.txt, or sort all pictures into sub-folders by class.")
        found.append(Picture(path, name, shows))
    return found


def _lookup(folder: Path, paths: list[Path]) -> Callable[[Path, str], str | int | None]:
    """How this folder says what a picture shows: (path, name inside the folder) -> text or number, None where it says nothing."""
    files = [folder / name for name in LABEL_FILES if (folder / name).is_file()]
    if len(files) == 2:
        raise StudioError(f"The folder {folder.name}/ has both labels.csv and labels.json; keep one of them.")
    if files:
        labels = _read_csv(files[0]) if files[0].suffix == ".csv" else _read_json(files[0])
        return lambda path, name: labels.get(name, labels.get(path.name))
    if any(path.with_suffix(".txt").is_file() for path in paths):
        return lambda path, name: _read_text(path.with_suffix(".txt")) if path.with_suffix(".txt").is_file() else None
    return lambda path, name: path.parent.name if path.parent != folder else None


def _read_csv(path: Path) -> dict[str, str]:
    """Two columns, file name and what it shows; a first line that names no picture is a header."""
    labels = {}
    rows = csv.reader(io.StringIO(_read_text(path), newline=""))
    try:
        for i, row in enumerate(rows):
            if not row or (i == 0 and not row[0].strip().lower().endswith(SUFFIXES)):
                continue
            if len(row) != 2:
                raise StudioError(f"Line {rows.line_num} of {path.name} has {len(row)} columns; write two, file name and label, with quotes around a comma.")
            labels[_name(row[0])] = row[1].strip()
    except csv.Error as err:
        raise StudioError(f"Line {rows.line_num} of {path.name} cannot be read ({err}).") from err
    return labels


def _read_json(path: Path) -> dict[str, str | int]:
    """One object, file name -> what it shows."""
    try:
        labels = json.loads(_read_text(path))
    except (ValueError, RecursionError) as err:
        raise StudioError(f"{path.name} cannot be read ({err}).") from err
    if not isinstance(labels, dict) or not all(isinstance(v, (str, int)) and not isinstance(v, bool) for v in labels.values()):
        raise StudioError(f"{path.name} must be one object of file names with a class or a caption each.")
    return {_name(name): v.strip() if isinstance(v, str) else v for name, v in labels.items()}


def _name(text: str) -> str:
    return text.strip().replace("\\", "/").removeprefix("./")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise StudioError(f"{path.name} cannot be read; save it as UTF-8 text.") from err


def known_names(class_names: dict[int, str]) -> dict[str, int]:
    """What each class may be called: its whole name, or one of the names in it (ImageNet's "tench, Tinca tinca") that no other class has."""
    single = [(part.strip(), i) for i, name in class_names.items() for part in name.split(",")]
    classes: dict[str, set[int]] = {}
    for part, i in single:
        classes.setdefault(part, set()).add(i)
    return {part: i for part, i in single if len(classes[part]) == 1} | {name: i for i, name in class_names.items()}


def class_of(picture: Picture, names: dict[str, int], classes: int) -> int:
    """The class that a picture shows: a number below `classes`, or one of the model's class names (in any case). Raises StudioError."""
    text = str(picture.shows)
    if re.fullmatch("-?[0-9]{1,18}", text):
        number = int(text)
        if not 0 <= number < classes:
            raise StudioError(f"{picture.name} is labelled class {number}; this model's classes are whole numbers from 0 to {classes - 1}.")
        return number
    known = {name.casefold(): i for name, i in names.items()}
    if text.casefold() not in known:
        raise StudioError(f"{picture.name} is labelled {text[:80]!r}, which is neither a class number nor a class name of this model.")
    return known[text.casefold()]


def caption_of(picture: Picture) -> str:
    """The prompt that a picture answers. Raises StudioError for a bare number, which no text model was ever told."""
    if isinstance(picture.shows, int) or picture.shows.isdigit():
        raise StudioError(f"{picture.name} is labelled {picture.shows}; this model is asked in words, so give captions.")
    return picture.shows


def read_picture(picture: Picture, size: int, channels: int) -> Tensor:
    """Pixels (channels, size, size) in [-1, 1]: turned as its EXIF data say, on white where transparent, shorter side to `size`, centre crop.

    channels: 3 (RGB) or 1 (grey). Raises StudioError, naming the picture, when it cannot be read or is too large.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(picture.path, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            upright = ImageOps.exif_transpose(file)
            pixels = _opaque(upright, Image).convert("L" if channels == 1 else "RGB")
            array = np.asarray(ImageOps.fit(pixels, (size, size), Image.Resampling.BICUBIC))
    except Image.DecompressionBombError as err:
        raise StudioError(f"The picture {picture.name} has more than {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller.") from err
    except Exception as err:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        raise StudioError(f"The picture {picture.name} cannot be read; replace it or take it out of the folder.") from err
    return torch.from_numpy(array.reshape(size, size, channels).copy()).permute(2, 0, 1).float() / 127.5 - 1


def _opaque(image: Any, pillow: Any) -> Any:
    """An 8-bit picture without transparency. Pillow itself clips 16-bit grey instead of scaling it, and paints what is transparent black."""
    if image.mode.startswith("I"):
        return pillow.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image)
    return image
