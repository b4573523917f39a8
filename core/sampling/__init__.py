"""Sampling, metrics of pictures, and timing."""

from .._old_paths import forward

__getattr__ = forward(__name__, "workshop.compare")
