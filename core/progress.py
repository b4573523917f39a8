"""Define the progress callback of everything that runs long."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # (steps done, steps in all, a sentence)
