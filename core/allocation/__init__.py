"""Allocation: how a plan's sparsity is shared over layers and stages."""

from .._old_paths import forward

__getattr__ = forward(__name__, "allocation.allocate")
