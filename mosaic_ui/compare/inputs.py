"""Check what a visitor asks the Compare tab for: sides, plans, classes or prompts, settings.

A browser can send anything, so nothing here trusts a control's own limits. Every error is one
sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from core.curves.plan import StagePlan
from core.curves.scheduler_tables import SCHEDULERS
from core.errors import StudioError
from core.mosaic.modes import PLAIN
from core.workshop.comparison import SampleSettings
from core.workshop.workshop import Workshop

from .. import model_facts
from ..inputs import number_within, whole_number, whole_seed, whole_steps
from ..predictions import Asked, Predictions
from ..text import plural
from .sides import SideRun, checked_plan, follows_plan, resolve_side, side_names

CHOOSE_CLASSES = "Choose classes from the list."


class Sides(NamedTuple):
    """What both sides shall run, as the page sent it; the plans are read already."""

    choice_a: str
    uploaded_a: StagePlan | None
    choice_b: str
    uploaded_b: StagePlan | None
    current: StagePlan


class Wish(NamedTuple):
    """What a visitor set in the controls of Compare, unchecked, as a browser can send anything.

    `asked` are the names of classes or, for a model of words, the box of prompts; only there
    `negative` and `size` count.
    """

    asked: Any
    images: Any
    seed: Any
    steps: Any
    guidance: Any
    scheduler: Any
    repeats: Any
    negative: Any = ""
    size: Any = None
    tabulate: Any = True
    dtype: Any = None
    mode: Any = PLAIN


@dataclass(frozen=True)
class Request:
    """A visitor's wish, checked."""

    settings: SampleSettings
    plans: tuple[StagePlan | None, StagePlan | None]
    names: tuple[str, str]
    # the plan in hand, where a side follows it
    in_hand: StagePlan | None = None


def all_classes(class_names: dict[int, str]) -> str:
    """Name the entry that stands for every class; classes without names go by their numbers."""
    if class_names and all(name == f"class {label}" for label, name in class_names.items()):
        return f"Classes {min(class_names)} to {max(class_names)}"
    return "All ten classes" if len(class_names) == 10 else f"All {len(class_names)} classes"


def checked_classes(chosen: Any, class_names: dict[int, str]) -> list[str]:
    """Check the chosen names, perhaps none. Raises StudioError for any that is not listed."""
    offered = {all_classes(class_names), *class_names.values()}
    if chosen is None:
        return []
    if not isinstance(chosen, list) or not all(
        isinstance(name, str) and name in offered for name in chosen
    ):
        raise StudioError(CHOOSE_CLASSES)
    return chosen


def chosen_labels(chosen: Any, class_names: dict[int, str], n: int) -> tuple[int, ...]:
    """Take n labels: the chosen classes (none or the 'all' entry: every class) in turns.

    Raises StudioError for what is no list of names.
    """
    if chosen is not None and not (
        isinstance(chosen, list) and all(isinstance(name, str) for name in chosen)
    ):
        raise StudioError(CHOOSE_CLASSES)
    by_name = {name: label for label, name in class_names.items()}
    labels = [by_name[name] for name in chosen or [] if name in by_name] or sorted(class_names)
    return tuple(labels[i % len(labels)] for i in range(n))


def tidy_classes(chosen: list[str], everything: str) -> list[str]:
    """Return the classes after a pick: 'all' and single classes exclude each other.

    The one picked last wins, and nothing picked means all.
    """
    if not chosen or chosen[-1] == everything:
        return [everything]
    return [name for name in chosen if name != everything]


def chosen_prompts(text: Any, n: int) -> tuple[str, ...]:
    """Return n prompts: the box's lines in turns.

    Raises StudioError for none, or for more than there are images.
    """
    if not isinstance(text, str):
        raise StudioError("Prompts are a text, one prompt per line.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise StudioError("Write what the pictures shall show: one prompt per line.")
    if len(lines) > n:
        raise StudioError(
            f"There are {len(lines)} prompts for {plural(n, 'image')}: ask for"
            f" {len(lines)} images, or remove lines."
        )
    return tuple(lines[i % len(lines)] for i in range(n))


def chosen_size(choice: Any, workshop: Workshop) -> tuple[int, int] | None:
    """Return (height, width) in pixels of a listed size, None for the model's own.

    Raises StudioError.
    """
    offered = model_facts.sizes(workshop)
    if not isinstance(choice, str) or choice not in offered:
        raise StudioError("Choose one of the listed sizes.")
    return offered[choice]


def both_sides(predictions: Predictions, sides: Sides, asked: Asked) -> tuple[SideRun, SideRun]:
    """Return what A and B run. Raises StudioError."""
    a = resolve_side(sides.choice_a, sides.uploaded_a, asked, predictions)
    return a, resolve_side(sides.choice_b, sides.uploaded_b, asked, predictions)


def checked_request(predictions: Predictions, sides: Sides, wish: Wish) -> Request:
    """Check all that Compare was pressed with. Raises StudioError."""
    settings = checked_settings(predictions.workshop, wish)
    asked = Asked(sides.current, settings.scheduler, settings.steps)
    runs = both_sides(predictions, sides, asked)
    for run in runs:
        if run.plan is not None:
            timesteps = predictions.visited(settings.scheduler, run.steps)
            checked_plan(predictions.workshop, run.plan, timesteps)
    a, b = runs
    follows = follows_plan(sides.choice_a) or follows_plan(sides.choice_b)
    return Request(
        replace(settings, side_steps=(a.steps, b.steps)),
        (a.plan, b.plan),
        side_names(a, b),
        sides.current if follows else None,
    )


def checked_settings(workshop: Workshop, wish: Wish) -> SampleSettings:
    """Return what was set as settings, each checked. Raises StudioError."""
    n = whole_number(wish.images, 1, model_facts.images_offered(workshop)[1], "Images")
    guidance = number_within(wish.guidance, 1, 20, "Guidance", low_text="1 (off)")
    if not isinstance(wish.scheduler, str) or wish.scheduler not in SCHEDULERS:
        raise StudioError("Choose one of the listed schedulers.")
    what: dict[str, Any]
    if model_facts.asks_words(workshop):
        what = {
            "prompts": chosen_prompts(wish.asked, n),
            "negative": "" if wish.negative is None else wish.negative,
            "size": chosen_size(wish.size, workshop),
        }
    else:
        what = {"labels": chosen_labels(wish.asked, workshop.class_names, n)}
    return SampleSettings(
        **what,
        steps=whole_steps(wish.steps, len(workshop.schedule)),
        guidance=guidance,
        seed=whole_seed(wish.seed),
        scheduler=wish.scheduler,
        repeats=whole_number(wish.repeats, 0, 10, "Timing repeats"),
        tabulate=wish.tabulate,
        dtype=None if wish.dtype in (None, model_facts.AS_LOADED) else wish.dtype,
        mode=wish.mode,
    )
