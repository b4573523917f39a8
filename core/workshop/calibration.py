"""Hold what one calibration of a model gave: its Grams, its removal orders, and cuts from both."""

from __future__ import annotations

from dataclasses import dataclass

from ..calibration.bank import GramBank
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
