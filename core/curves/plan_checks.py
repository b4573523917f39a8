"""What a stage plan refuses: each check raises PlanError with one sentence that says what to write
instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..errors import PlanError, StudioError

MAX_SPARSITY = 0.95  # a layer keeps at least a head and some neurons
MIN_STEPS, MAX_STEPS = 1, 1000  # sampling steps of a run, for the page, the verbs and `compare`


def short(value: Any) -> str:
    """A value as part of a sentence: one line, at most 60 characters, and safe for integers of
    thousands of digits.
    """
    if isinstance(value, int) and abs(value) >= 10**12:
        return "a huge number"
    try:
        text = (
            str(value)
            if isinstance(value, Real)
            else repr(value[:60] if isinstance(value, (str, bytes)) else value)
        )
    except (
        ValueError,
        RecursionError,
    ):  # numbers of thousands of digits inside, thousands of brackets
        return "something too deep or too long"
    return " ".join(text[:60].split())


def whole(value: Any, what: str) -> int:
    """`value` as an int; True and 93.0 are not whole numbers here."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise PlanError(f"{what} must be whole numbers, not {short(value)}.")
    return int(value)


def checked_steps(value: Any, total: int = MAX_STEPS) -> int:
    """Check a number of sampling steps, at most the model's `total` timesteps.
    Raises StudioError.
    """
    most = min(MAX_STEPS, total)
    if (
        isinstance(value, (bool, np.bool_))
        or not isinstance(value, Integral)
        or not MIN_STEPS <= value <= most
    ):
        raise StudioError(f"Sampling steps must be a whole number from {MIN_STEPS} to {most}.")
    return int(value)


def number_within(value: Any, what: str, highest: float = MAX_SPARSITY) -> float:
    """`value` as a float from 0 to `highest`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise PlanError(f"{what} must be a number, not {short(value)}.")
    if not 0 <= value <= highest:  # also refuses NaN
        raise PlanError(f"{what} must lie between 0 and {highest:g}, not at {short(value)}.")
    return float(value)


def check_keys(value: Any, what: str, known: Sequence[str], required: Sequence[str]) -> None:
    """Refuse anything but an object with all of `required` and nothing beside `known`."""
    if not isinstance(value, dict):
        raise PlanError(f"{what} must be an object with {', '.join(required)}, not {short(value)}.")
    if unknown := [key for key in value if key not in known]:
        raise PlanError(
            f"{what} has the unknown key {short(unknown[0])}; allowed are {', '.join(known)}."
        )
    if missing := [key for key in required if key not in value]:
        raise PlanError(f"{what} lacks {' and '.join(missing)}; add it.")


def parse(text: str) -> Any:
    """JSON text to plain data; a key that comes twice is refused, because one of the two would be
    lost silently.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i])]:
            raise PlanError(f"The plan names {short(twice[0])} twice; keep one.")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as err:
        raise PlanError(
            f"The plan is not valid JSON (line {err.lineno}, column {err.colno}: {err.msg});"
            " correct it."
        ) from err
    # numbers of thousands of digits, thousands of brackets
    except (ValueError, RecursionError) as err:
        raise PlanError(
            "The plan is not valid JSON (numbers too long or nested too deeply); correct it."
        ) from err


def stage_counts(steps: Any) -> tuple[int, int, int]:
    """Sampling steps of the late, middle and early stage. Raises PlanError."""
    if not isinstance(steps, (list, tuple)) or len(steps) != 3:
        raise PlanError(
            "stage_steps must have three whole numbers: the sampling steps of the late, middle and"
            " early stage."
        )
    late, middle, early = (whole(n, "stage_steps") for n in steps)
    if min(late, middle, early) < 0 or not 0 < late + middle + early <= 300_000:
        raise PlanError(
            "stage_steps must be numbers of sampling steps, none negative and at least one"
            " positive."
        )
    return late, middle, early


def share_out(shape: np.ndarray, weights: np.ndarray, target: float, cap: float) -> np.ndarray:
    """min(cap, k shape) with k such that sum w s = target: what the cap cuts off goes to the other
    stages in proportion.
    """
    if target == 0:
        return np.zeros(3)
    capped = np.zeros(3, dtype=bool)
    for _ in range(4):  # each round caps at least one more of three stages, or is done
        room = target - cap * weights[capped].sum()
        free = float((weights * shape)[~capped].sum())
        if free <= 0:
            break
        k = room / free
        new = ~capped & (k * shape > cap)
        if not new.any():
            return np.where(capped, cap, k * shape)
        capped |= new
    reach = cap * float(weights[shape > 0].sum())
    if target <= reach + 1e-12:  # exactly at the limit
        return np.where(shape > 0, cap, 0.0)
    raise PlanError(
        f"A mean sparsity of {target:g} cannot be reached: these stages and steps allow at most"
        f" {reach:.2f}; lower the target."
    )
