"""Read the axes of a sweep: what changes along a row or a column, and through which values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from typing import Any

from ..curves.plan import ALLOCATIONS
from ..curves.plan_checks import check_keys, short
from ..curves.scheduler_tables import SCHEDULERS
from ..errors import StudioError
from ..mosaic.modes import MODES

MAX_CELLS = 400  # 20 by 20: a picture that can still be read, and a day's work at four minutes each
OWN = "own"  # the run's own guidance, in an axis over the guidance of a stage
Value = int | float | str | None  # None: the run's own guidance
EXAMPLE = "such as sparsity.early=0.2:0.6:0.1 or steps=10,20,50"


@dataclass(frozen=True)
class Kind:
    """What an axis may run through, and what it sets of a plan or of a run."""

    about: str
    sets: tuple[str, ...]  # two axes of one sweep must not share one of these
    whole: bool = False  # whole numbers only
    words: tuple[str, ...] = ()  # the only values; empty for numbers
    own: bool = False  # may be "own" too


def _stages(first: str, about: str, own: bool = False) -> dict[str, Kind]:
    """Return the axes of one number per stage."""
    return {
        f"{first}.{stage}": Kind(about.format(stage), (f"{first}.{stage}",), own=own)
        for stage in ("early", "middle", "late")
    }


SPARSITIES = _stages("sparsity", "share removed in the {} stage")
BOUNDARIES = {
    "boundaries.low": Kind(
        "timestep between late and middle stage", ("boundaries.low",), whole=True
    ),
    "boundaries.high": Kind(
        "timestep between middle and early stage", ("boundaries.high",), whole=True
    ),
}
KINDS: dict[str, Kind] = {
    "target": Kind(
        "mean sparsity over the sampling steps, in the plan's proportions", tuple(SPARSITIES)
    ),
    **SPARSITIES,
    **BOUNDARIES,
    "m": Kind("threshold M of the paper's rule for both boundaries", tuple(BOUNDARIES)),
    "steps": Kind("sampling steps", ("steps",), whole=True),
    "scheduler": Kind("solver", ("scheduler",), words=tuple(SCHEDULERS)),
    "guidance": Kind("guidance of the run", ("guidance",)),
    **_stages("guidance", "guidance of the {} stage", own=True),
    "sharing": Kind("how layers share the cut", ("sharing",), words=ALLOCATIONS),
    "mode": Kind("how networks run", ("mode",), words=MODES),
}


@dataclass(frozen=True)
class Axis:
    """One axis of a sweep: a name of `KINDS` and its values, in order. Raises StudioError."""

    name: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise StudioError(f"A sweep runs over {', '.join(KINDS)}, not over {short(self.name)}.")
        values = tuple(_checked(self.name, value) for value in self.values)
        if not values:
            raise StudioError(f"The axis {self.name} has no values: give some, {EXAMPLE}.")
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice:
            raise StudioError(f"The axis {self.name} has {label_of(twice[0])} twice: keep one.")
        object.__setattr__(self, "values", values)

    @property
    def labels(self) -> list[str]:
        """Return the values as people read them."""
        return [label_of(value) for value in self.values]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"name": self.name, "values": list(self.values)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Axis:
        """Make an axis from plain data. Raises StudioError."""
        check_keys(plain, "An axis", ("name", "values"), ("name", "values"))
        if not isinstance(plain["values"], list):
            raise StudioError("The values of an axis are a list.")
        return cls(plain["name"], tuple(plain["values"]))


def label_of(value: Value) -> str:
    """Return a value as people read it."""
    if value is None:
        return OWN
    return value if isinstance(value, str) else f"{value:g}" if value < 1e6 else str(value)


def parse_axis(text: str) -> Axis:
    """Return the axis of NAME=START:STOP:STEP (both ends count) or NAME=a,b,c.

    Raises StudioError, before a list of more than `MAX_CELLS` values is made.
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not values:
        raise StudioError(f"An axis is a name, = and values, {EXAMPLE}, not {short(text)}.")
    if name not in KINDS:
        raise StudioError(f"A sweep runs over {', '.join(KINDS)}, not over {short(name)}.")
    if KINDS[name].words:
        return Axis(name, tuple(word.strip() for word in values.split(",")))
    if ":" in values:
        return Axis(name, tuple(_range(name, values)))
    words = values.split(",")
    check_count(len(words), 1)
    return Axis(name, tuple(_number(name, word.strip()) for word in words))


def check_axes(x: Axis, y: Axis | None) -> None:
    """Raise StudioError for two axes that set the same thing, or for too many cells."""
    check_count(len(x.values), 1 if y is None else len(y.values))
    if y is None:
        return
    both = set(KINDS[x.name].sets) & set(KINDS[y.name].sets)
    if both:
        same = "" if x.name == y.name else f" ({', '.join(sorted(both))})"
        raise StudioError(
            f"The axes {x.name} and {y.name} set the same thing{same}: choose another one for one"
            " of them."
        )


def check_count(columns: int, rows: int) -> None:
    """Raise StudioError for more cells than a sweep may have."""
    if columns * rows > MAX_CELLS:
        raise StudioError(
            f"This sweep would have {columns * rows:,} cells, and {MAX_CELLS} are the most: take"
            " fewer values or a larger step."
        )


def _range(name: str, text: str) -> Sequence[Value]:
    """Return the values of START:STOP:STEP, exact in decimals: 0.2:0.6:0.1 ends at 0.6."""
    parts = text.split(":")
    if len(parts) != 3:
        raise StudioError(f"A range is START:STOP:STEP, {EXAMPLE}, not {short(text)}.")
    start, stop, step = (_decimal(name, part.strip()) for part in parts)
    if step == 0 or (stop - start) * step < 0:
        raise StudioError(
            f"The range {short(text)} of {name} never comes from its start to its stop: change"
            " the step."
        )
    count = int((stop - start) / step) + 1
    check_count(count, 1)
    return [_plain(start + i * step) for i in range(count)]


def _decimal(name: str, text: str) -> Decimal:
    """Return a number of moderate size, exactly as written. Raises StudioError."""
    try:
        value = Decimal(text)
    except DecimalException as err:
        raise StudioError(f"{name} takes numbers, not {short(text)}.") from err
    # others have no place in any axis, and would be computed with hundreds of digits
    if not value.is_finite() or abs(value) > 10**9 or (value and abs(value) < Decimal("1e-9")):
        raise StudioError(f"{name} takes numbers of moderate size, not {short(text)}.")
    return value


def _plain(value: Decimal) -> int | float:
    """Return a decimal as an int where it is whole, else as a float."""
    return int(value) if value == value.to_integral_value() else float(value)


def _number(name: str, text: str) -> Value:
    """Return one value of a list."""
    if text == OWN and KINDS[name].own:
        return None
    return _plain(_decimal(name, text))


def _checked(name: str, value: Any) -> Value:
    """Return a value of the type that an axis takes. Raises StudioError for another one.

    Whether a plan or a run can have it is found out per cell.
    """
    kind = KINDS[name]
    if kind.words:
        if value not in kind.words:
            raise StudioError(f"{name} is one of {', '.join(kind.words)}, not {short(value)}.")
        return str(value)
    if kind.own and value in (None, OWN):
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise StudioError(f"{name} takes numbers, not {short(value)}.")
    if kind.whole and value != int(value):
        raise StudioError(f"{name} takes whole numbers, not {short(value)}.")
    return int(value) if kind.whole else float(value)
