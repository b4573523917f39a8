"""Whether a calibration fits: the memory and the disk it takes, worked out from shapes and checked
before anything long starts.
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

# fp64 matrices of n x n that a removal order of n columns stands on at most, tiles included
# (measured: up to 6.8)
ORDERING = 7
STALE_SECONDS = 600  # a half-written file this old was left by a run that died


def calibration_memory(layers: list[PrunableLayer]) -> int:
    """Bytes a calibration needs beside the model and its forward pass, at most: while measuring the
    sums of one half of a bin, the fp32 copies of a chunk of tokens and the widest layer on its way
    to the disk; afterwards the widest layer's removal order.
    """
    widest = max(layer.width for layer in layers)
    measuring = (
        sum(sum_bytes(layer.width) for layer in layers) + 2 * CHUNK_BYTES + 8 * widest * widest
    )
    return max(measuring, ordering_memory(layers))


def ordering_memory(layers: list[PrunableLayer]) -> int:
    """The part of it that working out removal orders needs, from bins that are there."""
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
    """Bytes that all bins take on the disk."""
    layout = GramBank(Path(), layers, settings).layout
    # 128: its line in the header
    return settings.bins * sum(
        dtype.itemsize * torch.Size(shape).numel() + 128 for _, dtype, shape in layout
    )


def check_room(bank: GramBank, device: torch.device, latents: int = 0) -> tuple[list[int], str]:
    """Check memory, make the folder, drop damaged files, check the disk, note the settings ->
    (missing bins, what they will take, in words).

    latents: bytes of calibration latents that will be written to the same disk first. Raises
    StudioError with what to do.
    """
    memory = calibration_memory(bank.layers)
    check_memory(memory, device)
    folder = bank.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.part"):
            # younger ones may belong to a run in another process
            if time.time() - stale.stat().st_mtime > STALE_SECONDS:
                stale.unlink(missing_ok=True)
        bank.check()
        missing = bank.missing()
        left = (
            calibration_disk(bank.layers, bank.settings) * len(missing) // bank.settings.bins
            + latents
        )
        space = shutil.disk_usage(folder).free
        if space < left + 50_000_000:
            raise StudioError(
                f"Calibration needs {left / 1e6:.0f} MB in {folder.parent.name}/ and"
                f" {space / 1e6:.0f} MB are free: make room or set MOSAIC_CACHE to another disk."
            )
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


def check_writable(folder: Path) -> None:
    """Raise StudioError where nothing can be written to the cache, before something long is worked
    out for it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permissions do not say that a disk is read-only
            pass
    except OSError as err:
        raise StudioError(f"The cache folder cannot be written ({cache_trouble(err)}.") from err
