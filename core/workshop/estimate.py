"""Say how long a comparison will take, from the times that are known of this device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..curves.plan import StagePlan
from .adaln_choice import labels_of
from .compare import visited
from .sample_settings import BATCH, SampleSettings
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
    """Return what two sides, or one alone, will take; None where no forward was timed here.

    plans: of A and B, or of side A alone. Raises StudioError for a plan whose widths are not known
    yet.
    """
    shape = workshop.shape_for(settings)
    batch = min(settings.n, settings.batch)
    labels = labels_of(settings)
    calls = [visited(workshop, settings.scheduler, settings.steps_of(k)) for k in range(len(plans))]
    if labels is not None and workshop.dense.no_table(max(map(len, calls)), labels.most):
        labels = None
    usual = workshop.latency(workshop.usual_images * 2)
    measured, when = True, ""
    run = 0.0
    for plan, timesteps in zip(plans, calls, strict=True):
        counted = plan and plan.counted(timesteps)
        for step, count in Counter(
            workshop.work(counted, timesteps, settings.halves, shape, labels)
        ).items():
            rows = batch * step.rows
            table = workshop.latency(rows, shape, settings.mode, labels is not None)
            images: float = batch
            if table is None:
                if usual is None:
                    return None
                table, images, measured = usual, usual.rows / step.rows, False
            when = table.when
            run += step.seconds(table, images) * count * batch / images
    run *= settings.n / batch
    repeats = 0 if settings.n >= BATCH else settings.repeats
    return Estimate(run, run * repeats, measured, when)
