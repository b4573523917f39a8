"""Seconds of single layers at several widths on this device, so that a cut can be shared out in
time instead of MACs.

MACs are a fair price on a CPU and less so on a GPU, where thin attention is bound by memory and odd
widths waste a tile. Layers of one shape share one curve; between two measured widths the straight
line counts. What lies between the layers (norms, modulation) is in none.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..cache import fingerprint
from ..errors import StudioError
from ..files import write_whole
from ..models.layers import PrunableLayer
from ..mosaic.slimming import clone_structure, cut_module
from ..pruning.cuts import Cut
from .timing import forward_call, measure_alternating, module_forward

POINTS = 9  # widths a shape, all of them where there are no more
MOST_ROUNDS = 15
SECONDS = 20.0  # for all shapes together; more is not worth waiting for


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of one forward of one layer against the groups it keeps, measured on one device at
    one batch. Callable as `make_problem` takes costs.
    """

    device: str
    rows: int  # rows of the batch, both guidance halves
    # shape of a layer -> kept groups ascending from 0, seconds of the whole batch
    curves: dict[str, tuple[tuple[int, ...], tuple[float, ...]]]

    def __call__(self, layer: PrunableLayer, kept: np.ndarray) -> np.ndarray:
        """Seconds at each of these numbers of kept groups. Raises StudioError for a layer of a
        shape that was not timed.
        """
        if shape_name(layer) not in self.curves:
            raise StudioError(
                f"{layer.name} was not timed on this device; press Measure this device's speed"
                " again."
            )
        return np.interp(kept, *self.curves[shape_name(layer)])

    @property
    def digest(self) -> str:
        """Hash of the times: what an allocation of time depends on."""
        return fingerprint([self.device, self.rows, self.curves])

    def saved(self, layers: Sequence[PrunableLayer], removed: Sequence[int]) -> float:
        """Seconds by which one forward of the batch is shorter when the layers lose these
        groups.
        """
        return sum(
            float(np.subtract(*self(x, np.array([x.groups, x.groups - gone]))))
            for x, gone in zip(layers, removed, strict=True)
        )

    def save(self, path: Path) -> None:
        """Write the table, whole or not at all. Raises OSError."""
        text = json.dumps(
            {"device": self.device, "rows": self.rows, "curves": self.curves}, indent=2
        )
        write_whole(path, lambda part: part.write_text(text))

    @classmethod
    def load(cls, path: Path) -> LayerTimes | None:
        """The stored table, or None when it is not there or cannot be read (it is then simply
        measured again).
        """
        try:
            d = json.loads(path.read_text())
            curves = {
                name: (tuple(map(int, kept)), tuple(map(float, seconds)))
                for name, (kept, seconds) in d["curves"].items()
            }
            good = all(
                len(k) == len(s) > 1
                and list(k) == sorted(set(k))
                and np.isfinite(s).all()
                and min(s) >= 0
                for k, s in curves.values()
            )
            return cls(d["device"], int(d["rows"]), curves) if good else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def shape_name(layer: PrunableLayer) -> str:
    """Equal for layers that do the same work at every width."""
    return (
        f"{layer.kind} {layer.groups}x{layer.group_size}, {layer.macs_per_group} +"
        f" {layer.attention_macs_per_group} MACs a group"
    )


def measure_layers(
    model: nn.Module,
    layers: Sequence[PrunableLayer],
    rows: int,
    device_text: str,
    progress: Callable[[int, int, str], None] | None = None,
    stop: threading.Event | None = None,
) -> LayerTimes:
    """Time one layer of every shape at POINTS widths, in turn, on the inputs that a forward of
    `rows` random latents gives it; keep the medians.

    Weights do not matter for time. `model` is not touched. Raises Stopped.
    """
    twin = clone_structure(model)  # hooks on it are nobody else's
    firsts: dict[str, PrunableLayer] = {}
    for layer in layers:
        firsts.setdefault(shape_name(layer), layer)
    inputs = _inputs(twin, list(firsts.values()), rows)
    curves, device = {}, next(twin.parameters()).device
    for i, (name, layer) in enumerate(firsts.items()):
        if progress is not None:
            progress(i, len(firsts), f"timing {layer.kind} of {layer.groups} on this device")
        kept = (
            np.unique(np.rint(np.linspace(0, layer.groups // layer.step, POINTS)).astype(int))
            * layer.step
        )
        kept[-1] = layer.groups
        weight = twin.get_submodule(layer.consumer).weight
        calls = [
            _call(
                cut_module(twin, layer, Cut(torch.arange(k), weight[:, : k * layer.group_size])),
                *inputs[layer.name],
            )
            for k in kept.tolist()
        ]
        # counts as a warm-up where there are more
        first = measure_alternating(calls, device, repeats=1, warm_up=0, stop=stop)
        rounds = min(MOST_ROUNDS, int(SECONDS / len(firsts) / max(1e-9, sum(t[0] for t in first))))
        times = (
            first
            if rounds < 2
            else measure_alternating(calls, device, repeats=rounds, warm_up=0, stop=stop)
        )
        curves[name] = (tuple(kept.tolist()), tuple(float(np.median(t)) for t in times))
    return LayerTimes(device_text, rows, curves)


def _inputs(
    model: nn.Module, layers: Sequence[PrunableLayer], rows: int
) -> dict[str, tuple[tuple, dict]]:
    """(args, kwargs) that the module of each layer is called with, by layer name."""
    found: dict[str, tuple[tuple, dict]] = {}

    def noting(name: str) -> Callable:
        def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
            found[name] = args, kwargs

        return note

    hooks = [
        model.get_submodule(x.module).register_forward_pre_hook(noting(x.name), with_kwargs=True)
        for x in layers
    ]
    try:
        with torch.inference_mode():
            forward_call(module_forward(model), model, rows)()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _call(module: nn.Module, args: tuple, kwargs: dict) -> Callable[[], None]:
    def call() -> None:
        with torch.inference_mode():
            module(*args, **kwargs)

    return call
