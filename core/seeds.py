"""Hold how many different seeds there are."""

from __future__ import annotations

# PyTorch's generator on the CPU reads 32 bits: seed s and s + 2^32 would be one picture
SEEDS = 2**32
