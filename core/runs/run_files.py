"""Keep the pictures of every run in a folder of its own: whole, or not at all.

A folder holds the comparison (`Comparison.save`), a small sheet of pictures per side (PNG), and the
run's row of the database, so that a lost database can be made again from the folders.
"""

from __future__ import annotations

import io
import json
import math
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from ..errors import StudioError
from ..files import write_folder
from ..workshop.comparison import Comparison, grid
from .database import Row, not_written

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")  # `new_id`
STALE_SECONDS = 3600.0  # after which a half-written folder belongs to no process that lives
SETTLED_SECONDS = 60.0  # after which a folder without a row has been left by a kill
SHEET_IMAGES = 9
IMAGE_PIXELS = 64  # longest side of one image in a sheet
ROW = "run.json"


@dataclass(frozen=True)
class RunFiles:
    """The folders of all runs, side by side in one folder."""

    place: Path

    def write(self, id: str, comparison: Comparison, row: Row) -> None:
        """Write the folder of a run. Raises StudioError, and leaves nothing, when it cannot."""

        def fill(part: Path) -> None:
            comparison.save(part)
            for letter, side in (("a", comparison.a), ("b", comparison.b)):
                (part / f"{letter}.png").write_bytes(sheet(side.images))
            (part / ROW).write_text(json.dumps(row))

        try:
            write_folder(self._folder(id), fill)
        except (OSError, SafetensorError) as err:
            raise StudioError(not_written(err)) from err

    def comparison(self, id: str) -> Comparison:
        """Read the comparison of a run. Raises StudioError where it is not there or damaged."""
        folder = self._folder(id)
        if not folder.is_dir():
            raise StudioError("The pictures of this run are not in the data folder any more.")
        try:
            return Comparison.load(folder)
        except StudioError as err:
            why = type(err.__cause__).__name__
            raise StudioError(
                f"The pictures of this run cannot be read ({why}): run it again from its plans."
            ) from err

    def thumbnail(self, id: str, side: str) -> bytes | None:
        """Return the PNG sheet of a side, "a" or "b", or None where there is none."""
        if side not in ("a", "b"):
            raise StudioError("A side is a or b.")
        try:
            return (self._folder(id) / f"{side}.png").read_bytes()
        except OSError:
            return None

    def row(self, id: str) -> Row | None:
        """Return the row that lies in the folder of a run; None where there is none to trust."""
        try:
            row = json.loads((self._folder(id) / ROW).read_text())
        except (OSError, ValueError, RecursionError):
            return None
        plain = isinstance(row, dict) and all(
            value is None or isinstance(value, (str, int, float)) for value in row.values()
        )
        return row if plain and row.get("id") == id else None

    def remove(self, id: str) -> None:
        """Remove the folder of a run; what a kill or a refusal leaves is swept later."""
        folder = self._folder(id)
        part = folder.with_name(f"{id}.{secrets.token_hex(4)}.part")
        with suppress(OSError):
            folder.replace(part)
        shutil.rmtree(part, ignore_errors=True)

    def sweep(self, now: float | None = None) -> None:
        """Remove half-written folders that are older than an hour."""
        for part in self._old(STALE_SECONDS, now):
            if part.suffix == ".part":
                shutil.rmtree(part, ignore_errors=True)

    def without_row(self, known: Iterable[str], now: float | None = None) -> list[Row]:
        """Return the rows of whole folders whose ids are not `known`, as a kill leaves them."""
        ids = {p.name for p in self._old(SETTLED_SECONDS, now) if ID.fullmatch(p.name)}
        rows = [self.row(id) for id in sorted(ids.difference(known))]
        return [row for row in rows if row is not None]

    def _old(self, seconds: float, now: float | None) -> list[Path]:
        """Return what lies in the place and has not changed for so long."""
        found, now = [], time.time() if now is None else now
        with suppress(OSError):  # no place yet
            for path in self.place.iterdir():
                with suppress(OSError):  # another process was quicker
                    if now - path.stat().st_mtime > seconds:
                        found.append(path)
        return found

    def _folder(self, id: str) -> Path:
        """Return the folder of a run. Raises StudioError for what is no id of one."""
        if not ID.fullmatch(id):
            raise StudioError("There is no run of this name.")
        return self.place / id


def sheet(images: Tensor) -> bytes:
    """Return a small PNG of the first images, (n, channels, H, W) in [-1, 1], row by row."""
    shown = images[:SHEET_IMAGES].float().nan_to_num(-1.0)
    shown = shown[:, :3] if shown.shape[1] >= 3 else shown[:, :1]
    factor = math.ceil(max(shown.shape[2:]) / IMAGE_PIXELS)
    if factor > 1:
        shown = functional.avg_pool2d(shown, factor, ceil_mode=True)
    picture = grid(torch.as_tensor(shown), columns=math.ceil(math.sqrt(len(shown))))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
