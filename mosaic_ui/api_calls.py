"""Make functions that other programs call: types that clients can read, one turn at a time."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any

from gradio.context import LocalContext

from core.curves.plan import StagePlan
from core.curves.plan_checks import short
from core.errors import StudioError
from core.workshop.workshop import Workshop

from . import jobs
from .background import others_first
from .input_checks import plain_errors
from .predictions import Predictions

Json = dict[str, Any]
PLACE = "api"  # of the stop event of a call, which is set when its client leaves
AS_SENT = {  # what a handler gets -> what a client sends
    StagePlan: dict[str, Any],
    StagePlan | None: dict[str, Any] | None,
}


def endpoint(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Guard a handler as `plain_errors` does, and show its types as a client sends them.

    Gradio describes what this returns by its types, defaults and docstring.
    """
    guarded: Any = plain_errors(handler)
    hints = {name: AS_SENT.get(kind, kind) for name, kind in typing.get_type_hints(handler).items()}
    signature = inspect.signature(guarded)
    guarded.__annotations__ = hints
    guarded.__signature__ = signature.replace(
        parameters=[
            one.replace(annotation=hints.get(name, one.annotation))
            for name, one in signature.parameters.items()
        ],
        return_annotation=hints["return"],
    )
    return guarded


@contextmanager
def turn(what: str) -> Iterator[Event]:
    """Hold the stop event of a call while it has the model; `what` names it in sentences.

    It waits for comparisons and tunes whose page has left. Every end that is no result is a
    StudioError of one sentence.
    """
    session = getattr(LocalContext.request.get(None), "session_hash", None)
    with jobs.visit(session).stoppable(PLACE) as stop:
        for _ in others_first():
            if stop.is_set():
                raise StudioError(jobs.WITHDRAWN)
        try:
            yield stop
        except StudioError:
            raise
        except Exception as error:  # Stopped, and what nobody foresaw
            raise StudioError(jobs.failure(error, what)) from error


class Models:
    """The models of a page by their names."""

    def __init__(self, workshops: Sequence[Workshop]):
        self._predictions = {one.name: Predictions(one) for one in workshops}

    def of(self, name: str) -> Predictions:
        """Return the predictions of a model; "" is the page's first. Raises StudioError."""
        found = self._predictions.get(name or next(iter(self._predictions)))
        if found is None:
            raise StudioError(
                f"There is no model {short(name)} here: choose one of"
                f" {', '.join(self._predictions)}."
            )
        return found
