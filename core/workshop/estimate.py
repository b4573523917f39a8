"""Say how long a comparison will take, from the times that are known of this device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..curves.plan import StagePlan
from .compare import IN_STEP, visited
from .comparison import BATCH
from .sample_settings import SampleSettings
from .workshop import Workshop


@dataclass(frozen=True)
class Estimate:
    """Seconds of the denoiser that a comparison will take: first the pictures, then the timing.

    It is a prediction from forwards that were timed at another moment. Decoding of pictures is not
    in it.
    """

    pictures: float
    timing: float
    measured: bool  # for this very batch; else scaled from the usual one
    when: str = ""  # when the forwards were timed; empty where that is not known

    @property
    def seconds(self) -> float:
        """Return the seconds of both."""
        return self.pictures + self.timing


def estimate(
    workshop: Workshop, plans: Sequence[StagePlan | None], settings: SampleSettings
) -> Estimate | None:
    """Return what a comparison of two plans will take, None where no forward was timed here.

    Raises StudioError for a plan whose widths are not known yet.
    """
    shape = workshop.shape_for(settings)
    batch = min(settings.n, settings.n if settings.n <= IN_STEP else BATCH)
    usual = workshop.latency(workshop.usual_images * 2)
    measured, when = True, ""
    run = 0.0
    for k, plan in enumerate(plans):
        timesteps = visited(workshop, settings.scheduler, settings.steps_of(k))
        counted = plan and plan.counted(timesteps)
        for step, count in Counter(
            workshop.work(counted, timesteps, settings.halves, shape)
        ).items():
            rows = batch * step.rows
            table, scale = workshop.latency(rows, shape, settings.mode), 1.0
            if table is None:
                if usual is None:
                    return None
                table, scale, measured = usual, rows / usual.rows, False
            when = table.when
            run += scale * table.at(step.macs) * count
    run *= settings.n / batch
    repeats = 0 if settings.n >= BATCH else settings.repeats
    return Estimate(run, run * repeats, measured, when)
