"""Write a folder of safetensors with a sealed manifest, whole or not at all; check its files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..cache import file_hash
from ..errors import Stopped, StudioError
from ..files import full_disk, write_folder
from ..progress import Progress
from .manifest import MANIFEST, sealed


def write_sealed(
    folder: Path | str, write: Callable[[Path], dict[str, Any]], what: str
) -> list[str]:
    """Write files and their manifest into `folder` (new or empty), whole or not at all.

    write: writes the files into a folder and returns the manifest without its seal. what: they are,
    in words. Returns the names of the files. Raises StudioError.
    """
    folder = Path(folder).resolve()
    files: list[str] = []

    def write_all(part: Path) -> None:
        manifest = write(part)
        (part / MANIFEST).write_text(_sealed_text(manifest))
        files.extend([*manifest["files"], *manifest.get("whole", {}), MANIFEST])

    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StudioError(
                f"{folder.name} exists and is not an empty folder; name another one to save to."
            )
        write_folder(folder, write_all)
    except (OSError, SafetensorError) as err:  # safetensors wraps the system's error in its own
        why = getattr(err, "strerror", None) or str(err)
        if full_disk(err):
            why = "the disk is full; make room and save again"
        raise StudioError(
            f"{what} could not be written to {folder.name}/ ({why}); nothing was left there."
        ) from err
    return files


def _sealed_text(manifest: dict[str, Any]) -> str:
    """Return the text of the manifest. Raises StudioError for facts that are not JSON."""
    try:
        return sealed(manifest)
    except (TypeError, ValueError) as err:
        raise StudioError(
            f"What is said of saved subnetworks must be plain JSON data without NaN ({err})."
        ) from err


def write_tensors(tensors: dict[str, Tensor], file: Path) -> dict[str, Any]:
    """Write tensors to a file; return its bytes and SHA-256 as a manifest has them."""
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    save_file(copies, file, metadata={"format": "pt"})
    return {"bytes": file.stat().st_size, "sha256": file_hash(file)}


def check_file(path: Path, size: int, digest: str) -> None:
    """Raise StudioError for a file of another size or checksum than the manifest has."""
    try:
        found = path.stat().st_size
        if found != size:
            raise StudioError(
                f"{path.name} in {path.parent.name}/ has {found} bytes and should have {size}: it"
                " was cut off or changed; copy it again."
            )
        if file_hash(path) != digest:
            raise StudioError(
                f"{path.name} in {path.parent.name}/ is damaged (its checksum differs): copy it"
                " again or save the subnetworks anew."
            )
    except OSError as err:
        raise StudioError(
            f"{path.name} in {path.parent.name}/ is missing or cannot be read ({err.strerror}):"
            " copy the whole folder again."
        ) from err


def ticker(progress: Progress | None, stop: threading.Event | None) -> Progress:
    """Return a progress callback that raises Stopped when the run is to stop."""

    def tick(done: int, total: int, text: str) -> None:
        if stop is not None and stop.is_set():
            raise Stopped(f"Stopped while {text}.")
        if progress is not None:
            progress(done, total, text)

    return tick
