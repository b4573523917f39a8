"""Capture calls as CUDA graphs, or stand in for that where there are none.

A replay launches all kernels of a call at once. It reads and writes the memory that the call was
captured with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

WARM_UP = 3  # calls before a capture, which must not allocate for the first time


class Graph(NamedTuple):
    """A captured call: `replay()` computes `output` anew from the memory of its inputs."""

    replay: Callable[[], None]
    output: Any  # what the call returned, tensors that each replay writes
    bytes: int  # of the device, held by it


class GraphMaker(Protocol):
    """What captures calls on one device."""

    def capture(self, run: Callable[[], Any]) -> Graph:
        """Return a captured call. Raises torch.OutOfMemoryError."""
        ...


class CudaGraphs:
    """Capture calls as CUDA graphs whose memory comes from one pool."""

    def __init__(self, device: torch.device):
        self.device = device
        self._pool: Any = None

    def capture(self, run: Callable[[], Any]) -> Graph:
        """Return a captured call. Raises torch.OutOfMemoryError."""
        with torch.cuda.device(self.device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            before = torch.cuda.memory_reserved(self.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = run()
            return Graph(graph.replay, output, torch.cuda.memory_reserved(self.device) - before)


class Retracing:
    """Compute a call anew where a graph would be replayed, through the same memory."""

    def capture(self, run: Callable[[], Any]) -> Graph:
        """Return a call that stands for a captured one."""
        output = run()

        def replay() -> None:
            for old, new in zip(tensors_of(output), tensors_of(run()), strict=True):
                old.copy_(new)

        return Graph(replay, output, 0)


def tensors_of(found: Any) -> list[Tensor]:
    """Return the tensors of an output, in turn."""
    return [leaf for leaf in pytree.tree_leaves(found) if torch.is_tensor(leaf)]
