"""Write bins in a thread of their own, so that measuring does not wait for the disk.

Tensors wait in memory (or on the card, as sums that are not packed yet) within a bound; where it is
reached, measuring waits. Bins are written one after another, each whole or not at all. As much of
them as fits stays in memory too, for what reads them next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from ..memory import free_memory
from ..models.layers import PrunableLayer
from .bank import GramBank
from .preflight import calibration_memory

SPARE_SHARE = (
    0.25  # of the memory beside what a calibration needs, each for waiting and for keeping
)


@dataclass(frozen=True)
class Later:
    """A tensor on the CPU that is still to be made, from `bytes` of memory that are held."""

    make: Callable[[], Tensor]
    bytes: int


class _AbandonedError(Exception):
    """The bin that is being written will never be complete."""


@dataclass(frozen=True)
class _End:
    """The end of a bin; `whole`: all of its tensors came."""

    whole: bool


def spare_memory(layers: list[PrunableLayer], device: torch.device) -> int:
    """Return the bytes that may wait for the disk, within the CPU's memory and the device's."""
    rooms = [free_memory(torch.device("cpu")), free_memory(device)]
    left = [room - calibration_memory(layers) for room in rooms if room is not None]
    return max(0, int(SPARE_SHARE * min(left, default=0)))


class BinWriter:
    """A context manager that writes bins in the background; leaving it waits for the disk.

    ahead: bytes that may wait, and bytes that may stay in the bank's memory. Leaving it with an
    exception drops the bin that is not complete and keeps those that are. A bin that cannot be
    written raises its StudioError at the next tensor, or at the end.
    """

    def __init__(self, bank: GramBank, ahead: int):
        self.bank, self.ahead = bank, ahead
        self._names = [name for name, _, _ in bank.layout]
        self._waiting: deque[tuple[int, Tensor | Later | _End]] = deque()
        self._bytes = 0  # of what waits
        self._held = 0  # bytes that the bank keeps
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bin writer")

    def __enter__(self) -> BinWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def write(self, b: int, tensors: Iterator[Tensor | Later]) -> None:
        """Take the tensors of one bin, in the order of its layout, as far as they may wait.

        Raises what `tensors` raises, and the error of a bin that could not be written.
        """
        try:
            for tensor in tensors:
                self._put(b, tensor, _size(tensor))
        except BaseException:
            self._put_end(b, whole=False)
            raise
        self._put_end(b, whole=True)

    def _put(self, b: int, item: Tensor | Later, size: int) -> None:
        """Let one tensor wait; wait for room, though never for more than an empty queue gives."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or not self._bytes or self._bytes + size <= self.ahead
            )
            if self._error is not None:
                raise self._error
            self._waiting.append((b, item))
            self._bytes += size
            self._changed.notify_all()

    def _put_end(self, b: int, whole: bool) -> None:
        with self._changed:
            self._waiting.append((b, _End(whole)))
            self._changed.notify_all()

    def _run(self) -> None:
        """Write bin after bin until the writer is closed and nothing waits."""
        try:
            with torch.inference_mode():  # as the sums were made
                while (b := self._next_bin()) is not None:
                    self._write(b)
        except BaseException as err:  # raised again where bins are measured
            with self._changed:
                self._error = err
                self._waiting.clear()
                self._changed.notify_all()

    def _next_bin(self) -> int | None:
        """Wait for the next bin; None where the writer is closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return self._waiting[0][0] if self._waiting else None

    def _write(self, b: int) -> None:
        """Write one bin, and let the bank keep what fits of it."""
        kept: dict[str, Tensor] = {}
        try:
            self.bank.write(b, self._tensors(kept))
        except _AbandonedError:
            return
        self._held += sum(_size(tensor) for tensor in kept.values())
        self.bank.keep(b, kept)

    def _tensors(self, kept: dict[str, Tensor]) -> Iterator[Tensor]:
        """Yield the tensors of a bin as they come, and note those that fit in `kept`.

        Raises _AbandonedError where the bin ends early.
        """
        room = self.ahead - self._held
        for name in (*self._names, None):
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                item = self._waiting.popleft()[1]
            if isinstance(item, _End):
                if name is not None or not item.whole:
                    raise _AbandonedError
                return
            assert name is not None  # a bin has as many tensors as its layout names
            tensor = item.make() if isinstance(item, Later) else item.detach().cpu()
            if _size(tensor) <= room:
                room -= _size(tensor)
                kept[name] = tensor
            yield tensor
            with self._changed:  # the tensor is written now
                self._bytes -= _size(item)
                self._changed.notify_all()


def _size(tensor: Tensor | Later) -> int:
    """Return the bytes that a tensor takes."""
    return tensor.bytes if isinstance(tensor, Later) else tensor.numel() * tensor.element_size()
