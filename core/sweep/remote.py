"""Hand the cells of a sweep to a Ray cluster, and take the kept files back.

Ray is an optional package; it schedules, moves and retries, and nothing here does. A cell goes out
as plain settings with the name of the model; what comes back are the files of its comparison, which
this machine keeps as a run. Every node needs this package in the same version, and the model.
"""

from __future__ import annotations

import importlib
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..calibration.data import DataOptions
from ..calibration.settings import CalibrationSettings
from ..curves.plan import StagePlan
from ..errors import StudioError
from ..workshop.compare import compare
from ..workshop.comparison import Comparison
from ..workshop.drawing import draw_reference
from ..workshop.reference import Reference, drawn_alike
from ..workshop.workshop import get_workshop
from .cells import Cell
from .engine import CellDone, Report, Sweep, Swept, sentence_of
from .record import settings_from

REACH_SECONDS = 5.0  # to connect to a cluster's address
POLL_SECONDS = 0.5  # between two looks at a stop
RETRIES = 1  # of a cell whose worker died


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
    start = time.monotonic()
    try:
        found = _compared(task)
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


def _compared(task: dict[str, Any]) -> Comparison:
    """Return the comparison of a task. Raises StudioError."""
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
    plan, settings = StagePlan.from_json(task["plan"]), settings_from(task["settings"])
    if workshop.calibrated or workshop.needs_calibration(plan):
        workshop.calibrate()
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


def connect(ray: Any, address: str) -> None:
    """Connect to a cluster: HOST:PORT, ray://HOST:PORT, auto or local. Raises StudioError."""
    refusal = (
        f"The Ray cluster at {address} cannot be reached ({{}}): start it (ray start --head) or"
        " correct the address."
    )
    _, _, place = address.rpartition("://")
    host, colon, port = place.rpartition(":")
    try:
        if colon:  # Ray itself would try for a minute
            socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as err:  # Ray has many kinds of its own
        said = " ".join(str(err).split())[:160]
        raise StudioError(refusal.format(f"{type(err).__name__}: {said}")) from err


def run_on_ray(
    sweep: Sweep, source: ModelSource, address: str, ray: Any = None
) -> Iterator[Report | CellDone | Swept]:
    """Yield what `Sweep.run` yields while a Ray cluster runs the cells.

    Stop, and the end of the time, keep what has come back and cancel the rest. Raises StudioError
    for a cluster that cannot be reached, and where a result cannot be kept.
    """
    ray = ray_module() if ray is None else ray
    connect(ray, address)
    refs: dict[Any, Cell] = {}
    try:
        remote = ray.remote(run_task).options(max_retries=RETRIES, **_needs(ray, source.device))
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
    except Exception as err:  # the worker died, or sent what cannot be read
        return sweep.failed(cell, sentence_of(err))
    return sweep.keep(cell, comparison, found["seconds"])


def _needs(ray: Any, device: str) -> dict[str, float]:
    """Return what a cell asks of a node: a GPU where the cluster has one and it may be used."""
    has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    return {"num_gpus": 1} if has_gpu and device != "cpu" else {"num_cpus": 1}
