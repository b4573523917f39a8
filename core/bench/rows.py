"""Turn results that have a layout of their own into lines for the table."""

from __future__ import annotations

from typing import Any

from .measure import verdict

# goals on two CPU cores for one DiT-XL/2 MLP
PATH_SECONDS = 15.0
PATH_RATIO = 15.0
LEVEL_SECONDS = 0.5
PATH_COLUMNS = 4608  # of that MLP; other sizes have no goal
GOAL_LEVELS = 17  # per layer; the goals of an allocation hold for this number


def path_rows(found: dict[str, Any]) -> dict[str, Any]:
    """Return the result of `core.bench.removal_path.path_benchmark` as rows.

    The textbook loop over the engine, both ways to write it, and the engine's seconds.
    """
    n = found["layer"]["n"]
    rounds = found["rounds"]
    full = n == PATH_COLUMNS
    ratios = []
    for key, how in (("ratio", "written in place"), ("ratio_as_published", "as published")):
        row = {
            "name": f"{n} columns: textbook loop {how} / engine",
            "ratio": found[key],
            "spread": found[f"{key}_spread"],
            "rounds": rounds,
        }
        ratios.append(
            row | verdict(found[key], found[f"{key}_spread"], at_least=PATH_RATIO if full else None)
        )
    engine = found["engine"]
    times = [
        _time(
            f"{n} columns: order, factor and error curve",
            engine["seconds"],
            engine["spread"],
            "s",
            rounds,
            PATH_SECONDS if full else None,
        )
    ]
    for level in found["weights_at"]:
        times.append(
            _time(
                f"weights with {level['removed']} columns gone",
                level["seconds"],
                level["spread"],
                "s",
                rounds,
                LEVEL_SECONDS if full else None,
            )
        )
    return {"ratios": ratios, "times": times, "note": found["extrapolation"]}


def allocation_rows(found: dict[str, Any]) -> dict[str, Any]:
    """Return the result of `core.bench.allocation.allocation_benchmark` as rows of milliseconds."""
    times = []
    for row in found["results"]:
        goal = found["goals"].get(f"{row['method']}_ms") if row["levels"] == GOAL_LEVELS else None
        name = (
            f"{row['method']}, {found['layers']} layers of {row['levels']} levels,"
            f" {found['stages']} stages, {row['scope']}"
        )
        times.append(_time(name, row["median_ms"], row["spread_ms"], "ms", found["rounds"], goal))
    return {"times": times}


def _time(
    name: str, middle: float, spread: float, unit: str, rounds: int, at_most: float | None
) -> dict[str, Any]:
    """Return one row of a time."""
    return {
        "name": name,
        "median": middle,
        "spread": spread,
        "unit": unit,
        "rounds": rounds,
    } | verdict(middle, spread, at_most=at_most)
