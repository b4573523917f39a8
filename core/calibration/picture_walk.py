"""List a picture folder: every file, links followed, leftovers of systems passed over.

A link to a folder or a file counts as its target. A link without a target is refused, as its
picture would be missing.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from posixpath import basename, splitext

from ..errors import StudioError

LEFTOVERS = {
    "__macosx",
    "@eadir",
    "__pycache__",
    "lost+found",
    "$recycle.bin",
    "system volume information",
}  # of archives, disk stations, Python and disks
MOST_FOLDERS = 100_000


@dataclass(frozen=True)
class Walked:
    """The files and the empty folders of a folder, in order."""

    files: tuple[str, ...]  # names inside the folder: "cats/1.png"
    empty: tuple[str, ...]  # folders without any file in or below them


@dataclass(frozen=True)
class _Place:
    """One folder inside; `linked`: how many links lead to it."""

    inside: str  # "", "cats/", "train/cats/"
    real: str
    linked: int
    above: frozenset[str]  # the real folders that it lies in


def one_form(name: str) -> str:
    """Return a composed name: é is one letter, also where it was written as e and an accent."""
    return unicodedata.normalize("NFC", name)


def walk(folder: Path) -> Walked:
    """List a folder with all that lies below it.

    A link back to a folder that it lies in is passed over, and so is a second way to a folder under
    the same name: what is there is listed already. Raises StudioError for folders that cannot be
    read and links that lead to nothing.
    """
    here = os.path.realpath(folder)
    waiting = [_Place("", here, 0, frozenset())]
    found: list[tuple[_Place, list[str]]] = []
    while waiting:
        place = waiting.pop()
        below, files = _look(folder, place)
        found.append((place, files))
        waiting += below
        if len(found) > MOST_FOLDERS:
            raise StudioError(
                f"The folder {folder.name}/ holds more than {MOST_FOLDERS} folders, links "
                "followed: "
                "give one with fewer, or take out links between its folders."
            )
    listed: list[str] = []
    seen: set[tuple[str, str]] = set()
    for place, files in sorted(found, key=lambda item: (item[0].linked, item[0].inside.split("/"))):
        known = place.real, basename(place.inside.rstrip("/"))
        if known not in seen:
            seen.add(known)
            listed += files
    held = {name[: i + 1] for name in listed for i, letter in enumerate(name) if letter == "/"}
    empty = [
        place.inside
        for place, _ in found
        if place.inside and place.inside not in held and not place.linked
    ]
    return Walked(tuple(sorted(listed, key=lambda name: name.split("/"))), tuple(sorted(empty)))


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _look(folder: Path, place: _Place) -> tuple[list[_Place], list[str]]:
    """Return the folders and the files in one place. Raises StudioError."""
    below: list[_Place] = []
    files: list[str] = []
    above = place.above | {place.real}
    try:
        with os.scandir(folder / place.inside) as entries:
            inside = [
                e
                for e in entries
                if not e.name.startswith(".") and e.name.casefold() not in LEFTOVERS
            ]
    except OSError as err:
        name = f"{folder.name}/{place.inside}".rstrip("/")
        raise StudioError(f"The folder {name}/ cannot be read ({err.strerror}).") from err
    for entry in inside:
        name = place.inside + entry.name
        if not name.isascii() and not _encodable(name):
            readable = name.encode("utf-8", "backslashreplace").decode()
            raise StudioError(f"{readable} has a name that is not UTF-8 text: rename it.")
        kind = _kind(entry)
        if kind == "folder":
            real = os.path.realpath(entry.path)
            if real not in above:
                below.append(_Place(f"{name}/", real, place.linked + entry.is_symlink(), above))
        elif kind == "file":
            files.append(name)
        elif entry.is_symlink() and not Path(entry.path).exists():
            raise StudioError(
                f"{name} is a link to something that is not there: mend it, or take it out of "
                "the folder."
            )
    return below, files


def _kind(entry: os.DirEntry[str]) -> str | None:
    """Return "folder" or "file", None for what is neither (a link to nothing or to itself)."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else None
    except OSError:  # a link to itself
        return None


def suffix_of(name: str) -> str:
    """Return the ending of a file name, in small letters: ".png"."""
    return splitext(name)[1].lower()


def forms_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Return names by their composed form."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(one_form(name), []).append(name)
    return found


def twin(names: list[str]) -> str:
    """Return what sets two names apart that look the same on a screen; "" for one name."""
    if len(names) < 2:
        return ""
    apart = " and ".join(map(_with_codes, names[:2]))
    why = "which differ only in how letters with accents are composed"
    return f"; there are two pictures of this look, {apart}, {why}: rename one"


def _with_codes(name: str) -> str:
    """Return a name with the code of every letter outside ASCII."""
    return re.sub(r"[^\x00-\x7f]", lambda letter: f"[U+{ord(letter[0]):04X}]", name)
