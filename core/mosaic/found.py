"""Tell in words what the device of a model has, and in which modes networks run there."""

from __future__ import annotations

import torch

from ..models.devices import DeviceFacts, device_facts
from .modes import MODES, why_not


def available_modes(device: torch.device) -> list[str]:
    """Return the modes in which networks run on a device."""
    return [mode for mode in MODES if not why_not(mode, device)]


def device_line(device: torch.device) -> str:
    """Return one line on a device: name, compute capability, free memory and available modes.

    Free memory is that of this moment, so the line is no key: `device_text` is.
    """
    return line_of(device_facts(device), available_modes(device))


def line_of(facts: DeviceFacts, modes: list[str]) -> str:
    """Return the line of a device whose facts and modes are known."""
    parts = [facts.name]
    if facts.capability is not None:
        major, minor = facts.capability
        parts.append(f"compute capability {major}.{minor}")
    if facts.free is not None:
        whole = "" if facts.total is None else f" of {facts.total / 1e9:.1f}"
        parts.append(f"{facts.free / 1e9:.1f}{whole} GB free")
    return f"{', '.join(parts)}; modes: {', '.join(modes)}"
