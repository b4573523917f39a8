"""Write numbers: every format of the page, each with its unit and three significant digits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from core.words import percent

__all__ = ["percent"]  # told here with all other formats

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def number(value: float, digits: int = 3) -> str:
    """Write `digits` significant digits, never in exponent form: 0.123, 1.23, 12.3, 123, 1234."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def macs_text(macs: float | None, beside: Iterable[float | None] = ()) -> str:
    """Write multiply-accumulates with an SI prefix: 1.50 GMACs; a dash where they are not known.

    `beside` are those that stand beside them; the largest of all gives the unit.
    """
    if macs is None:
        return "–"
    largest = max([macs, *(other for other in beside if other is not None)])
    for size, prefix in PREFIXES:
        if largest >= size:
            return f"{number(macs / size)} {prefix}MACs"
    return f"{macs:.0f} MACs"


def bytes_text(count: float) -> str:
    """Write bytes with a unit that a person can read: 1.2 MB."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def _decimals(value: float, width: float = 0.0) -> int:
    """Return the decimals for three figures of the value and at least one of its spread."""
    digits = 0
    for limit, decimals in ((100, 1), (10, 2), (1, 3)):
        if abs(value) < limit:
            digits = decimals
    if width > 0:
        digits = max(digits, min(4, -math.floor(math.log10(width))))
    return digits


def seconds_text(
    seconds: float | None, width: float | None = None, beside: Iterable[float | None] = ()
) -> str:
    """Write a time: '1.23 s', '45.6 ms', with a spread '1.230 ± 0.004 s', a dash if not known.

    `beside` are the times that stand beside it; the smallest of all gives the unit, so that they
    can be compared at a glance. Times below 0.1 s are in milliseconds.
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    smallest = min([abs(seconds), *(abs(v) for v in beside if v is not None and math.isfinite(v))])
    scale, unit = (1e3, "ms") if smallest < 0.1 else (1.0, "s")
    value = seconds * scale
    if width is None or not math.isfinite(width):
        return f"{value:.{_decimals(value)}f} {unit}"
    digits = _decimals(value, width * scale)
    return f"{value:.{digits}f} ± {width * scale:.{digits}f} {unit}"


def about_seconds(seconds: float) -> str:
    """Write a time that is only expected: about 8 s, about 3 min."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min"


def factor_text(value: float | None, width: float | None = None) -> str:
    """Write a speed-up: ×1.23, or with its spread ×1.23 ± 0.04."""
    if value is None or not math.isfinite(value):
        return "not known"
    return f"×{value:.2f}" + ("" if width is None else f" ± {width:.2f}")


def timed_text(value: float | None, width: float | None) -> str:
    """Write a measured speed-up: ×1.23 ± 0.04, or ×1.23 (1 round), which has no spread."""
    if width is None and value is not None:
        return f"{factor_text(value)} (1 round)"
    return factor_text(value, width)


def fast_text(value: float | None, width: float | None = None) -> str:
    """Write a speed-up as a part of a sentence: ×1.37 as fast, ×1.37 ± 0.07 as fast."""
    return f"{factor_text(value, width)} as fast"


def fewer_text(ratio: float, what: str = "") -> str:
    """Write work of A / work of B with its direction: 24 % fewer MACs; `what` stands behind."""
    end = f" {what}" if what else ""
    if abs(ratio - 1) < 0.005:
        return f"as many{end}"
    more = "fewer" if ratio > 1 else "more"
    share = abs(1 - 1 / ratio)
    return f"{percent(share, 1 if ratio > 20 else 0)} {more}{end}"


def spaced(text: str) -> str:
    """Write a sentence of the study with a space before each sign of per cent: 32 %."""
    return re.sub(r"(?<=\d)%", " %", text)


def cut(text: str, most: int, tail: int = 8) -> str:
    """Write a visitor's text on one line of at most `most` characters, cut before its end.

    The end stays, as it may be all that tells two texts apart.
    """
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - tail - 1]}…{line[-tail:]}"


def plural(count: int, word: str) -> str:
    """Write a count with its noun: 1 image, 16 images."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
