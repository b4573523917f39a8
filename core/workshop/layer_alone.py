"""Measure what the pictures lose when one layer alone is cut, as a plan cuts it.

Everything else is the dense model. A small run, not a benchmark: PICTURES pictures in STEPS steps.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ..curves.plan import StagePlan
from ..errors import StudioError
from ..models.layers import PrunableLayer
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..pruning.cuts import Cut
from .compare import visited
from .small_runs import SAMPLER, STEPS, SmallRun, check_small, mean_decibel, run_small
from .workshop import Workshop


@dataclass(frozen=True)
class LayerLoss:
    """The dense model beside the network with one layer cut: both runs, from the same noise."""

    layer: PrunableLayer
    kept: tuple[int, int, int]  # groups, in STAGES order
    dense: SmallRun
    cut: SmallRun
    seed: int

    @property
    def latent_mse(self) -> float:
        """Return the mean squared difference of the final latents."""
        a, b = self.dense.latents.double(), self.cut.latents.double()
        return float((a - b).square().mean())

    @property
    def psnr(self) -> float | None:
        """Return the mean PSNR (dB) over the pictures that differ; None where none does."""
        return mean_decibel(self.dense.images, self.cut.images)


def with_only(workshop: Workshop, plan: StagePlan, place: int) -> tuple[MosaicTransformer, float]:
    """Return a network with only one layer cut, as the plan cuts it, and its MACs per row.

    place: in `Workshop.layers`. The other layers, and stages that keep all of this one, are those
    of the dense model; guidance and reuse of the plan are left out, as they are no cut. The MACs
    are the mean over the steps of a small run. Raises StudioError for a plan that cuts nothing of
    this layer, NotCalibrated.
    """
    predictor = workshop.predictor
    predictor.check(plan)
    built = predictor.built(plan).cut
    pruner, layer = predictor.calibration.pruner, workshop.layers[place]
    removed = [row[place] for row in predictor.widths(plan)]
    if not any(removed):
        raise StudioError(f"The plan cuts nothing of {layer.name}.")
    whole: list[Cut] = [pruner.cut(i, 0, 1, 0) for i in range(len(workshop.layers))]
    cuts: list[list[Cut] | None] = []
    for stage, lost in enumerate(removed):
        low, high = predictor.calibrated_range(built, stage)
        one = pruner.cut(place, low, high, lost, built.method)
        cuts.append([*whole[:place], one, *whole[place + 1 :]] if lost else None)
    model = MosaicTransformer(workshop.transformer, built, cuts, layers=workshop.layers)
    lost_now = [removed[stage] for stage in built.stages_of(visited(workshop, SAMPLER, STEPS))]
    nothing = [0] * len(workshop.layers)
    rows = [workshop.row_macs([*nothing[:place], lost, *nothing[place + 1 :]]) for lost in lost_now]
    return model, sum(rows) / len(rows)


def layer_loss(
    workshop: Workshop,
    plan: StagePlan,
    place: int,
    seed: int = 0,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> LayerLoss:
    """Sample the dense model and the network of `with_only` from the same noise.

    Raises StudioError (also as `check_small` does), NotCalibrated, Stopped.
    """
    check_small(workshop)

    def report(done: int, text: str) -> None:
        if progress is not None:
            progress(done, 3, text)

    layer = workshop.layers[place]
    report(0, f"cutting {layer.name}")
    model, macs = with_only(workshop, plan, place)
    report(1, "sampling the dense model")
    dense = run_small(workshop, workshop.dense, seed=seed, stop=stop)
    report(2, f"sampling with only {layer.name} cut")
    cut = run_small(workshop, model, macs, seed, stop=stop)
    kept = [model.kept(stage)[place] for stage in range(3)]
    return LayerLoss(layer, (kept[0], kept[1], kept[2]), dense, cut, seed)
