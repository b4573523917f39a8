"""Capture a forward as a CUDA graph for every shape of its inputs, and replay it.

A graph reads and writes the memory that it was captured with, so inputs are copied in and the
output is copied out, under a lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..graphs import Graph, GraphMaker


class _Entry(NamedTuple):
    """A graph and the memory that it reads."""

    graph: Graph
    inputs: list[Tensor]


class Captured:
    """A forward, captured once for every shape, dtype and constant of its inputs. Thread-safe.

    Where a capture runs out of memory, the forward runs plain for these inputs from then on.

    count: called with the seconds and bytes of every capture. note: called with a sentence where
    something runs plain.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        graphs: GraphMaker,
        count: Callable[[float, int], None],
        note: Callable[[str], None],
    ):
        self.run, self.graphs, self.count, self.note = run, graphs, count, note
        self._entries: dict[Any, _Entry | None] = {}  # None: runs plain
        self._lock = threading.Lock()  # a graph's memory belongs to one call at a time

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the forward returns, in memory of its own."""
        leaves, tree = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if torch.is_tensor(leaf)]
        key = (str(tree), tuple(_kind(leaf) for leaf in leaves))
        with self._lock:
            if key not in self._entries:
                self._entries[key] = self._capture(leaves, tree)
            entry = self._entries[key]
            if entry is not None:
                with torch.no_grad():
                    for place, value in zip(entry.inputs, tensors, strict=True):
                        place.copy_(value)
                    entry.graph.replay()
                return pytree.tree_map_only(torch.Tensor, torch.clone, entry.graph.output)
        return self.run(*args, **kwargs)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _capture(self, leaves: list[Any], tree: Any) -> _Entry | None:
        """Return a new entry, or None where the memory does not suffice.

        Its tensors can be written to in inference mode and out of it.
        """
        start = time.perf_counter()
        own = [leaf.clone() if torch.is_tensor(leaf) else leaf for leaf in leaves]
        inputs = [leaf for leaf in own if torch.is_tensor(leaf)]
        args, kwargs = pytree.tree_unflatten(own, tree)
        try:
            graph = self.graphs.capture(lambda: self.run(*args, **kwargs))
        except torch.OutOfMemoryError:
            self.note("The memory did not suffice to capture a graph, so some steps ran plain.")
            return None
        self.count(time.perf_counter() - start, graph.bytes)
        return _Entry(graph, inputs)


def _kind(leaf: Any) -> Any:
    """Return what a graph depends on in one input: a tensor's form, or a constant itself."""
    if torch.is_tensor(leaf):
        return tuple(leaf.shape), leaf.dtype, leaf.device
    return leaf
