"""Run comparisons on a GPU that a Space lends for one call at a time (Hugging Face's ZeroGPU).

The package `spaces` runs such a call in a forked process, which alone has the GPU. What it takes
and gives is pickled, and what it built may be gone at the next call. So the fork opens the model by
its name, finds its calibration in the cache, and leaves its results in a folder as files; progress
comes back as it happens, and a Stop goes there as a file. Everything else stays on the CPU.

Nothing here imports `spaces` where no GPU is lent. `spaces` 0.51 is what this was read from.
"""

from __future__ import annotations

import importlib
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from core.calibration.data import DataOptions
from core.calibration.settings import CalibrationSettings
from core.curves.plan import StagePlan
from core.errors import Stopped, StudioError
from core.workshop.compare import compare
from core.workshop.comparison import Comparison, Preview, SampleSettings
from core.workshop.estimate import estimate
from core.workshop.workshop import Workshop, get_workshop

from .jobs import failure
from .long_work import ticking

TOLD = "SPACES_ZERO_GPU"  # set on a Space with ZeroGPU
LOOK_SECONDS = 0.1  # between two looks at a Stop, on both sides
FIRST_SECONDS = 60  # to ask for before anything is known; ZeroGPU's own default
LEAST_SECONDS = 15
MARGIN = 1.5  # of the seconds asked for, over the foreseen ones
STOP, SKIP = "stop", "skip"  # names of files
NO_GPU = "The Space lent no GPU ({}): try again later, or run the studio on a machine of your own."
LOST = "The Space took its GPU back before the comparison was done: ask for fewer images or steps."
NOT_LOADED = (
    "This Space lends GPUs through the package spaces, which could not be loaded ({}): everything"
    " runs on the CPU."
)
LENDS = "Comparisons run on the GPU that this Space lends; everything else runs on its CPU."
Item = tuple[str, Any]  # kind, and what goes with it


@dataclass(frozen=True)
class Job:
    """What a lent call is asked for, as it is pickled."""

    model: str
    revision: str | None
    dtype: str
    calibration: CalibrationSettings
    data: DataOptions
    model_key: str
    plans: tuple[StagePlan | None, StagePlan | None]
    settings: SampleSettings
    previews: bool
    folder: str  # for results and for the files of Stop
    seconds: int  # to ask for


_call: Callable[[Job], Iterator[Item]] | None = None  # in a fork with a GPU


def prepare() -> str:
    """Get ready to be lent GPUs, and return a sentence; nothing where none are.

    It comes before anything uses CUDA and before the page is launched: ZeroGPU ends a Space that
    has no function to lend a GPU to by then.
    """
    global _call
    if os.environ.get(TOLD, "").strip().lower() not in ("1", "t", "true"):
        return ""
    try:
        spaces = importlib.import_module("spaces")
        config = importlib.import_module("spaces.config")
    except Exception as err:  # it changes torch, and knows only some builds of it
        return NOT_LOADED.format(f"{type(err).__name__}: {' '.join(str(err).split())[:120]}")
    if not config.Config.zero_gpu:
        return ""
    _call = spaces.GPU(duration=lambda job: job.seconds)(in_a_fork)
    return LENDS


def lends() -> bool:
    """Say whether comparisons run on a lent GPU."""
    return _call is not None


def compared(
    workshop: Workshop,
    plan_a: StagePlan | None,
    plan_b: StagePlan | None,
    settings: SampleSettings,
    stop: threading.Event | None = None,
    previews: bool = True,
    skip: threading.Event | None = None,
) -> Iterator[Preview | Comparison]:
    """Yield what `compare` yields, from a lent GPU where there is one. Raises StudioError, Stopped.

    A calibration that the plans need is there before.
    """
    if _call is None:
        yield from compare(
            workshop, plan_a, plan_b, settings, stop=stop, previews=previews, skip=skip
        )
        return
    with tempfile.TemporaryDirectory(prefix="mosaicdiff-lent-") as folder:
        checkpoint = workshop.checkpoint
        job = Job(
            model=str(checkpoint.folder or checkpoint.pipeline.config["_name_or_path"]),
            revision=checkpoint.revision,
            dtype=str(workshop.dtype).removeprefix("torch."),
            calibration=workshop.settings,
            data=workshop.data_options,
            model_key=workshop.model_key,
            plans=(plan_a, plan_b),
            settings=settings,
            previews=previews,
            folder=folder,
            seconds=seconds_to_ask(workshop, (plan_a, plan_b), settings),
        )
        signals = {STOP: stop or threading.Event(), SKIP: skip or threading.Event()}
        yield from _followed(_call, workshop, job, signals)


# ------------------------------------------------------------ in the process of the page


def _followed(
    call: Callable[[Job], Iterator[Item]],
    workshop: Workshop,
    job: Job,
    signals: dict[str, threading.Event],
) -> Iterator[Preview | Comparison]:
    """Yield what comes from the fork, and pass on what is signalled. Raises StudioError, Stopped.

    When nobody reads on, the folder goes, which the fork takes for a Stop.
    """
    heard, folder = _Heard(), Path(job.folder)
    for item in _signalled(_items(call, job), folder, signals, heard):
        kind, what = item
        if kind == "stopped":
            raise Stopped(what)
        if kind == "failed":
            raise StudioError(what)
        if kind == "preview":
            preview, name = what
            found = Comparison.load(folder / name) if name else None
            yield replace(preview, found=found)
        else:
            found = Comparison.load(folder / what)
            heard.learn(workshop, job)
            yield found


def _signalled(
    items: Iterator[Item | None],
    folder: Path,
    signals: dict[str, threading.Event],
    heard: _Heard,
) -> Iterator[Item]:
    """Yield items to the last word, while signals go the other way. Raises StudioError, Stopped."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            raise StudioError(LOST) from None  # without its last word
        except Exception as err:  # of `spaces`: no GPU, no quota, or a fork that died
            raise StudioError(LOST if heard.first else NO_GPU.format(_plain(err))) from err
        for name, event in signals.items():
            if event.is_set():
                (folder / name).touch()
        if item is None:
            if signals[STOP].is_set() and not heard.first:
                raise Stopped("Stopped while it waited for a GPU.")
            continue
        heard.note()
        if item[0] == "preview":
            yield item
            continue
        with suppress(Exception):  # the GPU is given back behind the last word
            for _ in items:
                pass
        yield item
        return


def _items(call: Callable[[Job], Iterator[Item]], job: Job) -> Iterator[Item | None]:
    """Yield what a lent call yields, and None while nothing comes; waiting for a GPU is long.

    In the context of the visitor, whose quota it takes.
    """
    context = copy_context()

    def work(put: Callable[[Item], None]) -> None:
        def body() -> None:
            for item in call(job):
                put(item)

        context.run(body)

    return ticking(work, LOOK_SECONDS)


def _plain(error: Exception) -> str:
    """Return the words of an error of `spaces` without their last full stop."""
    said = " ".join(str(getattr(error, "message", error) or type(error).__name__).split())
    return said.rstrip(". ")


# ------------------------------------------------------------ how long


class Pace(NamedTuple):
    """How long lent calls take: to open a model, and per second that the CPU is predicted."""

    opening: float  # seconds
    rate: float


_paces: WeakKeyDictionary[Workshop, Pace] = WeakKeyDictionary()


class _Heard:
    """When the first and the second item of a lent call came, in seconds on the clock."""

    def __init__(self) -> None:
        self.first = self.second = 0.0

    def note(self) -> None:
        """Take the time of an item."""
        now = time.monotonic()
        if not self.first:
            self.first = now
        elif not self.second:
            self.second = now

    def learn(self, workshop: Workshop, job: Job) -> None:
        """Remember how long a call took, for the next one of this model."""
        predicted = _predicted(workshop, job.plans, job.settings)
        if predicted is None:
            return
        before = _paces.get(workshop)
        opening = self.second - self.first
        if before is not None:  # a fork that is used again opens nothing
            opening = max(opening, before.opening)
        _paces[workshop] = Pace(opening, (time.monotonic() - self.second) / predicted)


def seconds_to_ask(
    workshop: Workshop, plans: tuple[StagePlan | None, StagePlan | None], settings: SampleSettings
) -> int:
    """Return for how many seconds a GPU is asked, from the prediction for this machine's CPU.

    What a lent GPU makes of that is known after the first call.
    """
    pace, predicted = _paces.get(workshop), _predicted(workshop, plans, settings)
    if pace is None or predicted is None:
        return FIRST_SECONDS
    return max(LEAST_SECONDS, math.ceil(MARGIN * (pace.opening + pace.rate * predicted)))


def _predicted(
    workshop: Workshop, plans: tuple[StagePlan | None, StagePlan | None], settings: SampleSettings
) -> float | None:
    """Return the seconds that a comparison would take on this machine's CPU, or None."""
    try:
        found = estimate(workshop, plans, settings)
    except StudioError:
        return None
    return None if found is None or not found.seconds else found.seconds


# ------------------------------------------------------------ in the fork


def in_a_fork(job: Job) -> Iterator[Item]:
    """Run a comparison where the GPU is; yield ("preview", (preview, name)) and ("done", name).

    name: of the folder, within the job's, of the comparison that goes with it, or empty. The last
    item may be ("stopped", words) or ("failed", sentence) instead: of an error, `spaces` passes on
    the name of its class alone.
    """
    # a fork has none of the threads that OpenMP made before, and would wait for them
    torch.set_num_threads(1)
    over = threading.Event()
    events = {STOP: threading.Event(), SKIP: threading.Event()}
    folder = Path(job.folder)
    threading.Thread(target=_watch, args=(folder, events, over), daemon=True).start()
    try:
        yield "preview", (Preview("opening the model on the GPU", 0, 1), "")
        yield from _in_the_fork(job, folder, events)
    except Stopped as err:
        yield "stopped", str(err)
    except Exception as err:
        yield "failed", failure(err, "The comparison")
    finally:
        over.set()


def _in_the_fork(job: Job, folder: Path, events: dict[str, threading.Event]) -> Iterator[Item]:
    """Yield the items of a comparison. Raises StudioError, Stopped."""
    if not folder.exists() or (folder / STOP).exists():  # the GPU came too late
        raise Stopped("Stopped while it waited for a GPU.")
    workshop = get_workshop(job.model, "auto", job.revision, job.dtype, job.calibration, job.data)
    if workshop.model_key != job.model_key:
        raise StudioError(f"{workshop.name} has changed since the page was opened: restart it.")
    if any(map(workshop.needs_calibration, job.plans)):
        workshop.calibrate(stop=events[STOP])  # read from the cache
    for n, item in enumerate(
        compare(workshop, *job.plans, job.settings, events[STOP], job.previews, events[SKIP])
    ):
        if isinstance(item, Comparison):
            yield "done", _saved(item, folder, n)
        else:
            name = "" if item.found is None else _saved(item.found, folder, n)
            yield "preview", (replace(item, found=None), name)


def _saved(found: Comparison, folder: Path, n: int) -> str:
    """Write a comparison into a folder of the job; return its name."""
    name = f"found-{n}"
    found.save(folder / name)
    return name


def _watch(folder: Path, events: dict[str, threading.Event], over: threading.Event) -> None:
    """Set the events whose files come, and the Stop when nobody waits for the result any more."""
    while not over.wait(LOOK_SECONDS):
        for name, event in events.items():
            if (folder / name).exists():
                event.set()
        if not folder.exists():
            events[STOP].set()
