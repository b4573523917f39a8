"""Allocation: how the sparsity of a plan is shared over layers and stages."""

from .._old_paths import forward

__getattr__ = forward(__name__, "allocation.allocate")
