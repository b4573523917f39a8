"""Write a comparison as the command line that makes it again."""

from __future__ import annotations

import shlex
from typing import Any

from ..curves.plan import StagePlan
from ..errors import StudioError
from .recipe import Recipe, in_turn

DENSE = "dense"  # what the command line calls the whole model in the place of a plan
LINE = " \\\n  "  # between two options


def as_command(recipe: Recipe) -> str:
    """Return the command line of a comparison, for a POSIX shell in the folder of `app.py`.

    Every setting stands in it, the plans as JSON, so it needs no file. `python app.py compare`
    prints the same JSON as `Comparison.to_json`. Raises StudioError for a calibration or a prompt
    that the options cannot say.
    """
    options = [*_model(recipe), *_calibration(recipe), *_sides(recipe), *_shared(recipe), "--json"]
    if any("\0" in text or not _encodable(text) for text in options):
        raise StudioError(
            "A prompt or a path holds a character that no command line can carry: take the Python"
            " program."
        )
    return LINE.join(["python app.py compare", *map(shlex.quote, options)]) + "\n"


def _model(recipe: Recipe) -> list[str]:
    """Return the options of what is loaded."""
    return [
        f"--model={recipe.model}",
        *([f"--revision={recipe.revision}"] if recipe.revision is not None else []),
        f"--device={recipe.device}",
        f"--dtype={recipe.dtype}",
    ]


def _sides(recipe: Recipe) -> list[str]:
    """Return the options of what A and B run."""
    a, b = recipe.plans
    own = recipe.settings.side_steps
    return [
        *([] if a is None else [f"--against={a.dumps_short()}"]),
        f"--plan={_plan(b)}",
        f"--steps={recipe.settings.steps}",
        *([] if own is None else [f"--side-steps={own[0]},{own[1]}"]),
    ]


def _plan(plan: StagePlan | None) -> str:
    return DENSE if plan is None else plan.dumps_short()


def _shared(recipe: Recipe) -> list[str]:
    """Return the options of what both sides share."""
    s = recipe.settings
    options = [f"--images={s.n}"]
    if s.prompts:
        options += [f"--prompt={prompt}" for prompt in in_turn(s.prompts)]
        options += [f"--negative={s.negative}"] if s.negative else []
    elif s.labels != tuple(recipe.classes[i % len(recipe.classes)] for i in range(s.n)):
        options.append(f"--classes={','.join(map(str, in_turn(s.labels)))}")
    if s.size is not None:
        options.append(f"--size={s.size[0]}x{s.size[1]}")
    options += [f"--seed={s.seed}", f"--guidance={s.guidance!r}", f"--scheduler={s.scheduler}"]
    options += [f"--repeats={s.repeats}", f"--mode={s.mode}"]
    options += [] if s.tabulate else ["--no-adaln-table"]
    options += [] if s.dtype is None else [f"--precision={s.dtype}"]
    return options


# ------------------------------------------------------------ calibration


def _calibration(recipe: Recipe) -> list[str]:
    """Return the options of the calibration, none for the usual one. Raises StudioError."""
    given = recipe.calibration_changes
    options: dict[str, Any] = {}
    if "edges" in given:
        options["bins"] = _bins(recipe, given.pop("edges"))
    images, held_out = recipe.calibration.images, recipe.calibration.held_out
    if "images" in given or "held_out" in given:
        if held_out != max(2, images // 3) or images < 4:
            raise _unsaid("how many images are held out")
        options["images-per-bin"] = images
    for field, option in (
        ("token_cap", "tokens-per-column"),
        ("damping", "damping"),
        ("weighting", "weigh"),
        ("guidance", "calibration-guidance"),
    ):
        if field in given:
            options[option] = given[field]
    if "seed" in given:
        raise _unsaid("its seed")
    if "guidance" in given and recipe.calibration.weighting == "even":
        raise _unsaid("its guidance")
    return [f"--{option}={value}" for option, value in options.items()] + _data(recipe, options)


def _data(recipe: Recipe, options: dict[str, Any]) -> list[str]:
    """Return the options of the calibration data; options: what is said before."""
    given = recipe.data_changes
    guidance, weighed = given.get("guidance"), options.get("calibration-guidance")
    if "seed" in given:
        raise _unsaid("the seed of its data")
    if weighed is not None and guidance != weighed:  # one option says both
        raise _unsaid("the two guidances")
    said = {
        "calibration-images": given.get("images"),
        "calibration-count": given.get("count"),
        "calibration-steps": given.get("steps"),
        "calibration-guidance": guidance if weighed is None else None,
    }
    found = [f"--{option}={value}" for option, value in said.items() if value is not None]
    return [*(["--self-calibrate"] if given.get("self_calibrate") else []), *found]


def _bins(recipe: Recipe, edges: tuple[int, ...]) -> int:
    """Return how many bins of equal width have these edges. Raises StudioError for other ones."""
    count, total = len(edges) - 1, recipe.timesteps
    if edges != tuple(round(i * total / count) for i in range(count + 1)):
        raise _unsaid("the edges of its bins")
    return count


def _unsaid(what: str) -> StudioError:
    """Return the refusal of a calibration that only Python can ask for."""
    return StudioError(
        f"No option of the command line says {what} of this model's calibration: take the Python"
        " program."
    )


def _encodable(text: str) -> bool:
    """Say whether a text is valid Unicode, without half characters."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
