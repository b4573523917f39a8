"""Check that a calibration fits in memory and on the disk, before anything long starts.

What it takes is computed from shapes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from ..errors import StudioError
from ..files import cache_trouble, write_whole
from ..memory import free_memory
from ..models.layers import PrunableLayer
from .bank import GramBank
from .packed_gram import CHUNK_BYTES, sum_bytes
from .settings import CalibrationSettings

# fp64 matrices of n x n that a removal order of n columns needs at most, tiles included
# (measured: up to 6.8)
ORDERING = 7
STALE_SECONDS = 600  # a half-written file this old was left by a run that died


def calibration_memory(layers: list[PrunableLayer]) -> int:
    """Return the bytes that a calibration needs at most beside the model and its forward pass.

    While measuring: the sums of one half of a bin, the fp32 copies of a chunk of tokens, and the
    widest layer on its way to the disk. Afterwards: the widest layer's removal order.
    """
    widest = max(layer.width for layer in layers)
    measuring = (
        sum(sum_bytes(layer.width) for layer in layers) + 2 * CHUNK_BYTES + 8 * widest * widest
    )
    return max(measuring, ordering_memory(layers))


def ordering_memory(layers: list[PrunableLayer]) -> int:
    """Return the bytes that computing removal orders needs once every bin exists."""
    return ORDERING * 8 * max(layer.width for layer in layers) ** 2


def check_memory(needed: int, device: torch.device) -> None:
    """Raise StudioError where so many bytes are not free."""
    available = free_memory(device)
    if available is not None and available < needed:
        raise StudioError(
            f"Calibration needs {needed / 1e9:.1f} GB of memory beside the model and"
            f" {available / 1e9:.1f} GB are free on {device}: close other programs or choose"
            " another device."
        )


def calibration_disk(layers: list[PrunableLayer], settings: CalibrationSettings) -> int:
    """Return the bytes that all bins take on the disk."""
    layout = GramBank(Path(), layers, settings).layout
    # 128: its line in the header
    return settings.bins * sum(
        dtype.itemsize * torch.Size(shape).numel() + 128 for _, dtype, shape in layout
    )


def check_room(bank: GramBank, device: torch.device, latents: int = 0) -> tuple[list[int], str]:
    """Prepare the folder of a calibration and check that memory and disk are enough.

    Damaged and stale files are removed, and the settings are written beside the bins. latents:
    bytes of calibration latents that will be written to the same disk first. Return (missing bins,
    what they will take, in words). Raises StudioError with what to do.
    """
    memory = calibration_memory(bank.layers)
    check_memory(memory, device)
    folder = bank.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        bank.check()
        missing = bank.missing()
        every = calibration_disk(bank.layers, bank.settings)
        left = every * len(missing) // bank.settings.bins + latents
        _check_disk(folder, left)
        facts = asdict(bank.settings) | {"started": time.strftime("%Y-%m-%d %H:%M")}
        write_whole(
            folder / "settings.json", lambda part: part.write_text(json.dumps(facts, indent=2))
        )
    except OSError as err:
        raise StudioError(f"The cache folder cannot be written ({cache_trouble(err)}.") from err
    return (
        missing,
        f"will write {left / 1e6:.0f} MB to {folder} and needs {memory / 1e6:.0f} MB of memory",
    )


def _remove_stale(folder: Path) -> None:
    """Remove half-written files of runs that died. Raises OSError."""
    for stale in folder.glob("*.part"):
        # younger ones may belong to a run in another process
        if time.time() - stale.stat().st_mtime > STALE_SECONDS:
            stale.unlink(missing_ok=True)


def _check_disk(folder: Path, needed: int) -> None:
    """Raise StudioError where so many bytes are not free on the disk of a folder."""
    space = shutil.disk_usage(folder).free
    if space < needed + 50_000_000:
        raise StudioError(
            f"Calibration needs {needed / 1e6:.0f} MB in {folder.parent.name}/ and"
            f" {space / 1e6:.0f} MB are free: make room or set MOSAIC_CACHE to another disk."
        )


def check_writable(folder: Path) -> None:
    """Raise StudioError where nothing can be written to the cache.

    Called before something long is computed for the cache.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permissions do not say that a disk is read-only
            pass
    except OSError as err:
        raise StudioError(f"The cache folder cannot be written ({cache_trouble(err)}.") from err
