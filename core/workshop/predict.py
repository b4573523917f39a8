"""Predict what a plan costs and loses before anything runs: MACs, seconds, layer errors.

All of it is arithmetic: `predict` answers from per-bin curves in milliseconds, or exactly from the
stage's own Grams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..allocation.alignment import aligned, equal_shares, gives_equal_shares
from ..allocation.allocate import Allocation
from ..allocation.of_plan import share
from ..curves.plan import STAGES, StagePlan
from ..errors import NotCalibrated, NotTimed, PlanError, StudioError
from ..guidance import Half, half_of
from ..lru_cache import Recent
from ..models.alignment import width_warnings
from ..mosaic.adaln_table import padded
from ..sampling.layer_times import LayerTimes
from ..sampling.timing import LatencyTable
from .calibration import Calibration
from .device_times import DeviceTimes, usual_images
from .model_macs import ModelMacs, Shape
from .prediction import Prediction, StagePrediction, StepWork, TableLabels

__all__ = ["PlanPredictor", "usual_images"]

ALLOCATIONS_KEPT = 64

# groups that each layer loses, or None for the dense model -> seconds of one forward
SecondsOf = Callable[[list[int] | None], float]


class PlanPredictor:
    """Predictions for the plans of one model, from one calibration and this device's times.

    name: of the model, for error sentences.
    timesteps: training timesteps of the model's noise schedule.
    device: kind of device that networks are built for ("cuda"); None: the one that is timed.
    Thread-safe. A new calibration takes a new predictor.
    """

    def __init__(
        self,
        name: str,
        timesteps: int,
        macs: ModelMacs,
        calibration: Calibration,
        times: DeviceTimes,
        device: str | None = None,
    ):
        self.name, self.timesteps = name, timesteps
        self.macs, self.calibration, self.times = macs, calibration, times
        self.layers = macs.layers
        self.device = times.device.type if device is None else device
        # (digest of the layer times, plan without its name) -> allocation
        self._allocations: Recent[tuple[str | None, StagePlan], Allocation] = Recent()
        self._equal: Recent[StagePlan, list[list[int]]] = Recent()  # of plans with a multiple

    def check(self, plan: StagePlan) -> None:
        """Raise PlanError for a plan that counts other training timesteps than the model."""
        if plan.num_train_timesteps != self.timesteps:
            raise PlanError(
                f"The plan counts {plan.num_train_timesteps} training timesteps, {self.name} has"
                f" {self.timesteps}: make a plan for this model."
            )

    # ------------------------------------------------------------ widths

    def built(self, plan: StagePlan) -> StagePlan:
        """Return the plan that networks are built by here: with the device's multiple of neurons.

        A multiple that the plan names stays. Everything that is predicted holds for this plan.
        """
        return aligned(plan, self.device)

    def width_warnings(self, plan: StagePlan) -> list[str]:
        """Return sentences on widths that this device minds, by layer. Raises as `sharing`."""
        kept = [
            [layer.groups - lost for layer, lost in zip(self.layers, row, strict=True)]
            for row in self.widths(plan)
        ]
        return width_warnings(self.layers, kept, self.device)

    def widths(self, plan: StagePlan) -> list[list[int]]:
        """Return the groups each layer loses in each stage: (3 stages in STAGES order, layers).

        Raises as `sharing` does.
        """
        plan = self.built(plan)
        # where nothing is removed there is nothing to share, and no curves are needed
        if plan.plain or not any(plan.sparsity):
            return [self.macs.removed(s) for s in plan.sparsity]
        if gives_equal_shares(plan):
            widths = self._equal.find(plan.cut)
            if widths is None:
                widths = equal_shares(self.layers, plan)
                self._equal.keep(plan.cut, widths, ALLOCATIONS_KEPT)
            return [list(row) for row in widths]
        return [list(row) for row in self.sharing(plan).removed]

    def sharing(self, plan: StagePlan) -> Allocation:
        """Return how a plan's sparsities are shared over layers and stages.

        Raises NotCalibrated where there are no error curves, NotTimed for costs in time before the
        layers were timed, StudioError for a budget that cannot be met.
        """
        plan = self.built(plan)
        orders = self.calibration.orders
        costs = None
        if plan.costs == "latency":
            costs = self.times.layers
            if costs is None:
                raise NotTimed(
                    f"This plan shares out time, and the layers of {self.name} were not timed here"
                )
        key = (None if costs is None else costs.digest, plan.cut)
        allocation = self._allocations.find(key)
        if allocation is None:
            allocation = share(self.layers, orders, self.calibration.bank, plan, costs)
            self._allocations.keep(key, allocation, ALLOCATIONS_KEPT)
        return allocation

    # ------------------------------------------------------------ costs

    def stage_macs(
        self,
        plan: StagePlan | None,
        shape: Shape | None = None,
        tabulated: bool = False,
    ) -> list[float]:
        """Return the MACs of one row in the late, middle and early stage and of the dense model.

        The dense model stands last, so at index -1, as `stage_of` names it. tabulated: the adaLN
        vectors come from a table, where the model can have one.
        """
        whole = [0] * len(self.layers)
        dense = float(self.macs.row(whole, shape, tabulated))
        if plan is None:
            return [dense] * 4
        own = (self.macs.row(widths, shape, tabulated) for widths in self.widths(plan))
        return [*own, dense]

    def reused_macs(self, shape: Shape | None = None, tabulated: bool = False) -> float:
        """Return the MACs of one row in a step that reuses what attentions and MLPs gave."""
        return self.macs.row([layer.groups for layer in self.layers], shape, tabulated)

    def usual_labels(self, steps: int, images: int) -> TableLabels | None:
        """Return the labels of one batch, all different; None where its table would not fit."""
        labels = TableLabels.all_different(images)
        return labels if self.macs.has_table(steps, labels.most) else None

    def work(
        self,
        plan: StagePlan | None,
        timesteps: Sequence[float],
        halves: int = 2,
        shape: Shape | None = None,
        labels: TableLabels | None = None,
    ) -> list[StepWork]:
        """Return what every model call of a run costs, in turn. A plan of None is the dense model.

        halves: denoiser rows per image where the run's own guidance holds. labels: of the images,
        whose adaLN vectors come from tables; None: every step works them out. The first call that
        runs a half (conditional, unconditional, both) makes its table. Raises as `widths`.
        """
        tabulated = labels is not None
        macs = self.stage_macs(plan, shape, tabulated)
        reused = self.reused_macs(shape, tabulated)
        stages = [-1] * len(timesteps) if plan is None else plan.stages_of(timesteps)
        rows = [*((halves,) * 3 if plan is None else plan.halves(halves)), halves]
        full = [True] * len(stages) if plan is None else plan.full_steps(stages)
        tables = [0.0] * len(stages)
        if labels is not None:
            tables = self._tables([_halves(plan, halves)[stage] for stage in stages], labels)
        return [
            StepWork(stage, rows[stage], macs[stage] if whole else reused, whole, table)
            for stage, whole, table in zip(stages, full, tables, strict=True)
        ]

    def _tables(self, halves: list[Half], labels: TableLabels) -> list[float]:
        """Return the MACs per image of the tables that are made before each call of a run."""
        found = [0.0] * len(halves)
        for half, calls in Counter(halves).items():
            pairs = sum(padded(calls * rows) for rows in labels.rows(half))
            found[halves.index(half)] = pairs * self.macs.conditioning / labels.images
        return found

    def predict(
        self,
        plan: StagePlan,
        timesteps: list[float],
        batch: int = 16,
        exact: bool = False,
        halves: int = 2,
        shape: Shape | None = None,
        tabulated: bool = True,
    ) -> Prediction:
        """Predict cost and error of a plan over these sampling timesteps.

        batch: images; halves: denoiser rows per image (2 with guidance), of the dense model and of
        stages that set no guidance of their own; shape: latents (c, h, w); tabulated: adaLN vectors
        come from a table where it fits, as in our own loop, every image with a label of its own.
        exact: read the stage's Grams, which needs a calibration. Raises StudioError.
        """
        self.check(plan)
        counts, widths = plan.steps_per_stage(timesteps), self.widths(plan)
        labels = self.usual_labels(len(timesteps), batch) if tabulated else None
        tabulated = labels is not None
        work = self.work(plan, timesteps, halves, shape, labels)
        dense_work = self.work(None, timesteps, halves, shape, labels)
        everything = [layer.groups for layer in self.layers]
        seconds_of = self._seconds_of(plan, batch * halves, shape, tabulated)
        times = self.times.latency(batch * halves, shape, tabulated=tabulated)
        per_mac = 0.0 if times is None else times.per_mac
        stage_macs = self.stage_macs(plan, shape, tabulated)
        rows = plan.halves(halves)
        weights = sum(x.weights_per_group * x.groups for x in self.layers)
        stages = []
        for i, stage in enumerate(STAGES):
            steps = counts[stage]
            error: float | None
            held_out: float | None = None
            if exact:
                error, held_out = self.exact_error(plan, i)
            else:
                error = self.estimate(plan, i)
            own = [k for k, step in enumerate(work) if step.stage == i]
            whole = sum(work[k].full for k in own)
            tables, dense_tables = (
                batch * per_mac * sum(side[k].table for k in own) for side in (work, dense_work)
            )
            removed = sum(
                x.weights_per_group * lost for x, lost in zip(self.layers, widths[i], strict=True)
            )
            stages.append(
                StagePrediction(
                    stage=stage,
                    steps=steps,
                    sparsity=plan.sparsity[i],
                    achieved=removed / weights,
                    macs=sum(work[k].total for k in own),
                    macs_dense=sum(dense_work[k].total for k in own),
                    seconds=seconds_of
                    and (seconds_of(widths[i]) * whole + seconds_of(everything) * (steps - whole))
                    * self.times.share_of(
                        batch * rows[i], batch * halves, stage_macs[i], shape, tabulated
                    )
                    + tables,
                    seconds_dense=seconds_of and seconds_of(None) * steps + dense_tables,
                    error=error,
                    error_held_out=held_out,
                    rows=rows[i],
                    full_steps=whole,
                )
            )
        return Prediction(tuple(stages), batch, exact)

    def _seconds_of(
        self, plan: StagePlan, rows: int, shape: Shape | None, tabulated: bool
    ) -> SecondsOf | None:
        """Return how seconds of one forward follow from a cut, where this device was measured."""
        table = self.times.latency(rows, shape, tabulated=tabulated)
        if table is None:
            return None
        in_time = plan.costs == "latency" and not gives_equal_shares(plan)
        layer_times = self.times.layers if in_time else None
        own_shape = shape in (None, self.macs.latent_shape)
        if layer_times is None or layer_times.rows != rows or not own_shape:
            return self._seconds_by_macs(table, shape, tabulated)
        return self._seconds_by_layer(plan, table, layer_times, tabulated)

    def _seconds_by_macs(
        self, table: LatencyTable, shape: Shape | None, tabulated: bool
    ) -> SecondsOf:
        """Return how seconds of one forward follow from its MACs."""

        def seconds(removed: list[int] | None) -> float:
            widths = [0] * len(self.layers) if removed is None else removed
            return table.at(self.macs.row(widths, shape, tabulated))

        return seconds

    def _seconds_by_layer(
        self, plan: StagePlan, table: LatencyTable, times: LayerTimes, tabulated: bool
    ) -> SecondsOf:
        """Return how seconds of one forward follow from the measured times of single layers.

        Isolated layer timings do not add up to a forward. Scale them so that equal shares save what
        the table of whole forwards says.
        """
        dense = table.at(self.macs.row([0] * len(self.layers), tabulated=tabulated))
        equal = [self.macs.removed(s) for s in plan.sparsity]
        whole = sum(dense - table.at(self.macs.row(row, tabulated=tabulated)) for row in equal)
        parts = sum(times.saved(self.layers, row) for row in equal)
        scale = whole / parts if whole > 0 and parts > 0 else 1.0

        def seconds(removed: list[int] | None) -> float:
            if removed is None:
                return dense
            return max(1e-9, dense - scale * times.saved(self.layers, removed))

        return seconds

    # ------------------------------------------------------------ errors

    def calibrated_range(self, plan: StagePlan, stage: int) -> tuple[float, float]:
        """Return the timesteps [low, high) whose tokens a stage's networks are compensated on."""
        if plan.calibration == "stage":
            return plan.stage_range(stage)
        return (0, plan.num_train_timesteps)

    def estimate(self, plan: StagePlan, stage: int) -> float | None:
        """Return the mean relative layer error of a stage as the per-bin curves give it.

        None where there are no curves: before a calibration, and for cuts by magnitude.
        """
        try:
            orders = self.calibration.orders
        except StudioError:
            return None
        if plan.method != "obs":
            return None
        overlap = self.calibration.bank.overlap(*self.calibrated_range(plan, stage))
        return orders.estimate(overlap, self.widths(plan)[stage])

    def exact_error(self, plan: StagePlan, stage: int) -> tuple[float, float]:
        """Return the mean relative layer error of a stage on calibration and held-out tokens.

        Read from the stage's own Grams. Raises NotCalibrated.
        """
        errors = [
            self._layer_errors(plan, i, stage, lost)
            for i, lost in enumerate(self.widths(plan)[stage])
        ]
        fitted, held_out = np.mean(errors, axis=0)
        return float(fitted), float(held_out)

    def _layer_errors(
        self, plan: StagePlan, layer: int, stage: int, removed: int
    ) -> tuple[float, float]:
        """Return one layer's error on calibration and on held-out tokens."""
        if removed and not self.calibration.complete:
            raise NotCalibrated("This model has not been calibrated on this machine yet")
        low, high = self.calibrated_range(plan, stage)
        return self.calibration.pruner.errors(layer, low, high, removed, plan.method)

    # ------------------------------------------------------------ tables and pictures

    def layer_table(self, plan: StagePlan, exact: bool = False) -> list[dict[str, Any]]:
        """Return dense against pruned, one row per stage and layer.

        exact: fill in `error` and `error_held_out`, which needs a calibration.
        """
        rows: list[dict[str, Any]] = []
        for stage, (name, widths) in enumerate(zip(STAGES, self.widths(plan), strict=True)):
            for i, (layer, lost) in enumerate(zip(self.layers, widths, strict=True)):
                error = self._layer_errors(plan, i, stage, lost) if exact else (None, None)
                kept = layer.groups - lost
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
                        "error": error[0],
                        "error_held_out": error[1],
                    }
                )
        return rows

    def kept_share(self, plan: StagePlan) -> np.ndarray:
        """Return the share of each block's prunable weights that runs: (3 stages, blocks)."""
        blocks = len({layer.block for layer in self.layers})
        total, kept = np.zeros(blocks), np.zeros((3, blocks))
        for layer in self.layers:
            total[layer.block] += layer.groups * layer.weights_per_group
        for stage, widths in enumerate(self.widths(plan)):
            for layer, lost in zip(self.layers, widths, strict=True):
                kept[stage, layer.block] += (layer.groups - lost) * layer.weights_per_group
        return kept / total


def _halves(plan: StagePlan | None, rows: int) -> list[Half]:
    """Return the half of the guided pair that each stage runs, and the dense model last.

    rows: per image where the run's own guidance holds.
    """
    run: Half = "both" if rows == 2 else "conditional"
    own = (None,) * 3 if plan is None else plan.guidance
    return [*(run if scale is None else half_of(scale) for scale in own), run]
