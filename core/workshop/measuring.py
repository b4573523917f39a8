"""Measure what a calibration lacks: the Grams of its missing bins, then its removal orders."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Protocol

import torch

from ..calibration.bank import GramBank
from ..calibration.measure import calibrate
from ..calibration.preflight import check_memory, check_room, check_writable, ordering_memory
from ..progress import Progress
from ..pruning.orders import RemovalOrders, find_orders
from ..sampling.own_samples import LatentMaker
from .calibration import CalibratedModel
from .calibration_progress import WholeProgress, shares
from .data_sources import DataSource


class MeasuredModel(LatentMaker, CalibratedModel, Protocol):
    """A model that can be calibrated, with the source of its latents. A `Workshop` is one."""

    source: DataSource
    device_text: str  # the device in words

    @property
    def forward_macs(self) -> tuple[int, int]:
        """Return (linear and convolution, attention) MACs of a dense forward of one image."""


def measure_calibration(
    model: MeasuredModel,
    bank: GramBank,
    start: float,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> tuple[GramBank, RemovalOrders]:
    """Return the bank with all its bins, and the removal orders found from them.

    start: `time.perf_counter()` when the calibration began. Raises Stopped, StudioError.
    """
    missing, whole = len(bank.missing()), None
    if progress is not None:
        source, forward = model.source, sum(model.forward_macs)
        parts = shares(model.layers, model.settings, forward, source.rows, missing)
        whole = WholeProgress(progress, model.layers, parts)
    if missing:
        bank = _measure_bins(model, bank, whole, stop)
    else:
        check_memory(ordering_memory(model.layers), model.device)
        check_writable(model.folder)
    try:
        orders = find_orders(
            model.transformer,
            model.layers,
            bank,
            model.device_text,
            None if whole is None else whole.ordering,
            stop,
            start,
            model.settings.damping,
        )
    finally:
        bank.forget()  # a plan reads single layers, which the files serve well enough
    return bank, replace(orders, model=model.model_key)


def _measure_bins(
    model: MeasuredModel,
    bank: GramBank,
    whole: WholeProgress | None,
    stop: threading.Event | None,
) -> GramBank:
    """Return the bank after measuring its missing bins. Raises Stopped, StudioError.

    Making the data may take hours: what cannot be done is refused before that, and the space that
    will be written is reported.
    """
    latent_bytes = 4 * model.source.made * torch.Size(model.latent_shape).numel()
    _, need = check_room(bank, model.device, latent_bytes)
    if whole is not None:
        whole.making(0, 1, f"calibration {need}")
    data = model.source.load(model, None if whole is None else whole.making, stop)
    return calibrate(
        model.transformer,
        model.layers,
        model.schedule,
        data.latents,
        data.conditions,
        model.folder,
        model.settings,
        None if whole is None else whole.measuring,
        stop,
        ids=data.ids,
    )
