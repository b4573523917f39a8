"""Compile the transformer blocks of a network one by one with torch.compile.

Blocks of equal widths share one compiled function, in all stages, plans and models of the process:
their weights are inputs of it. What stands between the blocks runs as it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import nn

from ..errors import StudioError
from ..lru_cache import Recent
from .adaln import BlockVectors, Modulation
from .compiling import compiled
from .slimming import graft

KEPT = 512  # compiled functions of the process
_functions: Recent[Hashable, Callable[..., Any]] = Recent()
_compiling = threading.Lock()  # one at a time: a second caller finds it done


class CompiledBlock(nn.Module):
    """A transformer block that runs compiled; its output differs from the block's in rounding.

    index: of the block in its network. count: called with the seconds of a compilation.
    """

    def __init__(self, block: nn.Module, index: int, count: Callable[[float], None]):
        super().__init__()
        self.block, self.index, self.count = block, index, count
        self.form = _form(block)
        self._known: dict[Hashable, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        """Answer for the block, as what stands between blocks asks for `norm1`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the block's output."""
        labels = kwargs.get("class_labels")
        if isinstance(labels, Modulation):  # so that nothing of the block's own place is compiled
            kwargs["class_labels"] = BlockVectors(labels.blocks[self.index])
        # the first block's rows come transposed from the embedding of patches
        args = tuple(x.contiguous() if torch.is_tensor(x) else x for x in args)
        key = (
            tuple(map(_kind, args)),
            tuple((name, _kind(value)) for name, value in sorted(kwargs.items())),
            torch.is_inference_mode_enabled(),
        )
        if key in self._known:
            return self._known[key](self.block, *args, **kwargs)
        return self._first(key, args, kwargs)

    def _first(self, key: Hashable, args: Any, kwargs: Any) -> Any:
        """Return the block's output, from a function that is compiled now unless it is known.

        Raises StudioError where it does not compile.
        """
        with _compiling:
            function = _functions.find((self.form, key))
            start = time.perf_counter()
            try:
                if function is None:
                    function = compiled(_run, "block", fullgraph=True, dynamic=False)
                    out = function(self.block, *args, **kwargs)
                    self.count(time.perf_counter() - start)
                else:
                    out = function(self.block, *args, **kwargs)
            except (StudioError, torch.OutOfMemoryError):
                raise
            except Exception as err:  # dynamo, inductor and the C++ compiler each raise their own
                if not type(err).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise
                raise StudioError(
                    f"A block of this model does not compile here ({type(err).__name__}): run it"
                    " plain."
                ) from err
            _functions.keep((self.form, key), function, KEPT)
        self._known[key] = function
        return out


def _run(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a block; its weights are inputs of what is compiled."""
    return block(*args, **kwargs)


def with_compiled_blocks(network: nn.Module, count: Callable[[float], None]) -> nn.Module:
    """Return a twin of a network, over the same tensors, whose transformer blocks run compiled.

    Raises StudioError for a network without such blocks.
    """
    from diffusers.models.attention import BasicTransformerBlock

    paths = [p for p, part in network.named_modules() if isinstance(part, BasicTransformerBlock)]
    if not paths:
        raise StudioError("This model has no transformer blocks that could be compiled: run plain.")
    parts: dict[str, nn.Module] = {
        path: CompiledBlock(network.get_submodule(path), i, count) for i, path in enumerate(paths)
    }
    return graft(network, parts)


def _form(block: nn.Module) -> Hashable:
    """Return what compiled code depends on in a block: its parts, and the forms of its tensors."""
    return (
        tuple((path, type(part)) for path, part in block.named_modules()),
        tuple(
            (name, tuple(tensor.shape), tensor.dtype, tensor.device)
            for name, tensor in block.state_dict(keep_vars=True).items()
        ),
    )


def _kind(value: Any) -> Hashable:
    """Return what compiled code depends on in one input."""
    if torch.is_tensor(value):
        return tuple(value.shape), value.dtype, value.device
    if isinstance(value, BlockVectors):
        return _kind(value.vectors)
    if isinstance(value, dict):
        return tuple((name, _kind(inner)) for name, inner in sorted(value.items()))
    return value
