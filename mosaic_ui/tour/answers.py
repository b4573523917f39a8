"""Answer the scripts of the tour and of the present view: nothing here runs before they ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import Stopped, StudioError, plain_memory_errors
from core.workshop.workshop import Workshop

from .. import jobs, model_facts
from ..page_state import Shared
from ..remedies import page_sentence
from .drawings import curve_html
from .experiments import Answer, Experiments, Uncalibrated
from .scenes import scenes
from .turns import Turns
from .words import STEPS, marked

HERE = Path(__file__).parent
SCRIPTS = ("dialog.js", "tour.js", "present.js")
NOT_ASKED = "This page asks for something that is not there: load it again."
KINDS = {"film": 1, "head": 3, "prune": 2, "push": 3}  # experiment -> what it is asked with


class Calibrating:
    """The calibration that a tour has started, in a thread of its own: it outlives the answer."""

    def __init__(self, workshop: Workshop):
        self.workshop = workshop
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._said, self._share, self._failed = "", 0.0, ""
        self._visitor = ""  # who started it

    def start(self, visitor: str) -> Answer:
        """Start it where none runs; return how far it is."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._said, self._share, self._failed = "Calibrating", 0.0, ""
                self._stop, self._visitor = threading.Event(), visitor
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
        return self.state()

    def state(self) -> Answer:
        """Return how far it is: {"going", "share", "text"}, and "said" where it failed."""
        going = self._thread is not None and self._thread.is_alive()
        found: Answer = {"going": going, "share": self._share, "text": self._said}
        return found | ({"said": self._failed} if self._failed and not going else {})

    def leave(self, visitor: str) -> None:
        """Stop it where this visitor started it; what is finished is kept."""
        if visitor == self._visitor:
            self._stop.set()

    def _run(self) -> None:
        def report(done: int, total: int, text: str) -> None:
            self._share = done / max(1, total)
            self._said = model_facts.without_paths(self.workshop, text)

        try:
            self.workshop.calibrate(report, self._stop)
        except Stopped:
            self._failed = "The calibration was stopped; what was finished is kept."
        except Exception as error:  # said where it is asked about
            self._failed = jobs.failure(error, "The calibration")


class TourAnswers:
    """What the scripts may ask about one page's model."""

    def __init__(self, shared: Shared):
        self.shared, self.workshop = shared, shared.workshop
        self.experiments = Experiments(shared.workshop)
        self.calibrating = Calibrating(shared.workshop)
        self.turns = Turns()

    def functions(self) -> list[Callable[..., Any]]:
        """Return the functions that the page's script may call."""

        def tour_parts(asked: Any = None) -> Answer:
            """Return style and script of both views; nothing of them is in the page before."""
            del asked
            return parts()

        def tour_steps(asked: Any = None) -> Answer:
            """Return the steps' words and what is known of the model."""
            del asked
            return self._answer(self._steps)

        def tour_ask(asked: Any) -> Answer:
            """Return what an experiment found; asked: [visitor, kind, what it is asked with]."""
            return self._answer(lambda: self._ask(asked))

        def present_scenes(asked: Any) -> Answer:
            """Return {"scenes": ...}; asked: [the address' query, the id of a comparison]."""
            return self._answer(lambda: self._scenes(asked))

        return [tour_parts, tour_steps, tour_ask, present_scenes]

    def _answer(self, make: Callable[[], Answer]) -> Answer:
        """Return what `make` makes, or the sentence of what it raises."""
        try:
            with plain_memory_errors():
                return make()
        except Uncalibrated as error:
            offered = not model_facts.large(self.workshop)
            return {"said": str(error), "calibrate": offered}
        except Stopped:
            return {"stopped": True}
        except StudioError as error:
            return {"said": page_sentence(error)}
        except Exception as error:  # the tour goes on, whatever a model cannot do
            return {"said": jobs.failure(error, "This step")}

    def _steps(self) -> Answer:
        facts, found = self.experiments.facts(), self.experiments
        cut = found.proposal.boundaries
        steps = [
            {"kind": s.kind, "title": s.title, "text": marked(s.text), "todo": s.todo}
            for s in STEPS
        ]
        return facts | {"steps": steps, "curve": curve_html(found.score, cut)}

    def _ask(self, asked: Any) -> Answer:
        if not isinstance(asked, list) or len(asked) != 3:
            raise StudioError(NOT_ASKED)
        visitor, kind, what = asked
        if not isinstance(visitor, str) or len(visitor) > 64 or not isinstance(what, list):
            raise StudioError(NOT_ASKED)
        if kind == "leave":
            self.turns.leave(visitor)
            self.calibrating.leave(visitor)
            return {}
        if kind == "calibrate":
            return self.calibrating.start(visitor)
        if kind == "calibrating":
            return self.calibrating.state()
        if not isinstance(kind, str) or len(what) != KINDS.get(kind):
            raise StudioError(NOT_ASKED)
        with self.turns.turn(visitor) as stop:
            return getattr(self.experiments, kind)(stop, *what)

    def _scenes(self, asked: Any) -> Answer:
        if not isinstance(asked, list) or len(asked) != 2:
            raise StudioError(NOT_ASKED)
        return {"scenes": scenes(self.shared, *asked)}


def parts() -> Answer:
    """Return {"style", "script"} of the tour and the present view."""
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return {"style": (HERE / "tour.css").read_text(encoding="utf-8"), "script": script}
