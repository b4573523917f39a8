"""The four ways in which layers share a cut: one set of names and words for every tab."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodWords:
    """What one allocation method is called, and what it does."""

    title: str  # on its control
    phrase: str  # behind "Layers share the cut by"
    about: str  # one or two sentences


METHOD_WORDS = {  # value of StagePlan.allocation -> its words
    "uniform": MethodWords(
        title="Equal shares",
        phrase="equal shares",
        about="Every layer of a stage loses the same share. The paper's rule.",
    ),
    "log_ramp": MethodWords(
        title="Log ramp",
        phrase="a log ramp",
        about=(
            "Early blocks lose less and late ones more, as an error made early passes through every"
            " block behind it."
        ),
    ),
    "lagrangian": MethodWords(
        title="Lagrangian",
        phrase="the Lagrangian",
        about=(
            "Layers that mind it least, by their measured error curves, lose more: one price for"
            " work in every layer. At once."
        ),
    ),
    "dynamic": MethodWords(
        title="Dynamic programming",
        phrase="dynamic programming",
        about=(
            "The smallest sum of measured layer errors that this much work allows, searched out. A"
            " moment slower, a little better."
        ),
    ),
}
SAME_WORK = (
    "All of them spend what equal shares would spend, in computation or in measured time; only who"
    " gives it differs."
)
