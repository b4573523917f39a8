"""The callback that everything long takes: how far it is, out of how much, and a sentence."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # (done, total, text)
