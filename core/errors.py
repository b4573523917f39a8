"""Define the exceptions that a user sees: a sentence that says what is wrong and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from traceback import clear_frames

NO_MEMORY = (
    "There is not enough memory for this: ask for fewer images or a smaller batch, close other"
    " programs, or choose another device."
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
    """An error that a user can mend.

    The interface shows the sentence; the command line prints the sentence and exits with 2.
    """


class ParameterError(StudioError):
    """A parameter that cannot be used, with the name of the parameter kept apart from the text.

    `template` is the sentence with `{name}` in the place of every parameter and of every entry of
    `values`. As text, a parameter has its Python name; the command line puts its options there.
    """

    def __init__(self, template: str, **values: object):
        self.template, self.values = template, values
        super().__init__(self.named({}))

    def named(self, names: Mapping[str, str]) -> str:
        """Return the sentence with `names` in the place of the parameters that they stand for."""
        return self.template.format_map(_Fields({**names, **self.values}))


class _Fields(dict[str, object]):
    """Entries of a template, where a name without an entry stands for itself."""

    def __missing__(self, name: str) -> str:
        return name


class PlanError(StudioError):
    """A stage plan that cannot be."""


class Unmet(StudioError):
    """A refusal that one step mends.

    `fact` says what is missing and `remedy` what a Python program does about it. The page has
    buttons and the command line has options: `with_remedies` gives their sentence.
    """

    fact = "Something is missing"
    remedy = "provide it first"

    def __init__(self, fact: str | None = None):
        self.fact = fact or self.fact
        super().__init__(f"{self.fact}: {self.remedy}.")


class NotCalibrated(Unmet):
    """What was asked for needs a calibration that this model does not have."""

    fact = "This model has not been calibrated yet"
    remedy = "calibrate it first"


class NotTimed(Unmet):
    """What was asked for needs times of this device that were not measured."""

    fact = "This device was not timed"
    remedy = "measure this device's speed first"


class LatentsShipped(Unmet):
    """The model ships the latents to calibrate on, and the options are about other latents."""

    fact = "This model ships calibration latents"
    remedy = "ask for its own samples or give pictures to use others"


def with_remedies(error: BaseException, remedies: Mapping[type[Unmet], str]) -> str:
    """Return the sentence of an error, with the remedy that a front end has for its kind."""
    if isinstance(error, Unmet) and type(error) in remedies:
        return f"{error.fact}: {remedies[type(error)]}."
    return str(error)


class OutOfMemory(StudioError):
    """An error of a device or a machine without memory left."""

    @classmethod
    def instead_of(cls, error: BaseException) -> OutOfMemory:
        """Return the error that replaces an error of torch or Python.

        The frames of `error` let go of their tensors, which would else fill the memory for as long
        as the error is held.
        """
        clear_frames(error.__traceback__)
        return cls(NO_MEMORY)


class Stopped(Exception):
    """A run that was stopped on request: finished work is kept, nothing is half-written."""


def out_of_memory(error: BaseException) -> bool:
    """Say whether Python, the operating system, torch or a CUDA library had no memory left.

    Known by names and words, because torch may not be loaded.
    """
    if isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    ):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or any(words in text for words in MEMORY_WORDS)
    )


@contextmanager
def plain_memory_errors() -> Iterator[None]:
    """Raise `OutOfMemory` for every error of missing memory within; other exceptions pass."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory.instead_of(error) from None
