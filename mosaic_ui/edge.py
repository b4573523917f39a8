"""The edge of the page: what a client sends is checked before any handler works with it.

Anybody who reaches the page can call every handler with anything. So a handler's inputs go by what
they are called: one name means one kind of value in all tabs, and a name without a kind cannot be
wired at all. Numbers that a person types are left to the handlers, which refuse them in the words
of their boxes.
"""

from __future__ import annotations

import functools
import html
import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr

from core.curves.plan import StagePlan
from core.curves.plan_checks import short
from core.errors import PlanError, StudioError, plain_memory_errors

from .figures import VIEWS
from .remedies import page_sentence
from .schedules import LABELS

LONGEST = 200  # characters of a choice; the longest on offer are names of presets and sizes
AXES = ("linear", "log")
MOST_COUNTED = 10**9  # of what the page counts up itself
Check = Callable[[Any, str], None]


def _text(value: Any, what: str) -> None:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise StudioError(f"{what} must be one of the listed texts, not {short(value)}.")


def _one_of(*offered: str) -> Check:
    def check(value: Any, what: str) -> None:
        _text(value, what)
        if value not in offered:
            raise StudioError(f"{what} must be one of {', '.join(offered)}, not {short(value)}.")

    return check


def _page_text(value: Any, what: str) -> None:
    """Check what the page shows in a place of its own; pictures make it long."""
    if value is not None and not isinstance(value, str):
        raise StudioError(f"{what} must be a text, not {short(value)}.")


def _switch(value: Any, what: str) -> None:
    if not isinstance(value, bool):
        raise StudioError(f"{what} is on or off, not {short(value)}.")


def _count(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_COUNTED:
        raise StudioError(f"{what} must be a whole number, not {short(value)}.")


def _file(value: Any, what: str) -> None:
    if value is not None and not isinstance(value, bytes):
        raise StudioError(f"{what} must be a file, not {short(value)}.")


def _plan(value: Any, what: str) -> None:
    if not isinstance(value, dict):  # not JSON text either, which a plan may be elsewhere
        raise PlanError(
            f"{what} must be an object with boundaries and sparsity, not {short(value)}."
        )
    StagePlan.from_json(value)


def _perhaps_plan(value: Any, what: str) -> None:
    if value is not None:
        _plan(value, what)


def _judged(value: Any, what: str) -> None:
    """Leave it to the handler, which refuses in the words of its box."""


CHECKS: dict[str, tuple[str, Check]] = {
    **dict.fromkeys(("plan", "shown", "shape", "about", "current"), ("The plan", _plan)),
    **dict.fromkeys(
        ("uploaded", "uploaded_a", "uploaded_b", "other_uploaded"),
        ("The uploaded plan", _perhaps_plan),
    ),
    **dict.fromkeys(("choice", "choice_a", "choice_b", "other"), ("What a side runs", _text)),
    "scheduler": ("The scheduler", _text),
    "name": ("The preset", _text),
    "method": ("The method", _text),
    "costs": ("What is counted", _text),
    "view": ("The curve", _one_of(*VIEWS)),
    "beta": ("The noise schedule", _one_of(*LABELS)),
    **dict.fromkeys(("scale", "wish"), ("The vertical axis", _one_of(*AXES))),
    "snap": ("Snapping to calibration bins", _switch),
    "run": ("One budget for all stages", _switch),
    "ends": ("Sparing the first and the last block", _switch),
    "path": ("The model's own sampling path", _switch),
    "is_open": ("The table per layer", _switch),
    **dict.fromkeys(("kept", "measured"), ("A count of the page", _count)),
    **dict.fromkeys(("job", "live"), ("What the page shows", _page_text)),
    "content": ("The upload", _file),
    **dict.fromkeys(
        (
            "value",
            "low",
            "high",
            "target",
            "m",
            "lam",
            "steps",
            "typed",
            "multiple",  # numbers in boxes and on handles
            "chosen",
            "asked",
            "images",
            "seed",
            "guidance",
            "repeats",
            "negative",
            "size",
            "tabulate",
            "dtype",  # `compare_inputs`
        ),
        ("", _judged),
    ),
}


def checks_of(handler: Callable) -> list[tuple[str, Check]]:
    """List (words, check) of a handler's inputs. Raises KeyError for a name of no known kind."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [
        name
        for name, parameter in inspect.signature(handler).parameters.items()
        if name != "request" and parameter.kind not in several  # `request` is gradio's own
    ]
    return [CHECKS[name] for name in names]


def plain_errors(handler: Callable) -> Callable:
    """Check the inputs of a handler by their names, before it runs.

    A StudioError there or later becomes a notice with its one sentence, and so does running out of
    memory; nothing else is caught.
    """
    checks = checks_of(handler)

    def notice(error: StudioError) -> gr.Error:
        # notices are HTML, and a sentence may quote a file
        return gr.Error(html.escape(page_sentence(error), quote=False), print_exception=False)

    def check(args: tuple) -> None:
        for value, (what, refuse) in zip(args, checks, strict=False):  # the request comes last
            refuse(value, what)

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def guarded(*args: Any) -> Any:
            try:
                with plain_memory_errors():
                    check(args)
                    yield from handler(*args)
            except StudioError as error:
                raise notice(error) from None

    else:

        @functools.wraps(handler)
        def guarded(*args: Any) -> Any:
            try:
                with plain_memory_errors():
                    check(args)
                    return handler(*args)
            except StudioError as error:
                raise notice(error) from None

    guarded.checked = True
    return guarded
