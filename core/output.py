"""What the command line says: results on standard output, notes on standard error, on every console
and into every pipe.
"""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata

from .errors import StudioError

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


class PipeClosed(Exception):
    """The reader of standard output has gone: end quietly, as other command-line tools do."""


def plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Stand in for characters that an encoding does not have (an error handler of `codecs`): "x"
    for "×", letters without accents, "?".
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
    """Let both streams take any text; where there is no standard error, notes go nowhere rather
    than among the results.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
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
    """Write a result on standard output. Raises PipeClosed when its reader has gone, StudioError
    when it cannot be written.
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
    """Write a line on standard error; where nobody reads it, or the disk that takes it is full, the
    work goes on without.
    """
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def drop_output() -> None:
    """Let what is left in the buffer of standard output go nowhere: Python would try it again at
    the end, and complain.
    """
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass  # a stream without a file behind it has nothing to flush
