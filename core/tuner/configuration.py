"""Name one way to draw pictures, and say what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..curves.plan import StagePlan
from ..curves.plan_checks import check_keys, checked_steps
from ..errors import StudioError
from ..guidance import is_guidance, rows_of, run_scale
from ..mosaic.modes import PLAIN
from ..workshop.compare import visited
from ..workshop.prediction import StepWork
from ..workshop.same_work import run_macs
from ..workshop.workshop import Workshop

KEYS = ("plan", "scheduler", "steps", "guidance", "label")


@dataclass(frozen=True)
class Configuration:
    """A plan (None: the dense model) with the solver, steps and guidance that it runs with."""

    plan: StagePlan | None
    scheduler: str
    steps: int
    guidance: float  # of the run; a plan may set another one for its stages
    label: str = ""  # what it is, where it was not found: "dense", "formula 0.33"

    def __post_init__(self) -> None:
        checked_steps(self.steps)
        if not is_guidance(self.guidance):
            raise StudioError(f"Guidance must be a number from 0 to 20, not {self.guidance!r:.40}.")

    @property
    def halves(self) -> int:
        """Return the denoiser rows per image where the run's own guidance holds."""
        return rows_of(run_scale(self.guidance))

    def timesteps(self, workshop: Workshop) -> list[float]:
        """Return the timesteps of every model call. Raises StudioError for impossible steps."""
        return visited(workshop, self.scheduler, self.steps)

    def work(self, workshop: Workshop, images: int | None = None) -> list[StepWork]:
        """Return what every model call costs, in turn, of `images` together. Raises StudioError.

        images: None for the model's usual ones.
        """
        timesteps = self.timesteps(workshop)
        plan = self.plan and self.plan.counted(timesteps)
        labels = workshop.usual_labels(len(timesteps), images or workshop.usual_images)
        return workshop.work(plan, timesteps, self.halves, labels=labels)

    def macs(self, workshop: Workshop) -> float:
        """Return the MACs of one image over the whole run, all rows."""
        return run_macs(workshop, self.plan, self.timesteps(workshop), self.halves)

    def seconds(self, workshop: Workshop, batch: int, mode: str = PLAIN) -> float | None:
        """Return the predicted seconds of the denoiser for `batch` images in a mode.

        From forwards that were timed on this device; None where they were not.
        """
        total, calls = 0.0, len(self.timesteps(workshop))
        tabulated = workshop.usual_labels(calls, batch) is not None
        for step in self.work(workshop, batch):
            table = workshop.latency(batch * step.rows, mode=mode, tabulated=tabulated)
            if table is None:
                return None
            total += step.seconds(table, batch)
        return total

    @property
    def text(self) -> str:
        """Return the configuration in a few words."""
        what = self.label or ("dense" if self.plan is None else self.plan.name or "found")
        return f"{what}, {self.scheduler} in {self.steps} steps"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "plan": None if self.plan is None else self.plan.to_json(),
            "scheduler": self.scheduler,
            "steps": self.steps,
            "guidance": self.guidance,
            "label": self.label,
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Configuration:
        """Make a configuration from plain data. Raises StudioError."""
        check_keys(plain, "A configuration", KEYS, KEYS[:4])
        plan = plain["plan"]
        own = None if plan is None else StagePlan.from_json(plan)
        return cls(**{**plain, "plan": own})
