"""The subnetworks that were built last, as many as fit: asked for again they are there, and they
never fill the device by and by.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import nn

from ..curves.plan import StagePlan
from ..models.layers import PrunableLayer
from .slimming import shallow, unique_bytes
from .transformer import MosaicTransformer

MOST_BUILT = 6
# beside the dense model: at 0.5, 0.2, 0.5 DiT-XL/2 takes 1.6 GB in half precision and SDXL 8, and
# images need room too
BUILT_BYTES = 2_000_000_000


def own_bytes(mosaic: MosaicTransformer, dense: nn.Module) -> int:
    """Bytes of the storages that the mosaic does not share with its dense model."""
    return unique_bytes([mosaic, dense]) - unique_bytes([dense])


def expected_bytes(
    layers: Sequence[PrunableLayer], removed: Iterable[Sequence[int]], itemsize: int
) -> int:
    """`own_bytes` of slim networks that lose so many groups a layer, one sequence for each
    different network, without the biases of consumers.
    """
    return itemsize * sum(
        x.weights_per_group * (x.groups - gone)
        for widths in removed
        for x, gone in zip(layers, widths, strict=True)
        if gone
    )


class Built:
    """At most `most` MosaicTransformers over one dense model, and at most `most_bytes` of weights
    of their own; the newest stays whatever it takes.

    Whoever has been given one holds it; what is dropped here is freed when they let go too. Not
    thread-safe.
    """

    def __init__(self, dense: nn.Module, most: int = MOST_BUILT, most_bytes: int = BUILT_BYTES):
        self.dense, self.most, self.most_bytes = dense, most, most_bytes
        self._kept: OrderedDict[tuple[StagePlan, bool], tuple[MosaicTransformer, int]] = (
            OrderedDict()
        )

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self._kept.values())

    def find(self, plan: StagePlan, masked: bool) -> MosaicTransformer | None:
        """What was built for this plan. Under another name it is a second object over the same
        networks, and the first keeps its own name.
        """
        key = _key(plan, masked)
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        mosaic, size = self._kept[key]
        if mosaic.plan != plan:
            mosaic = shallow(mosaic)
            mosaic.plan = plan
            mosaic.enabled = True  # whatever has been done to the other one
            self._kept[key] = mosaic, size
        return mosaic

    def make_room(self, coming: int) -> None:
        """Drop the oldest until one more of `coming` bytes fits, so that it does not stand on top
        of them all while it is built.
        """
        while self._kept and (len(self) >= self.most or self.bytes + coming > self.most_bytes):
            self._kept.popitem(last=False)

    def keep(self, mosaic: MosaicTransformer, masked: bool) -> None:
        """Put a new one in, in the place of the oldest."""
        size = own_bytes(mosaic, self.dense)
        self.make_room(size)
        self._kept[_key(mosaic.plan, masked)] = mosaic, size

    def clear(self) -> None:
        self._kept.clear()


def _key(plan: StagePlan, masked: bool) -> tuple[StagePlan, bool]:
    """A name changes no weight."""
    return replace(plan, name=""), masked
