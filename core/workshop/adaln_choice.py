"""Decide whether both sides of a comparison take their adaLN vectors from a table, and say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..mosaic.transformer import MosaicTransformer
from .prediction import TableLabels
from .sample_settings import SampleSettings


def labels_of(settings: SampleSettings) -> TableLabels | None:
    """Return the labels whose adaLN vectors come from tables; None where no table is wanted."""
    if not settings.tabulate or not settings.labels:
        return None
    return TableLabels.of(settings.labels, settings.batch)


def as_it_runs(
    model: MosaicTransformer, settings: SampleSettings, timesteps: Sequence[Sequence[float]]
) -> tuple[SampleSettings, str]:
    """Return settings that say whether a table is made, for both sides alike, and why not.

    timesteps: of every model call of each side. The reason is a sentence, and empty where a table
    is made, was not asked for, or has no place in this kind of model.
    """
    labels = labels_of(settings)
    if labels is None:
        return replace(settings, tabulate=False), ""
    why = model.no_table(max(map(len, timesteps)), labels.most)
    if not why:
        return settings, ""
    note = f"Both sides worked their adaLN vectors out at every step: {why}."
    return replace(settings, tabulate=False), note
