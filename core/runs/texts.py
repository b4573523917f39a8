"""Check the texts that a user gives, and make texts of a machine fit for a database."""

from __future__ import annotations

import math

from ..errors import StudioError

MAX_NAME = 200  # characters, as in a plan
MAX_NOTES = 4_000
MAX_SENTENCE = 1_000


def checked_text(text: str, what: str, most: int) -> str:
    """Return a user's text as it is. Raises StudioError for one that cannot be stored."""
    if not isinstance(text, str):
        raise StudioError(f"{what} must be a text.")
    if len(text) > most:
        raise StudioError(f"{what} may have {most} characters and has {len(text)}: shorten it.")
    if storable(text) != text:
        raise StudioError(f"{what} has a character that is not valid Unicode: take it out.")
    return text


def checked_name(name: str) -> str:
    """Return a name of at most 200 characters. Raises StudioError."""
    return checked_text(name, "A name", MAX_NAME)


def checked_notes(notes: str) -> str:
    """Return notes of at most 4,000 characters. Raises StudioError."""
    return checked_text(notes, "Notes", MAX_NOTES)


def storable(text: str) -> str:
    """Return a text with "?" for half characters, which UTF-8 does not have."""
    return text.encode("utf-8", "replace").decode("utf-8")


def finite(value: float | None) -> float | None:
    """Return a number as a float, or None for NaN and infinity, which JSON does not have."""
    return float(value) if value is not None and math.isfinite(value) else None
