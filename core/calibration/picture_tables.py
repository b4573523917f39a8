"""Read tables of subjects: labels, metadata or captions, as .csv, .json or .jsonl.

Two forms: pairs (file name, then what it shows) and records with named columns, as Hugging Face's
imagefolder has them: `file_name` and `text`, `caption` or `label`. Every name in a table is
relative to the folder that the table lies in.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import StudioError

STEMS = ("labels", "metadata", "captions")
READ = (".csv", ".json", ".jsonl")
NOT_READ = (
    ".parquet",
    ".arrow",
    ".feather",
    ".tsv",
    ".xlsx",
    ".xls",
    ".ods",
    ".pkl",
    ".npy",
    ".npz",
    ".yaml",
    ".yml",
    ".xml",
)
FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "image_file",
    "image_name",
    "image",
    "image_path",
    "file_path",
    "path",
    "name",
)
TEXT_COLUMNS = ("text", "caption", "prompt", "captions", "description")
LABEL_COLUMNS = (
    "label",
    "class",
    "class_name",
    "class_id",
    "label_name",
    "category",
    "target",
    "labels",
)

Shown = dict[str, "str | int"]  # file name -> what it shows; empty where the table leaves it open


@dataclass(frozen=True)
class Table:
    """The content of one table."""

    shown: Shown
    remark: str | None = None  # which of several columns was read


def is_table(name: str) -> bool:
    """Say whether a file name is that of a table of subjects, in a form that is read or not."""
    path = PurePosixPath(name.casefold())
    return path.stem in STEMS and path.suffix in READ + NOT_READ


def read_text(path: Path, name: str | None = None) -> str:
    """Read a text file called `name`.

    Raises StudioError for what is not UTF-8 (with or without its mark).
    """
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise StudioError(f"{name or path.name} cannot be read; save it as UTF-8 text.") from err
    if "\0" in text:  # UTF-16 without its mark
        raise StudioError(f"{name or path.name} cannot be read; save it as UTF-8 text.")
    return text


def read_table(
    path: Path, name: str, names_picture: Callable[[str], bool], words: bool | None = None
) -> Table:
    """Read one table, called `name` in refusals.

    names_picture: whether a text looks like a picture's name, which tells data from a header.
    words: True where captions are wanted, False where classes are; None takes captions first.
    Raises StudioError.
    """
    suffix = path.suffix.casefold()
    if suffix not in READ:
        raise StudioError(
            f"{name} is a kind of table that is not read here: save it as metadata.csv or "
            "metadata.jsonl."
        )
    if suffix == ".csv":
        return _csv(path, name, names_picture, words)
    if suffix == ".jsonl":
        return _records(name, _lines(path, name), words)
    try:
        content = json.loads(read_text(path, name), object_pairs_hook=partial(_once, name))
    except (ValueError, RecursionError) as err:
        raise StudioError(f"{name} cannot be read ({err}).") from err
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        return _records(
            name, ((f"Entry {i} of {name}", row) for i, row in enumerate(content, 1)), words
        )
    if not isinstance(content, dict) or not all(
        isinstance(v, (str, int)) and not isinstance(v, bool) for v in content.values()
    ):
        raise StudioError(
            f"{name} must be one object of file names with a class or a caption each."
        )
    return Table(_once(name, ((plain_name(key), _shown(v, name)) for key, v in content.items())))


def plain_name(text: str) -> str:
    """Return a file name in the form in which names are compared.

    Forward slashes, no spaces around, no part that stands for the folder itself.
    """
    parts: list[str] = []
    for part in text.strip().replace("\\", "/").split("/"):
        if part == ".." and parts and parts[-1] not in ("", ".."):
            parts.pop()
        elif part != "." and (part or not parts):
            parts.append(part)
    return "/".join(parts)


def _once(name: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dictionary of pairs. Raises StudioError for a key with two values."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise StudioError(
                f"{name} says two things of {key[:80]}, {_short(found[key])} and "
                f"{_short(value)}: keep one."
            )
        found[key] = value
    return found


def _short(value: Any) -> str:
    return repr(value) if len(repr(value)) < 60 else f"{repr(value)[:56]}..."


def _shown(value: Any, where: str) -> str | int:
    """Return a class or a caption as it is kept. Raises StudioError for what is neither."""
    if value is None:
        return ""
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise StudioError(
                f"{where}: {_short(value)} holds half a letter (a lone surrogate), which no "
                "model reads."
            )
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise StudioError(
        f"{where}: what a picture shows must be one text or one whole number, not {_short(value)}."
    )


def _csv(path: Path, name: str, names_picture: Callable[[str], bool], words: bool | None) -> Table:
    """Read a CSV file: pairs, or records where the header has a column of file names.

    Pairs may have a header of other words.
    """
    rows = csv.reader(
        io.StringIO(read_text(path, name), newline=""), skipinitialspace=True, strict=True
    )
    lines: list[tuple[int, list[str]]] = []
    try:
        lines += ((rows.line_num, row) for row in rows if any(cell.strip() for cell in row))
    except csv.Error as err:
        raise StudioError(f"Line {rows.line_num} of {name} cannot be read ({err}).") from err
    if not lines:
        return Table({})
    first = [cell.strip() for cell in lines[0][1]]
    headed = not any(names_picture(cell) for cell in first)
    if headed and (any(cell.casefold() in FILE_COLUMNS for cell in first) or len(first) != 2):
        for line, row in lines:
            if len(row) != len(first):
                raise StudioError(
                    f"Line {line} of {name} has {len(row)} columns; write {len(first)} as in its"
                    " first line, with quotes around a comma."
                )
        records = (
            (f"Line {line} of {name}", dict(zip(first, row, strict=True)))
            for line, row in lines[1:]
        )
        return _records(name, records, words, first)
    for line, row in lines:
        if len(row) != 2:
            raise StudioError(
                f"Line {line} of {name} has {len(row)} columns; write two, file name and label,"
                " with quotes around a comma."
            )
    return Table(
        _once(name, ((plain_name(file), shows.strip()) for _, (file, shows) in lines[headed:]))
    )


def _lines(path: Path, name: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield (place, record) of every record of JSON lines. Raises StudioError."""
    for i, line in enumerate(read_text(path, name).split("\n"), 1):
        where = f"Line {i} of {name}"
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=partial(_once, where))
        except (ValueError, RecursionError) as err:
            raise StudioError(f"{where} cannot be read ({err}).") from err
        if not isinstance(row, dict):
            raise StudioError(
                f'{where} must be an object such as {{"file_name": "1.png", "text": "a red fox"}}.'
            )
        yield where, row


def _records(
    name: str,
    rows: Iterable[tuple[str, dict[str, Any]]],
    words: bool | None,
    columns: list[str] | None = None,
) -> Table:
    """Return the table of records: their column of captions or labels by their file names.

    Raises StudioError.
    """
    found = list(rows)
    columns = columns or list(dict.fromkeys(key for _, row in found for key in row))
    if not columns:
        return Table({})
    twice = next((c for c in columns if columns.count(c) > 1), None)
    if twice is not None:
        raise StudioError(f"{name} has two columns {twice!r}: keep one.")
    file = _first(columns, FILE_COLUMNS)
    if file is None:
        raise StudioError(
            f"{name} has no column file_name, only {_listed(columns)}: add it, with the name "
            "of a picture in every line."
        )
    column, remark = _column(name, [c for c in columns if c != file], found, words)
    pairs = []
    for where, row in found:
        if not isinstance(row.get(file), str) or not row[file].strip():
            raise StudioError(f"{where} names no picture: write its file name as {file}.")
        pairs.append((plain_name(row[file]), _shown(row.get(column), where)))
    return Table(_once(name, pairs), remark)


def _column(
    name: str, others: list[str], rows: list[tuple[str, dict[str, Any]]], words: bool | None
) -> tuple[str, str | None]:
    """Return the column of subjects, and a remark where several could be meant.

    Raises StudioError where no column is sure.
    """
    groups = (LABEL_COLUMNS, TEXT_COLUMNS) if words is False else (TEXT_COLUMNS, LABEL_COLUMNS)
    for group in groups:
        known = [c for c in others if c.strip().casefold() in group]
        if known:
            best = _first(known, group) or known[0]
            if len(known) == 1:
                return best, None
            others_known = _listed([c for c in known if c != best])
            return best, f"{name} is read by its column {best}, not {others_known}"
    texts = [
        c for c in others if all(isinstance(row.get(c), str) and row[c].strip() for _, row in rows)
    ]
    sure = others if len(others) == 1 else texts
    if len(sure) != 1:
        raise StudioError(
            f"{name} does not say which column tells what a picture shows: call it text or label "
            f"(it has {_listed(others) if others else 'file names only'})."
        )
    return sure[0], None


def _first(columns: list[str], wanted: tuple[str, ...]) -> str | None:
    """Return the column whose name comes first among the wanted ones, in any case."""
    known = {c.strip().casefold(): c for c in reversed(columns)}
    return next((known[w] for w in wanted if w in known), None)


def _listed(names: list[str]) -> str:
    return ", ".join(n[:40] for n in names[:6]) + (
        f" and {len(names) - 6} more" if len(names) > 6 else ""
    )
