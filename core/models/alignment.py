"""Say which widths a device minds, and name the layers that have others.

Tensor cores multiply in tiles, and rows of weights must begin at multiples of 16 bytes. Where they
do not, a product takes more than twice as long as at the next wider multiple of 8 columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .layers import PrunableLayer

COLUMNS = 8  # kept columns must be a multiple of this on a device that minds
MULTIPLES = {"cuda": 64}  # kind of device -> multiple of kept neurons there, unless a plan says so
MOST_NAMED = 4  # layers named in one sentence


def default_multiple(device: str) -> int:
    """Return the multiple in which neurons are kept on a kind of device ("cuda"); 0: it minds none.

    The layers' own steps hold where the device minds no width.
    """
    return MULTIPLES.get(device, 0)


def odd_layers(layers: Sequence[PrunableLayer], kept: Sequence[int]) -> list[str]:
    """Return the pruned layers whose kept columns are no multiple of COLUMNS, with the columns.

    kept: groups that each layer keeps in one stage. A layer that keeps all or none is not among
    them.
    """
    return [
        f"{layer.name} ({count * layer.group_size})"
        for layer, count in zip(layers, kept, strict=True)
        if 0 < count < layer.groups and count * layer.group_size % COLUMNS
    ]


def whole_layers(layers: Sequence[PrunableLayer], kept: Sequence[int], multiple: int) -> list[str]:
    """Return the layers that keep all their neurons though they are no multiple of `multiple`."""
    return [
        f"{layer.name} ({count})"
        for layer, count in zip(layers, kept, strict=True)
        if layer.kind == "neurons" and count == layer.groups and count % multiple
    ]


def width_warnings(
    layers: Sequence[PrunableLayer], stages: Sequence[Sequence[int]], device: str
) -> list[str]:
    """Return sentences on widths that a kind of device minds, by layer; [] where it minds none.

    stages: groups that each layer keeps, per stage.
    """
    multiple = default_multiple(device)
    if not multiple:
        return []
    odd = _each(odd_layers(layers, kept) for kept in stages)
    # a stage that keeps everything is dense, and nothing was rounded there
    everything = [layer.groups for layer in layers]
    pruned = [kept for kept in stages if list(kept) != everything]
    whole = _each(whole_layers(layers, kept, multiple) for kept in pruned)
    found = []
    if odd:
        found.append(
            f"Kept columns are no multiple of {COLUMNS} in {_named(odd)}, and this device is slow"
            f" at such widths: prune again with neurons in multiples of {multiple}."
        )
    if whole:
        found.append(
            f"Layers that are not pruned keep their width, which is no multiple of {multiple}:"
            f" {_named(whole)}."
        )
    return found


def _each(lists: Iterable[list[str]]) -> list[str]:
    """Return every name of several lists once, in order."""
    return list(dict.fromkeys(name for names in lists for name in names))


def _named(names: list[str]) -> str:
    """Return names as text, the first few of them and how many more there are."""
    text = ", ".join(names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"{text} and {more} more" if more > 0 else text
