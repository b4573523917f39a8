"""Read off what a comparison ran under, for the reasons of its verdict."""

from __future__ import annotations

from ..curves.plan import StagePlan
from ..mosaic.found import available_modes
from ..mosaic.modes import PLAIN
from .sample_settings import SampleSettings
from .why_slow import Circumstances, fixed_share, outside_share
from .workshop import Workshop


def circumstances(
    workshop: Workshop, plan: StagePlan | None, settings: SampleSettings, batch: int, timed: bool
) -> Circumstances:
    """Return what a side with a plan (None: dense) ran under, as far as the device was measured.

    batch: images of a timed forward. timed: whether latency tables hold for these runs.
    """
    rows, shape = batch * settings.halves, workshop.shape_for(settings)
    table = workshop.latency(rows, shape, settings.mode) if timed else None
    layers = workshop.times.layers
    outside = None
    if layers is not None and table is not None and layers.rows == rows and settings.mode == PLAIN:
        all_groups = [layer.groups for layer in workshop.layers]
        outside = outside_share(table.seconds[-1], layers.saved(workshop.layers, all_groups))
    return Circumstances(
        device=workshop.device.type,
        rows=rows,
        mode=settings.mode,
        modes=tuple(available_modes(workshop.device)),
        fixed=fixed_share(table),
        outside=outside,
        widths=() if plan is None else tuple(workshop.width_warnings(plan)),
    )
