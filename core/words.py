"""Form the parts of sentences that several modules need."""

from __future__ import annotations

from collections.abc import Iterable


def percent(share: float | None, places: int = 0, unknown: str = "–") -> str:
    """Return a share as per cent: 33 %; `unknown` where it is not known."""
    return unknown if share is None else f"{100 * share:.{places}f} %"


def some(names: Iterable[str], most: int = 3) -> str:
    """Return the first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
