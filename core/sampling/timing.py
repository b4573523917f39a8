"""Count MACs by one definition on every device, and time forwards in turn on this device."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Stopped
from ..files import write_whole
from ..models.families import Arguments, Conditions, each_tensor, family_of, first_parameter
from ..mosaic.slimming import shapes_only


def clock_text(seconds: float) -> str:
    """Return a time, in seconds since 1970, as local date and time to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work; clocks are only read after this."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_macs(forward: Callable[[], object]) -> tuple[int, int]:
    """Count the multiply-accumulates of one call: (linear and convolution layers, attention).

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
    """Return half the distance between the quartiles.

    Half the range for fewer than four values, 0 for one.
    """
    if len(values) < 4:
        return (max(values) - min(values)) / 2
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def measure_alternating(
    calls: Sequence[Callable[[], object]],
    device: torch.device,
    repeats: int = 5,
    warm_up: int = 2,
    stop: threading.Event | None = None,
) -> list[list[float]]:
    """Return the seconds of each call, timed in turn (a, b, c, a, b, c, ...).

    Other work of the machine then slows all calls alike. Raises Stopped.
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
    """A table of the seconds of one denoiser forward by its MACs, at one device and batch."""

    device: str
    rows: int  # rows of the batch, both guidance halves
    macs: tuple[float, ...]  # of one row, ascending
    seconds: tuple[float, ...]  # of the whole batch
    when: str = ""  # local time of the measurement, to the minute; empty where it is not known

    def at(self, macs: float) -> float:
        """Return the seconds of one forward of so many MACs.

        Straight lines between the measured points, continued beyond the last ones.
        """
        x, y = self.macs, self.seconds
        i = min(max(sum(m <= macs for m in x) - 1, 0), len(x) - 2)
        return max(1e-9, y[i] + (y[i + 1] - y[i]) * (macs - x[i]) / (x[i + 1] - x[i]))

    @property
    def per_mac(self) -> float:
        """Return the seconds of one MAC in the dense forward."""
        return self.seconds[-1] / (self.macs[-1] * self.rows)

    def save(self, path: Path) -> None:
        """Write the table, whole or not at all. Raises OSError."""
        text = json.dumps(asdict(self), indent=2)
        write_whole(path, lambda part: part.write_text(text))

    @classmethod
    def load(cls, path: Path) -> LatencyTable | None:
        """Read a stored table; None when it is not there or cannot be read.

        The table is then measured again.
        """
        try:
            d = json.loads(path.read_text())
            return cls(
                d["device"],
                int(d["rows"]),
                tuple(map(float, d["macs"])),
                tuple(map(float, d["seconds"])),
                # an older file has no time of its own
                str(d.get("when") or clock_text(path.stat().st_mtime)),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def random_inputs(
    model: nn.Module, rows: int, shape: tuple[int, int, int] | None = None
) -> tuple[Tensor, Tensor, Arguments]:
    """Return random latents (rows, c, h, w), timesteps (rows,) and conditions of a denoiser.

    shape: latents (c, h, w); the model's nominal one by default.
    """
    family = family_of(model)
    like = first_parameter(model)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, *(shape or family.latent_shape(model)), generator=random).to(like)
    t = torch.full((rows,), 500, device=like.device)
    probe = Conditions(family.probe(model, rows, random), {})
    return x, t, probe.pair(like.device, like.dtype, guided=False)


def forward_call(
    network: Callable[..., object],
    model: nn.Module,
    rows: int,
    shape: tuple[int, int, int] | None = None,
    instead: Arguments | None = None,
) -> Callable[[], object]:
    """Return a denoiser forward on random input, ready to be timed or counted.

    It calls `network(x, t, **conditions)` with the inputs that `model` takes. shape: latents
    (c, h, w); the model's nominal one by default. instead: conditions that take the place of the
    random ones of their names.
    """
    x, t, arguments = random_inputs(model, rows, shape)
    arguments = arguments | (instead or {})

    def call() -> object:
        return network(x, t, **arguments)

    return call


def module_forward(module: nn.Module) -> Callable[..., Tensor]:
    """Return a plain diffusers denoiser as `network(x, t, **conditions)`."""

    def call(x: Tensor, t: Tensor, **conditions: Any) -> Tensor:
        return module(x, t, **conditions, return_dict=False)[0]

    return call


def model_macs(model: nn.Module, shape: tuple[int, int, int] | None = None) -> tuple[int, int]:
    """Count the MACs of one forward of one image, (linear and convolution, attention products).

    Nothing is computed: all tensors are shapes only. The attention products are those that the
    counter sees, which on this path is none for the fused kernels of some devices.
    """
    network = shapes_only(model)
    x, t, conditions = random_inputs(model, 1, shape)
    conditions = each_tensor(conditions, lambda v: v.to("meta"))
    return count_macs(lambda: network(x.to("meta"), t.to("meta"), **conditions, return_dict=False))
