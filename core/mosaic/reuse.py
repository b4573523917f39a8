"""Keep what attentions and MLPs gave, and give it again in the steps between two full ones.

Neighbouring steps of a run give nearly equal outputs of each attention and MLP. In a stage that
reuses every k-th step runs in full and the steps between take the outputs of the last full one
(FORA, Selvaraju et al. 2024, arXiv 2407.01425), or continue those of the last full ones by a
polynomial in the timestep (TaylorSeer, Liu et al. 2025, arXiv 2503.06923). Norms, modulations,
residual sums, convolutions and the final layers are computed anew in every step.

What is kept belongs to a `Walk`, one per run, and never to a module: runs in several threads over
the same networks do not meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StudioError
from ..models.layers import PrunableLayer
from .slimming import graft

_walk: ContextVar[Walk | None] = ContextVar("walk", default=None)  # of the forward that runs now


class Walk:
    """The outputs that one run keeps, from its last full steps of one stage.

    order: degree of the polynomial that continues them; 0 gives the last ones again.
    """

    def __init__(self, order: int = 0):
        self.order = order
        self._times: list[float] = []  # timesteps of the full steps that are kept, newest last
        self._kept: dict[int, list[Tensor]] = {}  # part -> its outputs at these timesteps
        self._weights: list[float] | None = None  # of the kept outputs; None in a full step

    @contextmanager
    def step(self, timestep: float, full: bool) -> Iterator[None]:
        """Run the forward within as a step of this run, in full or from what is kept.

        Raises StudioError for a step that is not full where nothing is kept.
        """
        if full:
            self._times = [*self._times, timestep][-1 - self.order :]
            self._weights = None
        elif not self._times:
            raise StudioError("The first step of a run, and of each stage, must run in full.")
        else:
            self._weights = continuation(self._times, timestep)
        token = _walk.set(self)
        try:
            yield
        finally:
            _walk.reset(token)

    def part(self, index: int, inner: nn.Module, args: Any, kwargs: Any) -> Tensor:
        """Return the output of one part in this step."""
        if self._weights is None:
            out: Tensor = inner(*args, **kwargs)
            self._kept[index] = [*self._kept.get(index, []), out][-len(self._times) :]
            return out
        kept = self._kept[index]
        if len(kept) == 1:
            return kept[0]
        return torch.stack(
            [weight * out for weight, out in zip(self._weights, kept, strict=True)]
        ).sum(0)

    def restart(self) -> None:
        """Forget everything: the next step is the first of a stage."""
        self._times, self._kept, self._weights = [], {}, None


class ReusedPart(nn.Module):
    """An attention or MLP whose output the walk of the running forward may keep or give again.

    Outside of a walk it is the module itself.
    """

    def __init__(self, inner: nn.Module, index: int):
        super().__init__()
        self.inner, self.index = inner, index

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output (batch, tokens, d)."""
        walk = _walk.get()
        if walk is None:
            return self.inner(*args, **kwargs)
        return walk.part(self.index, self.inner, args, kwargs)


def reusing(network: nn.Module, layers: Sequence[PrunableLayer]) -> nn.Module:
    """Return a twin of a network, over the same tensors, whose attentions and MLPs are reused."""
    parts: dict[str, nn.Module] = {
        layer.module: ReusedPart(network.get_submodule(layer.module), i)
        for i, layer in enumerate(layers)
    }
    return graft(network, parts)


def continuation(times: Sequence[float], t: float) -> list[float]:
    """Return the weights of values at different `times` that give their polynomial's value at t.

    Lagrange's form: one value is given again, two lie on a line, three on a parabola.
    """
    weights = []
    for i, own in enumerate(times):
        weight = 1.0
        for k, other in enumerate(times):
            if k != i:
                weight *= (t - other) / (own - other)
        weights.append(weight)
    return weights


class PipelineWalk:
    """The run of a stock pipeline as its denoiser sees it: one call after another.

    A run is known by the timesteps that its scheduler was set to: each run sets them anew.
    """

    def __init__(self) -> None:
        self.walk = Walk()
        self._run: object = None
        self._stage = -1
        self._calls = 0
        self._shape: tuple[int, ...] = ()

    def full(self, run: object, stage: int, shape: Sequence[int], every: int, order: int) -> bool:
        """Note a call, and say whether it runs in full.

        run: the timesteps of the pipeline's scheduler. every: the stage's k.
        """
        same = run is self._run and stage == self._stage and tuple(shape) == self._shape
        if not same or order != self.walk.order:
            self.walk = Walk(order)
            self._run, self._stage, self._shape = run, stage, tuple(shape)
            self._calls = 0
        self._calls += 1
        return (self._calls - 1) % every == 0
