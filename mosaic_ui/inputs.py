"""Check what a person types or a chart sends; a refusal is one sentence that names the box."""

from __future__ import annotations

from typing import Any, TypeGuard

from core.curves.guidance_words import RUNS_OWN
from core.curves.plan import StagePlan
from core.curves.plan_checks import MAX_STEPS, MIN_STEPS, short
from core.errors import PlanError, StudioError
from core.guidance import MAX_GUIDANCE, is_guidance

MOST_ASKED = 0.9  # of the box "Suggest for mean sparsity"
OWN_GUIDANCE = "own"  # what a guidance box sends where it leaves the run's own
MOST_SEED = 2**31 - 1
UPLOAD_LIMIT = 64_000  # bytes; a plan has a few hundred


def is_number(value: object) -> TypeGuard[int | float]:
    """Say whether the value is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int | float]:
    """Say whether the value is a whole number; boxes send 50.0 for 50."""
    return is_number(value) and (isinstance(value, int) or value.is_integer())


def whole_number(value: object, low: int, high: int, what: str) -> int:
    """Return `value` as an int from `low` to `high`. Raises StudioError that begins with `what`."""
    if not is_whole(value) or not low <= value <= high:
        raise StudioError(f"{what} must be a whole number from {low} to {high}.")
    return int(value)


def number_within(value: object, low: float, high: float, what: str, low_text: str = "") -> float:
    """Return `value` as a float from `low` to `high`; `low_text` replaces `low` in the refusal.

    Raises StudioError that begins with `what`.
    """
    if not is_number(value) or not low <= value <= high:
        raise StudioError(f"{what} must be a number from {low_text or f'{low:g}'} to {high:g}.")
    return float(value)


def stage_guidance(value: object, what: str) -> float | None:
    """Return a stage's guidance from its box, None for the run's own. Raises StudioError."""
    typed = value.strip().lower() if isinstance(value, str) else value
    if typed in (None, "", OWN_GUIDANCE, RUNS_OWN):
        return None
    scale = {"off": 1.0}.get(typed, typed) if isinstance(typed, str) else typed
    if isinstance(scale, str):
        try:
            scale = float(scale.replace(",", "."))
        except ValueError:
            scale = None
    if not is_number(scale) or not is_guidance(scale):
        raise StudioError(
            f"{what} must be a number from 0 to {MAX_GUIDANCE:g}, off, or the run's own, not"
            f" {short(value)}."
        )
    return float(scale)


def whole_steps(steps: object, total: int = MAX_STEPS) -> int:
    """Return a box's number of sampling steps, at most `total` timesteps. Raises StudioError."""
    return whole_number(steps, MIN_STEPS, min(MAX_STEPS, total), "Sampling steps")


def whole_seed(seed: object) -> int:
    """Return a box's seed. Raises StudioError."""
    return whole_number(seed, 0, MOST_SEED, "Seed")


def share_of(target: object) -> float:
    """Return the target box's number as a share; refuse what no plan can reach."""
    return number_within(target, 0, MOST_ASKED, "Suggest for mean sparsity")


def constants(threshold: object, lam: object) -> tuple[float, float]:
    """Return M and lambda from their boxes; refuse what the rule cannot use."""
    if not is_number(threshold) or not 0 < threshold < 1:
        raise StudioError("Threshold M must be a number between 0 and 1.")
    return float(threshold), number_within(lam, 0, 10, "Lambda")


def two_boundaries(value: object) -> tuple[Any, Any]:
    """Return what the chart sent as a pair; `StagePlan` checks the numbers themselves."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise StudioError("A chart has exactly two boundaries, low then high.")
    return value[0], value[1]


def typed_boundaries(low: object, high: object, total: int) -> tuple[int, int]:
    """Return both boundaries from their boxes, below `total` training timesteps.

    Raises StudioError in the words of the boxes.
    """
    for i, value in enumerate((low, high), start=1):
        if not is_whole(value):
            raise StudioError(f"Boundary {i} must be a whole number of timesteps.")
    if not (is_whole(low) and is_whole(high) and 0 < low < high < total):
        raise StudioError(
            f"Boundary 1 must lie below boundary 2, and both between 0 and {total}; they were"
            f" {short(low)} and {short(high)}."
        )
    return int(low), int(high)


def read_upload(content: bytes | None) -> StagePlan:
    """Return the plan in the bytes of an uploaded file. Raises PlanError with one sentence."""
    if not content:
        raise PlanError("The file is empty; choose a plan file in JSON.")
    if len(content) > UPLOAD_LIMIT:
        raise PlanError(
            f"The file has {len(content) // 1000} kB, and a plan has at most {UPLOAD_LIMIT // 1000}"
            " kB; choose a plan file in JSON."
        )
    try:
        return StagePlan.from_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PlanError("The file is not UTF-8 text; choose a plan file in JSON.") from error
