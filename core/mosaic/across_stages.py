"""Reach one part of a denoiser in each of several networks, with hooks and patches.

Helpers for diffusers reach into a model by name (`unet.down_blocks[1].attentions[0]`), to hook a
block, to set numbers on it, or to put a forward of their own in its place, which calls the old one.
A `Together` passes hooks and values to every network. A method taken from it runs, inside a
forward, as that of the network at work, so a helper that wraps the method wraps what the stage
would have run.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ..errors import StudioError
from .slimming import Constant, children_of

PLAIN = (type(None), bool, int, float, str, tuple, torch.dtype, torch.device)  # compared by value
WALKS = ("modules", "parameters", "buffers")  # and named_...: every network's, none twice
TO_ALL = ("train", "eval", "requires_grad_", "set_processor", "set_chunk_feed_forward", "apply")


class _Running(threading.local):
    """The network whose forward each thread is in."""

    network: nn.Module | None = None  # whose forward this thread is in


_running = _Running()


def _enter(network: nn.Module, _args: tuple[Any, ...]) -> None:
    """Note the network whose forward begins in this thread."""
    _running.network = network


def _leave(_network: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
    """Note that no forward runs in this thread."""
    _running.network = None


def watch(networks: list[nn.Module]) -> None:
    """Keep note, from now on, of which of these networks each thread is in."""
    for network in networks:
        if not watched([network]):
            network.register_forward_pre_hook(_enter, prepend=True)
            network.register_forward_hook(_leave, always_call=True)


def watched(networks: list[nn.Module]) -> bool:
    """Say whether a foreign forward stands, or stood, in one of these networks."""
    return any(_enter in vars(network)["_forward_pre_hooks"].values() for network in networks)


def several(name: str) -> str:
    """Return the sentence that a part of a pruned model has no single answer, and what to use."""
    return (
        f"Each stage of a pruned model has {name} of its own: go through them with "
        "`for network in model.networks()`, or ask the dense model (model.full)."
    )


class Handles:
    """Hooks on several modules, removed as one."""

    def __init__(self, handles: list[Any]):
        self.handles = handles

    def remove(self) -> None:
        """Remove every hook."""
        for handle in self.handles:
            handle.remove()

    def __enter__(self) -> Handles:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class Together:
    """The module at the path `name` of several networks, in `parts` by the network's id."""

    def __init__(
        self, networks: list[nn.Module], name: str, parts: dict[int, nn.Module] | None = None
    ):
        parts = (
            {id(network): getattr(network, name) for network in networks}
            if parts is None
            else parts
        )
        vars(self).update(_networks=networks, _name=name, _parts=parts)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Pass for the modules' own class: helpers choose what to patch by it."""
        kinds = {type(part) for part in self._parts.values()} - {Constant}
        return kinds.pop() if len(kinds) == 1 else Together

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise StudioError(several(self._name))  # neither copied nor pickled

    def __repr__(self) -> str:
        return f"Together({self._name}, in {len(self._different())} networks)"

    def _different(self) -> list[nn.Module]:
        """Return the different parts."""
        return list({id(part): part for part in self._parts.values()}.values())

    def _current(self) -> nn.Module | None:
        """Return the part of the network whose forward runs in this thread, or None."""
        return None if _running.network is None else self._parts.get(id(_running.network))

    def _at(self, step: str, get: Callable[[nn.Module], Any]) -> Any:
        """Get the same of each part: the one thing where all have it in common, else together."""
        name = f"{self._name}{step}"
        hooked = step.startswith(".register_") or step == ".forward"
        able = {
            n: part for n, part in self._parts.items() if hooked or not isinstance(part, Constant)
        }
        found = {n: get(part) for n, part in able.items()}
        first, *others = found.values()
        if all(other is first for other in others):
            return first
        if all(isinstance(value, nn.Module) for value in found.values()):
            return Together(self._networks, name, found)
        if all(
            inspect.isroutine(value) or isinstance(value, functools.partial)
            for value in found.values()
        ):
            return self._method(step.removeprefix("."), name, found)
        if all(
            isinstance(v, PLAIN) and type(v) is type(first) and v == first for v in found.values()
        ):
            return first
        raise AttributeError(several(name))

    def _method(
        self, method: str, name: str, found: dict[int, Callable[..., Any]]
    ) -> Callable[..., Any]:
        """Return a method that calls the methods of all parts, or that of the network at work."""
        # once per module
        each = list({id(getattr(f, "__self__", f)): f for f in found.values()}.values())
        if method.removeprefix("named_") in WALKS:
            return lambda *args, **kwargs: _walk(each, *args, **kwargs)
        if method in ("children", "named_children"):
            named = [(n, getattr(self, n)) for n in children_of(self._different()[0])]
            return lambda: iter(
                named if method == "named_children" else [child for _, child in named]
            )
        if method.startswith("register_") and "hook" in method:
            return lambda *args, **kwargs: Handles([f(*args, **kwargs) for f in each])
        if method in TO_ALL:
            return lambda *args, **kwargs: [f(*args, **kwargs) for f in each] and self

        watch(self._networks)

        def at_work(*args: Any, **kwargs: Any) -> Any:
            if id(_running.network) not in found:
                raise StudioError(several(f"{name}()"))
            return found[id(_running.network)](*args, **kwargs)

        at_work.__name__ = at_work.__qualname__ = method
        return at_work

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if (current := self._current()) is not None:
            return getattr(current, name)
        return self._at(f".{name}", lambda part: getattr(part, name))

    def __setattr__(self, name: str, value: Any) -> None:
        """Set it in every network. Raises AttributeError for a module: their widths differ."""
        if isinstance(value, nn.Module):
            raise AttributeError(several(f"{self._name}.{name}"))
        if callable(value):
            watch(self._networks)  # the callable may read this object while it runs
        for part in self._different():
            if name == "forward" or not isinstance(part, Constant):
                setattr(part, name, value)

    def __delattr__(self, name: str) -> None:
        for part in self._different():
            if name == "forward" or not isinstance(part, Constant):
                delattr(part, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if (current := self._current()) is None:
            raise StudioError(several(f"{self._name}()"))
        return current(*args, **kwargs)

    def __len__(self) -> int:
        return len(self._different()[0])  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        place = range(len(self))[index]  # IndexError ends a loop
        return self._at(f".{place}", lambda part: part[place])  # type: ignore[index]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


def _walk(walks: list[Callable[..., Any]], *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Yield what several walks over modules find, nothing twice."""
    seen = set()
    for walk in walks:
        for found in walk(*args, **kwargs):
            thing = found[-1] if isinstance(found, tuple) else found
            if id(thing) not in seen:
                seen.add(id(thing))
                yield found
