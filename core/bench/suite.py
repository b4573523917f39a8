"""Run `python app.py bench`: every ratio that the README quotes, with its spread.

All parts together take under 15 minutes on two CPU cores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..errors import Stopped, StudioError, plain_memory_errors
from ..models.bundled import BUNDLED
from ..models.devices import pick_device, pick_dtype
from ..progress import Progress
from ..workshop.workshop import Workshop, get_workshop
from .kept import KeptParts
from .measure import Effort, machine
from .subjects import Subject, blocks_of_xl, subject_of


@dataclass
class Suite:
    """What the parts are run on. The model is only loaded by the parts that measure it.

    quick: small sizes and few rounds, to see that everything runs; its numbers are not for quoting.
    """

    model: str | Path = BUNDLED
    device: str = "auto"
    revision: str | None = None
    dtype: str | None = None
    quick: bool = False
    progress: Progress | None = None
    stop: threading.Event | None = None

    @cached_property
    def workshop(self) -> Workshop:
        """Return the workshop of the model, loaded when first asked for."""
        return get_workshop(self.model, self.device, self.revision, self.dtype)

    @cached_property
    def where(self) -> torch.device:
        """Return the device."""
        return pick_device(self.device)

    def blocks(self) -> Subject:
        """Return blocks of DiT-XL/2's width with random weights.

        They are on the device and in the precision that a model would be loaded in.
        """
        return blocks_of_xl(self.where, pick_dtype(self.dtype, self.where))

    def effort(self, seconds: float) -> Effort:
        """Return the effort of a part that may take so many seconds."""
        return Effort(0.0, 2, 2) if self.quick else Effort(seconds)

    @property
    def steps(self) -> int:
        """Return the steps of sampling runs."""
        return 5 if self.quick else 50

    @property
    def batches(self) -> tuple[int, ...]:
        """Return the batch sizes to measure."""
        return (1, 4) if self.quick else (1, 4, 16)


def path(suite: Suite) -> dict[str, Any]:
    """Time the blocked removal path of one DiT-XL/2 MLP against the textbook loop."""
    from .removal_path import path_benchmark
    from .rows import path_rows

    n, d, steps, rounds = (1536, 384, 8, 2) if suite.quick else (4608, 1152, 32, 3)
    found = path_benchmark(
        n,
        d,
        naive_steps=steps,
        rounds=rounds,
        threads=torch.get_num_threads(),
        device=str(suite.where),
        progress=suite.progress,
        stop=suite.stop,
    )
    return found | path_rows(found)


def forward(suite: Suite) -> dict[str, Any]:
    """Time slim networks against gathering and masked ones."""
    from .forward import forward_benchmark

    return forward_benchmark(
        [subject_of(suite.workshop), suite.blocks()],
        suite.batches,
        effort=suite.effort(150),
        progress=suite.progress,
        stop=suite.stop,
    )


def realised(suite: Suite) -> dict[str, Any]:
    """Compare measured with MAC-predicted speed-up."""
    from .realised import realised_benchmark

    effort = suite.effort(200)
    return realised_benchmark(
        suite.workshop,
        suite.blocks(),
        suite.batches,
        steps=suite.steps,
        effort=effort,
        progress=suite.progress,
        stop=suite.stop,
    )


def memory(suite: Suite) -> dict[str, Any]:
    """Count the bytes of subnetworks that share equal parts."""
    from .memory import memory_benchmark

    return memory_benchmark(suite.workshop)


def calibration(suite: Suite) -> dict[str, Any]:
    """Time Gram sums over plain forward passes."""
    from .overhead import overhead_benchmark, rows_at_once

    subjects = [subject_of(suite.workshop), suite.blocks()]
    return overhead_benchmark(
        [(s, 2 if suite.quick else rows_at_once(s)) for s in subjects],
        suite.effort(90),
        suite.progress,
        suite.stop,
    )


def macs(_suite: Suite) -> dict[str, Any]:
    """Count DiT-XL/2's MACs beside the paper's."""
    from .macs import macs_benchmark

    return macs_benchmark()


def allocation(suite: Suite) -> dict[str, Any]:
    """Time the sharing of a budget over layers and stages."""
    from .allocation import allocation_benchmark
    from .rows import allocation_rows

    found = allocation_benchmark(rounds=3 if suite.quick else 9)
    return found | allocation_rows(found)


def plans(suite: Suite) -> dict[str, Any]:
    """Time a new plan to finished subnetworks, after one calibration."""
    from .plans import plans_benchmark

    return plans_benchmark(suite.workshop, 2 if suite.quick else 9, suite.progress, suite.stop)


def adaln(suite: Suite) -> dict[str, Any]:
    """Time sampling with and without a table of adaLN vectors."""
    from .adaln import tabulation_benchmark

    return tabulation_benchmark(
        suite.workshop,
        suite.batches,
        steps=suite.steps,
        effort=suite.effort(60),
        progress=suite.progress,
        stop=suite.stop,
    )


def modes(suite: Suite) -> dict[str, Any]:
    """Time sampling plain, captured and with compiled blocks, as far as the device can."""
    from .modes import BATCHES, modes_benchmark

    return modes_benchmark(
        suite.workshop,
        BATCHES[:1] if suite.quick else BATCHES,
        steps=suite.steps,
        effort=suite.effort(120),
        progress=suite.progress,
        stop=suite.stop,
    )


def layouts(suite: Suite) -> dict[str, Any]:
    """Time ways to lay the bundled model's forward out, and DiT-XL/2's on CUDA."""
    from .layouts import ROWS, layouts_benchmark

    on_cuda = suite.where.type == "cuda"
    return layouts_benchmark(
        suite.blocks() if on_cuda else subject_of(suite.workshop),
        ROWS[:1] if suite.quick else ROWS,
        suite.effort(60),
        progress=suite.progress,
        stop=suite.stop,
    )


def xl(suite: Suite) -> dict[str, Any]:
    """Time forwards of DiT-XL/2's width in every mode: all of it on CUDA, two blocks on a CPU."""
    from .xl_modes import ROWS, xl_benchmark

    whole = suite.where.type == "cuda" and not suite.quick
    dtype = pick_dtype(suite.dtype, suite.where)
    subject = blocks_of_xl(suite.where, dtype, num_layers=28) if whole else suite.blocks()
    return xl_benchmark(
        subject,
        ROWS if whole else ROWS[:1],
        suite.effort(60),
        progress=suite.progress,
        stop=suite.stop,
    )


def orders(suite: Suite) -> dict[str, Any]:
    """Time removal orders of neurons and heads, a layer alone and layers side by side.

    The layers are DiT-XL/2's on CUDA.
    """
    from .orders import orders_benchmark

    # columns, outputs, layers, columns per group
    neurons, heads = (1024, 256, 4, 1), (1152, 1152, 4, 72)
    if suite.quick:
        neurons, heads = (96, 24, 3, 1), (96, 96, 3, 24)
    elif suite.where.type == "cuda":
        neurons, heads = (4608, 1152, 28, 1), (1152, 1152, 28, 72)
    found = [
        orders_benchmark(
            n,
            d,
            layers,
            group_size,
            rounds=2 if suite.quick else rounds,
            device=str(suite.where),
            progress=suite.progress,
            stop=suite.stop,
        )
        for (n, d, layers, group_size), rounds in ((neurons, 3), (heads, 5))
    ]
    return found[0] | {key: found[0][key] + found[1][key] for key in ("times", "ratios")}


def whole(suite: Suite) -> dict[str, Any]:
    """Time a model's folder to its saved subnetworks, with an empty cache."""
    from .whole import whole_benchmark

    return whole_benchmark(
        suite.model,
        suite.device,
        suite.revision,
        suite.dtype,
        rounds=1 if suite.quick else 2,
        progress=suite.progress,
        stop=suite.stop,
    )


QUICK = (macs, memory, allocation, plans, path, orders, adaln, modes, layouts, xl)
SLOW = (forward, realised, calibration, whole)
PARTS: dict[str, Callable[[Suite], dict[str, Any]]] = {f.__name__: f for f in (*QUICK, *SLOW)}
# on a GPU that is at hand for minutes: what tells most comes first
ON_CUDA = (
    "xl",
    "modes",
    "path",
    "orders",
    "realised",
    "plans",
    "whole",
    "forward",
    "layouts",
    "calibration",
)


def in_order(device: torch.device) -> list[str]:
    """Return the names of all parts in the order that suits a device."""
    first = ON_CUDA if device.type == "cuda" else ()
    return [*first, *(name for name in PARTS if name not in first)]


def run_part(name: str, suite: Suite) -> dict[str, Any]:
    """Run one part by name, with the seconds that it took.

    Raises StudioError for an unknown name, and what the part raises.
    """
    if name not in PARTS:
        raise StudioError(
            f"There is no benchmark called {name!r}; choose one of {', '.join(PARTS)}."
        )
    start = time.perf_counter()
    found = PARTS[name](suite)
    return {"part": name, **found, "elapsed_seconds": round(time.perf_counter() - start, 1)}


def run_all(
    suite: Suite,
    names: Sequence[str] = tuple(PARTS),
    kept: KeptParts | None = None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run every part.

    Where a part fails with a sentence (or for lack of memory), the sentence stands in its place.
    Stopped by event or Ctrl-C, the finished parts are kept. kept: parts that are there are not run
    again, and finished ones are added. show: called with each part as soon as it is there.
    """
    start = time.perf_counter()
    parts = {}
    stopped = False
    for i, name in enumerate(names):
        if kept is not None and name in kept.parts:
            parts[name] = kept.parts[name]
            continue
        try:
            with plain_memory_errors():
                progress = _within(suite.progress, i, len(names), name, start)
                parts[name] = run_part(name, replace(suite, progress=progress))
            if kept is not None:
                kept.add(name, parts[name])
            if show is not None:
                show(parts[name])
        except (Stopped, KeyboardInterrupt):
            words = "stopped here; this part and those after it were not measured."
            parts[name] = {"part": name, "error": words}
            stopped = True
            break
        except StudioError as err:
            parts[name] = {"part": name, "error": str(err)}
    facts = {
        "quick": suite.quick,
        "stopped": stopped,
        "elapsed_seconds": round(time.perf_counter() - start, 1),
        "parts": parts,
    }
    return machine(suite.where) | facts


def _within(
    progress: Progress | None, i: int, parts: int, name: str, start: float
) -> Progress | None:
    """Return a part's progress as a step of the whole."""
    if progress is None:
        return None
    progress(i, parts, f"{name} ({time.perf_counter() - start:.0f} s so far)")
    return lambda done, total, text: progress(
        i, parts, f"{name}: {text} ({min(done + 1, total)} of {total})"
    )
