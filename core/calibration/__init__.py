"""Calibration: latents, Gram matrices in timestep bins, and what they take."""

from .._old_paths import forward

__getattr__ = forward(
    __name__, "calibration.settings", "calibration.measure", "cache", "progress", "cli.settings"
)
