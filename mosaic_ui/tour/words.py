"""Hold the words of the tour's steps and the meanings that they explain on hover and focus.

`[[head]]` in a text marks a word of MEANINGS; `[[heads|head]]` shows another form of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape

MEANINGS = {
    "noise": "Random colours. Every picture starts as pure noise; the same seed is the same noise.",
    "step": "One run of the network, which takes some of the noise away.",
    "network": "The trained model: layers of numbers that turn one picture into another.",
    "block": "A layer group of the network. All blocks are built alike and run one after another.",
    "t": "How noisy the picture is: the timestep, counted from pure noise down to the finished"
    " picture at 0. One step of this run passes many of them.",
    "head": "A part of a layer that lets patches of the picture take notice of each other.",
    "stage": "A part of the way from noise to picture that has a network of its own.",
    "pruning": "Taking parts of a network away for good, so that it has less to compute.",
    "calibration": "One look at what flows through the whole network, so that what stays can make"
    " up for what goes.",
    "work": "Multiplications that the network does. Less work is often, not always, less time.",
    "PSNR": "How near two pictures are, in dB: above 40 hardly any difference, under 20 other"
    " pictures.",
}
# what the rule of the plan does, by whether the paper's rule had to be left for ours
RULE = {
    False: "The rule of the paper puts the boundaries where the line has fallen to about half of"
    " its peak.",
    True: "The rule of the paper leaves a stage empty here, so each stage has a third of what"
    " is learned.",
}
MARK = re.compile(r"\[\[([^\]|]+)(?:\|([^\]]+))?\]\]")


@dataclass(frozen=True)
class Step:
    """One step of the tour: its kind, its title, what it explains, and the one thing to do."""

    kind: str
    title: str
    text: str
    todo: str


STEPS = (
    Step(
        "film",
        "A picture out of noise",
        "The model begins with pure [[noise]] and cleans it a little at every [[step]]. This is"
        " the model of this page, at work on this machine.",
        "Start it from another noise.",
    ),
    Step(
        "curve",
        "It learned fast only in the middle",
        "The line shows how fast the model learned in training. At first there is only noise, in"
        " the end only fine detail; in between the picture gets its content. Noise is at the left,"
        " as sampling goes; 1 Explore has the line turned round.",
        "Move along the steps and watch the guess.",
    ),
    Step(
        "head",
        "What a head is",
        "The [[network]] is a stack of [[blocks|block]], and each has several [[heads|head]]. Most"
        " are hardly missed: the picture changes a little, or not to be seen.",
        "Take one head away, then one of another block.",
    ),
    Step(
        "stages",
        "Cut the way into three stages",
        "Early steps are noisy, late ones almost clean. Each [[stage]] may have a smaller network"
        " of its own. {rule} [[t]] beside a step says how noisy the picture is.",
        "Move the two boundaries.",
    ),
    Step(
        "prune",
        "Prune",
        "[[Pruning|pruning]] takes heads and neurons away: few in the middle stage, more outside."
        " What stays is corrected by one [[calibration]]; nothing is trained.",
        "Prune a third of the work away.",
    ),
    Step(
        "flip",
        "Same noise, less work",
        "Both began with the same noise. The pruned one did less [[work]]. The number below the"
        " picture, [[PSNR]], says how far it moved.",
        "Flip between the whole and the pruned network.",
    ),
    Step(
        "push",
        "Push until it breaks",
        "Pruning has an end. Now the same share goes in all three stages. Taking fewer steps saves"
        " work too, and on a small model it often keeps better pictures: 3 Compare tells.",
        "Remove more, until the picture falls apart.",
    ),
)


def marked(text: str) -> str:
    """Return a text as HTML in which each marked word is a button that tells its meaning.

    Raises KeyError for a word without a meaning.
    """
    parts, at = [], 0
    for found in MARK.finditer(text):
        word, key = found[1], found[2] or found[1]
        meaning = escape(MEANINGS[key], quote=True)
        parts.append(escape(text[at : found.start()]))
        parts.append(
            f'<button type="button" class="tour-word" data-meaning="{meaning}"'
            f' aria-label="{escape(word, quote=True)}: {meaning}">{escape(word)}</button>'
        )
        at = found.end()
    return "".join([*parts, escape(text[at:])])
