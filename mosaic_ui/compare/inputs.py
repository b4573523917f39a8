"""Check what a visitor asks the Compare tab for: sides, plans, classes or prompts, settings.

A browser can send anything, so nothing here trusts a control's own limits. Every error is one
sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from core.curves.plan import StagePlan
from core.curves.proposals import preset_names, presets
from core.curves.scheduler_tables import SCHEDULERS
from core.errors import PlanError, StudioError
from core.workshop.comparison import SampleSettings
from core.workshop.workshop import Workshop

from .. import model_facts
from ..inputs import number_within, share_of, whole_number, whole_steps
from ..predictions import Predictions
from ..text import percent, plural

DENSE, CURRENT, UPLOADED = "Dense", "Current plan", "Uploaded plan"
CHOOSE_CLASSES = "Choose classes from the list."
PRESETS = preset_names()  # of the usual number of timesteps


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
    tabulate: Any = False
    dtype: Any = None


@dataclass(frozen=True)
class Request:
    """A visitor's wish, checked."""

    settings: SampleSettings
    plans: tuple[StagePlan | None, StagePlan | None]
    names: tuple[str, str]


def sides(workshop: Workshop) -> tuple[str, ...]:
    """Return what a side can run, the presets by the names that they have with this model."""
    return DENSE, CURRENT, *preset_names(len(workshop.schedule)), UPLOADED


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


def resolve_side(
    choice: str,
    current: StagePlan,
    uploaded: StagePlan | None,
    workshop: Workshop,
    target: float | None,
    timesteps: list[float],
) -> StagePlan | None:
    """Find the plan of a picker's choice; None is the dense model.

    target: mean sparsity of a preset; None: as much as the current plan removes.
    Raises StudioError where the choice has no plan yet.
    """
    if choice == DENSE:
        return None
    if choice == CURRENT:
        return current
    if choice == UPLOADED:
        if uploaded is None:
            raise StudioError(
                "No plan is uploaded for this side yet; press Upload plan, or choose another entry."
            )
        return uploaded
    if choice not in preset_names(len(workshop.schedule)):
        raise StudioError("Choose what this side runs.")
    if target is not None:
        return presets(workshop.schedule, share_of(target), timesteps)[choice]
    mean = current.mean_sparsity(timesteps)
    try:
        return presets(workshop.schedule, mean, timesteps)[choice]
    except PlanError as err:
        raise StudioError(
            f"The current plan removes {percent(mean)}, which is more than a preset can: lower its"
            " sparsities, or choose another entry."
        ) from err


def checked_plan(workshop: Workshop, plan: StagePlan, timesteps: list[float]) -> StagePlan:
    """Return the plan if networks of this model can be made of it for a run of these timesteps.

    Raises StudioError for what is known now.
    How layers share a cut cannot be known before a calibration or, counted in time, before the
    layers were timed; a run does both first.
    """
    unknown = model_facts.unmeasured(workshop) or (
        plan.costs == "latency" and workshop.layer_times is None
    )
    plain = StagePlan(plan.boundaries, plan.sparsity, num_train_timesteps=plan.num_train_timesteps)
    workshop.predict(plain if unknown else plan.counted(timesteps), timesteps)
    return plan


def side_names(
    choices: tuple[str, str], plans: tuple[StagePlan | None, StagePlan | None]
) -> tuple[str, str]:
    """Return the sides' names in figures: the choice, or an uploaded plan's own name.

    Two equal names get their letter.
    """
    a, b = (
        plan.name if choice == UPLOADED and plan is not None and plan.name else choice
        for choice, plan in zip(choices, plans, strict=True)
    )
    return (f"{a} (A)", f"{b} (B)") if a == b else (a, b)


def checked_request(
    predictions: Predictions, sides: Sides, wish: Wish, target: float | None = None
) -> Request:
    """Check all that Compare was pressed with; `target` is as in `resolve_side`.

    Raises StudioError.
    """
    workshop = predictions.workshop
    settings = checked_settings(workshop, wish)
    timesteps = predictions.visited(settings.scheduler, settings.steps)
    choices = sides.choice_a, sides.choice_b
    a, b = (
        resolve_side(choice, sides.current, plan, workshop, target, timesteps)
        for choice, plan in zip(choices, (sides.uploaded_a, sides.uploaded_b), strict=True)
    )
    for plan in (a, b):
        if plan is not None:
            checked_plan(workshop, plan, timesteps)
    return Request(settings, (a, b), side_names(choices, (a, b)))


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
        seed=whole_number(wish.seed, 0, 2**31 - 1, "Seed"),
        scheduler=wish.scheduler,
        repeats=whole_number(wish.repeats, 1, 10, "Timing repeats"),
        tabulate=wish.tabulate,
        dtype=None if wish.dtype in (None, model_facts.AS_LOADED) else wish.dtype,
    )
