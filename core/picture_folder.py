"""Pictures that a user gives for calibration: a folder, what each picture shows, and the pixels as a model takes them.

What a picture shows is looked up in one of three places, the same for the whole folder: tables (`core.picture_tables`: labels,
metadata or captions as .csv, .json or .jsonl, in the folder or further down), else `name.txt` or `name.caption` beside `name.png`,
else the sub-folder that it lies in (ImageFolder layout).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from posixpath import basename, dirname, splitext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import StudioError
from .picture_tables import is_table, read_table, read_text
from .picture_walk import one_form, walk

KINDS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
    ".bmp": "BMP", ".dib": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".gif": "GIF", ".jp2": "JPEG2000",
    ".j2k": "JPEG2000", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM", ".tga": "TGA",
}
SUFFIXES = tuple(KINDS)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF")  # read under any of the suffixes, as many a picture has a wrong one
NOT_READ = (
    ".heic", ".heif", ".jxl", ".svg", ".psd", ".xcf", ".exr", ".hdr", ".qoi", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw",
    ".orf", ".rw2", ".raf", ".dcm", ".jpx", ".j2c",
)
BESIDE = (".txt", ".caption")  # captions of one picture each
MAX_PIXELS = 2**26  # 8192 x 8192: 200 MB once unpacked; beyond that a small file may be meant to fill the memory
PLACES = set(
    "train training trainset val valid validation test testing testset eval evaluation dev split fold part batch chunk shard set "
    "subset folder dir image images img imgs pic pics picture pictures photo photos jpeg jpegs jpg png webp data dataset datasets "
    "sample samples raw all new misc other unsorted input inputs output outputs source crop crops cropped resized processed class "
    "instance reg regularization dcim".split()
)  # what a folder is called that holds pictures of anything: no prompt, and no class where the model has none of that name


@dataclass(frozen=True)
class Picture:
    """One file and what the folder says it shows."""

    path: Path
    name: str  # inside the folder, "cats/1.png"
    shows: str | int  # class number, class name or caption, as it was written
    by_folder: bool = False  # `shows` is the name of the sub-folder

    def digest(self) -> str:
        """SHA-256 of the file's bytes."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as err:
            raise StudioError(f"The picture {self.name} cannot be read ({err.strerror}).") from err


@dataclass(frozen=True)
class PictureFolder:
    """Pictures drawn from a folder, and what of the folder was passed over, in words."""

    pictures: list[Picture]
    remarks: tuple[str, ...] = ()


def list_pictures(folder: Path, count: int, seed: int = 0) -> list[Picture]:
    """Up to `count` pictures of a folder and its sub-folders, drawn with `seed`, in the order of their names; what each shows is looked up.

    Raises StudioError for a folder without pictures and, naming it, for a picture of which nothing says what it shows.
    """
    return read_folder(folder, count, seed).pictures


def read_folder(folder: Path, count: int, seed: int = 0, words: bool | None = None) -> PictureFolder:
    """`list_pictures` with remarks. words: where tables have captions and classes, take captions (True) or classes (False)."""
    folder = Path(folder)
    walked = walk(folder)
    names = [name for name in walked.files if _suffix(name) in readable()]
    strange = [n for n in walked.files if _suffix(n) in NOT_READ or (_suffix(n) in KINDS and _suffix(n) not in readable())]
    if strange:
        many = f"{strange[0]} is a picture of a kind" if len(strange) == 1 else f"{_some(strange)} are pictures of kinds"
        raise StudioError(f"{many} not read here: save as PNG or JPEG, or take out of the folder.")
    if not names:
        raise StudioError(f"The folder {folder.name}/ holds no pictures: put PNG, JPEG or WebP files there.")
    chosen = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[:count].sort().values.tolist()
    lookup = _lookup(folder, walked.files, names, words)
    alike = _forms(names)
    found = []
    for name in (names[i] for i in chosen):
        shows = lookup.shows(name)
        if shows is None or shows == "":
            raise StudioError(
                f"Nothing says what {name} shows: put it into {lookup.place} or {splitext(basename(name))[0]}.txt, "
                f"or sort all pictures into sub-folders by class{lookup.why_not(name)}{_twin(alike[one_form(name)])}."
            )
        found.append(Picture(folder / name, name, shows, lookup.by_folder))
    empty = [name.rstrip("/") for name in walked.empty] if lookup.by_folder else []
    remarks = [*lookup.remarks, *([f"{_some(empty)} {'is an empty folder' if len(empty) == 1 else 'are empty folders'}"] if empty else [])]
    return PictureFolder(found, tuple(remarks))


@cache
def readable() -> frozenset[str]:
    """Suffixes of the pictures that this Pillow reads; AVIF, for one, is not in every build."""
    from PIL import Image

    Image.init()
    return frozenset(suffix for suffix, kind in KINDS.items() if kind in Image.OPEN)


def _suffix(name: str) -> str:
    return splitext(name)[1].lower()


def _names_picture(text: str) -> bool:
    return _suffix(text.strip()) in KINDS or _suffix(text.strip()) in NOT_READ


def _twin(names: list[str]) -> str:
    """What sets two names apart that look the same on a screen; "" for one name."""
    if len(names) < 2:
        return ""
    apart = " and ".join(re.sub(r"[^\x00-\x7f]", lambda letter: f"[U+{ord(letter[0]):04X}]", name) for name in names[:2])
    return f"; there are two pictures of this look, {apart}, which differ only in how letters with accents are composed: rename one"


def _some(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# ------------------------------------------------------------ what a picture shows


@dataclass
class _Lookup:
    """How a folder says what a picture shows: its name inside the folder -> text or number, None where nothing says it."""

    shows: Callable[[str], str | int | None]
    by_folder: bool = False
    remarks: list[str] = field(default_factory=list)
    place: str = "labels.csv"
    why_not: Callable[[str], str] = lambda name: ""


def _lookup(folder: Path, files: Iterable[str], names: list[str], words: bool | None) -> _Lookup:
    """Tables where there are any, else captions beside the pictures, else the sub-folders."""
    beside = _beside(files, names)
    tables = [name for name in files if is_table(name)]
    if tables:
        found = _by_tables(folder, tables, names, words)
        if beside:
            found.remarks.append(f"texts beside the pictures are not read, as there is {tables[0]}")
        return found
    if beside:
        return _Lookup(lambda name: _caption(folder, name, beside.get(name, [])))
    return _Lookup(lambda name: basename(dirname(name)) or None, by_folder=True)


def _beside(files: Iterable[str], names: list[str]) -> dict[str, list[str]]:
    """The caption files of each picture that has any: 1.txt and 1.caption, or 1.png.txt, of 1.png."""
    texts: dict[str, list[str]] = {}
    for file in files:
        if _suffix(file) in BESIDE:
            texts.setdefault(splitext(file)[0], []).append(file)
    forms = _forms(texts)
    alike = _forms(names)
    found = {}
    for name in names:
        own = texts.get(splitext(name)[0], []) + texts.get(name, [])
        if not own and len(alike[one_form(name)]) == 1:
            own = [f for key in (splitext(name)[0], name) for form in forms.get(one_form(key), []) for f in texts[form]]
        if own:
            found[name] = own
    return found


def _forms(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by their composed form."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(one_form(name), []).append(name)
    return found


def _caption(folder: Path, name: str, files: list[str]) -> str | None:
    """The one text beside a picture. Raises StudioError for two that differ."""
    texts = {text: file for file in files if (text := read_text(folder / file, file))}
    if len(texts) > 1:
        raise StudioError(f"{' and '.join(sorted(texts.values()))} say different things of {name}: keep one of them.")
    return next(iter(texts), None)


def _by_tables(folder: Path, tables: list[str], names: list[str], words: bool | None) -> _Lookup:
    """What the tables say. A name that is not there as it is written may stand for the only picture of that name further down."""
    for inside in {dirname(t) for t in tables}:
        here = [basename(t) for t in tables if dirname(t) == inside]
        if len(here) > 1:
            where = f"{folder.name}/{inside}".rstrip("/")
            raise StudioError(f"The folder {where}/ has both {' and '.join(sorted(here))}; keep one of them.")
    said: dict[str, tuple[str | int, str]] = {}
    remarks, known = [], set(names)
    by_form, by_base = _forms(names), {}
    for name in names:
        by_base.setdefault(one_form(basename(name)), []).append(name)
    missing: list[str] = []
    for table in tables:
        read = read_table(folder / table, table, _names_picture, words)
        remarks += [read.remark] if read.remark else []
        lost = []
        for file, shows in read.shown.items():
            name = _meant(folder, table, file, known, by_form, by_base)
            if name is None:
                lost.append(file)
            elif name in said and said[name][0] != shows:
                raise StudioError(f"{table} and {said[name][1]} say different things of {name}: keep one.")
            else:
                said[name] = shows, table
        missing += lost
        if lost:
            remarks.append(f"{table} names {len(lost)} file{'s' if len(lost) > 1 else ''} not there ({_some(lost, 2)})")

    def why_not(name: str) -> str:
        near = next((f for f in missing if f.casefold() == name.casefold()), None)
        if near is not None:
            return f"; {tables[0]} names {near}, which is not the same name"
        return f"; {_some(tables)} names {_some(missing)}, which is not there" if missing and not said else ""

    return _Lookup(lambda name: said.get(name, (None,))[0], False, remarks, tables[0], why_not)


def _meant(
    folder: Path, table: str, file: str, known: set[str], by_form: dict[str, list[str]], by_base: dict[str, list[str]]
) -> str | None:
    """The picture that a table means by a file name; None where it is not there. Raises StudioError where two could be meant."""
    inside = dirname(table) + "/" if dirname(table) else ""
    if file.startswith("/"):  # written on this machine, perhaps
        for root in (str(folder), str(folder.absolute()), str(folder.resolve())):
            if file.startswith(root.rstrip("/") + "/"):
                file, inside = file[len(root.rstrip("/")) + 1 :], ""
                break
    while file.startswith("../") and inside:
        file, inside = file[3:], inside.rstrip("/").rpartition("/")[0] + "/" if "/" in inside.rstrip("/") else ""
    name = inside + file
    if name in known:
        return name
    alike = by_form.get(one_form(name), [])
    if not alike and "/" not in file:
        alike = [n for n in by_base.get(one_form(file), []) if n.startswith(inside)]
    if len(alike) < 2:
        return alike[0] if alike else None
    if one_form(alike[0]) == one_form(alike[1]):
        raise StudioError(f"{table} names {file}{_twin(alike)}.")
    raise StudioError(f"{table} names {file}, which may be {_some(alike)}: write the sub-folder with the name.")


def known_names(class_names: dict[int, str]) -> dict[str, int]:
    """What each class may be called: its whole name, or one of the names in it (ImageNet's "tench, Tinca tinca") that no other class has."""
    single = [(part.strip(), i) for i, name in class_names.items() for part in name.split(",")]
    classes: dict[str, set[int]] = {}
    for part, i in single:
        classes.setdefault(part, set()).add(i)
    return {part: i for part, i in single if len(classes[part]) == 1} | {name: i for i, name in class_names.items()}


def is_place(name: str) -> bool:
    """Whether a folder's name says where its pictures are kept and not what they show: "train", "val2017", "images_512"."""
    parts = re.findall(r"[^\W\d_]+", name.casefold())
    return bool(parts) and all(part in PLACES or (len(part) == 1 and part.isascii()) for part in parts)


def _told_by(picture: Picture, known: Callable[[str], bool]) -> str:
    """What a picture is labelled: as it was written or, by folders, the nearest one that is no mere place."""
    text = str(picture.shows)
    if not picture.by_folder:
        return text
    folders = picture.name.split("/")[-2::-1]
    return next((name for name in folders if known(name) or not is_place(name)), text)


def class_of(picture: Picture, names: dict[str, int], classes: int) -> int:
    """The class that a picture shows: a number below `classes`, or one of the model's class names (in any case). Raises StudioError."""
    known = {one_form(name).casefold(): i for name, i in names.items()}
    text = _told_by(picture, lambda name: one_form(name).casefold() in known)
    if found := re.fullmatch(r"(-?[0-9]{1,18})(\.0+)?", text):  # 3.0 is how pandas writes 3 beside what is missing
        number = int(found[1])
        if not 0 <= number < classes:
            raise StudioError(f"{picture.name} is labelled class {number}; this model's classes are whole numbers from 0 to {classes - 1}.")
        return number
    if one_form(text).casefold() not in known:
        raise StudioError(f"{picture.name} is labelled {text[:80]!r}, which is neither a class number nor a class name of this model.")
    return known[one_form(text).casefold()]


def caption_of(picture: Picture) -> str:
    """The prompt that a picture answers: its caption, else the name of its folder without a number of repeats ("10_sks dog").

    Raises StudioError for what has no letters, which no text model was ever told, and for the name of a mere place ("train").
    """
    text = _told_by(picture, lambda name: False)
    if picture.by_folder:
        repeats = re.fullmatch(r"(?:\d+[._]+|0\d*-|\d+ - )\s*(.*)", text)
        text = repeats[1].strip() if repeats else text
        if not text or is_place(text):
            raise StudioError(
                f"Nothing says what {picture.name} shows: its folder's name is no prompt, so put captions into metadata.jsonl, "
                f"metadata.csv, or {splitext(basename(picture.name))[0]}.txt beside it."
            )
    if not any(letter.isalpha() for letter in text):
        raise StudioError(f"{picture.name} is labelled {text[:80]}; this model is asked in words, so give captions.")
    return text


def read_picture(picture: Picture, size: int, channels: int) -> Tensor:
    """Pixels (channels, size, size) in [-1, 1]: turned as its EXIF data say, on white where transparent, shorter side to `size`, centre crop.

    channels: 3 (RGB) or 1 (grey). Raises StudioError, naming the picture, when it cannot be read or is too large.
    """
    from PIL import Image, ImageOps

    formats = {*FORMATS, KINDS.get(_suffix(picture.name), "PNG")} & {KINDS[suffix] for suffix in readable()}
    try:
        with Image.open(picture.path, formats=sorted(formats)) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            upright = ImageOps.exif_transpose(file)
            pixels = _opaque(upright, Image).convert("L" if channels == 1 else "RGB")
            array = np.asarray(ImageOps.fit(pixels, (size, size), Image.Resampling.BICUBIC))
    except Image.DecompressionBombError as err:
        raise StudioError(f"The picture {picture.name} has more than {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller.") from err
    except StudioError as err:
        raise StudioError(f"The picture {picture.name} {err}: save it as 8 or 16 bits per colour.") from err
    except Exception as err:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        raise StudioError(f"The picture {picture.name} cannot be read; replace it or take it out of the folder.") from err
    return torch.from_numpy(array.reshape(size, size, channels).copy()).permute(2, 0, 1).float() / 127.5 - 1


def _opaque(image: Any, pillow: Any) -> Any:
    """An 8-bit picture without transparency. Pillow itself clips 16-bit grey instead of scaling it, and paints what is transparent black."""
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
