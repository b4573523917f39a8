"""What a visitor asks the Compare tab for, checked: sides, uploaded plans, classes or prompts, and
settings (pure, no Gradio).

A browser can send anything, so nothing here trusts a control's own limits. Every error is one
sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.curves.plan import StagePlan
from core.curves.proposals import preset_names, presets
from core.curves.samplers import SCHEDULERS, sampling_timesteps
from core.errors import PlanError, StudioError
from core.workshop.compare import sampler
from core.workshop.comparison import SampleSettings

from .. import answers, model_facts

DENSE, CURRENT, UPLOADED = "Dense", "Current plan", "Uploaded plan"
CHOOSE_CLASSES = "Choose classes from the list."
PRESETS = preset_names()  # of the usual number of timesteps


@dataclass(frozen=True)
class Request:
    """What the visitor asked for, checked."""

    settings: SampleSettings
    plans: tuple[StagePlan | None, StagePlan | None]
    names: tuple[str, str]


def sides(workshop: Any) -> tuple[str, ...]:
    """What a side can run, the presets by the names that they have with this model."""
    return DENSE, CURRENT, *preset_names(len(workshop.schedule)), UPLOADED


def all_classes(class_names: dict[int, str]) -> str:
    """The entry that stands for every class; classes without names are told by their numbers."""
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
    """'All' and single classes exclude each other; the one picked last wins, and nothing picked
    means all.
    """
    if not chosen or chosen[-1] == everything:
        return [everything]
    return [name for name in chosen if name != everything]


def chosen_prompts(text: Any, n: int) -> tuple[str, ...]:
    """n prompts: the box's lines in turns. Raises StudioError for none, or for more than there are
    images.
    """
    if not isinstance(text, str):
        raise StudioError("Prompts are a text, one prompt a line.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise StudioError("Write what is to be painted: one prompt a line.")
    if len(lines) > n:
        raise StudioError(
            f"There are {len(lines)} prompts for {n} image{'s' if n > 1 else ''}: ask for"
            f" {len(lines)} images, or take lines out."
        )
    return tuple(lines[i % len(lines)] for i in range(n))


def chosen_size(choice: Any, workshop: Any) -> tuple[int, int] | None:
    """The listed size -> (height, width) in pixels, None for the model's own.
    Raises StudioError.
    """
    offered = model_facts.sizes(workshop)
    if not isinstance(choice, str) or choice not in offered:
        raise StudioError("Choose one of the listed sizes.")
    return offered[choice]


def run_timesteps(workshop: Any, scheduler: str, steps: int) -> list[float]:
    """The timesteps that a run visits with this scheduler, on the model's own noise schedule."""
    return sampling_timesteps(sampler(workshop, scheduler), steps)


def resolve_side(
    choice: str,
    current: dict | None,
    uploaded: dict | None,
    workshop: Any,
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
        return StagePlan.from_json(current)
    if choice == UPLOADED:
        if uploaded is None:
            raise StudioError(
                "No plan is uploaded for this side yet; press Upload plan, or choose another entry."
            )
        return StagePlan.from_json(uploaded)
    if choice not in preset_names(len(workshop.schedule)):
        raise StudioError("Choose what this side runs.")
    if target is not None:
        return presets(workshop.schedule, answers.share_of(target), timesteps)[choice]
    mean = StagePlan.from_json(current).mean_sparsity(timesteps)
    try:
        return presets(workshop.schedule, mean, timesteps)[choice]
    except PlanError as err:
        share = f"{100 * mean:.0f} %"
        raise StudioError(
            f"The current plan removes {share}, and the presets cannot follow it so far: "
            "make it smaller, or choose another entry."
        ) from err


def checked_plan(workshop: Any, plan: StagePlan, timesteps: list[float]) -> StagePlan:
    """The plan, if networks of this model can be made of it for a run of these timesteps, as far as
    is known now. Raises StudioError.

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
    """What the sides are called in figures: the choice, or an uploaded plan's own name; two equal
    names get their letter.
    """
    a, b = (
        plan.name if choice == UPLOADED and plan is not None and plan.name else choice
        for choice, plan in zip(choices, plans, strict=True)
    )
    return (f"{a} (A)", f"{b} (B)") if a == b else (a, b)


def checked_request(
    workshop: Any,
    choices: tuple[str, str],
    uploaded: tuple[dict | None, dict | None],
    current: dict,
    target: Any,
    settings: tuple,
) -> Request:
    """Check all that Compare was pressed with. Raises StudioError.

    `target` is as in `resolve_side`; `settings` are the arguments of `checked_settings`.
    """
    checked = checked_settings(workshop, *settings)
    timesteps = run_timesteps(workshop, checked.scheduler, checked.steps)
    plans = tuple(
        resolve_side(choice, current, plan, workshop, target, timesteps)
        for choice, plan in zip(choices, uploaded, strict=True)
    )
    for plan in plans:
        if plan is not None:
            checked_plan(workshop, plan, timesteps)
    return Request(checked, plans, side_names(choices, plans))


def _whole(value: Any, low: int, high: int, what: str) -> int:
    # a NaN is in no range
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not low <= value <= high
        or value != int(value)
    ):
        raise StudioError(f"{what} must be a whole number from {low} to {high}.")
    return int(value)


def checked_settings(
    workshop: Any,
    asked: Any,
    images: float,
    seed: float,
    steps: float,
    guidance: float,
    scheduler: str,
    repeats: float,
    negative: str = "",
    size: str | None = None,
    tabulate: bool = False,
    dtype: str | None = None,
) -> SampleSettings:
    """The controls' values as settings; a browser can send anything, so each is checked. Raises
    StudioError.

    `asked` are the names of classes or, for a model of words, the box of prompts; only there
    `negative` and `size` count.
    """
    n = _whole(images, 1, model_facts.images_offered(workshop)[1], "Images")
    if (
        isinstance(guidance, bool)
        or not isinstance(guidance, (int, float))
        or not 1 <= guidance <= 20
    ):
        raise StudioError("Guidance must be a number from 1 (off) to 20.")
    if not isinstance(scheduler, str) or scheduler not in SCHEDULERS:
        raise StudioError("Choose one of the listed schedulers.")
    if model_facts.asks_words(workshop):
        what = {
            "prompts": chosen_prompts(asked, n),
            "negative": "" if negative is None else negative,
            "size": chosen_size(size, workshop),
        }
    else:
        what = {"labels": chosen_labels(asked, workshop.class_names, n)}
    return SampleSettings(
        **what,
        steps=answers.whole_steps(steps, len(workshop.schedule)),
        guidance=float(guidance),
        seed=_whole(seed, 0, 2**31 - 1, "Seed"),
        scheduler=scheduler,
        repeats=_whole(repeats, 1, 10, "Timing repeats"),
        tabulate=tabulate,
        dtype=None if dtype in (None, model_facts.AS_LOADED) else dtype,
    )
