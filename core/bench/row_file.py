"""Keep the rows of a study in one JSON file, whole after every row, so that it resumes."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import StudioError
from ..files import write_whole
from ..models.bundled import BUNDLED
from ..models.checkpoints import local_folder
from ..tuner.front_rows import Row
from ..workshop.workshop import Workshop


class RowFile:
    """The rows of a study. Raises StudioError for a file that holds no rows."""

    def __init__(self, path: Path):
        self.path = path
        try:
            rows = json.loads(path.read_text()) if path.exists() else []
        except (OSError, ValueError):
            rows = None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise StudioError(f"{path} is damaged: remove it, or restore it.")
        self.rows: list[Row] = rows

    def has(self, **what: Any) -> bool:
        """Say whether there is a row with these values."""
        return any(what.items() <= row.items() for row in self.rows)

    def add(self, row: Row) -> None:
        """Add a row and write the file."""
        self.rows.append(row)
        text = json.dumps(self.rows, indent=1) + "\n"
        write_whole(self.path, lambda part: part.write_text(text))


def study_parser(about: str | None, seeds: int) -> argparse.ArgumentParser:
    """Return the command line of a study of rows: model, device, file and how many seeds."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="the rows' file (default: beside the model)")
    parser.add_argument(
        "--seeds", type=int, default=seeds, choices=range(1, seeds + 1), help="how many"
    )
    return parser


def file_beside(model: str | Path, name: str, out: Path | None) -> Path:
    """Return where a study keeps its rows: `out`, else a file in the model's own folder.

    Raises StudioError for a model without a folder, where `out` is None.
    """
    folder = local_folder(model)
    if out is not None:
        return out
    if folder is None:
        raise StudioError(f"{model} has no folder on this machine: give --out.")
    return folder / name


def circumstances(workshop: Workshop) -> Row:
    """Return what every row says of its measurement: model, device, code version and date."""
    return {
        "model": workshop.name,
        "device": workshop.device_text,
        "version": __version__,
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }
