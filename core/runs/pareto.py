"""Find the points that no other point beats in cost and in loss, as far as the costs are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

# beaten: another one is clearly cheaper and loses no more. within: another one loses less, and the
# costs of both differ by less than their doubt. front: neither
Standing = Literal["front", "within", "beaten"]


class Point(NamedTuple):
    """A cost with its doubt, as the spread of timed runs, and a loss: lower is better on both."""

    cost: float | None
    doubt: float
    loss: float | None


def standings(points: Sequence[Point]) -> list[Standing | None]:
    """Return where each point stands; None for one with a None or a NaN.

    Two costs differ where they lie further apart than the doubts of both together. Equal points
    are on the front together.
    """
    found: list[Standing | None] = [None] * len(points)
    numbers = np.array(points, dtype=float).reshape(-1, 3)  # None becomes NaN
    known = np.flatnonzero(np.isfinite(numbers).all(1))
    cost, doubt, loss = numbers[known].T
    for i, place in enumerate(known):
        room = doubt + doubt[i]
        if np.any((loss <= loss[i]) & (cost + room < cost[i])):
            found[place] = "beaten"
        elif np.any((loss < loss[i]) & (cost <= cost[i] + room)):
            found[place] = "within"
        else:
            found[place] = "front"
    return found
