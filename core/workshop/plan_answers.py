"""Answer questions about a plan by the predictor that holds at the moment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..allocation.allocate import Allocation
from ..curves.plan import StagePlan
from .model_macs import Shape
from .predict import PlanPredictor
from .prediction import Prediction, StepWork, TableLabels


class PlanAnswers(ABC):
    """The questions of a `PlanPredictor`, for an object whose predictor may be replaced.

    Every question goes to the predictor that holds when it is asked.
    """

    @property
    @abstractmethod
    def predictor(self) -> PlanPredictor:
        """Return the predictor that holds now."""

    def widths(self, plan: StagePlan) -> list[list[int]]:
        """Return `PlanPredictor.widths`: groups lost per stage and layer."""
        return self.predictor.widths(plan)

    def built(self, plan: StagePlan) -> StagePlan:
        """Return `PlanPredictor.built`: the plan with the multiple of neurons of this device."""
        return self.predictor.built(plan)

    def width_warnings(self, plan: StagePlan) -> list[str]:
        """Return `PlanPredictor.width_warnings`: widths that this device minds, by layer."""
        return self.predictor.width_warnings(plan)

    def sharing(self, plan: StagePlan) -> Allocation:
        """Return `PlanPredictor.sharing`: the allocation of a plan's sparsities."""
        return self.predictor.sharing(plan)

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
        """Return `PlanPredictor.predict`: cost and error of a plan over sampling timesteps."""
        return self.predictor.predict(plan, timesteps, batch, exact, halves, shape, tabulated)

    def estimate(self, plan: StagePlan, stage: int) -> float | None:
        """Return `PlanPredictor.estimate`: a stage's error as the per-bin curves give it."""
        return self.predictor.estimate(plan, stage)

    def exact_error(self, plan: StagePlan, stage: int) -> tuple[float, float]:
        """Return `PlanPredictor.exact_error`: a stage's error from its own Grams."""
        return self.predictor.exact_error(plan, stage)

    def layer_table(self, plan: StagePlan, exact: bool = False) -> list[dict[str, Any]]:
        """Return `PlanPredictor.layer_table`: one row per stage and layer."""
        return self.predictor.layer_table(plan, exact)

    def kept_share(self, plan: StagePlan) -> np.ndarray:
        """Return `PlanPredictor.kept_share`: (3 stages, blocks)."""
        return self.predictor.kept_share(plan)

    def work(
        self,
        plan: StagePlan | None,
        timesteps: Sequence[float],
        halves: int = 2,
        shape: Shape | None = None,
        labels: TableLabels | None = None,
    ) -> list[StepWork]:
        """Return `PlanPredictor.work`: what every model call of a run costs, in turn."""
        return self.predictor.work(plan, timesteps, halves, shape, labels)

    def usual_labels(self, steps: int, images: int) -> TableLabels | None:
        """Return `PlanPredictor.usual_labels`: labels of one batch whose table fits, or None."""
        return self.predictor.usual_labels(steps, images)

    def stage_macs(
        self,
        plan: StagePlan | None,
        shape: Shape | None = None,
        tabulated: bool = False,
    ) -> list[float]:
        """Return `PlanPredictor.stage_macs`: late, middle, early stage and the dense model."""
        return self.predictor.stage_macs(plan, shape, tabulated)
