"""Measure calls in turn within a time budget: ratios with spread, facts about the machine."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..models.devices import device_text
from ..sampling.timing import measure_alternating, spread


@dataclass(frozen=True)
class Effort:
    """The time that a part may measure.

    At least `least` rounds are taken even where that takes more than `seconds`.
    """

    seconds: float  # of all its groups of calls together
    least: int = 3
    most: int = 60


class Shares:
    """A time budget that is given out group by group.

    Time that a quick group leaves over goes to the later groups, so put the slow groups last.
    """

    def __init__(self, seconds: float, groups: int):
        self.end = time.perf_counter() + seconds
        self.left = groups

    def next(self) -> float:
        """Return the seconds for the next group."""
        share = max(0.0, self.end - time.perf_counter()) / max(1, self.left)
        self.left -= 1
        return share


def in_turn(
    calls: dict[str, Callable[[], object]],
    device: torch.device,
    seconds: float,
    effort: Effort,
    stop: threading.Event | None = None,
) -> dict[str, list[float]]:
    """Return the seconds of each call by name, one entry per round: all calls in turn.

    A warm-up round before decides how many rounds fit `seconds`. Raises Stopped.
    """
    each = list(calls.values())
    with torch.inference_mode():
        warm_up = sum(
            t[0] for t in measure_alternating(each, device, repeats=1, warm_up=0, stop=stop)
        )
        rounds = max(effort.least, min(effort.most, int(seconds / max(warm_up, 1e-9)) - 1))
        times = measure_alternating(each, device, repeats=rounds, warm_up=0, stop=stop)
    return dict(zip(calls, times, strict=True))


def ratio(
    name: str,
    over: list[float],
    under: list[float],
    scale: float = 1.0,
    at_least: float | None = None,
    at_most: float | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Return one line of the table: the median over rounds of over / under / scale.

    Its spread comes with it, and whether a goal is met (`verdict`).
    """
    ratios = [x / y / scale for x, y in zip(over, under, strict=True)]
    middle = statistics.median(ratios)
    wide = spread(ratios)
    return {
        "name": name,
        "ratio": middle,
        "spread": wide,
        "rounds": len(ratios),
        **facts,
    } | verdict(middle, wide, at_least, at_most)


def verdict(
    middle: float, spread: float, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """Return the goal and whether it is met: True, False or None; {} without a goal.

    None: the goal lies within the spread, so that another run may decide otherwise.
    """
    if at_least is not None:
        sense = "at_least"
        goal = at_least
        reached = middle >= at_least
    elif at_most is not None:
        sense = "at_most"
        goal = at_most
        reached = middle <= at_most
    else:
        return {}
    return {sense: goal, "met": None if abs(middle - goal) < spread else reached}


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """Return median seconds by name."""
    return {name: statistics.median(t) for name, t in times.items()}


def machine(device: torch.device) -> dict[str, Any]:
    """Return the machine, the versions and the time of a measurement."""
    return {
        "device": device_text(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }
