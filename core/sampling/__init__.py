"""Sample, measure pictures, and time networks and layers."""

from .._old_paths import forward

__getattr__ = forward(__name__, "workshop.compare")
