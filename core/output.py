"""Print for the command line: results on standard output, notes on standard error.

Every console and every pipe can take the text, whatever its encoding.
"""

from __future__ import annotations

import codecs
import math
import os
import sys
import unicodedata
from typing import Any

from .errors import ParameterError, StudioError

PLAIN = {
    "×": "x",
    "–": "-",
    "—": "-",
    "−": "-",
    "·": ".",
    "→": "->",
    "±": "+-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "≥": ">=",
    "≤": "<=",
}


OPTIONS = {  # parameter that an error may name -> option of the command line
    "images": "--calibration-images",
    "self_calibrate": "--self-calibrate",
    "count": "--calibration-count",
    "steps": "--calibration-steps",
    "guidance": "--calibration-guidance",
    "revision": "--revision",
}


class PipeClosed(Exception):
    """A signal that the reader of standard output has gone: end quietly, as other tools do."""


def in_options(error: StudioError) -> str:
    """Return the sentence of an error with the options of the command line for its parameters."""
    return error.named(OPTIONS) if isinstance(error, ParameterError) else str(error)


def plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace characters that an encoding does not have (an error handler of `codecs`).

    "x" stands for "×", a plain letter for one with an accent, "?" for the rest.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(_in_ascii(c) for c in error.object[error.start : error.end])
    return text, error.end


def _in_ascii(character: str) -> str:
    bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return PLAIN.get(character) or bare or "?"


codecs.register_error("mosaic-plain", plain)


def prepare_streams() -> None:
    """Make both streams take any text.

    Where there is no standard error, notes are dropped rather than written among the results.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="mosaic-plain")


def check_output() -> None:
    """Raise StudioError where there is no standard output, before any work is done for it."""
    if sys.stdout is None:
        raise StudioError(
            "Standard output is closed and the result goes there: send it to a file, or to"
            " /dev/null."
        )


def say(text: str) -> None:
    """Write a result on standard output.

    Raises PipeClosed when the reader has gone, StudioError when the result cannot be written.
    """
    check_output()
    try:
        print(text, flush=True)
    except BrokenPipeError as err:
        drop_output()
        raise PipeClosed from err
    except OSError as err:
        drop_output()
        raise StudioError(
            f"The result could not be written to standard output ({err.strerror or err}): send it"
            " elsewhere."
        ) from err


def note(text: str) -> None:
    """Write a line on standard error.

    A stream that is closed or on a full disk does not stop the work: the line is dropped.
    """
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def drop_output() -> None:
    """Drop what is left in the buffer of standard output.

    Python would else try to write the rest at exit, and complain.
    """
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass  # a stream without a file behind it has nothing to flush


def finite(value: Any) -> Any:
    """Return plain data with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
