"""Look up the subjects of pictures: in tables, in captions beside them, or in sub-folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import basename, dirname, splitext

from ..errors import StudioError
from ..words import some
from .picture_tables import is_table, read_table, read_text
from .picture_walk import forms_of, one_form, suffix_of, twin

BESIDE = (".txt", ".caption")  # captions of one picture each


def _no_reason(_name: str) -> str:
    return ""


@dataclass
class Lookup:
    """A way of finding the subject of a picture by its name inside the folder."""

    shows: Callable[[str], str | int | None]  # name -> text or number, None where there is none
    by_folder: bool = False
    remarks: list[str] = field(default_factory=list)
    place: str = "labels.csv"
    why_not: Callable[[str], str] = _no_reason


Named = Callable[[str], bool]  # whether a text looks like the name of a picture


def look_up(
    folder: Path, files: Iterable[str], names: list[str], named: Named, words: bool | None
) -> Lookup:
    """Use tables where there are any, else captions beside the pictures, else sub-folders."""
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
    """Return the caption files of pictures: 1.txt and 1.caption, or 1.png.txt, of 1.png."""
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
    """Return the one text beside a picture. Raises StudioError for two that differ."""
    texts = {read_text(folder / file, file): file for file in files}
    texts.pop("", None)  # empty files
    if len(texts) > 1:
        raise StudioError(
            f"{' and '.join(sorted(texts.values()))} say different things of {name}: keep one "
            "of them."
        )
    return next(iter(texts), None)


def _by_tables(
    folder: Path, tables: list[str], names: list[str], named: Named, words: bool | None
) -> Lookup:
    """Return the lookup in tables. Raises StudioError for tables that contradict each other.

    A name that is not there as it is written may stand for the only picture of that name further
    down.
    """
    _refuse_two_tables(folder, tables)
    index = _Index.of(folder, names)
    subjects: dict[str, tuple[str | int, str]] = {}  # picture -> what it shows, table
    remarks: list[str] = []
    missing: list[str] = []
    for table in tables:
        read = read_table(folder / table, table, named, words)
        remarks += [read.remark] if read.remark else []
        lost: list[str] = []
        for file, shows in read.shown.items():
            name = index.meant(table, file)
            if name is None:
                lost.append(file)
            elif name in subjects and subjects[name][0] != shows:
                raise StudioError(
                    f"{table} and {subjects[name][1]} say different things of {name}: keep one."
                )
            else:
                subjects[name] = shows, table
        missing += lost
        if lost:
            remarks.append(
                f"{table} names {len(lost)} file{'s' if len(lost) > 1 else ''} not there "
                f"({some(lost, 2)})"
            )

    def shows_of(name: str) -> str | int | None:
        return subjects[name][0] if name in subjects else None

    def why_not(name: str) -> str:
        near = next((f for f in missing if f.casefold() == name.casefold()), None)
        if near is not None:
            return f"; {tables[0]} names {near}, which is not the same name"
        if missing and not subjects:
            return f"; {some(tables)} names {some(missing)}, which is not there"
        return ""

    return Lookup(shows_of, remarks=remarks, place=tables[0], why_not=why_not)


def _refuse_two_tables(folder: Path, tables: list[str]) -> None:
    """Raise StudioError for two tables in one folder."""
    for inside in {dirname(t) for t in tables}:
        here = [basename(t) for t in tables if dirname(t) == inside]
        if len(here) > 1:
            where = f"{folder.name}/{inside}".rstrip("/")
            raise StudioError(
                f"The folder {where}/ has both {' and '.join(sorted(here))}; keep one of them."
            )


@dataclass(frozen=True)
class _Index:
    """The pictures of a folder by name, by composed form and by name without folders."""

    folder: Path
    known: set[str]
    by_form: dict[str, list[str]]
    by_base: dict[str, list[str]]

    @classmethod
    def of(cls, folder: Path, names: list[str]) -> _Index:
        """Index the pictures of a folder."""
        by_base: dict[str, list[str]] = {}
        for name in names:
            by_base.setdefault(one_form(basename(name)), []).append(name)
        return cls(folder, set(names), forms_of(names), by_base)

    def meant(self, table: str, file: str) -> str | None:
        """Return the picture that a table means by a file name; None where it is not there.

        Raises StudioError where two could be meant.
        """
        inside, file = self._place(table, file)
        name = inside + file
        if name in self.known:
            return name
        alike = self.by_form.get(one_form(name), [])
        if not alike and "/" not in file:
            alike = [n for n in self.by_base.get(one_form(file), []) if n.startswith(inside)]
        if len(alike) < 2:
            return alike[0] if alike else None
        if one_form(alike[0]) == one_form(alike[1]):
            raise StudioError(f"{table} names {file}{twin(alike)}.")
        raise StudioError(
            f"{table} names {file}, which may be {some(alike)}: write the sub-folder with the name."
        )

    def _place(self, table: str, file: str) -> tuple[str, str]:
        """Return (folder inside, name below it) of a file that a table names."""
        inside = f"{dirname(table)}/" if dirname(table) else ""
        if file.startswith("/"):  # written on this machine, perhaps
            for path in (self.folder, self.folder.absolute(), self.folder.resolve()):
                root = str(path).rstrip("/") + "/"
                if file.startswith(root):
                    inside = ""
                    file = file[len(root) :]
                    break
        while file.startswith("../") and inside:
            above = inside.rstrip("/").rpartition("/")[0]
            inside = f"{above}/" if "/" in inside.rstrip("/") else ""
            file = file[3:]
        return inside, file
