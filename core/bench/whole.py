"""Time everything from a model's folder to its saved subnetworks, with an empty cache."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ..calibration.settings import CalibrationSettings
from ..curves.plan import StagePlan
from ..errors import Stopped
from ..models.checkpoints import load_checkpoint
from ..mosaic.serialization import save_mosaic
from ..progress import Progress
from ..sampling.timing import spread, synchronise
from ..workshop.workshop import Workshop
from .measure import machine

# three bins of 48 images: what three stages need at least
SETTINGS = CalibrationSettings(edges=(0, 300, 700, 1000), images=36, held_out=12, damping=0.01)
STEPS = ("load and hash", "calibrate", "build", "save")
SPARSITY = (0.5, 0.2, 0.5)


def whole_benchmark(
    model: str | Path,
    device: str = "auto",
    revision: str | None = None,
    dtype: str | None = None,
    rounds: int = 2,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Return the seconds from a folder to three saved subnetworks, and those of each step.

    Every round begins with an empty cache and nothing loaded; imports, and the system's own cache
    of the model's files, are as the round before left them. Raises Stopped and StudioError.
    """
    times: dict[str, list[float]] = {name: [] for name in (*STEPS, "all")}
    name, where = str(model), None
    for done in range(rounds):
        if stop is not None and stop.is_set():
            raise Stopped("Stopped while timing a whole run; nothing was stored.")
        if progress is not None:
            progress(done, rounds, "from a folder to saved subnetworks")
        with tempfile.TemporaryDirectory() as folder:
            marks = [time.perf_counter()]
            checkpoint = load_checkpoint(model, device, revision, dtype)
            workshop = Workshop(checkpoint, SETTINGS, Path(folder) / "cache")
            name, where = workshop.name, workshop.device
            assert workshop.folder  # named by the hash of the weights
            synchronise(where)
            marks.append(time.perf_counter())
            workshop.calibrate(stop=stop)
            synchronise(where)
            marks.append(time.perf_counter())
            last = len(workshop.schedule)
            boundaries = (round(0.3 * last), round(0.7 * last))
            plan = StagePlan(boundaries, SPARSITY, num_train_timesteps=last)
            mosaic = workshop.build(plan, stop=stop)
            synchronise(where)
            marks.append(time.perf_counter())
            save_mosaic(mosaic, Path(folder) / "saved", stop=stop)
            marks.append(time.perf_counter())
        for step, start, end in zip(STEPS, marks, marks[1:], strict=False):
            times[step].append(end - start)
        times["all"].append(marks[-1] - marks[0])
    assert where is not None  # there is at least one round
    rows = [
        {
            "name": f"{name}: folder to saved subnetworks, {step}",
            "median": statistics.median(seconds),
            "spread": spread(seconds),
            "unit": "s",
            "rounds": rounds,
        }
        for step, seconds in times.items()
    ]
    note = f"{SETTINGS.bins} bins of {SETTINGS.images + SETTINGS.held_out} images, one damping."
    return machine(where) | {"times": rows, "note": note}
