"""A pasted command line and a pasted program make a comparison again, number for number."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.calibration.data import DataOptions
from core.calibration.settings import CalibrationSettings
from core.cli_options import parser
from core.curves.plan import StagePlan
from core.errors import StudioError
from core.runs.command import as_command
from core.runs.program import as_python
from core.runs.recipe import Recipe, in_turn, recipe_of, recipe_of_run
from core.runs.store import RunStore
from core.workshop.compare import compare
from core.workshop.comparison import Comparison, SampleSettings
from core.workshop.workshop import get_workshop

ROOT = Path(__file__).resolve().parents[1]
# a name that a shell, JSON and Python would each trip over
PLAN = StagePlan((93, 550), (0.4, 0.1, 0.5), name='it\'s "$HOME" `x` \\ ü\n', scope="run")
OTHER = StagePlan((100, 400), (0.2, 0.1, 0.3))
SETTINGS = SampleSettings(labels=(3, 1, 3, 1), steps=6, guidance=1.7, seed=5, repeats=1)


@pytest.fixture(scope="module")
def opened(model_folder, tmp_path_factory):
    """Return a workshop whose calibration the command line can ask for, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        edges = (0, 250, 500, 750, 1000)
        settings = CalibrationSettings(edges=edges, images=24, held_out=8, damping=0.01)
        yield get_workshop(str(model_folder), "cpu", dtype="float32", settings=settings)


@pytest.fixture(scope="module")
def made(opened) -> Comparison:
    """Return a comparison of every setting that is not the usual one."""
    settings = replace(SETTINGS, side_steps=(6, 4), scheduler="Euler", tabulate=True)
    *_, found = compare(opened, OTHER, PLAN, settings, previews=False)
    assert isinstance(found, Comparison)
    return found


def pasted(text: str, tmp_path: Path, interpreter: str) -> str:
    """Run a text in a fresh shell or Python, in the checkout; return what it printed."""
    (tmp_path / "python").symlink_to(sys.executable)
    paths = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [interpreter],
        input=text,
        cwd=ROOT,
        env=paths | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_command_line_runs_as_pasted_and_finds_the_same_numbers(opened, made, tmp_path):
    found = json.loads(pasted(as_command(recipe_of(made, opened)), tmp_path, "bash"))
    own = made.to_json()
    for key in ("psnr", "ssim", "latent_mse", "n", "steps", "side_steps", "seed", "guidance"):
        assert found[key] == own[key], key
    for side in ("dense", "mosaic"):
        assert found[side]["macs"] == own[side]["macs"] and found[side]["plan"] == own[side]["plan"]
    assert found["mosaic"]["name"] == PLAN.name and found["tabulated"]


def test_the_program_runs_as_pasted_and_finds_the_same_numbers(opened, made, tmp_path):
    said = pasted(as_python(recipe_of(made, opened)), tmp_path, sys.executable)
    assert f"latent MSE {made.latent_mse}\n" in said and made.distance in said
    assert f"MACs of A and of B {made.a.macs} {made.b.macs}\n" in said


# ------------------------------------------------------------ every setting, without a process


def read_back(recipe: Recipe):
    """Return what the command line makes of a recipe's own command line."""
    words = shlex.split(as_command(recipe).replace("\\\n", ""))
    assert words[:3] == ["python", "app.py", "compare"]
    return parser().parse_args(words[2:])


def executed(text: str) -> dict:
    """Return the names of a program that has asked for no model and sampled nothing."""
    code = re.sub(r"workshop = get_workshop\(", "workshop = dict(model=", text).split("\n*_")[0]
    names: dict = {}
    exec(code, names)
    return names


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": (0, 1, 2, 3, 4), "guidance": 1.0},
        {"labels": (7,) * 12, "dtype": "bfloat16", "mode": "compiled", "repeats": 0},
        {"labels": (), "prompts": ("--a fox's", "two\nlines"), "negative": "-ü", "size": (64, 128)},
        {"labels": (5, 5, 6), "side_steps": (6, 3), "seed": 2**32 - 1, "guidance": 0.1 + 0.2},
    ],
    ids=["in turn", "one class", "words", "period"],
)
def test_command_and_program_say_every_setting(opened, changes):
    settings = replace(SETTINGS, **changes)
    one = replace(recipe_of_settings(opened, settings), plans=(None, None))
    args = read_back(one)
    assert (args.plan, args.against, args.json) == ("dense", None, True)
    assert (args.seed, args.guidance, args.images) == (settings.seed, settings.guidance, settings.n)
    assert (args.precision, args.mode) == (settings.dtype, settings.mode)
    assert (args.prompt or []) == list(dict.fromkeys(settings.prompts))
    assert executed(as_python(one))["settings"] == settings


def recipe_of_settings(workshop, settings: SampleSettings) -> Recipe:
    from core.runs.recipe import recipe

    return recipe(workshop, (None, PLAN), settings)


def test_plans_come_back_as_they_were(opened):
    one = replace(recipe_of_settings(opened, SETTINGS), plans=(PLAN, OTHER))
    args, names = read_back(one), executed(as_python(one))
    assert StagePlan.from_json(args.against) == names["plan_a"] == PLAN
    assert StagePlan.from_json(args.plan) == names["plan_b"] == OTHER


def test_a_bundled_model_goes_by_its_name_and_a_usual_calibration_is_not_said():
    one = recipe_of_settings(get_workshop("fashion-dit", "cpu"), SETTINGS)
    assert one.model == "fashion-dit" and "bins" not in as_command(one)
    assert "CalibrationSettings" not in as_python(one) and "DataOptions" not in as_python(one)


@pytest.mark.parametrize(
    "calibration, data, option",
    [
        ({"images": 30, "held_out": 10}, {}, ("images_per_bin", 30)),
        ({"token_cap": 5}, {}, ("tokens_per_column", 5)),
        ({"weighting": "gate"}, {}, ("weigh", "gate")),
        ({}, {"count": 9, "self_calibrate": True}, ("calibration_count", 9)),
        ({"weighting": "guidance", "guidance": 3.0}, {"guidance": 3.0}, ("weigh", "guidance")),
        ({}, {"guidance": 2.0, "self_calibrate": True}, ("calibration_guidance", 2.0)),
    ],
)
def test_the_calibration_is_said_too(opened, calibration, data, option):
    from core.cli.settings import calibration_settings, data_options

    one = recipe_of_settings(opened, SETTINGS)
    one = replace(
        one, calibration=replace(one.calibration, **calibration), data=DataOptions(**data)
    )
    args, names = read_back(one), executed(as_python(one))["workshop"]
    assert getattr(args, option[0]) == option[1]
    own = calibration_settings(args).on(one.timesteps)
    if own.guidance is None:
        own = replace(own, guidance=one.own_guidance)
    assert own == one.calibration and data_options(args) == one.data
    assert names.get("data", DataOptions()) == one.data
    assert replace(names["settings"], guidance=one.calibration.guidance) == one.calibration


@pytest.mark.parametrize(
    "calibration, data, words",
    [
        ({"held_out": 9}, {}, "held out"),
        ({"edges": (0, 100, 1000)}, {}, "edges of its bins"),
        ({"seed": 1}, {}, "seed"),
        ({}, {"seed": 1}, "seed of its data"),
        ({"weighting": "guidance", "guidance": 3.0}, {}, "two guidances"),
    ],
)
def test_a_calibration_that_no_option_says_is_refused_and_python_says_it(
    opened, calibration, data, words
):
    one = recipe_of_settings(opened, SETTINGS)
    one = replace(
        one, calibration=replace(one.calibration, **calibration), data=DataOptions(**data)
    )
    with pytest.raises(StudioError, match=f"{words}.*take the Python program"):
        as_command(one)
    assert executed(as_python(one))["workshop"]["settings"] is not None


@pytest.mark.parametrize("prompt", ["a\0b", "\ud800"])
def test_what_no_shell_carries_is_refused_and_python_says_it(opened, prompt):
    settings = replace(SETTINGS, labels=(), prompts=(prompt,))
    one = recipe_of_settings(opened, settings)
    with pytest.raises(StudioError, match="no command line can carry"):
        as_command(one)
    assert executed(as_python(one))["settings"] == settings


def test_a_kept_run_has_the_recipe_of_its_comparison(opened, made, tmp_path):
    store = RunStore(tmp_path)
    run = store.add(made, opened.model_key)
    assert recipe_of_run(run, store.settings(run.id), opened) == recipe_of(made, opened)
    with pytest.raises(StudioError, match="choose the run's model"):
        recipe_of_run(replace(run, model_key="other"), store.settings(run.id), opened)


def test_what_is_taken_in_turn_is_said_once():
    assert in_turn((1, 2, 1, 2, 1)) == [1, 2] and in_turn((4,)) == [4]
    assert in_turn((1, 1, 2)) == [1, 1, 2] and in_turn(()) == []
