"""Run as a Hugging Face Space: a public page in a container whose disk may not be writable.

A Space says so by SPACE_ID, and by GRADIO_SERVER_NAME and GRADIO_SERVER_PORT where to listen.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from core.errors import StudioError
from core.files import why_not_written
from core.paths import cache_folder

from . import visitors

PROBE = "mosaic-probe"
NO_FOLDER = (
    "This machine has no folder that can be written, not even a temporary one ({}): set TMPDIR to"
    " one."
)


def on_space() -> bool:
    """Say whether this program runs as a Hugging Face Space."""
    return bool(os.environ.get("SPACE_ID", "").strip())


def prepare() -> list[str]:
    """Give visitors folders of their own, and the cache one that can be written.

    Return a sentence for each thing that is elsewhere than usual. Raises StudioError where nothing
    can be written at all.
    """
    try:
        place = Path(tempfile.mkdtemp(prefix="mosaicdiff-"))
    except OSError as err:
        raise StudioError(NO_FOLDER.format(why_not_written(err))) from err
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    visitors.separate(place / "visitors")
    said = [
        f"As a Space, runs and plans belong to the visitor and are kept for"
        f" {visitors.KEEP_HOURS:g} hours after the last visit."
    ]
    why = _why_not_cache()
    if why:
        os.environ["MOSAIC_CACHE"] = str(place / "cache")
        said.append(f"Calibrations are kept in {place / 'cache'} until the Space restarts: {why}")
    return said


def _why_not_cache() -> str:
    """Say why the usual cache folder cannot be written; nothing where it can."""
    try:
        folder = cache_folder()
    except StudioError as err:
        return str(err)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{PROBE}-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as err:
        return f"{folder} cannot be written ({why_not_written(err)})."
    return ""
