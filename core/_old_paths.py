"""Import paths of version 0.1, when every module lay directly in `core`. They go with version 0.3.

`import core.obs` gives the module `core.pruning.obs` itself. Six old modules have the name of a
package of today; `forward` lets such a package answer for what the old module had.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {  # old name -> where the module is
    "commands": "cli",
    "noise": "curves.noise",
    "dynamics": "curves.dynamics",
    "plan": "curves.plan",
    "plan_checks": "curves.plan_checks",
    "families": "models.families",
    "checkpoints": "models.checkpoints",
    "prunable": "models.layers",
    "prompts": "models.prompts",
    "weights": "models.weights",
    "grams": "calibration.bank",
    "triangles": "calibration.packed_gram",
    "row_weights": "calibration.row_weights",
    "calibration_room": "calibration.preflight",
    "calibration_data": "calibration.data",
    "picture_folder": "calibration.picture_folder",
    "picture_lookup": "calibration.picture_lookup",
    "picture_tables": "calibration.picture_tables",
    "picture_walk": "calibration.picture_walk",
    "symmetric": "pruning.tiled",
    "path_problem": "pruning.damped_problem",
    "greedy": "pruning.greedy",
    "obs": "pruning.obs",
    "orders": "pruning.orders",
    "finished_layers": "pruning.order_checkpoints",
    "surgeon": "pruning.layer_cuts",
    "allocation_problem": "allocation.problem",
    "allocators": "allocation.solvers",
    "widths": "allocation.widths",
    "sharing": "allocation.of_plan",
    "slimming": "mosaic.slimming",
    "conditioning": "mosaic.adaln",
    "compiling": "mosaic.compiling",
    "precision": "mosaic.precision",
    "built": "mosaic.network_cache",
    "mosaic_files": "mosaic.serialization",
    "stored_cuts": "mosaic.stored",
    "manifest": "mosaic.manifest",
    "damping": "mosaic.damping_report",
    "together": "mosaic.across_stages",
    "stock_methods": "mosaic.stock_methods",
    "denoise": "sampling.denoise",
    "metrics": "sampling.metrics",
    "timing": "sampling.timing",
    "layer_times": "sampling.layer_times",
    "pricing": "workshop.predict",
    "prediction": "workshop.prediction",
    "calibration_sources": "workshop.data_sources",
    "comparison": "workshop.comparison",
    "study": "workshop.study",
    "bench_suite": "bench.suite",
    "bench_measure": "bench.measure",
    "bench_models": "bench.subjects",
    "bench_table": "bench.table",
    "bench_rows": "bench.rows",
    "bench_macs": "bench.macs",
    "bench_memory": "bench.memory",
    "bench_allocation": "bench.allocation",
    "bench_path": "bench.removal_path",
    "bench_plans": "bench.plans",
    "bench_forward": "bench.forward",
    "bench_realised": "bench.realised",
    "bench_overhead": "bench.overhead",
    "bench_adaln": "bench.adaln",
    "bench_calibration": "bench.sources",
}


class _Moved(MetaPathFinder, Loader):
    """Finds an old name and hands out the module that it stands for today."""

    def __init__(self, package: str):
        self.package = package

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        package, _, old = name.rpartition(".")
        return ModuleSpec(name, self) if package == self.package and old in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{self.package}.{MOVED[spec.name.rpartition('.')[2]]}")
        self.true_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.true_spec  # the import system has put the old name there


def install(package: str) -> None:
    """Let the import system find the old names of this package, once."""
    if not any(isinstance(f, _Moved) and f.package == package for f in sys.meta_path):
        sys.meta_path.append(_Moved(package))


def forward(package: str, *modules: str) -> Callable[[str], Any]:
    """Return a `__getattr__` for a package that looks a name up in these modules of the parent."""
    parent = package.rpartition(".")[0]

    def look_up(name: str) -> Any:
        if not name.startswith("__"):
            for module in modules:
                found = importlib.import_module(f"{parent}.{module}")
                if hasattr(found, name):
                    return getattr(found, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up
