"""Measure how fast this device runs one model, and keep the times as files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cache import fingerprint
from ..curves.plan import StagePlan
from ..mosaic.modes import PLAIN
from ..mosaic.transformer import MosaicTransformer
from ..progress import Progress
from ..pruning.cuts import Cut
from ..sampling.layer_times import LayerTimes, measure_layers
from ..sampling.timing import LatencyTable, clock_text, forward_call, measure_alternating
from .model_macs import ModelMacs, Shape

LATENCY_SPARSITIES = (0.7, 0.45, 0.2, 0.0)
LATENCY_SECONDS = 40.0  # more is not worth waiting for
LATENCY_ROUNDS = 7
USUAL_IMAGES = 16
# of the batch that times are for by default: a second or a few for one forward
BATCH_MACS = {"cpu": 3.2e11, "cuda": 16e12}


def usual_images(device: torch.device, macs: float) -> int:
    """Return the images that predicted times are for by default: 16 or fewer.

    Fewer where one forward of 16 images, of `macs` each, would take minutes.
    """
    return int(max(1, min(USUAL_IMAGES, BATCH_MACS.get(device.type, BATCH_MACS["cpu"]) // macs)))


class DeviceTimes:
    """Latency tables and layer times of one model on one device, kept as JSON files in a folder.

    A table that cannot be written (a full disk) is kept in memory: the next start measures again.

    device_text: the device in words.
    dtype: precision of the model's weights.
    """

    def __init__(
        self,
        folder: Path,
        macs: ModelMacs,
        device: torch.device,
        device_text: str,
        dtype: torch.dtype,
    ):
        self.folder, self.macs = folder, macs
        self.device, self.device_text, self.dtype = device, device_text, dtype
        self._tables: dict[tuple[int, Shape, str, bool], LatencyTable] = {}
        self._layers: LayerTimes | None = None

    @property
    def usual_images(self) -> int:
        """Return the images that this model's times are for by default."""
        return usual_images(self.device, self.macs.forward()[0])

    def _in_table(self, tabulated: bool) -> bool:
        """Say whether adaLN vectors come from a table: where it is wanted and there can be one."""
        return tabulated and self.macs.conditioning > 0

    def latency_path(
        self,
        rows: int,
        shape: Shape | None = None,
        mode: str = PLAIN,
        tabulated: bool = True,
    ) -> Path:
        """Return the file of the latency table for a batch of `rows` denoiser rows."""
        other: list[Any] = [] if shape in (None, self.macs.latent_shape) else [list(shape or ())]
        other += [] if mode == PLAIN else [mode]
        other += ["adaLN from a table"] if self._in_table(tabulated) else []
        name = fingerprint(
            [self.device_text, rows, list(LATENCY_SPARSITIES), str(self.dtype), *other]
        )
        return self.folder / f"latency-{name}.json"

    def latency(
        self,
        rows: int,
        shape: Shape | None = None,
        mode: str = PLAIN,
        tabulated: bool = True,
    ) -> LatencyTable | None:
        """Return the latency table for a batch of `rows` rows and a latent shape, if measured.

        mode: that the networks run in. tabulated: of forwards whose adaLN vectors come from a
        table, where the model can have one. Where only the other kind of forward was timed, its
        table is returned: read at fewer or more MACs, it predicts this kind too.
        """
        found = self._measured(rows, shape, mode, tabulated)
        return found or self._measured(rows, shape, mode, not tabulated)

    def _measured(
        self, rows: int, shape: Shape | None, mode: str, tabulated: bool
    ) -> LatencyTable | None:
        """Return the latency table of this kind of forward, if it was measured."""
        key = (rows, shape or self.macs.latent_shape, mode, self._in_table(tabulated))
        if key not in self._tables:
            table = LatencyTable.load(self.latency_path(rows, shape, mode, tabulated))
            if table is None:
                return None
            self._tables[key] = table
        return self._tables[key]

    def share_of(
        self,
        rows: int,
        whole: int,
        macs: float,
        shape: Shape | None = None,
        tabulated: bool = True,
    ) -> float:
        """Return the time of a forward of `rows` rows over that of `whole` rows, both of `macs`.

        From the tables of both where they were measured, else in proportion to the rows.
        """
        part = self.latency(rows, shape, tabulated=tabulated)
        full = self.latency(whole, shape, tabulated=tabulated)
        if rows == whole or part is None or full is None:
            return rows / whole
        return part.at(macs) / full.at(macs)

    def keep_latency(
        self,
        table: LatencyTable,
        shape: Shape | None = None,
        mode: str = PLAIN,
        tabulated: bool = True,
    ) -> None:
        """Keep a latency table, in memory and on disk."""
        with suppress(OSError):
            table.save(self.latency_path(table.rows, shape, mode, tabulated))
        own = shape or self.macs.latent_shape
        self._tables[table.rows, own, mode, self._in_table(tabulated)] = table

    def measure_latency(
        self,
        dense: MosaicTransformer,
        rows: int,
        shape: Shape | None = None,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        tabulated: bool = True,
    ) -> LatencyTable:
        """Return the latency table for `rows` rows of the dense model; time it once.

        dense: in the mode that the table is for. tabulated: with adaLN vectors from a table, where
        the model can have one. Raises Stopped.
        """
        known = self._measured(rows, shape, dense.mode, tabulated)
        if known is not None:
            return known
        if progress is not None:
            progress(0, 1, "measuring this device's speed at four widths")
        table = measure_forwards(dense, self, rows, shape, stop, self._in_table(tabulated))
        self.keep_latency(table, shape, dense.mode, tabulated)
        return table

    @property
    def layers_path(self) -> Path:
        """Return the file of the layer times."""
        key = fingerprint([self.device_text, 2 * self.usual_images, str(self.dtype)])
        return self.folder / f"layer-times-{key}.json"

    @property
    def layers(self) -> LayerTimes | None:
        """Return the times of single layers, if they were measured."""
        if self._layers is None:
            self._layers = LayerTimes.load(self.layers_path)
        return self._layers

    def keep_layers(self, times: LayerTimes) -> None:
        """Keep the times of single layers, in memory and on disk."""
        with suppress(OSError):
            times.save(self.layers_path)
        self._layers = times

    def measure_layers(
        self, progress: Progress | None = None, stop: threading.Event | None = None
    ) -> LayerTimes:
        """Return the times of single layers at the usual batch with guidance; time them once.

        Raises Stopped.
        """
        known = self.layers
        if known is None:
            rows = 2 * self.usual_images
            model, layers = self.macs.transformer, self.macs.layers
            known = measure_layers(model, layers, rows, self.device_text, progress, stop)
            self.keep_layers(known)
        return known


def measure_forwards(
    dense: MosaicTransformer,
    times: DeviceTimes,
    rows: int,
    shape: Shape | None = None,
    stop: threading.Event | None = None,
    tabulated: bool = False,
) -> LatencyTable:
    """Time forwards of four widths in turn and return the medians. Raises Stopped.

    tabulated: with adaLN vectors from a table, which is made before. Weights do not matter for
    time. Seven rounds, fewer where a round takes long: about LATENCY_SECONDS in all, and at least
    one round.
    """
    macs = times.macs
    vectors = _vectors(dense, rows) if tabulated else {}
    calls: list[Callable[[], object]] = []
    counts: list[float] = []
    for sparsity in LATENCY_SPARSITIES:
        network = _narrow(dense, macs, sparsity)
        calls.append(_inference(forward_call(network, macs.transformer, rows, shape, vectors)))
        counts.append(float(macs.row(sparsity, shape, tabulated)))
    if dense.mode != PLAIN:  # captures and compiles
        measure_alternating(calls, times.device, repeats=1, warm_up=0, stop=stop)
    seconds = measure_alternating(calls, times.device, repeats=1, warm_up=0, stop=stop)
    rounds = int(LATENCY_SECONDS / max(1e-9, sum(t[0] for t in seconds)))
    if rounds >= 2:
        repeats = min(LATENCY_ROUNDS, rounds - 1)
        seconds = measure_alternating(calls, times.device, repeats=repeats, warm_up=1, stop=stop)
    medians = tuple(float(np.median(t)) for t in seconds)
    when = clock_text(time.time())
    return LatencyTable(times.device_text, rows, tuple(counts), medians, when)


@torch.inference_mode()
def _vectors(dense: MosaicTransformer, rows: int) -> dict[str, Any]:
    """Return the adaLN vectors of one step for rows of one label, as conditions of a forward."""
    table = dense.tabulate(torch.tensor([500.0]), torch.zeros(rows, dtype=torch.long))
    assert table is not None  # one step of one label
    return {"class_labels": table[0]}


def _narrow(dense: MosaicTransformer, macs: ModelMacs, sparsity: float) -> Callable:
    """Return a network whose layers all lose one sparsity, with weights that mean nothing."""
    if not sparsity:
        return dense.network(500)
    cuts = []
    for layer, lost in zip(macs.layers, macs.removed(sparsity), strict=True):
        kept = layer.groups - lost
        weight: Any = macs.transformer.get_submodule(layer.consumer).weight
        narrow = weight.detach()[:, : kept * layer.group_size] if lost else None
        cuts.append(Cut(torch.arange(kept), narrow))
    plan = StagePlan((1, 2), (sparsity,) * 3)
    mosaic = MosaicTransformer(macs.transformer, plan, [cuts] * 3, layers=macs.layers)
    return mosaic.in_mode(dense.mode).network(500)


def _inference(call: Callable[[], object]) -> Callable[[], None]:
    """Return a call that runs in inference mode."""

    def run() -> None:
        with torch.inference_mode():
            call()

    return run
