"""Errors name parameters in Python's words, and options on the command line."""

from __future__ import annotations

import pytest

from core.calibration.data import DataOptions
from core.errors import ParameterError, StudioError
from core.models.families import FAMILIES
from core.models.weights import no_safetensors
from core.output import in_options


@pytest.mark.parametrize(
    ("given", "plain", "typed"),
    [
        (
            dict(count=7),
            "count must lie between 8 and 100000, not 7.",
            "--calibration-count must lie between 8 and 100000, not 7.",
        ),
        (
            dict(steps=0),
            "steps must lie between 1 and 1000, not 0.",
            "--calibration-steps must lie between 1 and 1000, not 0.",
        ),
        (
            dict(guidance=21.0),
            "guidance must be a number from 0 to 20, not 21.0.",
            "--calibration-guidance must be a number from 0 to 20, not 21.0.",
        ),
        (
            dict(images=".", self_calibrate=True),
            "Give images or self_calibrate, not both.",
            "Give --calibration-images or --self-calibrate, not both.",
        ),
        (
            dict(images="no/{such}"),
            "images no/{such} is not a folder.",
            "--calibration-images no/{such} is not a folder.",
        ),
    ],
)
def test_a_parameter_has_its_python_name_and_on_the_command_line_its_option(given, plain, typed):
    with pytest.raises(ParameterError) as caught:
        DataOptions(**given)
    assert str(caught.value) == plain and in_options(caught.value) == typed


def test_the_revision_to_try_is_an_option_on_the_command_line_only():
    error = no_safetensors("some/model")
    assert str(error).endswith("try revision refs/pr/1.")
    assert in_options(error).endswith("try --revision refs/pr/1.")
    assert in_options(StudioError("as it {is}")) == "as it {is}"


def test_every_family_answers_the_same_questions():
    first, *others = ({name for name in vars(f) if name[0] != "_"} for f in FAMILIES)
    own = {"check_words", "unconditional"}  # of text models
    assert all(first == other - own for other in others)
