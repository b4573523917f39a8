"""The science of MosaicDiff Studio, callable from a notebook or the command line.

There is no gradio and no plotly here. The names below are the public surface. They are imported
when first asked for, so that `import core` loads neither torch nor diffusers.
"""

from __future__ import annotations

import importlib
from typing import Any

from . import _old_paths

__version__ = "0.2.0"

_PUBLIC = {
    "StagePlan": "curves.plan",
    "propose_plan": "curves.proposals",
    "NoiseSchedule": "curves.noise",
    "RemovalPath": "pruning.obs",
    "MosaicTransformer": "mosaic.transformer",
    "load_without_adaln": "mosaic.exported",
    "get_workshop": "workshop.workshop",
}
__all__ = [*_PUBLIC, "__version__"]

_old_paths.install(__name__)


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
