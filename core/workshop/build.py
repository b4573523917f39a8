"""Build the subnetworks of a plan from the cuts of its layers."""

from __future__ import annotations

import threading

from torch import nn

from ..curves.plan import STAGES, StagePlan
from ..errors import Stopped
from ..mosaic.network_cache import NetworkCache, expected_bytes
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..pruning.cuts import Cut
from .predict import PlanPredictor

# timesteps [low, high), groups that each layer loses
Place = tuple[float, float, tuple[int, ...]]


class NetworkBuilder:
    """The networks of one model that follow from one predictor, and a cache of those built last."""

    def __init__(self, transformer: nn.Module, predictor: PlanPredictor, cache: NetworkCache):
        self.transformer, self.predictor, self.cache = transformer, predictor, cache

    def build(
        self,
        plan: StagePlan,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        masked: bool = False,
        measured: bool = False,
    ) -> MosaicTransformer:
        """Return the subnetworks of a plan, from the cache or new. Raises Stopped, StudioError.

        Stages of equal timesteps and widths share one network. The mosaic's plan is the built one:
        it carries the multiple of neurons that the device asked for. Not thread-safe.
        """
        plan = self.predictor.built(plan)
        known = self.cache.find(plan, masked)
        if known is not None:
            return known
        layers, widths = self.predictor.layers, self.predictor.widths(plan)
        places: list[Place] = [
            (*self.predictor.calibrated_range(plan, stage), tuple(widths[stage]))
            for stage in range(3)
        ]
        itemsize = next(self.transformer.parameters()).dtype.itemsize
        different = [removed for _, _, removed in set(places)]
        self.cache.make_room(expected_bytes(layers, different, itemsize))
        cuts: dict[Place, list[Cut] | None] = {}
        for stage, place in enumerate(places):
            if place not in cuts:
                cuts[place] = self._cuts(plan, stage, place, progress, stop, measured)
        mosaic = MosaicTransformer(
            self.transformer, plan, [cuts[place] for place in places], masked, layers
        )
        self.cache.keep(mosaic, plan, masked)
        return mosaic

    def _cuts(
        self,
        plan: StagePlan,
        stage: int,
        place: Place,
        progress: Progress | None,
        stop: threading.Event | None,
        measured: bool,
    ) -> list[Cut] | None:
        """Return one cut per layer, or None for a stage that loses nothing."""
        low, high, removed = place
        if not any(removed):
            return None
        pruner = self.predictor.calibration.pruner
        total, done = 3 * len(removed), 0
        cuts: dict[int, Cut] = {}
        one = 1 if measured else None  # errors come from paths, layer by layer
        for batch in pruner.batches(low, high, removed, plan.method, one):
            if stop is not None and stop.is_set():
                raise Stopped(
                    "Stopped while pruning; the model and the calibration are as they were."
                )
            if progress is not None:
                text = f"pruning the {STAGES[stage]} stage, {self.predictor.layers[batch[0]].name}"
                progress(stage * len(removed) + done, total, text)
            if measured:
                pruner.errors(batch[0], low, high, removed[batch[0]], plan.method)
            found = pruner.cuts(batch, low, high, removed, plan.method)
            cuts.update(zip(batch, found, strict=True))
            done += len(batch)
        return [cuts[i] for i in range(len(removed))]
