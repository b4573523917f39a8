"""Keep the networks that were built last, bounded in number and in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from torch import nn

from ..curves.plan import StagePlan
from ..models.layers import PrunableLayer
from .slimming import shallow, unique_bytes
from .transformer import MosaicTransformer

MAX_NETWORKS = 6
# beside the dense model: at 0.5, 0.2, 0.5 DiT-XL/2 takes 1.6 GB in half precision and SDXL 8, and
# images need memory too
MAX_BYTES = 2_000_000_000


def own_bytes(mosaic: MosaicTransformer, dense: nn.Module) -> int:
    """Return the bytes of the storages that a mosaic does not share with its dense model."""
    return unique_bytes([mosaic, dense]) - unique_bytes([dense])


def expected_bytes(
    layers: Sequence[PrunableLayer], removed: Iterable[Sequence[int]], itemsize: int
) -> int:
    """Return `own_bytes` of networks that are not built yet, without the biases of consumers.

    removed: for each different network, the groups that each layer loses.
    itemsize: bytes per weight.
    """
    return itemsize * sum(
        layer.weights_per_group * (layer.groups - lost)
        for widths in removed
        for layer, lost in zip(layers, widths, strict=True)
        if lost
    )


class NetworkCache:
    """An LRU cache of built networks over one dense model, bounded in number and in bytes.

    The bytes are those of the networks' own weights. The newest network stays, however large it is.
    A dropped network is freed when its last user releases it. Not thread-safe.
    """

    def __init__(self, dense: nn.Module, most: int = MAX_NETWORKS, most_bytes: int = MAX_BYTES):
        self.dense, self.most, self.most_bytes = dense, most, most_bytes
        self._kept: OrderedDict[tuple[StagePlan, bool], tuple[MosaicTransformer, int]] = (
            OrderedDict()
        )

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Return the bytes of all kept networks."""
        return sum(size for _, size in self._kept.values())

    def empty(self) -> NetworkCache:
        """Return a new cache with the same bounds and nothing in it."""
        return type(self)(self.dense, self.most, self.most_bytes)

    def find(self, plan: StagePlan, masked: bool) -> MosaicTransformer | None:
        """Return the mosaic that was built for a plan, or None.

        For the same plan under another name or guidance it is a second object over the same
        networks, and the first object keeps its own.
        """
        key = _key(plan, masked)
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        mosaic, size = self._kept[key]
        if mosaic.plan != plan:
            twin = shallow(mosaic)
            assert isinstance(twin, MosaicTransformer)
            twin.plan = plan
            twin.enabled = True  # the first object may be disabled
            twin.unbind()  # the first object may be bound to a pipeline
            self._kept[key] = twin, size
            return twin
        return mosaic

    def make_room(self, coming: int) -> None:
        """Drop the oldest mosaics until one more of `coming` bytes fits.

        Called before a mosaic is built, so that the bound holds while it is built.
        """
        while self._kept and (len(self) >= self.most or self.bytes + coming > self.most_bytes):
            self._kept.popitem(last=False)

    def keep(self, mosaic: MosaicTransformer, plan: StagePlan, masked: bool) -> None:
        """Keep a new mosaic, and drop the oldest ones where the bounds ask for it."""
        size = own_bytes(mosaic, self.dense)
        self.make_room(size)
        self._kept[_key(plan, masked)] = mosaic, size


def _key(plan: StagePlan, masked: bool) -> tuple[StagePlan, bool]:
    """Return the key of a plan's networks, which its name and guidance do not change."""
    return plan.cut, masked
