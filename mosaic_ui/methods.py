"""Say what the four ways in which layers share a cut do; `core.allocation.sentences` names them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodWords:
    """What the page says of one allocation method."""

    phrase: str  # behind "Layers share the cut by"
    about: str  # one or two sentences


METHOD_WORDS = {  # value of StagePlan.allocation -> its words
    "uniform": MethodWords(
        phrase="equal shares",
        about="Every layer of a stage loses the same share. The paper's rule.",
    ),
    "log_ramp": MethodWords(
        phrase="a log ramp",
        about=(
            "Early blocks lose less and late blocks lose more, because an error made early passes"
            " through every block behind it."
        ),
    ),
    "lagrangian": MethodWords(
        phrase="the Lagrangian",
        about="Prunes more where the measured error grows least. Fast.",
    ),
    "dynamic": MethodWords(
        phrase="dynamic programming",
        about=(
            "Finds the smallest sum of measured layer errors that this much work allows. Slower by"
            " a moment, and a little better."
        ),
    ),
}
SAME_WORK = (
    "All methods remove the same amount of work, in computation or in measured time; they differ in"
    " which layers lose it."
)
