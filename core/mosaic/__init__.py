"""Subnetworks: slim modules, the model that routes by timestep, and their files."""

from .._old_paths import forward

__getattr__ = forward(__name__, "mosaic.transformer")
