"""Look inside one block of a plan: what each of its layers keeps per stage, and at what error.

Errors are exact, from the removal path of each layer on the stage's own Grams.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..curves.plan import STAGES, StagePlan
from ..errors import StudioError
from ..models.layers import PrunableLayer
from .workshop import Workshop

MOST_LEVELS = 32  # points of an error curve beside the cuts; every head has one


@dataclass(frozen=True)
class LayerStage:
    """What one layer keeps in one stage, and the error of keeping less and less."""

    stage: str
    removed: int  # groups
    kept: tuple[int, ...] | None  # the groups that stay, ascending; None: there is no order yet
    # ||W'X - WX||^2 / ||WX||^2 on calibration tokens at the layer's `levels`; None: not calibrated
    curve: tuple[float, ...] | None
    error: float | None  # the same at `removed`


@dataclass(frozen=True)
class LayerInside:
    """One prunable layer of a block under a plan."""

    place: int  # in `Workshop.layers`
    layer: PrunableLayer
    levels: tuple[int, ...]  # numbers of removed groups, from 0 to all
    stages: tuple[LayerStage, ...]  # in STAGES order

    @property
    def cut(self) -> bool:
        """Say whether a stage removes anything of this layer."""
        return any(stage.removed for stage in self.stages)


def layers_of_block(workshop: Workshop, block: int) -> list[int]:
    """Return the places, in `Workshop.layers`, of the prunable layers of a block, from 0.

    Raises StudioError for a block that is not there.
    """
    if isinstance(block, bool) or not isinstance(block, int) or not 0 <= block < workshop.blocks:
        raise StudioError(f"{workshop.name} has blocks 1 to {workshop.blocks}.")
    return [i for i, layer in enumerate(workshop.layers) if layer.block == block]


def inside(
    workshop: Workshop, plan: StagePlan, block: int, exact: bool = True
) -> list[LayerInside]:
    """Return what a plan leaves of each prunable layer of a block, from 0.

    exact: work out the error curves, which needs a calibration; without one they are None. Raises
    StudioError for a block that is not there, and as `Workshop.widths` does.
    """
    predictor = workshop.predictor  # one for all questions: a calibration may replace it meanwhile
    pruner, known = predictor.calibration.pruner, predictor.calibration.complete
    widths = predictor.widths(plan)
    found = []
    for i in layers_of_block(workshop, block):
        removed = [row[i] for row in widths]
        levels = curve_levels(workshop.layers[i], removed)
        stages = []
        for stage, lost in enumerate(removed):
            kept = curve = error = None
            if plan.method == "magnitude" or pruner.known_orders is not None:
                kept = tuple(pruner.kept(i, lost, plan.method).tolist())
            if exact and known:
                low, high = predictor.calibrated_range(plan, stage)
                curve = tuple(pruner.error_curve(i, low, high, levels, plan.method))
                error = curve[levels.index(lost)]
            stages.append(LayerStage(STAGES[stage], lost, kept, curve, error))
        found.append(LayerInside(i, workshop.layers[i], levels, tuple(stages)))
    return found


def curve_levels(layer: PrunableLayer, cuts: list[int]) -> tuple[int, ...]:
    """Return the numbers of removed groups at which a curve is drawn: even steps, cuts, all."""
    stride = -(-layer.groups // (MOST_LEVELS * layer.step)) * layer.step
    return tuple(sorted({*range(0, layer.groups, stride), *cuts, layer.groups}))
