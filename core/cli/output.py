"""Write what the verbs found: a result, files, and notes on standard error."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from ..errors import StudioError
from ..files import why_not_written, write_whole
from ..output import finite, note, say


def make_folder(name: str) -> Path:
    """Make a folder that can be written. Raises StudioError."""
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # permissions do not say that a disk is read-only
            pass
    except OSError as err:
        raise StudioError(
            f"The folder {name} cannot be written ({why_not_written(err)}): name another one for"
            " --out."
        ) from err
    return path


def fresh_folder(name: str) -> Path:
    """Return a folder that is new or empty, below one that can be written. Raises StudioError."""
    path = Path(name).absolute()  # "." has no name to write beside
    try:
        path = path.resolve()
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except (OSError, RuntimeError) as err:  # no permission to look, a loop of links
        raise StudioError(
            f"{name} cannot be looked at ({why_not_written(err)}); name another one for --out."
        ) from err
    if taken:
        raise StudioError(f"{name} exists and is not an empty folder; name another one for --out.")
    make_folder(str(path.parent) or ".")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises StudioError."""
    try:
        write_whole(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    except OSError as err:
        raise StudioError(f"{path} could not be written ({why_not_written(err)}).") from err


def report_progress(done: int, total: int, text: str) -> None:
    """Write one line of progress on standard error."""
    note(f"[{done}/{total}] {text}")


def warn_of_scarcity(warnings: list[str]) -> None:
    """Write what is scarce in the calibration on standard error, with --json and without."""
    for warning in warnings:
        note(f"app.py: warning: {warning}.")


def write_result(args: argparse.Namespace, result: dict[str, Any], text: list[str]) -> int:
    """Write a result on standard output, as JSON with --json, else as lines of text; return 0."""
    say(json.dumps(finite(result)) if args.json else "\n".join(text))
    return 0
