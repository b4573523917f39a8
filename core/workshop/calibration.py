"""Hold what one calibration of a model gave: its Grams, its removal orders, and cuts from both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from torch import nn

from ..calibration.bank import GramBank
from ..calibration.settings import CalibrationSettings
from ..errors import StudioError
from ..models.layers import PrunableLayer
from ..pruning.layer_cuts import LayerPruner
from ..pruning.orders import RemovalOrders, orders_file


@dataclass(frozen=True)
class Calibration:
    """What one calibration gave. A new calibration is a new value; nothing in this one changes.

    The pruner keeps paths and errors that it computed from this bank and these orders.
    """

    bank: GramBank
    pruner: LayerPruner

    @property
    def complete(self) -> bool:
        """Say whether all bins and the removal orders are on this machine's disk."""
        name = orders_file(self.bank.settings)
        return self.bank.complete and RemovalOrders.exists(self.bank.folder, name)

    @property
    def orders(self) -> RemovalOrders:
        """Return removal orders and per-bin curves. Raises NotCalibrated, StudioError."""
        return self.pruner.orders

    @property
    def found(self) -> RemovalOrders | None:
        """Return the removal orders, or None where there are none."""
        return self.pruner.known_orders

    @property
    def outdated(self) -> bool:
        """Say whether the disk may hold better removal orders: none are known, or shipped ones."""
        return self.found is None or (self.found.shipped and self.complete)

    def answers_as(self, other: Calibration) -> bool:
        """Say whether neither value has orders, for the same reason."""
        if self.found is not None or other.found is not None:
            return False
        return str(self.pruner.refusal) == str(other.pruner.refusal)


class CalibratedModel(Protocol):
    """A model and the place of its calibration. A `Workshop` is one."""

    transformer: nn.Module
    layers: list[PrunableLayer]
    settings: CalibrationSettings

    @property
    def folder(self) -> Path:
        """Return the folder of the calibration in the cache."""

    @property
    def model_key(self) -> str:
        """Return the hash of the model that shipped orders must name."""


class CalibrationFiles:
    """The removal orders of one model on disk: this machine's, or the ones the model ships with.

    model_folder: the model's own folder, which may ship orders; None where there is none.
    """

    def __init__(self, model: CalibratedModel, model_folder: Path | None):
        self.model, self.model_folder = model, model_folder
        self.name = orders_file(model.settings)

    def read(self, bank: GramBank) -> Calibration:
        """Return the calibration of a bank and the orders that are there.

        A damaged file is an error only where orders are needed.
        """
        orders: RemovalOrders | None = None
        refusal: StudioError | None = None
        try:
            orders = self._orders()
        except StudioError as error:
            refusal = error
        pruner = LayerPruner(self.model.transformer, self.model.layers, bank, orders, refusal)
        return Calibration(bank, pruner)

    def readable(self) -> bool:
        """Say whether this machine's orders can be read; drop a damaged file.

        Dropped orders are computed again from the bins.
        """
        try:
            RemovalOrders.load(self.model.folder, self.model.layers, name=self.name)
        except StudioError:
            RemovalOrders.drop(self.model.folder, self.name)
            return False
        return True

    def save(self, orders: RemovalOrders) -> None:
        """Write this machine's orders. Raises StudioError."""
        orders.save(self.model.folder, self.name)

    def _orders(self) -> RemovalOrders | None:
        """Return this machine's orders, else the shipped ones, else None. Raises StudioError."""
        if RemovalOrders.exists(self.model.folder, self.name):
            return RemovalOrders.load(self.model.folder, self.model.layers, name=self.name)
        return self._shipped

    @cached_property
    def _shipped(self) -> RemovalOrders | None:
        """Return the orders in the model's folder, where they are of this very model."""
        folder = self.model_folder and self.model_folder / "calibration"
        if not folder or not RemovalOrders.exists(folder):
            return None
        orders = RemovalOrders.load(folder, self.model.layers, shipped=True)
        return orders if orders.model in (None, self.model.model_key) else None


def calibration_sentence(
    orders: RemovalOrders, settings: CalibrationSettings, source: str, warnings: list[str]
) -> str:
    """Return one sentence on a calibration: how much was measured, on what and when."""
    warning = f" ({'; '.join(warnings)})" if warnings else ""
    weighting = {
        "even": "",
        "guidance": f", rows weighed by guidance {settings.guidance:g}",
    }.get(settings.weighting, f", rows weighed by {settings.weighting}")
    tokens = f"{orders.tokens_per_column:.{int(orders.tokens_per_column < 10)}f}"
    return (
        f"{settings.images + settings.held_out} images in each of {settings.bins} timestep bins"
        f" ({settings.held_out} of them held out){weighting}, at least {tokens} tokens per column"
        f" and bin, from {source}{warning}, measured {orders.when} on {orders.device}"
    )
