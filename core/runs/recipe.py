"""Say how a comparison is made again: everything that its numbers follow from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..calibration.data import DataOptions
from ..calibration.settings import CalibrationSettings
from ..curves.plan import StagePlan
from ..errors import StudioError
from ..models.bundled import bundled_name
from ..models.devices import DTYPES
from ..workshop.comparison import Comparison
from ..workshop.sample_settings import SampleSettings
from ..workshop.workshop import Workshop
from .run import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """What a model is opened with, what both sides run, and what they share."""

    model: str  # the name of a bundled model, a folder, or a hub id
    revision: str | None  # of a hub id
    device: str
    dtype: str  # that the model is loaded in, a name of core.models.devices.DTYPES
    timesteps: int  # of the model's noise schedule
    own_guidance: float  # that the model is sampled with where none is asked for
    classes: tuple[int, ...]  # of the model; none for one that is asked in words
    calibration: CalibrationSettings  # on the model's noise schedule
    data: DataOptions  # where calibration latents come from
    plans: tuple[StagePlan | None, StagePlan | None]  # of A and B; None: dense
    settings: SampleSettings
    hidden_images: str | None = None  # a name in the place of the path of calibration pictures

    @property
    def calibration_changes(self) -> dict[str, Any]:
        """Return the calibration settings that are not the default ones, by name."""
        usual = CalibrationSettings().on(self.timesteps)
        return changes(self.calibration, replace(usual, guidance=self.own_guidance))

    @property
    def data_changes(self) -> dict[str, Any]:
        """Return the options of the calibration data that are not the default ones, by name."""
        found = changes(self.data, DataOptions())
        if "images" in found:
            found["images"] = self.hidden_images or str(Path(found["images"]).absolute())
        return found


def changes(one: Any, usual: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from those of another of its kind, by name."""
    return {
        field.name: getattr(one, field.name)
        for field in fields(one)
        if getattr(one, field.name) != getattr(usual, field.name)
    }


def recipe(
    workshop: Workshop,
    plans: tuple[StagePlan | None, StagePlan | None],
    settings: SampleSettings,
) -> Recipe:
    """Return how a comparison of this workshop's model is made again.

    The calibration is the workshop's present one: no run keeps which one it was made by.
    """
    folder = workshop.checkpoint.folder
    name = workshop.name  # the id of a model from a hub
    if folder is not None:
        name = bundled_name(folder) or str(folder.resolve())
    return Recipe(
        model=name,
        revision=workshop.checkpoint.revision,
        device=str(workshop.device),
        dtype=next(word for word, dtype in DTYPES.items() if dtype == workshop.dtype),
        timesteps=len(workshop.schedule),
        own_guidance=workshop.guidance,
        classes=tuple(workshop.class_names),
        calibration=workshop.settings,
        data=workshop.data_options,
        plans=plans,
        settings=settings,
    )


def recipe_of(comparison: Comparison, workshop: Workshop) -> Recipe:
    """Return how a comparison is made again."""
    return recipe(workshop, (comparison.a.plan, comparison.b.plan), comparison.settings)


def recipe_of_run(run: Run, settings: SampleSettings, workshop: Workshop) -> Recipe:
    """Return how a kept run is made again; settings: `RunStore.settings`.

    Raises StudioError for a run of another model, PlanError for a plan of a newer version.
    """
    if run.model_key != workshop.model_key:
        raise StudioError(
            f"This run is of {run.model}, and this page is of {workshop.name}: choose the run's"
            " model in the menu first."
        )
    return recipe(workshop, (run.a.plan, run.b.plan), settings)


def in_turn(values: Sequence[T]) -> list[T]:
    """Return the shortest beginning that, taken again and again, gives all values."""
    for length in range(1, len(values)):
        if all(value == values[i % length] for i, value in enumerate(values)):
            return list(values[:length])
    return list(values)
