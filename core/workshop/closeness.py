"""Say in words how far the pictures of one side lie from those of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

# PSNR in dB from which on the words hold, and how the pictures then differ
SCALE = (
    (40.0, "hardly to be seen"),
    (30.0, "small differences"),
    (20.0, "clearly different details"),
    (-math.inf, "other pictures"),
)
SCALE_WORDS = (
    "PSNR above 40 dB: hardly to be seen; 30 to 40: small differences; 20 to 30: clearly different"
    " details; under 20: other pictures."
)


def closeness(decibel: float) -> str:
    """Return what a PSNR means to the eye; a value that is no number has no words."""
    return next((words for least, words in SCALE if decibel >= least), "not comparable")


def distance_sentence(mean: float | None, decibels: Sequence[float], seed: int) -> str:
    """Return one sentence on how far the pictures of B moved from those of A.

    mean: PSNR over the pairs that differ, None where all are equal. decibels: PSNR of each pair of
    pictures as they are shown; infinite for equal ones.
    """
    question, n = "How far do the pictures move?", len(decibels)
    if mean is None:
        return f"{question} Not at all: all {n} are equal (seed {seed})."
    moved = [d for d in decibels if math.isfinite(d)]
    same = f", {n - len(moved)} of them equal" if n > len(moved) else ""
    span = f", from {min(moved):.0f} to {max(moved):.0f}" if len(moved) > 1 else ""
    return (
        f"{question} {closeness(mean).capitalize()}: {mean:.1f} dB PSNR on average{span}"
        f" (n = {n}{same}, seed {seed})."
    )
