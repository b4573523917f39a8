"""Calibrate: latents, Gram matrices in timestep bins, and the memory and disk they take."""

from .._old_paths import forward

__getattr__ = forward(
    __name__, "calibration.settings", "calibration.measure", "cache", "progress", "cli.settings"
)
