"""Check what the Tune tab asks for, and say what will happen before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from core.errors import StudioError
from core.tuner.configuration import Configuration
from core.tuner.goal import Effort, Goal
from core.tuner.kept import KeptTune, question
from core.tuner.quality import Quality, usual_quality
from core.tuner.record import Cost
from core.tuner.search import FINALISTS
from core.tuner.space import FEWEST, MOST, SOLVERS, Space
from core.workshop.workshop import Workshop

from .. import model_facts
from ..text import about_seconds, plural
from ..visitors import tune_shelf
from .words import sampler_words

FASTER, SECONDS, DENSE = "faster", "seconds", "dense"  # goals
MACS, TIME = "macs", "seconds"  # what a speed-up is counted in
USUAL_SPEEDUP, USUAL_SECONDS = 4, 300
LONGEST = 86_400  # seconds of a tune: one day
# (evaluation, finalists): judged by features; by distance to dense; where a picture takes long
JUDGED, BY_DISTANCE, LARGE = (256, 500), (64, 128), (4, 8)


class TuneWish(NamedTuple):
    """What a visitor set in the controls of Tune, unchecked."""

    goal: str
    speedup: Any
    run_seconds: Any
    counted: str
    allowed: Any
    keep: bool
    scheduler: str
    steps: Any


@dataclass(frozen=True)
class Wanted:
    """A visitor's wish, checked."""

    goal: Goal
    effort: Effort
    space: Space
    quality: Quality

    @property
    def question(self) -> dict[str, Any]:
        """Return what the tune is known by."""
        return question(self.goal, self.space, self.quality, self.effort)


def judged(workshop: Workshop) -> bool:
    """Say whether pictures are judged without the dense model's, so that better is possible."""
    return workshop.judge is not None


def goals(workshop: Workshop) -> list[tuple[str, str]]:
    """Return the goals that this model can be asked for: words and value."""
    found = [("×N as fast", FASTER), ("At most S seconds", SECONDS)]
    best = ("As good as dense, as fast as possible", DENSE)
    return [*found, best] if judged(workshop) else found


def pictures(workshop: Workshop) -> tuple[int, int]:
    """Return the images of an evaluation and of a finalist."""
    if judged(workshop):
        return JUDGED
    return LARGE if model_facts.large(workshop) else BY_DISTANCE


def checked(workshop: Workshop, wish: TuneWish) -> Wanted:
    """Check all that Tune was pressed with. Raises StudioError for what is known now."""
    cost: Cost = "seconds" if wish.counted == TIME else "macs"
    if wish.goal == FASTER:
        goal = Goal(speedup=_number(wish.speedup), cost=cost)
    elif wish.goal == SECONDS:
        goal = Goal(run_seconds=_number(wish.run_seconds))
    else:
        goal = Goal(match_dense=True, cost=cost)
    images, held_out = pictures(workshop)
    effort = Effort(seconds=_number(wish.allowed), images=images, held_out=held_out)
    if effort.seconds > LONGEST:
        raise StudioError(f"The seconds of a tune must be at most {LONGEST}, which is one day.")
    scheduler, steps = model_facts.default_sampler(workshop)
    if wish.keep:
        scheduler, steps = wish.scheduler, wish.steps
    reference = Configuration(None, scheduler, steps, workshop.guidance, label="dense")
    quality = usual_quality(workshop, reference)
    space = Space(
        workshop,
        reference,
        cost=goal.counts,
        steps=steps if wish.keep else None,
        scheduler=scheduler if wish.keep else None,
        moves=quality.moves,
        batch=workshop.usual_images,
    )
    reference.timesteps(workshop)  # a solver that cannot do these steps is refused
    if goal.match_dense and not quality.moves:
        raise StudioError(
            "As good as dense needs a feature network, and this model ships none: ask for a"
            " speed-up or for seconds."
        )
    if goal.counts == "macs" or timed(workshop):
        space.check_reachable(goal)
    return Wanted(goal, effort, space, quality)


def timed(workshop: Workshop) -> bool:
    """Say whether this device's speed is known for guided and for single rows."""
    return all(workshop.latency(k * workshop.usual_images) is not None for k in (1, 2))


def kept_before(workshop: Workshop, wanted: Wanted) -> KeptTune | None:
    """Return what is kept of the same question, None where nothing is."""
    shelf = tune_shelf()
    try:
        kept = shelf.get(shelf.id_of(wanted.question, workshop.device_text))
    except StudioError:
        return None
    return kept if kept.evaluations else None


def ahead(workshop: Workshop, wanted: Wanted) -> list[str]:
    """Say what a press will do and how long, one sentence each."""
    space, effort = wanted.space, wanted.effort
    tried = f"plans in {FEWEST} to {MOST} steps of {', '.join(SOLVERS[:-1])} and {SOLVERS[-1]}"
    if space.steps is not None:
        tried = f"plans in {sampler_words(space.reference)}"
    name = wanted.quality.name
    said = [
        f"For {_span(effort.seconds)} it tries {tried}. Each is judged by"
        f" {plural(effort.images, 'image')}: {name}, lower is better. Within that time the best"
        f" {FINALISTS} are judged again on {plural(effort.held_out, 'image')} of other noise, and"
        " the best is timed against dense."
    ]
    said.append(f"Dense is {sampler_words(space.reference)}{_dense_words(workshop, wanted)}.")
    first = [] if workshop.calibrated else ["calibrates the model"]
    first += [] if timed(workshop) else ["measures this device's speed"]
    if first:
        said.append(f"First it {' and '.join(first)}, once; that is not counted in the time.")
    kept = kept_before(workshop, wanted)
    if kept is not None:
        said.append(_kept_words(kept, effort.seconds))
    return said


def _dense_words(workshop: Workshop, wanted: Wanted) -> str:
    """Say how much of the time drawing dense takes, where this device's speed is known."""
    seconds = wanted.space.reference.seconds(workshop, wanted.space.batch)
    if seconds is None:
        return ""
    whole = seconds * wanted.effort.images / wanted.space.batch
    said = f"; drawing its pictures takes {about_seconds(whole)} of that, predicted"
    if whole > 0.5 * wanted.effort.seconds:
        said += ": allow more, or little is tried"
    return said


def _kept_words(kept: KeptTune, allowed: float) -> str:
    """Say that the same was asked before, and what a press does then."""
    count = plural(len(kept.evaluations), "point")
    if kept.has_ended(allowed):
        return (
            f"The same was asked before and had its time: a press shows its {count}. Allow more"
            " than that to go on."
        )
    return f"{count} of the same question are kept: it goes on from them, their time included."


def _span(seconds: float) -> str:
    """Write an allowed time: 45 s, 5 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def _number(value: Any) -> Any:
    """Return what a box sent; an empty one is no number, which is refused in words."""
    return math.nan if value is None else value
