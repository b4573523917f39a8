"""The edge of the page: what a client sends is read before any handler works with it.

Any client that reaches the page can call every handler with anything. So a handler's inputs go by
their names: one name means one kind of value in all tabs, and a name without a kind cannot be
wired at all. A plan is parsed here, once; behind the edge it is a `StagePlan`. Numbers that a
person types are left to the handlers, which refuse them in the words of their boxes.

Inputs that belong together are one parameter: annotated with a NamedTuple, it takes one input for
each field.
"""

from __future__ import annotations

import functools
import html
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.curves.plan import StagePlan
from core.curves.plan_checks import short
from core.errors import PlanError, StudioError, plain_memory_errors

from .figures import VIEWS
from .remedies import page_sentence
from .schedules import LABELS

# half a pair is no text that can be stored
SURROGATE = re.compile("[\ud800-\udfff]")
LONGEST = 200  # characters of a choice; the longest on offer are names of presets and sizes
AXES = ("linear", "log")
MOST_IDS = 10_000  # kept runs that a page may name at once
MOST_COUNTED = 10**9  # of what the page counts up itself
Reader = Callable[[Any, str], Any]  # (value, words) -> the value that the handler gets


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > LONGEST or SURROGATE.search(value):
        raise StudioError(f"{what} must be one of the listed texts, not {short(value)}.")
    return value


def _one_of(*offered: str) -> Reader:
    def read(value: Any, what: str) -> str:
        if _text(value, what) not in offered:
            raise StudioError(f"{what} must be one of {', '.join(offered)}, not {short(value)}.")
        return value

    return read


def _page_text(value: Any, what: str) -> str | None:
    """Read what the page shows in a place of its own; pictures make it long."""
    if value is not None and not isinstance(value, str):
        raise StudioError(f"{what} must be a text, not {short(value)}.")
    return value


def _switch(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise StudioError(f"{what} is on or off, not {short(value)}.")
    return value


def _count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_COUNTED:
        raise StudioError(f"{what} must be a whole number, not {short(value)}.")
    return value


def _perhaps_text(value: Any, what: str) -> str:
    """Read a text; nothing is an empty one."""
    return "" if value is None else _text(value, what)


def _file(value: Any, what: str) -> bytes | None:
    if value is not None and not isinstance(value, bytes):
        raise StudioError(f"{what} must be a file, not {short(value)}.")
    return value


def _plan(value: Any, what: str) -> StagePlan:
    if not isinstance(value, dict):  # not JSON text either, which a plan may be elsewhere
        raise PlanError(
            f"{what} must be an object with boundaries and sparsity, not {short(value)}."
        )
    return StagePlan.from_json(value)


def _perhaps_plan(value: Any, what: str) -> StagePlan | None:
    return None if value is None else _plan(value, what)


def _ids(value: Any, what: str) -> list[str]:
    """Read the ids of kept runs; the store knows which of them are there."""
    if not isinstance(value, list) or len(value) > MOST_IDS:
        raise StudioError(f"{what} must be a list, not {short(value)}.")
    return [_text(one, what) for one in value]


def _history(value: Any, what: str) -> dict[str, Any]:
    """Read the plans that can be gone back to; each is parsed when it is taken in hand."""
    plans, at = (value.get("plans"), value.get("at")) if isinstance(value, dict) else (None, None)
    if not isinstance(plans, list) or isinstance(at, bool) or not isinstance(at, int):
        raise StudioError(f"{what} must be a list of plans, not {short(value)}.")
    if not 0 <= at < len(plans) or "mark" not in value:
        raise StudioError(f"{what} has no such step.")
    return value


def _judged(value: Any, what: str) -> Any:  # noqa: ARG001
    """Leave the value to the handler, which refuses in the words of its box."""
    return value


CHECKS: dict[str, tuple[str, Reader]] = {
    **dict.fromkeys(
        ("plan", "explored", "pruned", "shape", "about", "current", "anchor"), ("The plan", _plan)
    ),
    **dict.fromkeys(
        ("uploaded_a", "uploaded_b"),
        ("The uploaded plan", _perhaps_plan),
    ),
    **dict.fromkeys(("choice_a", "choice_b"), ("What a side runs", _text)),
    "against": ("The plan to compare against", _perhaps_plan),
    "scheduler": ("The scheduler", _text),
    "model": ("The model", _text),
    "beta_schedule": ("The beta schedule", _text),
    "preset": ("The preset", _text),
    **dict.fromkeys(("x", "y"), ("An axis", _text)),
    "cost": ("The cost", _one_of("macs", "seconds")),
    "exact": ("Exact errors", _switch),
    "download": ("The download", _switch),
    "match_dense": ("As good as dense", _switch),
    "name": ("The preset", _text),
    "method": ("The method", _text),
    "costs": ("What is counted", _text),
    "costs_of_front": ("What the front is drawn over", _text),
    **dict.fromkeys(("view", "drawn_view"), ("The curve", _one_of(*VIEWS))),
    "beta": ("The noise schedule", _one_of(*LABELS)),
    **dict.fromkeys(("scale", "wish"), ("The vertical axis", _one_of(*AXES))),
    "snap": ("Snapping to calibration bins", _switch),
    "hold": ("Holding the work", _switch),
    "run": ("One budget for all stages", _switch),
    "ends": ("Protecting the first and the last block", _switch),
    "path": ("The model's own sampling path", _switch),
    "is_open": ("The table per layer", _switch),
    **dict.fromkeys(("kept", "measured", "mark", "idle", "moved"), ("A count of the page", _count)),
    **dict.fromkeys(("block", "layer"), ("The number of a block or a layer", _count)),
    "history": ("The history", _history),
    **dict.fromkeys(("job", "live", "draft"), ("What the page shows", _page_text)),
    "content": ("The upload", _file),
    **dict.fromkeys(("ids", "gone"), ("The ticked runs", _ids)),
    **dict.fromkeys(("chosen_plan", "lost"), ("The chosen plan", _text)),
    "axis": ("The distance", _one_of("PSNR", "FID")),
    "goal": ("The goal", _one_of("faster", "seconds", "dense")),
    "counted": ("What is counted", _one_of("macs", "seconds")),
    "keep": ("Keeping solver and steps", _switch),
    **dict.fromkeys(("point", "shown"), ("The point of a tune", _text)),
    **dict.fromkeys(("x_name", "y_name"), ("What changes", _text)),
    **dict.fromkeys(("x_values", "y_values"), ("The values of an axis", _page_text)),
    "swept": ("The sweep in sight", _text),
    "picked": ("The chosen sweep or tune", _perhaps_text),
    **dict.fromkeys(("title", "remark"), ("A text", _page_text)),
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
            "dtype",
            "mode",  # `compare.inputs`
            "speedup",
            "run_seconds",
            "allowed",  # `tune.inputs`
            "variance",
            "classes",
            "prompts",
            "seconds",
            "evaluations",
            "held_out",  # `api`
            "made",
            "past",  # the server's own, in a `gr.State`
        ),
        ("", _judged),
    ),
}


@dataclass(frozen=True)
class _Parameter:
    """A parameter of a handler: how its inputs are read, and the value that they make."""

    inputs: dict[str, tuple[str, Reader]]  # by name
    make: Callable[..., Any]

    def value(self, sent: tuple[Any, ...]) -> Any:
        """Return the value of what was sent for the inputs. Raises StudioError."""
        given = zip(sent, self.inputs.values(), strict=False)
        return self.make(*(reader(value, what) for value, (what, reader) in given))


def _parameters_of(handler: Callable[..., Any]) -> list[_Parameter]:
    """List a handler's parameters. Raises KeyError for an input of no known kind."""
    own = ("self", "request")  # a method's object, and gradio's own
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = []
    for name, parameter in inspect.signature(handler).parameters.items():
        if name not in own and parameter.kind not in several:
            group = _group(handler, parameter)
            names = (name,) if group is None else group._fields
            make = _itself if group is None else group
            found.append(_Parameter({one: CHECKS[one] for one in names}, make))
    return found


def _itself(value: Any) -> Any:
    return value


def _group(handler: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the NamedTuple that a parameter is annotated with, or None."""
    kind = getattr(handler, "__globals__", {}).get(parameter.annotation)
    return kind if isinstance(kind, type) and hasattr(kind, "_fields") else None


def _one_parameter_per_input(handler: Callable[..., Any]) -> inspect.Signature:
    """Return the signature that Gradio is to see: it counts one parameter for each input."""
    signature = inspect.signature(handler)
    flat = []
    for parameter in signature.parameters.values():
        group = _group(handler, parameter)
        if group is None:
            flat.append(parameter)
        else:
            flat += [inspect.Parameter(name, parameter.kind) for name in group._fields]
    return signature.replace(parameters=flat)


def _notice(error: StudioError) -> gr.Error:
    """Turn a refusal into a notice; notices are HTML, and a sentence may quote a file."""
    return gr.Error(html.escape(page_sentence(error), quote=False), print_exception=False)


def plain_errors(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Read the inputs of a handler, a function or a method, by their names before it runs.

    A StudioError there or later becomes a notice with its one sentence, and so does running out of
    memory; nothing else is caught.
    """
    parameters = _parameters_of(handler)
    first = int(next(iter(inspect.signature(handler).parameters), "") == "self")

    def read(args: tuple[Any, ...]) -> list[Any]:
        values, at = list(args[:first]), first
        for parameter in parameters:
            end = at + len(parameter.inputs)
            values.append(parameter.value(args[at:end]))
            at = end
        return [*values, *args[at:]]  # the request comes last

    @functools.wraps(handler)
    def answer(*args: Any) -> Any:
        try:
            with plain_memory_errors():
                return handler(*read(args))
        except StudioError as error:
            raise _notice(error) from None

    @functools.wraps(handler)
    def stream(*args: Any) -> Iterator[Any]:
        try:
            with plain_memory_errors():
                yield from handler(*read(args))
        except StudioError as error:
            raise _notice(error) from None

    guarded: Any = stream if inspect.isgeneratorfunction(handler) else answer
    guarded.__signature__ = _one_parameter_per_input(handler)
    guarded.checked = True
    return guarded
