"""Where a folder says what each picture shows: tables, else captions beside the pictures, else sub-
folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import basename, dirname, splitext

from ..errors import StudioError
from .picture_tables import is_table, read_table, read_text
from .picture_walk import forms_of, one_form, some, suffix_of, twin

BESIDE = (".txt", ".caption")  # captions of one picture each


@dataclass
class Lookup:
    """How a folder says what a picture shows: its name inside the folder -> text or number, None
    where nothing says it.
    """

    shows: Callable[[str], str | int | None]
    by_folder: bool = False
    remarks: list[str] = field(default_factory=list)
    place: str = "labels.csv"
    why_not: Callable[[str], str] = lambda name: ""


Named = Callable[[str], bool]  # whether a text looks like the name of a picture


def look_up(
    folder: Path, files: Iterable[str], names: list[str], named: Named, words: bool | None
) -> Lookup:
    """Take tables where there are any, else captions beside the pictures, else the sub-folders."""
    beside = _beside(files, names)
    tables = [name for name in files if is_table(name)]
    if tables:
        found = _by_tables(folder, tables, names, named, words)
        if beside:
            found.remarks.append(f"texts beside the pictures are not read, as there is {tables[0]}")
        return found
    if beside:
        return Lookup(lambda name: _caption(folder, name, beside.get(name, [])))
    return Lookup(lambda name: basename(dirname(name)) or None, by_folder=True)


def _beside(files: Iterable[str], names: list[str]) -> dict[str, list[str]]:
    """Find the caption files of pictures: 1.txt and 1.caption, or 1.png.txt, of 1.png."""
    texts: dict[str, list[str]] = {}
    for file in files:
        if suffix_of(file) in BESIDE:
            texts.setdefault(splitext(file)[0], []).append(file)
    forms = forms_of(texts)
    alike = forms_of(names)
    found = {}
    for name in names:
        own = texts.get(splitext(name)[0], []) + texts.get(name, [])
        if not own and len(alike[one_form(name)]) == 1:
            own = [
                f
                for key in (splitext(name)[0], name)
                for form in forms.get(one_form(key), [])
                for f in texts[form]
            ]
        if own:
            found[name] = own
    return found


def _caption(folder: Path, name: str, files: list[str]) -> str | None:
    """The one text beside a picture. Raises StudioError for two that differ."""
    texts = {text: file for file in files if (text := read_text(folder / file, file))}
    if len(texts) > 1:
        raise StudioError(
            f"{' and '.join(sorted(texts.values()))} say different things of {name}: keep one "
            "of them."
        )
    return next(iter(texts), None)


def _by_tables(
    folder: Path, tables: list[str], names: list[str], named: Named, words: bool | None
) -> Lookup:
    """What the tables say. A name that is not there as it is written may stand for the only picture
    of that name further down.
    """
    for inside in {dirname(t) for t in tables}:
        here = [basename(t) for t in tables if dirname(t) == inside]
        if len(here) > 1:
            where = f"{folder.name}/{inside}".rstrip("/")
            raise StudioError(
                f"The folder {where}/ has both {' and '.join(sorted(here))}; keep one of them."
            )
    said: dict[str, tuple[str | int, str]] = {}
    remarks, known = [], set(names)
    by_form, by_base = forms_of(names), {}
    for name in names:
        by_base.setdefault(one_form(basename(name)), []).append(name)
    missing: list[str] = []
    for table in tables:
        read = read_table(folder / table, table, named, words)
        remarks += [read.remark] if read.remark else []
        lost = []
        for file, shows in read.shown.items():
            name = _meant(folder, table, file, known, by_form, by_base)
            if name is None:
                lost.append(file)
            elif name in said and said[name][0] != shows:
                raise StudioError(
                    f"{table} and {said[name][1]} say different things of {name}: keep one."
                )
            else:
                said[name] = shows, table
        missing += lost
        if lost:
            remarks.append(
                f"{table} names {len(lost)} file{'s' if len(lost) > 1 else ''} not there "
                f"({some(lost, 2)})"
            )

    def why_not(name: str) -> str:
        near = next((f for f in missing if f.casefold() == name.casefold()), None)
        if near is not None:
            return f"; {tables[0]} names {near}, which is not the same name"
        return (
            f"; {some(tables)} names {some(missing)}, which is not there"
            if missing and not said
            else ""
        )

    return Lookup(lambda name: said.get(name, (None,))[0], False, remarks, tables[0], why_not)


def _meant(
    folder: Path,
    table: str,
    file: str,
    known: set[str],
    by_form: dict[str, list[str]],
    by_base: dict[str, list[str]],
) -> str | None:
    """The picture that a table means by a file name; None where it is not there. Raises StudioError
    where two could be meant.
    """
    inside = dirname(table) + "/" if dirname(table) else ""
    if file.startswith("/"):  # written on this machine, perhaps
        for root in (str(folder), str(folder.absolute()), str(folder.resolve())):
            if file.startswith(root.rstrip("/") + "/"):
                file, inside = file[len(root.rstrip("/")) + 1 :], ""
                break
    while file.startswith("../") and inside:
        file, inside = (
            file[3:],
            inside.rstrip("/").rpartition("/")[0] + "/" if "/" in inside.rstrip("/") else "",
        )
    name = inside + file
    if name in known:
        return name
    alike = by_form.get(one_form(name), [])
    if not alike and "/" not in file:
        alike = [n for n in by_base.get(one_form(file), []) if n.startswith(inside)]
    if len(alike) < 2:
        return alike[0] if alike else None
    if one_form(alike[0]) == one_form(alike[1]):
        raise StudioError(f"{table} names {file}{twin(alike)}.")
    raise StudioError(
        f"{table} names {file}, which may be {some(alike)}: write the sub-folder with the name."
    )
