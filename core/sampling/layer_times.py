"""Time single layers at several widths on this device, so that an allocation can count time.

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
from typing import Any

import numpy as np
import torch
from torch import nn

from ..cache import fingerprint
from ..errors import StudioError
from ..files import write_whole
from ..models.layers import PrunableLayer
from ..mosaic.slimming import clone_structure, cut_module
from ..progress import Progress
from ..pruning.cuts import Cut
from .timing import forward_call, measure_alternating, module_forward

POINTS = 9  # widths per shape, all of them where there are no more
MOST_ROUNDS = 15
SECONDS = 20.0  # for all shapes together; more is not worth waiting for

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@dataclass(frozen=True)
class LayerTimes:
    """A table of the seconds of one layer's forward by the groups that the layer keeps.

    Measured on one device at one batch. Callable as `make_problem` takes costs.
    """

    device: str
    rows: int  # rows of the batch, both guidance halves
    # shape of a layer -> kept groups ascending from 0, seconds of the whole batch
    curves: dict[str, tuple[tuple[int, ...], tuple[float, ...]]]

    def __call__(self, layer: PrunableLayer, kept: np.ndarray) -> np.ndarray:
        """Return the seconds at each of these numbers of kept groups.

        Raises StudioError for a layer of a shape that was not timed.
        """
        if shape_name(layer) not in self.curves:
            raise StudioError(
                f"{layer.name} was not timed on this device: measure the speed of its layers again."
            )
        return np.interp(kept, *self.curves[shape_name(layer)])

    @property
    def digest(self) -> str:
        """Return a hash of the times, on which an allocation of time depends."""
        return fingerprint([self.device, self.rows, self.curves])

    def saved(self, layers: Sequence[PrunableLayer], removed: Sequence[int]) -> float:
        """Return the seconds that one forward of the batch saves when layers lose these groups."""
        total = 0.0
        for layer, lost in zip(layers, removed, strict=True):
            full, cut = self(layer, np.array([layer.groups, layer.groups - lost]))
            total += float(full - cut)
        return total

    def save(self, path: Path) -> None:
        """Write the table, whole or not at all. Raises OSError."""
        text = json.dumps(
            {"device": self.device, "rows": self.rows, "curves": self.curves}, indent=2
        )
        write_whole(path, lambda part: part.write_text(text))

    @classmethod
    def load(cls, path: Path) -> LayerTimes | None:
        """Read a stored table; None when it is not there or cannot be read.

        The table is then measured again.
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
    """Return a name that is equal for layers with the same work at every width."""
    return (
        f"{layer.kind} {layer.groups}x{layer.group_size}, {layer.macs_per_group} +"
        f" {layer.attention_macs_per_group} MACs a group"
    )


def measure_layers(
    model: nn.Module,
    layers: Sequence[PrunableLayer],
    rows: int,
    device_text: str,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> LayerTimes:
    """Time one layer of every shape at POINTS widths, in turn, and return the medians.

    The inputs are those that a forward of `rows` random latents gives the layer. Weights do not
    matter for time. `model` is not changed. Raises Stopped.
    """
    twin = clone_structure(model)  # its hooks are seen by no other user of the model
    firsts: dict[str, PrunableLayer] = {}
    for layer in layers:
        firsts.setdefault(shape_name(layer), layer)
    inputs = _inputs(twin, list(firsts.values()), rows)
    curves: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {}
    device = next(twin.parameters()).device
    for i, (name, layer) in enumerate(firsts.items()):
        if progress is not None:
            progress(i, len(firsts), f"timing {layer.kind} of {layer.groups} on this device")
        kept = kept_widths(layer)
        weight: Any = twin.get_submodule(layer.consumer).weight
        calls = [
            _call(
                cut_module(twin, layer, Cut(torch.arange(k), weight[:, : k * layer.group_size])),
                *inputs[layer.name],
            )
            for k in kept
        ]
        # counts as a warm-up where there are more
        times = measure_alternating(calls, device, repeats=1, warm_up=0, stop=stop)
        seconds = sum(t[0] for t in times)
        rounds = min(MOST_ROUNDS, int(SECONDS / len(firsts) / max(1e-9, seconds)))
        if rounds >= 2:
            times = measure_alternating(calls, device, repeats=rounds, warm_up=0, stop=stop)
        curves[name] = (kept, tuple(float(np.median(t)) for t in times))
    return LayerTimes(device_text, rows, curves)


def kept_widths(layer: PrunableLayer) -> tuple[int, ...]:
    """Return the numbers of kept groups that a layer is timed at, ascending from 0 to all."""
    steps = np.unique(np.rint(np.linspace(0, layer.groups // layer.step, POINTS)).astype(int))
    kept = steps * layer.step
    kept[-1] = layer.groups
    return tuple(kept.tolist())


def _inputs(
    model: nn.Module, layers: Sequence[PrunableLayer], rows: int
) -> dict[str, tuple[Args, Kwargs]]:
    """Return (args, kwargs) that the module of each layer is called with, by layer name."""
    found: dict[str, tuple[Args, Kwargs]] = {}

    def keeping(name: str) -> Callable[[nn.Module, Args, Kwargs], None]:
        def keep(_: nn.Module, args: Args, kwargs: Kwargs) -> None:
            found[name] = args, kwargs

        return keep

    hooks = [
        model.get_submodule(x.module).register_forward_pre_hook(keeping(x.name), with_kwargs=True)
        for x in layers
    ]
    try:
        with torch.inference_mode():
            forward_call(module_forward(model), model, rows)()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _call(module: nn.Module, args: Args, kwargs: Kwargs) -> Callable[[], object]:
    """Return a forward of a module, ready to be timed."""

    def call() -> None:
        with torch.inference_mode():
            module(*args, **kwargs)

    return call
