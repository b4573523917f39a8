"""Read the pictures that a user gives for calibration, with their subjects and pixels.

The subject of a picture is looked up in one of three places, the same for the whole folder: tables
(`core.calibration.picture_tables`: labels, metadata or captions as .csv, .json or .jsonl, in the
folder or further down), else `name.txt` or `name.caption` beside `name.png`, else the sub-folder
of the picture (ImageFolder layout).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from posixpath import basename, splitext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cache import file_hash
from ..errors import StudioError
from ..words import some
from .picture_lookup import look_up
from .picture_walk import forms_of, one_form, suffix_of, twin, walk

KINDS = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".gif": "GIF",
    ".jp2": "JPEG2000",
    ".j2k": "JPEG2000",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".tga": "TGA",
}
SUFFIXES = tuple(KINDS)
# read under any of the suffixes, as many pictures have a wrong one
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF")
NOT_READ = (
    ".heic",
    ".heif",
    ".jxl",
    ".svg",
    ".psd",
    ".xcf",
    ".exr",
    ".hdr",
    ".qoi",
    ".dng",
    ".raw",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".orf",
    ".rw2",
    ".raf",
    ".dcm",
    ".jpx",
    ".j2c",
)
# 8192 x 8192: 200 MB once unpacked; beyond that a small file may be meant to fill the memory
MAX_PIXELS = 2**26
# names of folders that hold pictures of anything: no prompts, and seldom classes
PLACES = set(
    "train training trainset val valid validation test testing testset eval evaluation dev "
    "split fold part batch chunk shard set "
    "subset folder dir image images img imgs pic pics picture pictures photo photos jpeg "
    "jpegs jpg png webp data dataset datasets "
    "sample samples raw all new misc other unsorted input inputs output outputs source crop "
    "crops cropped resized processed class "
    "instance reg regularization dcim".split()
)


@dataclass(frozen=True)
class Picture:
    """One picture file with its subject, as the folder gives it."""

    path: Path
    name: str  # inside the folder, "cats/1.png"
    shows: str | int  # class number, class name or caption, as it was written
    by_folder: bool = False  # `shows` is the name of the sub-folder

    def digest(self) -> str:
        """Return the SHA-256 of the bytes of the file. Raises StudioError."""
        try:
            return file_hash(self.path)
        except OSError as err:
            raise StudioError(f"The picture {self.name} cannot be read ({err.strerror}).") from err


@dataclass(frozen=True)
class PictureFolder:
    """The pictures drawn from a folder, with remarks on what was passed over."""

    pictures: list[Picture]
    remarks: tuple[str, ...] = ()


def list_pictures(folder: Path, count: int, seed: int = 0) -> list[Picture]:
    """List up to `count` pictures of a folder and its sub-folders, drawn with `seed`.

    They come in the order of their names, with their subjects. Raises StudioError for a folder
    without pictures and for a picture without a subject, with its name.
    """
    return read_folder(folder, count, seed).pictures


def read_folder(
    folder: Path, count: int, seed: int = 0, words: bool | None = None
) -> PictureFolder:
    """List pictures as `list_pictures` does, with remarks on what is passed over.

    words: where tables have captions and classes, take captions (True) or classes (False). Raises
    StudioError.
    """
    folder = Path(folder)
    walked = walk(folder)
    names = _readable_names(walked.files)
    if not names:
        place = f"The folder {folder.name}/ holds no pictures"
        raise StudioError(f"{place}: put PNG, JPEG or WebP files there.")
    random = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(names), generator=random)[:count].sort().values.tolist()
    lookup = look_up(folder, walked.files, names, _names_picture, words)
    alike = forms_of(names)
    found = []
    for name in (names[i] for i in chosen):
        shows = lookup.shows(name)
        if shows is None or shows == "":
            where = f"{lookup.place} or {splitext(basename(name))[0]}.txt"
            why = lookup.why_not(name) + twin(alike[one_form(name)])
            raise StudioError(
                f"Nothing says what {name} shows: put it into {where}, "
                f"or sort all pictures into sub-folders by class{why}."
            )
        found.append(Picture(folder / name, name, shows, lookup.by_folder))
    remarks = list(lookup.remarks)
    if walked.empty and lookup.by_folder:
        kind = "is an empty folder" if len(walked.empty) == 1 else "are empty folders"
        remarks.append(f"{some(name.rstrip('/') for name in walked.empty)} {kind}")
    return PictureFolder(found, tuple(remarks))


def _readable_names(files: tuple[str, ...]) -> list[str]:
    """Return the pictures among files. Raises StudioError for kinds that are not read."""
    pictures = [name for name in files if _names_picture(name)]
    strange = [name for name in pictures if suffix_of(name) not in readable()]
    if strange:
        kind = "is a picture of a kind" if len(strange) == 1 else "are pictures of kinds"
        what = f"{some(strange)} {kind} not read here"
        raise StudioError(f"{what}: save as PNG or JPEG, or take out of the folder.")
    return pictures


@cache
def readable() -> frozenset[str]:
    """Return the suffixes that this Pillow reads; AVIF, for one, is not in every build."""
    from PIL import Image

    Image.init()
    return frozenset(suffix for suffix, kind in KINDS.items() if kind in Image.OPEN)


def _names_picture(text: str) -> bool:
    """Say whether a text ends like the name of a picture, of a kind that is read or not."""
    return suffix_of(text.strip()) in KINDS or suffix_of(text.strip()) in NOT_READ


# ------------------------------------------------------------ subjects


def known_names(class_names: dict[int, str]) -> dict[str, int]:
    """Return every name that a class may be called by, with the class.

    That is its whole name, or one of the names in it (ImageNet's "tench, Tinca tinca") that no
    other class has.
    """
    single = [(part.strip(), i) for i, name in class_names.items() for part in name.split(",")]
    classes: dict[str, set[int]] = {}
    for part, i in single:
        classes.setdefault(part, set()).add(i)
    unique = {part: i for part, i in single if len(classes[part]) == 1}
    return unique | {name: i for i, name in class_names.items()}


def is_place(name: str) -> bool:
    """Say whether a folder's name is a mere place ("train", "val2017", "images_512").

    Such a name says nothing of what the pictures show.
    """
    parts = re.findall(r"[^\W\d_]+", name.casefold())
    return bool(parts) and all(
        part in PLACES or (len(part) == 1 and part.isascii()) for part in parts
    )


def _label_of(picture: Picture, known: Callable[[str], bool]) -> str:
    """Return the label of a picture, as it was written.

    By folders, it is the name of the nearest folder that is known or no mere place.
    """
    text = str(picture.shows)
    if not picture.by_folder:
        return text
    folders = picture.name.split("/")[-2::-1]
    return next((name for name in folders if known(name) or not is_place(name)), text)


def class_of(picture: Picture, names: dict[str, int], classes: int) -> int:
    """Return the class of a picture, a number below `classes`.

    The label is such a number, or one of the `names` in any case. Raises StudioError.
    """
    known = {one_form(name).casefold(): i for name, i in names.items()}
    text = _label_of(picture, lambda name: one_form(name).casefold() in known)
    # pandas writes 3 as 3.0 in a column with missing values
    if found := re.fullmatch(r"(-?[0-9]{1,18})(\.0+)?", text):
        number = int(found[1])
        if not 0 <= number < classes:
            raise StudioError(
                f"{picture.name} is labelled class {number}; this model's classes are whole "
                f"numbers from 0 to {classes - 1}."
            )
        return number
    if one_form(text).casefold() not in known:
        raise StudioError(
            f"{picture.name} is labelled {text[:80]!r}, which is neither a class number nor a "
            "class name of this model."
        )
    return known[one_form(text).casefold()]


def caption_of(picture: Picture) -> str:
    """Return the prompt of a picture: its caption, else the name of its folder.

    A number of repeats ("10_sks dog") is left out. Raises StudioError for a text without letters,
    which no text model was trained on, and for the name of a mere place ("train").
    """
    text = _label_of(picture, _nothing_known)
    if picture.by_folder:
        repeats = re.fullmatch(r"(?:\d+[._]+|0\d*-|\d+ - )\s*(.*)", text)
        text = repeats[1].strip() if repeats else text
        if not text or is_place(text):
            raise StudioError(
                f"Nothing says what {picture.name} shows: its folder's name is no prompt, so "
                "put captions into metadata.jsonl, "
                f"metadata.csv, or {splitext(basename(picture.name))[0]}.txt beside it."
            )
    if not any(letter.isalpha() for letter in text):
        raise StudioError(
            f"{picture.name} is labelled {text[:80]}; this model is asked in words, so give "
            "captions."
        )
    return text


def _nothing_known(_name: str) -> bool:
    return False


def read_picture(picture: Picture, size: int, channels: int) -> Tensor:
    """Read pixels (channels, size, size) in [-1, 1], turned by their EXIF data, on white.

    The shorter side becomes `size`, and the centre is kept. channels: 3 (RGB) or 1 (grey). Raises
    StudioError with the name of a picture that cannot be read or is too large.
    """
    from PIL import Image, ImageOps

    wanted = {*FORMATS, KINDS.get(suffix_of(picture.name), "PNG")}
    formats = wanted & {KINDS[suffix] for suffix in readable()}
    try:
        with Image.open(picture.path, formats=sorted(formats)) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            upright = ImageOps.exif_transpose(file)
            pixels = _opaque(upright, Image).convert("L" if channels == 1 else "RGB")
            array = np.asarray(ImageOps.fit(pixels, (size, size), Image.Resampling.BICUBIC))
    except Image.DecompressionBombError as err:
        raise StudioError(
            f"The picture {picture.name} has more than {MAX_PIXELS / 1e6:.0f} million pixels; "
            "make it smaller."
        ) from err
    except StudioError as err:
        raise StudioError(
            f"The picture {picture.name} {err}: save it as 8 or 16 bits per colour."
        ) from err
    except Exception as err:  # OSError, SyntaxError, ValueError, struct.error ...
        raise StudioError(
            f"The picture {picture.name} cannot be read; replace it or take it out of the folder."
        ) from err
    pixels_last = torch.from_numpy(array.reshape(size, size, channels).copy())
    return pixels_last.permute(2, 0, 1).float() / 127.5 - 1


def _opaque(image: Any, pillow: Any) -> Any:
    """Return an 8-bit picture without transparency.

    Pillow itself clips 16-bit grey instead of scaling it, and paints what is transparent black.
    Raises StudioError with the reason.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        if values.max() > 65535:
            raise StudioError("holds numbers of more than 16 bits")
        return pillow.fromarray((values / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise StudioError("holds fractions, and nothing says which of them is white")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image)
    return image
