"""Form the parts of sentences that several modules need."""

from __future__ import annotations

import math
from collections.abc import Iterable


def percent(share: float | None, places: int = 0, unknown: str = "–") -> str:
    """Return a share as per cent: 33 %; `unknown` where it is not known."""
    return unknown if share is None else f"{100 * share:.{places}f} %"


def some(names: Iterable[str], most: int = 3) -> str:
    """Return the first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def duration(seconds: float) -> str:
    """Return seconds in words: 45 s, 12 min, 1.5 h."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
