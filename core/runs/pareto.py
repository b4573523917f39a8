"""Find the points that no other point beats in cost and in loss."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """Return the indices of the front of (cost, loss) pairs, cheapest first.

    Lower is better on both. A point is on the front when no other one is at least as good on both
    and better on one; equal points are on it together. Points with None or NaN are left out.
    """
    known = [
        (cost, loss, i)
        for i, (cost, loss) in enumerate(points)
        if cost is not None and loss is not None and not math.isnan(cost + loss)
    ]
    front: list[int] = []
    best: tuple[float, float] | None = None  # the last point of the front
    for cost, loss, i in sorted(known):
        if best is None or loss < best[1] or (cost, loss) == best:
            front.append(i)
            best = cost, loss
    return front
