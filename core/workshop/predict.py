"""What a plan costs and loses, before anything runs: MACs, seconds on this device, layer errors;
all of it arithmetic.

`predict` answers from per-bin curves in milliseconds, or exactly from the stage's own Grams.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ..allocation.allocate import Allocation
from ..allocation.of_plan import share
from ..cache import fingerprint
from ..calibration.measure import GramBank
from ..curves.plan import STAGES, StagePlan
from ..errors import PlanError, StudioError
from ..models.layers import PrunableLayer, find_layers, removed_groups
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..pruning.cuts import Cut
from ..sampling.layer_times import LayerTimes, measure_layers
from ..sampling.timing import LatencyTable, forward_call, measure_alternating, model_macs
from .prediction import Prediction, StagePrediction

LATENCY_SPARSITIES = (0.7, 0.45, 0.2, 0.0)
SHARINGS_KEPT = 64
LATENCY_SECONDS = 40.0  # more is not worth waiting for
USUAL_IMAGES = 16
# of the batch that times are for by default: a second or a few for one forward
BATCH_MACS = {"cpu": 3.2e11, "cuda": 16e12}


def usual_images(device: torch.device, macs: float) -> int:
    """Images that predicted times are for: 16, or fewer where one forward of 16, of `macs` each,
    would take minutes.
    """
    return int(max(1, min(USUAL_IMAGES, BATCH_MACS.get(device.type, BATCH_MACS["cpu"]) // macs)))


class Pricing:
    """The part of a `Workshop` that prices plans. Not used alone: it reads the workshop's model,
    layers, bank and orders.
    """

    layers: list[PrunableLayer]
    _bank: GramBank
    _priced: dict  # latent shape -> (layers, MACs, attention MACs)
    _shared: dict  # plan -> Allocation
    _layer_times: LayerTimes | None
    _latency: dict  # (rows, latent shape) -> LatencyTable

    @cached_property
    def forward_macs(self) -> tuple[int, int]:
        """MACs of one dense forward of one image: (linear and convolution, attention products
        counted by formula).
        """
        return self._macs_at(self.latent_shape)[1:]

    def _macs_at(self, shape: tuple[int, int, int]) -> tuple[list[PrunableLayer], int, int]:
        """(layers as they cost at latents of this shape, linear and convolution MACs, attention
        MACs) of one dense forward of one image.
        """
        if shape not in self._priced:
            layers = (
                self.layers if shape == self.latent_shape else find_layers(self.transformer, shape)
            )
            attention = sum(x.attention_macs_per_group * x.groups for x in layers)
            self._priced[shape] = (layers, model_macs(self.dense.full, shape)[0], attention)
        return self._priced[shape]

    def removed(self, sparsity: float) -> list[int]:
        """Groups each layer loses at one sparsity for all, in `layers` order."""
        return removed_groups(self.layers, sparsity)

    def widths(self, plan: StagePlan) -> list[list[int]]:
        """Groups each layer loses in each stage: (3 stages in STAGES order, layers)."""
        if plan.plain or not any(
            plan.sparsity
        ):  # of nothing there is nothing to share, whatever is known of the layers
            return [self.removed(s) for s in plan.sparsity]
        return [list(row) for row in self.sharing(plan).removed]

    def sharing(self, plan: StagePlan) -> Allocation:
        """How a plan's sparsities are shared over layers and stages.

        Raises StudioError before a calibration, which the error curves come from, and for costs in
        time before the layers were timed.
        """
        orders, costs = self.orders, None
        if plan.costs == "latency":
            costs = self.layer_times
            if costs is None:
                raise StudioError(
                    f"This plan shares out time, and the layers of {self.name} were not timed here:"
                    " press Measure this device's speed."
                )
        key = (orders.digest, costs and costs.digest, replace(plan, name=""))
        found = self._shared.get(key)  # looked up once: another thread may drop it in between
        if found is None:
            found = share(self.layers, orders, self._bank, plan, costs)
            with self.lock:
                while len(self._shared) >= SHARINGS_KEPT:
                    self._shared.pop(next(iter(self._shared)))
                self._shared[key] = found
        return found

    def row_macs(
        self, removed: list[int] | float, shape: tuple[int, int, int] | None = None
    ) -> float:
        """Linear and convolution MACs of one forward of one row that lost these groups (or this
        sparsity).
        """
        layers, dense, _ = self._macs_at(shape or self.latent_shape)
        removed = removed if isinstance(removed, list) else self.removed(removed)
        return dense - sum(
            layer.macs_per_group * r for layer, r in zip(layers, removed, strict=True)
        )

    def stage_macs(
        self, plan: StagePlan | None, shape: tuple[int, int, int] | None = None
    ) -> list[float]:
        """`row_macs` of the late, middle and early stage and, last (so at index -1 as `stage_of`
        says it), of the dense model.
        """
        dense = float(self._macs_at(shape or self.latent_shape)[1])
        return (
            [*(self.row_macs(w, shape) for w in self.widths(plan)), dense]
            if plan is not None
            else [dense] * 4
        )

    def predict(
        self,
        plan: StagePlan,
        timesteps: list[float],
        batch: int = 16,
        exact: bool = False,
        halves: int = 2,
        shape: tuple[int, int, int] | None = None,
    ) -> Prediction:
        """Cost and error of a plan over these sampling timesteps. `exact` reads the stage's Grams
        (needs calibration).
        """
        self._check(plan)
        counts, widths = plan.steps_per_stage(timesteps), self.widths(plan)
        seconds_of = self._seconds_of(plan, batch * halves, shape)
        *stage_macs, dense = self.stage_macs(plan, shape)
        stages = []
        weights = sum(x.weights_per_group * x.groups for x in self.layers)
        for i, (stage, sparsity, macs) in enumerate(
            zip(STAGES, plan.sparsity, stage_macs, strict=True)
        ):
            steps = counts[stage]
            error, held_out = (
                self.exact_error(plan, i) if exact else (self._estimated_error(plan, i), None)
            )
            gone = sum(x.weights_per_group * r for x, r in zip(self.layers, widths[i], strict=True))
            stages.append(
                StagePrediction(
                    stage,
                    steps,
                    sparsity,
                    gone / weights,
                    macs * halves * steps,
                    dense * halves * steps,
                    seconds_of and seconds_of(macs, widths[i]) * steps,
                    seconds_of and seconds_of(dense, None) * steps,
                    error,
                    held_out,
                )
            )
        return Prediction(tuple(stages), batch, exact)

    def _seconds_of(
        self, plan: StagePlan, rows: int, shape: tuple[int, int, int] | None
    ) -> Callable[[float, list[int] | None], float] | None:
        """(MACs, groups removed from each layer) -> seconds of one forward, where this device was
        measured: by MACs, or layer by layer.

        What single layers save, timed apart, is not what they save in a whole forward; it is scaled
        by what equal shares save in either way.
        """
        table, times = (
            self.latency(rows, shape),
            self.layer_times if plan.costs == "latency" and not plan.plain else None,
        )
        if (
            table is None
            or times is None
            or times.rows != rows
            or shape not in (None, self.latent_shape)
        ):
            return table and (lambda macs, removed: table.at(macs))
        dense, equal = table.seconds[-1], [self.removed(s) for s in plan.sparsity]
        whole, parts = (
            sum(f(row) for row in equal)
            for f in (
                lambda row: dense - table.at(self.row_macs(row)),
                lambda row: times.saved(self.layers, row),
            )
        )
        # so that equal shares take what the table of whole forwards says
        scale = whole / parts if whole > 0 and parts > 0 else 1.0
        return lambda macs, removed: (
            dense
            if removed is None
            else max(1e-9, dense - scale * times.saved(self.layers, removed))
        )

    def _estimated_error(self, plan: StagePlan, stage: int) -> float | None:
        try:
            orders = self.orders
        except StudioError:
            return None
        if plan.method != "obs":
            return None  # the curves are those of compensated pruning
        return orders.estimate(
            self._bank.overlap(*self._range(plan, stage)), self.widths(plan)[stage]
        )

    def exact_error(self, plan: StagePlan, stage: int) -> tuple[float, float]:
        """Mean relative layer error of one stage on calibration and on held-out tokens, from the
        stage's own Grams.
        """
        errors = [
            self._layer_errors(plan, i, stage, gone)
            for i, gone in enumerate(self.widths(plan)[stage])
        ]
        return tuple(float(x) for x in np.mean(errors, axis=0))

    def _layer_errors(
        self, plan: StagePlan, layer: int, stage: int, gone: int
    ) -> tuple[float, float]:
        if gone and not self.calibrated:
            raise StudioError(
                "This model has not been calibrated on this machine yet: press Calibrate."
            )
        return self.surgeon.errors(layer, *self._range(plan, stage), gone, plan.method)

    def _check(self, plan: StagePlan) -> None:
        if plan.num_train_timesteps != len(self.schedule):
            raise PlanError(
                f"The plan counts {plan.num_train_timesteps} training timesteps, {self.name} has"
                f" {len(self.schedule)}: make a plan for this model."
            )

    def _range(self, plan: StagePlan, stage: int) -> tuple[float, float]:
        return (
            plan.stage_range(stage)
            if plan.calibration == "stage"
            else (0, plan.num_train_timesteps)
        )

    # ------------------------------------------------------------ tables and pictures

    def layer_table(self, plan: StagePlan, exact: bool = False) -> list[dict]:
        """Dense against pruned, one row per layer and stage; `error` only with `exact` (needs
        calibration).
        """
        rows, widths = [], self.widths(plan)
        for stage, name in enumerate(STAGES):
            removed = widths[stage]
            for i, (layer, gone) in enumerate(zip(self.layers, removed, strict=True)):
                fit, held = self._layer_errors(plan, i, stage, gone) if exact else (None, None)
                kept = layer.groups - gone
                rows.append(
                    {
                        "stage": name,
                        "block": layer.block + 1,
                        "layer": layer.name,
                        "kind": layer.kind,
                        "kept": kept,
                        "of": layer.groups,
                        "params_dense": layer.groups * layer.weights_per_group,
                        "params_pruned": kept * layer.weights_per_group,
                        "macs_dense": layer.groups * layer.macs_per_group,
                        "macs_pruned": kept * layer.macs_per_group,
                        "error": fit,
                        "error_held_out": held,
                    }
                )
        return rows

    def kept_share(self, plan: StagePlan) -> np.ndarray:
        """Share of each block's prunable weights that runs: (3 stages, blocks)."""
        total, kept, widths = np.zeros(self.blocks), np.zeros((3, self.blocks)), self.widths(plan)
        for layer in self.layers:
            total[layer.block] += layer.groups * layer.weights_per_group
        for stage in range(3):
            for layer, gone in zip(self.layers, widths[stage], strict=True):
                kept[stage, layer.block] += (layer.groups - gone) * layer.weights_per_group
        return kept / total

    # ------------------------------------------------------------ this device

    def _latency_path(self, rows: int, shape: tuple[int, int, int] | None = None) -> Path:
        other = [] if shape in (None, self.latent_shape) else [list(shape)]
        name = fingerprint(
            [self.device_text, rows, list(LATENCY_SPARSITIES), str(self.dtype), *other]
        )
        return self.folder / f"latency-{name}.json"

    def latency(self, rows: int, shape: tuple[int, int, int] | None = None) -> LatencyTable | None:
        """The device's latency table for a batch of `rows` denoiser rows (latents of the model's
        own shape, or another), if it was measured.
        """
        key = (rows, shape or self.latent_shape)
        if key not in self._latency:
            table = LatencyTable.load(self._latency_path(rows, shape))
            if table is None:
                return None
            self._latency[key] = table
        return self._latency[key]

    def measure_latency(
        self,
        batch: int = 16,
        halves: int = 2,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> LatencyTable:
        """Time forwards of four widths in turn (weights do not matter for time) and keep the
        medians.

        Seven rounds, fewer where a round takes long: about LATENCY_SECONDS in all, at least one
        round after the warm-up.
        """
        rows = batch * halves
        known = self.latency(rows, shape)
        if known is not None:
            return known
        if progress is not None:
            progress(0, 1, "measuring this device's speed at four widths")
        calls, macs = [], []
        for sparsity in LATENCY_SPARSITIES:
            cuts = [
                (
                    Cut(
                        torch.arange(layer.groups - gone),
                        self.surgeon.weight(i)[:, : layer.width - gone * layer.group_size],
                    )
                    if gone
                    else Cut(torch.arange(layer.groups), None)
                )
                for i, (layer, gone) in enumerate(
                    zip(self.layers, self.removed(sparsity), strict=True)
                )
            ]
            model = MosaicTransformer(
                self.transformer, StagePlan((1, 2), (sparsity,) * 3), [cuts] * 3, layers=self.layers
            )
            network = model.network(500) if sparsity else self.dense.network(500)
            calls.append(_inference(forward_call(network, self.transformer, rows, shape)))
            macs.append(float(self.row_macs(sparsity, shape)))
        first = measure_alternating(calls, self.device, repeats=1, warm_up=0, stop=stop)
        rounds = int(LATENCY_SECONDS / max(1e-9, sum(t[0] for t in first)))
        times = (
            first
            if rounds < 2
            else measure_alternating(
                calls, self.device, repeats=min(7, rounds - 1), warm_up=1, stop=stop
            )
        )
        table = LatencyTable(
            self.device_text, rows, tuple(macs), tuple(float(np.median(t)) for t in times)
        )
        try:
            table.save(self._latency_path(rows, shape))
        except OSError:
            pass  # a full disk costs only the next start a second of measuring
        self._latency[rows, shape or self.latent_shape] = table
        return table

    @property
    def layer_times(self) -> LayerTimes | None:
        """Times of single layers on this device, if they were measured."""
        if self._layer_times is None:
            self._layer_times = LayerTimes.load(self._layer_times_path())
        return self._layer_times

    def _layer_times_path(self) -> Path:
        key = fingerprint([self.device_text, 2 * self.usual_images, str(self.dtype)])
        return self.folder / f"layer-times-{key}.json"

    @property
    def usual_images(self) -> int:
        """Images that this model's times are for where nobody asks for a number."""
        return usual_images(self.device, self.forward_macs[0])

    def measure_layers(
        self, progress: Progress | None = None, stop: threading.Event | None = None
    ) -> LayerTimes:
        """Time single layers at several widths, at the usual batch with guidance, once per device.
        Raises Stopped.
        """
        if self.layer_times is None:
            found = measure_layers(
                self.transformer,
                self.layers,
                2 * self.usual_images,
                self.device_text,
                progress,
                stop,
            )
            try:
                found.save(self._layer_times_path())
            except OSError:
                pass  # as above
            self._layer_times = found
        return self._layer_times


def _inference(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            call()

    return run
