"""Mark the process that a run goes on in, and see whether it still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def process_mark() -> str:
    """Return "host:process:start" of this process.

    The start (clock ticks since boot) tells a process from a later one of the same number, as in a
    container that is started again. It is empty where the system has no /proc.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{_start(os.getpid())}"


def has_ended(mark: str) -> bool | None:
    """Say whether the process of a mark has ended; None where this machine cannot know."""
    host, _, rest = mark.rpartition(":")[0].rpartition(":")
    start = mark.rpartition(":")[2]
    if host != socket.gethostname() or not start or not rest.isdecimal():
        return None
    return _start(int(rest)) != start


def _start(process: int) -> str:
    """Return when a process started, or an empty text for none and for one that is dead."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    # after the name in brackets: state is field 3, start field 22 (proc(5))
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
