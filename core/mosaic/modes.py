"""Run the networks of a mosaic plain, captured as CUDA graphs, or with compiled blocks.

A mode changes how fast a network runs and never what it computes: captured output has the plain
output's bits where torch picks the same kernels, compiled output differs in rounding. Preparation
(capturing, compiling) happens at the first call with new shapes; its cost is counted apart.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import StudioError
from ..graphs import CudaGraphs, GraphMaker
from ..models.devices import no_cuda
from .captured import Captured
from .compiled_blocks import with_compiled_blocks

PLAIN, GRAPHS, COMPILED = MODES = ("plain", "graphs", "compiled")
LEAST_CAPABILITY = (7, 0)  # that Triton compiles for
WORDS = {PLAIN: "plain", GRAPHS: "captured as CUDA graphs", COMPILED: "with compiled blocks"}


def checked_mode(mode: object) -> str:
    """Return a mode that is one of MODES. Raises StudioError."""
    if mode not in MODES:
        raise StudioError(f"A mode is one of {', '.join(MODES)}, not {str(mode)[:40]}.")
    return str(mode)


def why_not(mode: str, device: torch.device) -> str:
    """Return why networks on this device cannot run in a mode, as a sentence; empty if they can."""
    if mode == PLAIN:
        return ""
    if mode == GRAPHS:
        if device.type == "cuda":
            return ""
        missing = no_cuda() or "a CUDA device is there: load the model on cuda"
        return (
            f"Captured graphs need CUDA, and this model is on {device.type} ({missing}): run it"
            " plain."
        )
    missing = _missing(device)
    if not missing:
        return ""
    return f"Compiling needs {missing}, which this machine lacks: install it or run plain."


def _missing(device: torch.device) -> str:
    """Return what torch.compile needs and this machine lacks, in words; empty where it is there."""
    if device.type == "cuda":
        return _missing_for_triton(device)
    compilers = [os.environ.get("CXX", "g++"), "clang++"]
    if not any(shutil.which(name) for name in compilers):
        return "a C++ compiler (g++)"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "Python's headers (Python.h; Debian's package python3-dev)"
    return ""


def _missing_for_triton(device: torch.device) -> str:
    """Return what compiling for CUDA needs and this machine lacks, in words; empty if nothing."""
    if not importlib.util.find_spec("triton"):
        return "Triton (the Python package triton)"
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        if capability < LEAST_CAPABILITY:
            least, own = (".".join(map(str, pair)) for pair in (LEAST_CAPABILITY, capability))
            return f"a GPU of compute capability {least} or more (this one has {own})"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "cc", "clang")):
        return "a C compiler (gcc), by which Triton makes its launchers"
    return ""


def check_runs(mode: str, device: torch.device) -> str:
    """Return a mode that networks on this device can run in. Raises StudioError."""
    why = why_not(checked_mode(mode), device)
    if why:
        raise StudioError(why)
    return mode


@dataclass
class Preparation:
    """What capturing and compiling took so far."""

    seconds: float = 0.0
    count: int = 0  # graphs captured and functions compiled
    bytes: int = 0  # of the device, held by captured graphs
    notes: list[str] = field(default_factory=list)  # what ran plain, and why

    def add(self, seconds: float, size: int = 0) -> None:
        """Count one preparation."""
        self.seconds += seconds
        self.bytes += size
        self.count += 1

    def note(self, text: str) -> None:
        """Note a sentence once."""
        if text not in self.notes:
            self.notes.append(text)


class Ways:
    """The ways in which the networks of one mosaic run: a forward per network, made when asked for.

    graphs: what captures, one per device; None: CUDA's.
    """

    def __init__(self, mode: str = PLAIN, graphs: GraphMaker | None = None):
        self.mode = mode
        self.preparation = Preparation()
        self._graphs = graphs
        self._made: dict[int, tuple[nn.Module, Callable[..., Any]]] = {}
        self._lock = threading.Lock()

    def again(self) -> Ways:
        """Return ways of the same mode with nothing made, for other networks or other tensors."""
        return Ways(self.mode, self._graphs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Ways:
        """Return ways for copies of the networks, which prepare anew."""
        return self.again()

    def __reduce__(self) -> tuple[type[Ways], tuple[str]]:
        """Keep the mode: what was prepared belongs to one process."""
        return Ways, (self.mode,)

    def of(self, network: nn.Module) -> Callable[..., Any]:
        """Return the forward of a network in this mode."""
        if self.mode == PLAIN:
            return network
        with self._lock:
            if id(network) not in self._made:
                # the network is kept, so that no other one gets its id
                self._made[id(network)] = (network, self._make(network))
            return self._made[id(network)][1]

    def _make(self, network: nn.Module) -> Callable[..., Any]:
        """Return a new forward of a network."""
        run: Callable[..., Any] = network
        device = next(network.parameters()).device
        if self.mode == COMPILED:
            run = with_compiled_blocks(network, self.preparation.add)
        if self.mode == GRAPHS or device.type == "cuda":
            if self._graphs is None:
                self._graphs = CudaGraphs(device)
            run = Captured(run, self._graphs, self.preparation.add, self.preparation.note)
        return run
