"""Hand the cells of a sweep to a Ray cluster, and take the kept files back.

Ray is an optional package; it schedules, moves and retries, and nothing here does. A cell goes out
as plain settings with the name of the model; what comes back are the files of its comparison, which
this machine keeps as a run. Every node needs this package in the same version, and the model.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..calibration.data import DataOptions
from ..calibration.settings import CalibrationSettings
from ..curves.plan import StagePlan
from ..errors import Stopped, StudioError
from ..workshop.compare import compare
from ..workshop.comparison import Comparison
from ..workshop.drawing import draw_reference
from ..workshop.reference import Reference, drawn_alike
from ..workshop.workshop import Workshop, get_workshop
from .cells import Cell
from .engine import MAX_SAID, CellDone, Report, Sweep, Swept, sentence_of
from .record import settings_from

REACH_SECONDS = 5.0  # until something listens at a cluster's address
INIT_SECONDS = 50.0  # until the cluster answers; after 60 Ray may end this process without a word
POLL_SECONDS = 0.5  # between two looks at a stop
RETRIES = 1  # of a cell whose worker died
TOKEN = "RAY_AUTH_MODE"  # an environment variable of Ray; unset, no token goes to a named address


@dataclass(frozen=True)
class ModelSource:
    """What a worker opens: the arguments of `get_workshop`."""

    model: str
    device: str
    revision: str | None
    dtype: str | None
    calibration: CalibrationSettings
    data: DataOptions


# ------------------------------------------------------------ on a worker

_latest: list[Reference] = []  # of this worker: cells of the same dense pictures come together


def run_task(task: dict[str, Any]) -> dict[str, Any]:
    """Run one cell on a worker; return its files and seconds, or the sentence of its error.

    task: `task_of`.
    """
    try:
        workshop = _opened(task)
        start = time.monotonic()  # the model is opened once per worker: no cell's own time
        found = _compared(workshop, task)
        with tempfile.TemporaryDirectory() as folder:
            found.save(Path(folder))
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    except Exception as err:  # whatever it is, the other cells go on
        return {"error": sentence_of(err)}
    return {"files": files, "seconds": time.monotonic() - start}


def task_of(cell: Cell, source: ModelSource, model_key: str) -> dict[str, Any]:
    """Return what a worker needs for a cell, as plain data and two records of settings."""
    return {
        "version": __version__,
        "source": source,
        "model_key": model_key,
        "plan": cell.plan.to_json(),
        "settings": cell.settings.to_json(),
        "shares_pictures": cell.shares_pictures,
    }


def _opened(task: dict[str, Any]) -> Workshop:
    """Return the workshop of a task, calibrated where a cell needs it. Raises StudioError."""
    if task["version"] != __version__:
        raise StudioError(
            f"A worker has version {__version__} of this package and the sweep {task['version']}:"
            " install the same one on every node."
        )
    source: ModelSource = task["source"]
    workshop = get_workshop(
        source.model, source.device, source.revision, source.dtype, source.calibration, source.data
    )
    if workshop.model_key != task["model_key"]:
        raise StudioError(f"A worker has another model under the name {source.model}.")
    if workshop.calibrated or workshop.needs_calibration(StagePlan.from_json(task["plan"])):
        workshop.calibrate()
    return workshop


def _compared(workshop: Workshop, task: dict[str, Any]) -> Comparison:
    """Return the comparison of a task. Raises StudioError."""
    plan, settings = StagePlan.from_json(task["plan"]), settings_from(task["settings"])
    reference = None
    if task["shares_pictures"]:
        own = drawn_alike(settings)
        if not _latest or _latest[0].settings != own:
            _latest[:] = [draw_reference(workshop, own)]
        reference = _latest[0]
    *_, found = compare(workshop, None, plan, settings, previews=False, reference=reference)
    assert isinstance(found, Comparison)  # `compare` ends with one, or raises
    return found


def comparison_from(files: dict[str, bytes]) -> Comparison:
    """Return the comparison of the files that came back. Raises StudioError."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("comparison.safetensors", "comparison.json"):
            (Path(folder) / name).write_bytes(files[name])
        return Comparison.load(Path(folder))


# ------------------------------------------------------------ on this machine


def ray_module() -> Any:
    """Return the package Ray. Raises StudioError where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as err:
        raise StudioError(
            "Ray is not installed: pip install ray, or leave --ray out to run the cells here."
        ) from err


def connect(ray: Any, address: str, stop: threading.Event) -> None:
    """Connect to a cluster: HOST:PORT, ray://HOST:PORT, auto or local.

    Raises StudioError for one that does not answer in `INIT_SECONDS`, and Stopped.
    """
    _, _, place = address.rpartition("://")
    host, colon, port = place.rpartition(":")
    try:
        if colon:  # Ray itself would try for a minute
            socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
        _init(ray, address, stop)
    except Stopped:
        raise
    except Exception as err:  # Ray has many kinds of its own
        said = " ".join(str(err).split())[:160]
        said = f"{type(err).__name__}: {said}"
        if address == "local":
            raise StudioError(
                f"The local Ray cluster did not start ({said}): try again when this machine is less"
                " busy, or leave Ray out."
            ) from err
        token = "" if TOKEN in os.environ else f", set {TOKEN}=token where it asks for one"
        raise StudioError(
            f"The Ray cluster at {address} cannot be reached ({said}): start it (ray start --head)"
            f"{token} or correct the address."
        ) from err


def _init(ray: Any, address: str, stop: threading.Event) -> None:
    """Connect in a thread of its own, as Ray waits for minutes where something else listens.

    Raises TimeoutError, Stopped, and what Ray raises.
    """
    failed: list[BaseException] = []

    def init() -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except BaseException as err:  # Ray ends with SystemExit, too
            failed.append(err)

    thread = threading.Thread(target=init, daemon=True, name="connecting to Ray")
    until = time.monotonic() + INIT_SECONDS
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if stop.is_set() and thread.is_alive():
            raise Stopped("Stopped before the Ray cluster had answered.")
        if time.monotonic() >= until and thread.is_alive():
            raise TimeoutError(f"no answer in {INIT_SECONDS:g} s")
    if failed:
        raise RuntimeError(str(failed[0])) if isinstance(failed[0], SystemExit) else failed[0]


def run_on_ray(
    sweep: Sweep, source: ModelSource, address: str
) -> Iterator[Report | CellDone | Swept]:
    """Yield what `Sweep.run` yields while a Ray cluster runs the cells.

    Stop, and the end of the time, keep what has come back and cancel the rest. Raises StudioError
    for a cluster that cannot be reached, and where a result cannot be kept.
    """
    ray = ray_module()
    with redirect_stdout(sys.stderr):  # where Ray says that a worker died; stdout is for results
        try:
            connect(ray, address, sweep.stop)
        except Stopped:
            yield sweep.end()
            return
        yield from _handed_out(ray, sweep, source)


def _handed_out(ray: Any, sweep: Sweep, source: ModelSource) -> Iterator[Report | CellDone | Swept]:
    """Yield what happens while a cluster that is connected runs the cells, and leave it."""
    refs: dict[Any, Cell] = {}
    try:
        needs, sweep.side_by_side = _needs(ray, source.device)
        remote = ray.remote(run_task).options(max_retries=RETRIES, **needs)
        key = sweep.workshop.model_key
        waiting = sweep.waiting
        refs = {remote.remote(task_of(cell, source, key)): cell for cell in waiting}
        yield sweep.opening()
        while refs and not sweep.enough:
            ready, _ = ray.wait(list(refs), num_returns=1, timeout=POLL_SECONDS)
            for ref in ready:
                yield _came_back(ray, sweep, refs.pop(ref), ref)
        yield sweep.end()
    finally:
        for ref in refs:
            with suppress(Exception):  # it ends with the connection
                ray.cancel(ref, force=True)
        ray.shutdown()


def _came_back(ray: Any, sweep: Sweep, cell: Cell, ref: Any) -> CellDone:
    """Keep what a worker found for a cell, or mark the cell. Raises StudioError if not kept."""
    try:
        found = ray.get(ref)
        if "error" in found:
            return sweep.failed(cell, str(found["error"]))
        comparison = comparison_from(found["files"])
    except ray.exceptions.RayError as err:  # the worker died each time
        said = " ".join(str(err).split())[:MAX_SAID]
        return sweep.failed(cell, f"No worker of the cluster came to an end with it ({said}).")
    except Exception as err:  # it sent what cannot be read
        return sweep.failed(cell, sentence_of(err))
    return sweep.keep(cell, comparison, found["seconds"])


def _needs(ray: Any, device: str) -> tuple[dict[str, float], int]:
    """Return what a cell asks of a node, and how many cells the cluster runs side by side.

    A GPU where the cluster has one and it may be used.
    """
    has = ray.cluster_resources()
    if has.get("GPU", 0) >= 1 and device != "cpu":
        return {"num_gpus": 1}, int(has["GPU"])
    return {"num_cpus": 1}, max(1, int(has.get("CPU", 1)))
