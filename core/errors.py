"""The one exception that a user sees: a sentence that says what is wrong and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames

NO_MEMORY = (
    "There is not enough memory for this: ask for fewer images or a smaller batch, close other"
    " programs, or start with another --device."
)
# torch, cuBLAS, cuDNN, cuSOLVER
MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "cannot allocate memory",
    "defaultcpuallocator",
    "status_alloc_failed",
)


class StudioError(Exception):
    """Something a user can mend. The interface shows the sentence; the command line prints it and
    exits 2.
    """


class PlanError(StudioError):
    """A stage plan that cannot be."""


class OutOfMemory(StudioError):
    """The device or the machine has no memory left for what was asked."""

    @classmethod
    def instead_of(cls, error: BaseException) -> OutOfMemory:
        """This error in words. Its frames let go of their tensors: they would fill the memory for
        as long as anybody holds the error.
        """
        clear_frames(error.__traceback__)
        return cls(NO_MEMORY)


class Stopped(Exception):
    """Somebody pressed Stop: the work so far is kept, nothing is half-written."""


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, the operating system, torch or one of CUDA's libraries had no memory left.
    Known by names and words, as torch may not be loaded.
    """
    if isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    ):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or any(words in said for words in MEMORY_WORDS)
    )


@contextmanager
def plain_memory_errors() -> Iterator[None]:
    """Within, running out of memory raises `OutOfMemory`; every other exception passes as it is."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory.instead_of(error) from None
