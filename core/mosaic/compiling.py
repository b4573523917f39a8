"""torch.compile for one network among several of the same class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def compiled(network: Callable[..., Any], name: str, **options: Any) -> Callable[..., Any]:
    """Return a forward, of a whole network or of any block, compiled when it is first called.

    `options` are torch.compile's. Dynamo counts recompilations per code object, and gives up (or,
    with `fullgraph`, raises) after 8: stages of the same class compiled as modules would share one
    count with every other mosaic of the process. So each network gets a function with a code object
    of its own.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        return network(*args, **kwargs)

    forward.__code__ = forward.__code__.replace(co_name=f"forward_{name}")
    return torch.compile(forward, **options)
