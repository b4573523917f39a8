"""Write what the verbs found: a result, files, and notes on standard error."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from ..errors import StudioError
from ..files import why_not_written, write_whole
from ..output import note, say


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
    """Check that a folder is new or empty and that the one above can be written. Raises
    StudioError.
    """
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
    try:
        write_whole(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    except OSError as err:
        raise StudioError(f"{path} could not be written ({why_not_written(err)}).") from err


def report_progress(done: int, total: int, text: str) -> None:
    note(f"[{done}/{total}] {text}")


def warn_of_scarcity(workshop: Any) -> None:
    """What is scarce in the calibration, a line each on stderr: seen with --json and without."""
    for warning in workshop.calibration_warnings:
        note(f"app.py: warning: {warning}.")


def write_result(args: argparse.Namespace, result: dict[str, Any], text: list[str]) -> int:
    """JSON has no NaN or infinity: they become null."""
    say(json.dumps(finite(result)) if args.json else "\n".join(text))
    return 0


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_pictures(comparison: Any, out: Path) -> None:
    """Grids of the first hundred images of each side, lossless; small ones twice as large."""
    from PIL import Image

    from ..workshop.comparison import grid

    for letter, side in (
        ("dense" if comparison.a.plan is None else "against", comparison.a),
        ("mosaic", comparison.b),
    ):
        try:
            small = max(side.images.shape[-2:]) <= 128
            Image.fromarray(
                grid(side.images[:100], min(10, len(side.images)), scale=2 if small else 1)
            ).save(out / f"{letter}.png")
        except OSError as err:
            raise StudioError(
                f"The pictures could not be written to {out}/ ({why_not_written(err)})."
            ) from err
