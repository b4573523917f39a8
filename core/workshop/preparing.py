"""Capture or compile what two sides will run, before it is timed, and say what that took."""

from __future__ import annotations

from ..errors import Stopped
from ..mosaic.modes import PLAIN, WORDS
from ..mosaic.transformer import MosaicTransformer
from .paired_runs import Pair


def prepare(pair: Pair) -> None:
    """Capture or compile what both sides will run, for every size of batch.

    Raises Stopped, StudioError.
    """
    n, guidance = len(pair.noise), pair.settings.guidance
    for size in {min(n, pair.batch), n % pair.batch or min(n, pair.batch)}:
        for side in pair.sides:
            if pair.stopped:
                raise Stopped("Stopped while preparing, before anything was drawn.")
            side.prepare(pair.noise[:size], pair.conditions.rows(slice(size)), guidance)


def seconds_prepared(models: list[MosaicTransformer]) -> float:
    """Return the seconds that capturing and compiling of these networks took so far."""
    return sum({id(m.preparation): m.preparation.seconds for m in models}.values())


def mode_note(pair: Pair) -> str:
    """Return the sentences on the mode that both sides ran in, and what preparing it took."""
    models = [side.model for side in pair.sides]
    if models[0].mode == PLAIN:
        return ""
    what = "everything was prepared before"
    if pair.prepared:
        what = f"preparing that took {pair.prepared:.1f} s, which no measured time contains"
    size = sum({id(m.preparation): m.preparation.bytes for m in models}.values())
    if size:
        what += f", and graphs hold {size / 1e9:.2f} GB"
    notes = [f"Both sides ran {WORDS[models[0].mode]}; {what}."]
    return " ".join(dict.fromkeys([*notes, *(n for m in models for n in m.preparation.notes)]))
