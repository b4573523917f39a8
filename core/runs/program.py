"""Write a comparison as the Python program that makes it again."""

from __future__ import annotations

from typing import Any

from ..curves.plan import StagePlan
from ..workshop.sample_settings import SampleSettings
from .recipe import Recipe, changes, in_turn

HEAD = """# One comparison of MosaicDiff Studio, made again. Run it in the folder of app.py.
# Where only the library is installed, write mosaicdiff for core.
"""
TAIL = """
*_, found = compare(workshop, plan_a, plan_b, settings, previews=False)
print(found.verdict)
print(found.distance)
print("latent MSE", found.latent_mse)
print("MACs of A and of B", found.a.macs, found.b.macs)
"""


def as_python(recipe: Recipe) -> str:
    """Return the Python program of a comparison, by the library alone.

    Every setting stands in it. It prints the two sentences of the result, the latent MSE, and the
    MACs of both sides; `found` is the `Comparison`.
    """
    opening: dict[str, str] = {"device": _text(recipe.device), "dtype": _text(recipe.dtype)}
    if recipe.revision is not None:
        opening["revision"] = _text(recipe.revision)
    lines = ["from core import StagePlan, get_workshop"]
    for field, name, module, given in (
        ("settings", "CalibrationSettings", "calibration.settings", recipe.calibration_changes),
        ("data", "DataOptions", "calibration.data", recipe.data_changes),
    ):
        if given:
            lines.append(f"from core.{module} import {name}")
            opening[field] = _call(name, {key: _text(value) for key, value in given.items()}, 8)
    lines += [
        "from core.workshop.compare import compare",
        "from core.workshop.comparison import SampleSettings",
        "",
        f"workshop = {_call('get_workshop', opening, 4, _text(recipe.model))}",
        *(f"plan_{x} = {_plan(plan)}" for x, plan in zip("ab", recipe.plans, strict=True)),
        f"settings = {_call('SampleSettings', _settings(recipe.settings), 4)}",
    ]
    return HEAD + "\n".join(lines) + TAIL


def _settings(settings: SampleSettings) -> dict[str, str]:
    """Return the arguments of the settings: what differs from the default, and what people vary."""
    given = changes(settings, SampleSettings(labels=(0,)))
    often = ("steps", "guidance", "seed", "scheduler", "repeats")
    found = {name: _text(getattr(settings, name)) for name in often}
    more = {name: _text(value) for name, value in given.items() if name not in found}
    what = "prompts" if settings.prompts else "labels"
    more[what] = _repeated(getattr(settings, what))
    if settings.prompts:
        more.pop("labels", None)
    return {what: more.pop(what), **found, **more}


def _repeated(values: tuple[Any, ...]) -> str:
    """Return the code of a tuple of values that are taken in turn."""
    unit = tuple(in_turn(values))
    times, rest = divmod(len(values), len(unit))
    if times == 1:
        return _text(unit)
    return f"{_text(unit)} * {times}" + (f" + {_text(unit[:rest])}" if rest else "")


def _plan(plan: StagePlan | None) -> str:
    """Return the code of a plan; dense is None."""
    if plan is None:
        return "None  # dense"
    return f"StagePlan.from_json(\n    {_text(plan.dumps_short())}\n)"


def _call(name: str, arguments: dict[str, str], indent: int, first: str = "") -> str:
    """Return the code of a call, an argument per line."""
    lines = [*([first] if first else []), *(f"{key}={value}" for key, value in arguments.items())]
    space = " " * indent
    return f"{name}(\n{''.join(f'{space}{line},{chr(10)}' for line in lines)}{space[4:]})"


def _text(value: object) -> str:
    """Return the code of a plain value, in ASCII."""
    return ascii(value)
