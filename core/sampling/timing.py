"""Wall-clock truth: MACs by one definition on every device, a latency table of this device, and
interleaved measuring.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..errors import Stopped
from ..files import write_whole
from ..models.families import Conditions, each_tensor, family_of, first_parameter
from ..mosaic.slimming import shapes_only


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what was asked of it; clocks are only read after this."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_macs(forward: Callable[[], object]) -> tuple[int, int]:
    """Multiply-accumulates of one call: (in linear and convolution layers, in attention products).

    Half the FLOPs that torch.utils.flop_counter sees. Attention products stand apart because the
    counter sees them on CUDA and not on the CPU, where the fused kernel hides them; so the first
    number means the same on every device.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    # inference mode would hide the matrix products inside aten.linear
    with torch.no_grad(), counter:
        forward()
    counts = {str(op): flops for op, flops in counter.get_flop_counts().get("Global", {}).items()}
    attention = sum(f for op, f in counts.items() if "attention" in op or "bmm" in op)
    return (sum(counts.values()) - attention) // 2, attention // 2


def spread(values: list[float]) -> float:
    """Half the distance between the quartiles; half the range for fewer than four values, 0 for
    one.
    """
    if len(values) < 4:
        return (max(values) - min(values)) / 2
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def measure_alternating(
    calls: list[Callable[[], object]],
    device: torch.device,
    repeats: int = 5,
    warm_up: int = 2,
    stop: threading.Event | None = None,
) -> list[list[float]]:
    """Seconds of each call, taken in turn (a, b, c, a, b, c, ...) so that whatever else the machine
    does hits all alike.
    """
    times: list[list[float]] = [[] for _ in calls]
    for round_ in range(warm_up + repeats):
        for i, call in enumerate(calls):
            if stop is not None and stop.is_set():
                raise Stopped("Stopped while measuring this device; nothing was stored.")
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            if round_ >= warm_up:
                times[i].append(time.perf_counter() - start)
    return times


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of one denoiser forward against its MACs, measured on one device at one batch."""

    device: str
    rows: int  # rows of the batch, both guidance halves
    macs: tuple[float, ...]  # of one row, ascending
    seconds: tuple[float, ...]  # of the whole batch

    def at(self, macs: float) -> float:
        """Straight lines between the measured points, and on beyond the last ones; seconds of one
        forward.
        """
        x, y = self.macs, self.seconds
        i = min(max(sum(m <= macs for m in x) - 1, 0), len(x) - 2)
        return max(1e-9, y[i] + (y[i + 1] - y[i]) * (macs - x[i]) / (x[i + 1] - x[i]))

    def save(self, path: Path) -> None:
        text = json.dumps(
            {"device": self.device, "rows": self.rows, "macs": self.macs, "seconds": self.seconds},
            indent=2,
        )
        write_whole(path, lambda part: part.write_text(text))

    @classmethod
    def load(cls, path: Path) -> LatencyTable | None:
        """The stored table, or None when it is not there or cannot be read (it is then simply
        measured again).
        """
        try:
            d = json.loads(path.read_text())
            return cls(
                d["device"],
                int(d["rows"]),
                tuple(map(float, d["macs"])),
                tuple(map(float, d["seconds"])),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def forward_call(
    network: Callable, model: nn.Module, rows: int, shape: tuple[int, int, int] | None = None
) -> Callable[[], object]:
    """A denoiser forward on random input, ready to be timed or counted: `network(x, t,
    **conditions)` with the inputs that `model` takes.

    shape: latents (c, h, w); the model's nominal one by default.
    """
    family, like = family_of(model), first_parameter(model)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, *(shape or family.latent_shape(model)), generator=random).to(like)
    t = torch.full((rows,), 500, device=like.device)
    arguments = Conditions(family.probe(model, rows, random), {}).pair(
        like.device, like.dtype, guided=False
    )

    def call() -> object:
        return network(x, t, **arguments)

    return call


def module_forward(module: nn.Module) -> Callable:
    """A plain diffusers denoiser as `network(x, t, **conditions)`."""

    def call(x: torch.Tensor, t: torch.Tensor, **conditions: object) -> torch.Tensor:
        return module(x, t, **conditions, return_dict=False)[0]

    return call


def model_macs(model: nn.Module, shape: tuple[int, int, int] | None = None) -> tuple[int, int]:
    """MACs of one forward of one image, (linear and convolution, attention products), without
    computing anything: all tensors are shapes only.

    The attention products are those that the counter sees, which on this path is none for the fused
    kernels of some devices.
    """
    network = shapes_only(model)
    x, t, conditions = forward_call(
        lambda x, t, **conditions: (x, t, conditions), model, 1, shape
    )()
    conditions = each_tensor(conditions, lambda v: v.to("meta"))
    return count_macs(lambda: network(x.to("meta"), t.to("meta"), **conditions, return_dict=False))
