"""Whether a calibration fits: the memory and the disk it takes, worked out from shapes and checked before anything long starts."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .errors import StudioError
from .files import write_whole
from .grams import GramBank, columns
from .prunable import PrunableLayer
from .triangles import CHUNK_BYTES, sum_bytes

if TYPE_CHECKING:
    from .calibration import CalibrationSettings

STALE_SECONDS = 600  # a half-written file this old was left by a run that died


def calibration_memory(layers: list[PrunableLayer]) -> int:
    """Bytes a calibration needs beside the model and its forward pass, at most: the sums of one half of a bin, the fp32 copies of a
    chunk of tokens, and the widest layer on its way to the disk."""
    widest = max(columns(layer) for layer in layers)
    return sum(sum_bytes(columns(layer)) for layer in layers) + 2 * CHUNK_BYTES + 8 * widest * widest


def calibration_disk(layers: list[PrunableLayer], settings: CalibrationSettings) -> int:
    """Bytes that all bins take on the disk."""
    layout = GramBank(Path(), layers, settings).layout
    return settings.bins * sum(dtype.itemsize * torch.Size(shape).numel() + 128 for _, dtype, shape in layout)  # 128: its line in the header


def check_room(bank: GramBank, device: torch.device, latents: int = 0) -> tuple[list[int], str]:
    """Check memory, make the folder, drop damaged files, check the disk, note the settings -> (missing bins, what they will take, in words).

    latents: bytes of calibration latents that will be written to the same disk first. Raises StudioError with what to do.
    """
    memory, available = calibration_memory(bank.layers), free_memory(device)
    if available is not None and available < memory:
        raise StudioError(
            f"Calibration needs {memory / 1e9:.1f} GB of memory beside the model and {available / 1e9:.1f} GB are free on {device}: "
            "close other programs or choose another device."
        )
    folder = bank.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.part"):
            if time.time() - stale.stat().st_mtime > STALE_SECONDS:  # younger ones may belong to a run in another process
                stale.unlink(missing_ok=True)
        bank.check()
        missing = bank.missing()
        left = calibration_disk(bank.layers, bank.settings) * len(missing) // bank.settings.bins + latents
        space = shutil.disk_usage(folder).free
        if space < left + 50_000_000:
            raise StudioError(
                f"Calibration needs {left / 1e6:.0f} MB in {folder.parent.name}/ and {space / 1e6:.0f} MB are free: "
                "make room or set MOSAIC_CACHE to another disk."
            )
        facts = asdict(bank.settings) | {"started": time.strftime("%Y-%m-%d %H:%M")}
        write_whole(folder / "settings.json", lambda part: part.write_text(json.dumps(facts, indent=2)))
    except OSError as err:
        raise StudioError(f"The cache folder cannot be written ({err.strerror}): set MOSAIC_CACHE to a folder that can.") from err
    return missing, f"will write {left / 1e6:.0f} MB to {folder} and needs {memory / 1e6:.0f} MB of memory"


def free_memory(device: torch.device) -> int | None:
    """Bytes still to be had on a device; None where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
