"""What core refuses is a fact; the page names a button and the command line names options."""

from __future__ import annotations

import pytest

from core.cli_options import command_sentence
from core.errors import LatentsShipped, NotCalibrated, NotTimed, StudioError
from mosaic_ui.remedies import page_sentence


@pytest.mark.parametrize(
    "error, page, command",
    [
        (
            NotCalibrated(),
            "This model has not been calibrated yet: press Calibrate.",
            "This model has not been calibrated yet: calibrate it first.",
        ),
        (
            NotTimed("The layers of it were not timed here"),
            "The layers of it were not timed here: press Measure this device's speed.",
            "The layers of it were not timed here: measure this device's speed first.",
        ),
        (
            LatentsShipped("It ships calibration latents"),
            "It ships calibration latents: ask for its own samples or give pictures to use others.",
            "It ships calibration latents: add --self-calibrate or --calibration-images to use"
            " others.",
        ),
        (StudioError("The plan is wrong."), "The plan is wrong.", "The plan is wrong."),
    ],
)
def test_each_front_end_names_its_own_remedy(error, page, command):
    assert page_sentence(error) == page and command_sentence(error) == command


@pytest.mark.parametrize("kind", [NotCalibrated, NotTimed, LatentsShipped])
def test_core_speaks_of_no_button_and_no_option(kind):
    assert "press" not in str(kind()) and "--" not in str(kind())
