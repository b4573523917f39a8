"""Answer the scripts of the tour and of the present view: nothing here runs before they ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import Stopped, StudioError, plain_memory_errors

from .. import jobs
from ..page_state import Shared
from ..remedies import page_sentence
from .calibrating import Calibrating
from .drawings import curve_html
from .experiments import Answer, Experiments, Uncalibrated
from .scenes import scenes
from .turns import Turns
from .words import RULE, STEPS, marked

HERE = Path(__file__).parent
SCRIPTS = ("dialog.js", "measuring.js", "tour.js", "present.js")
NOT_ASKED = "This page asks for something that is not there: load it again."
KINDS = {"film": 1, "head": 3, "prune": 2, "push": 3}  # experiment -> what it is asked with


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
            return {"said": str(error), "calibrate": self.calibrating.wanted}
        except Stopped:
            return {"stopped": True}
        except StudioError as error:
            return {"said": page_sentence(error)}
        except Exception as error:  # the tour goes on, whatever a model cannot do
            return {"said": jobs.failure(error, "This step")}

    def _steps(self) -> Answer:
        facts, found = self.experiments.facts(), self.experiments
        cut, rule = found.proposal.boundaries, RULE[found.proposed.fallback]
        steps = [
            {
                "kind": s.kind,
                "title": s.title,
                "text": marked(s.text.format(rule=rule)),
                "todo": s.todo,
            }
            for s in STEPS
        ]
        facts["calibrates"] = self.calibrating.wanted
        return facts | {"steps": steps, "curve": curve_html(found.score, cut)}

    def _ask(self, asked: Any) -> Answer:
        if not isinstance(asked, list) or len(asked) != 3:
            raise StudioError(NOT_ASKED)
        visitor, kind, what = asked
        if not isinstance(visitor, str) or len(visitor) > 64 or not isinstance(what, list):
            raise StudioError(NOT_ASKED)
        if kind == "leave":
            self.turns.leave(visitor)
            return {}
        of_calibration = {"calibrate": "start", "calibrating": "state", "stop": "stop"}
        if kind in ("calibrate", "calibrating", "stop"):
            return getattr(self.calibrating, of_calibration[kind])()
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
