"""Offer files to the callers of named endpoints, from a temporary folder of this process alone.

No caller names a path: each file lies under a name that nobody can guess, and goes when newer ones
come and when the program ends.
"""

from __future__ import annotations

import atexit
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import StudioError
from core.files import why_not_written

File = dict[str, Any] | None  # Gradio's clients download it, and give its path in its place
MAX_BYTES = 10**9  # of one download
KEPT = 8  # the newest downloads


class Downloads:
    """The downloads of one page. The folder is made when it is first needed."""

    def __init__(self, max_bytes: int = MAX_BYTES, kept: int = KEPT):
        self.max_bytes, self.kept = max_bytes, kept
        self._folder: Path | None = None
        self._offered: list[Path] = []  # the oldest first

    def offer(self, folder: Path, name: str) -> tuple[File, str]:
        """Zip the files of a folder under a name; return what clients download, and no sentence.

        For more than `max_bytes`, None and why. Raises StudioError where it cannot be written.
        """
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        if size > self.max_bytes:
            return None, (
                f"The files have {size / 1e6:,.1f} MB, and a download has at most"
                f" {self.max_bytes / 1e6:,.0f} MB: write them with `python app.py` on the machine"
                " itself."
            )
        place = self._place() / secrets.token_hex(16)
        path = place / f"{name}.zip"
        try:
            place.mkdir()
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for file in files:
                    archive.write(file, file.relative_to(folder).as_posix())
        except OSError as err:
            shutil.rmtree(place, ignore_errors=True)
            raise StudioError(
                f"The download could not be written ({why_not_written(err)}): ask without a"
                " download, or make room."
            ) from err
        self._offered.append(place)
        while len(self._offered) > self.kept:
            shutil.rmtree(self._offered.pop(0), ignore_errors=True)
        return gr.FileData(path=str(path), orig_name=path.name).model_dump(), ""

    def _place(self) -> Path:
        """Return the folder, which Gradio serves files of without a copy. Raises StudioError."""
        if self._folder is None:
            self._folder = _temporary("mosaicdiff-downloads-")
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
            gr.set_static_paths([self._folder])
        return self._folder


@contextmanager
def own_folder() -> Iterator[Path]:
    """Hold a temporary folder of the server's own while a call needs it. Raises StudioError."""
    folder = _temporary("mosaicdiff-call-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary(prefix: str) -> Path:
    """Make a temporary folder; return its whole path. Raises StudioError where none can be made."""
    try:
        return Path(tempfile.mkdtemp(prefix=prefix)).resolve()
    except OSError as err:
        raise StudioError(
            f"This machine has no temporary folder for the files ({why_not_written(err)})."
        ) from err
