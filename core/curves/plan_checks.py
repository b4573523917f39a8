"""Check the fields of a stage plan.

Each check raises PlanError with one sentence that says what to write instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..errors import PlanError, StudioError
from ..guidance import MAX_GUIDANCE, is_guidance

MAX_SPARSITY = 0.95  # a layer keeps at least a head and some neurons
MAX_REUSE = 10  # steps of which one runs in full
REUSE_ORDERS = (0, 1, 2)  # degree of the polynomial that continues what is reused
MIN_STEPS, MAX_STEPS = 1, 1000  # sampling steps of a run, for the page, the verbs and `compare`


def short(value: Any) -> str:
    """Return a value as part of a sentence: one line, at most 60 characters.

    Safe for integers of thousands of digits and for nested data.
    """
    if isinstance(value, int) and abs(value) >= 10**12:
        return "a huge number"
    if isinstance(value, (str, bytes)):
        value = value[:60]
    try:
        text = str(value) if isinstance(value, Real) else repr(value)
    # numbers of thousands of digits inside, thousands of brackets
    except (ValueError, RecursionError):
        return "something too deep or too long"
    return " ".join(text[:60].split())


def whole(value: Any, what: str) -> int:
    """Return `value` as an int; True and 93.0 are not whole numbers here."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise PlanError(f"{what} must be whole numbers, not {short(value)}.")
    return int(value)


def checked_steps(value: Any, total: int = MAX_STEPS) -> int:
    """Return a number of sampling steps as an int, at most the model's `total` timesteps.

    Raises StudioError.
    """
    most = min(MAX_STEPS, total)
    if (
        isinstance(value, (bool, np.bool_))
        or not isinstance(value, Integral)
        or not _within(value, MIN_STEPS, most)
    ):
        raise StudioError(f"Sampling steps must be a whole number from {MIN_STEPS} to {most}.")
    return int(value)


def number_within(value: Any, what: str, highest: float = MAX_SPARSITY) -> float:
    """Return `value` as a float from 0 to `highest`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise PlanError(f"{what} must be a number, not {short(value)}.")
    if not _within(value, 0, highest):
        raise PlanError(f"{what} must lie between 0 and {highest:g}, not at {short(value)}.")
    return float(value)


def _within(value: Any, lowest: float, highest: float) -> bool:
    """Say whether a real number lies in a range; NaN does not. Safe for huge integers."""
    return lowest <= value <= highest


def check_keys(value: Any, what: str, known: Sequence[str], required: Sequence[str]) -> None:
    """Refuse anything but an object with all of `required` and nothing but `known` keys."""
    if not isinstance(value, dict):
        keys = ", ".join(required or known)
        raise PlanError(f"{what} must be an object with {keys}, not {short(value)}.")
    if unknown := [key for key in value if key not in known]:
        raise PlanError(
            f"{what} has the unknown key {short(unknown[0])}; allowed are {', '.join(known)}."
        )
    if missing := [key for key in required if key not in value]:
        raise PlanError(f"{what} lacks {' and '.join(missing)}; add it.")


def parse(text: str) -> Any:
    """Read JSON text as plain data.

    A key that comes twice is refused, because one of the two would be lost silently.
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


def checked_boundaries(value: Any, total: int) -> tuple[int, int]:
    """Return two boundaries with 0 < low < high < total. Raises PlanError."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise PlanError("boundaries must be two whole numbers, low then high, such as [93, 550].")
    low, high = (whole(b, "boundaries") for b in value)
    if not 0 < low < high < total:
        raise PlanError(
            f"boundaries must satisfy 0 < low < high < {total}, but they are {short(low)} and"
            f" {short(high)}."
        )
    return low, high


def checked_sparsity(value: Any, stages: Sequence[str]) -> tuple[float, float, float]:
    """Return the sparsities of the late, middle and early stage. Raises PlanError."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise PlanError("sparsity must have three numbers: late, middle and early.")
    late, middle, early = (
        number_within(s, f"The sparsity of the {stage} stage")
        for s, stage in zip(value, stages, strict=True)
    )
    return late, middle, early


def checked_guidance(value: Any, stages: Sequence[str]) -> tuple[float | None, ...]:
    """Return the guidance of the late, middle and early stage, None where the run's own holds.

    value: None, three numbers or None, or an object with some of the stages. Raises PlanError.
    """
    if value is None:
        return (None,) * len(stages)
    if isinstance(value, dict):
        check_keys(value, "guidance", stages, required=())
        for stage, scale in value.items():
            _check_scale(scale, stage)
        value = [value.get(stage) for stage in stages]
    if not isinstance(value, (list, tuple)) or len(value) != len(stages):
        raise PlanError(
            'guidance must be an object with some of the stages, such as {"early": 1}, not'
            f" {short(value)}."
        )
    for scale, stage in zip(value, stages, strict=True):
        if scale is not None:
            _check_scale(scale, stage)
    return tuple(None if scale is None else float(scale) for scale in value)


def _check_scale(value: Any, stage: str) -> None:
    """Raise PlanError for what is no guidance scale."""
    if not is_guidance(value):
        raise PlanError(
            f"The guidance of the {stage} stage must be a number from 0 to {MAX_GUIDANCE:g}, not"
            f" {short(value)}; leave it out for the run's own."
        )


def checked_reuse(value: Any, stages: Sequence[str]) -> tuple[int, int, int]:
    """Return the k of the late, middle and early stage, of which every k-th step runs in full.

    value: three whole numbers, or an object with some of the stages; 1 elsewhere. Raises PlanError.
    """
    if isinstance(value, dict):
        check_keys(value, "reuse", stages, required=())
        value = [value.get(stage, 1) for stage in stages]
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise PlanError(
            'reuse must be an object with some of the stages, such as {"middle": 2}, not'
            f" {short(value)}."
        )
    late, middle, early = (whole(k, "reuse") for k in value)
    if not all(1 <= k <= MAX_REUSE for k in (late, middle, early)):
        raise PlanError(
            f"reuse must lie between 1 (every step in full) and {MAX_REUSE}, not at"
            f" {short(next(k for k in (late, middle, early) if not 1 <= k <= MAX_REUSE))}."
        )
    return late, middle, early


def check_name(value: Any) -> None:
    """Raise PlanError for a name that is no text, too long, or not valid Unicode."""
    if not isinstance(value, str) or len(value) > 200:
        raise PlanError("name must be a text of at most 200 characters.")
    # JSON allows half a character, files and pages do not
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise PlanError("name has a character that is not valid Unicode; write another name.")


def stage_counts(steps: Any) -> tuple[int, int, int]:
    """Return the sampling steps of the late, middle and early stage. Raises PlanError."""
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
    """Return s = min(cap, k shape), (3,), with k such that sum w s = target.

    What the cap cuts off goes to the other stages in proportion. Raises PlanError for a target that
    cannot be reached.
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
