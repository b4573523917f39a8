"""Name the buttons that mend what core refuses."""

from __future__ import annotations

from core.errors import NotCalibrated, NotTimed, Unmet, with_remedies

REMEDIES: dict[type[Unmet], str] = {
    NotCalibrated: "press Calibrate",
    NotTimed: "press Measure this device's speed",
}


def page_sentence(error: BaseException) -> str:
    """Return the sentence of an error as the page shows it, with the button to press."""
    return with_remedies(error, REMEDIES)
