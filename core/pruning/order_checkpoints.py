"""Write and read checkpoints of `find_orders`, one small file per layer.

A stopped run resumes from them; on DiT-XL/2 it would otherwise lose many minutes. Each file has a
key of everything that its numbers rest on: weight, place, bins as they lie on the disk, damping. A
file with another key, or one that cannot be read, is ignored.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..cache import fingerprint
from ..calibration.bank import GramBank
from ..errors import StudioError
from ..files import cache_trouble, write_whole
from ..models.layers import PrunableLayer

# raise this number when orders or curves come out differently, so that results of an older version
# are not mixed in
FORMAT = 3
ORDERED, SEARCHED = "ordered", "searched"  # how names of files begin


@dataclass(frozen=True)
class SearchedOrder:
    """The order of one layer, before its damping and curves are known."""

    order: Tensor  # (groups,) int64, first removed first
    rung: str  # of the ladder in `damped_problem`


@dataclass(frozen=True)
class OrderedLayer:
    """The result of `find_orders` for one layer."""

    order: Tensor  # (groups,) int64, first removed first
    damping: float
    errors: Tensor  # (bins, levels) fp64
    energy: Tensor  # (bins,) fp64
    tokens_per_column: float  # fitted, in the bin that has fewest
    # (1 + bins,) rungs of the ladder in `damped_problem`: of the order, then of each curve
    rungs: list[str]


def layer_key(weight: Tensor, bank: GramBank, layer: PrunableLayer, damping: float | None) -> str:
    """Return a hash of everything that the order and the curves of a layer depend on.

    The bins count by size and time of writing, not by content.
    """
    # a missing bin is refused where it is read
    stats = [bank.path(b).stat() for b in range(bank.settings.bins) if bank.path(b).exists()]
    bins = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    # the other weightings are in the bins themselves
    weighed = ["timestep"] if bank.settings.weighting == "timestep" else []
    return fingerprint(
        {"weight": weight},
        asdict(layer) | {"step": layer.step},
        list(bank.settings.edges),
        bins,
        damping,
        FORMAT,
        *weighed,
    )


def save_layer(folder: Path, i: int, key: str, found: OrderedLayer, tag: str = "") -> None:
    """Write one finished layer.

    `tag` tells runs over the same bins apart, see `orders.orders_tag`. Raises StudioError when the
    disk does not take the file.
    """
    tensors = {"order": found.order, "errors": found.errors.contiguous(), "energy": found.energy}
    facts = {
        "key": key,
        "damping": found.damping,
        "tokens_per_column": found.tokens_per_column,
        "rungs": found.rungs,
    }
    _write(_path(folder, i, tag, ORDERED), tensors, facts)
    _path(folder, i, tag, SEARCHED).unlink(missing_ok=True)  # its order is in the new file


def load_layer(folder: Path, i: int, key: str, tag: str = "") -> OrderedLayer | None:
    """Return a finished layer, or None when there is none that belongs to `key`."""
    read = _read(_path(folder, i, tag, ORDERED), key, ("order", "errors", "energy"))
    if read is None:
        return None
    (order, errors, energy), facts = read
    return OrderedLayer(
        order=order,
        damping=float(facts["damping"]),
        errors=errors,
        energy=energy,
        tokens_per_column=float(facts["tokens_per_column"]),
        rungs=list(facts["rungs"]),
    )


def save_search(folder: Path, i: int, key: str, found: SearchedOrder, tag: str = "") -> None:
    """Write the order of one layer that waits for its curves. Raises StudioError."""
    _write(
        _path(folder, i, tag, SEARCHED), {"order": found.order}, {"key": key, "rung": found.rung}
    )


def load_search(folder: Path, i: int, key: str, tag: str = "") -> SearchedOrder | None:
    """Return an order that was searched, or None when there is none that belongs to `key`."""
    read = _read(_path(folder, i, tag, SEARCHED), key, ("order",))
    return None if read is None else SearchedOrder(read[0][0], str(read[1]["rung"]))


def forget_layers(folder: Path, tag: str = "") -> None:
    """Delete the checkpoints of this tag: the whole result is saved."""
    for kind in (ORDERED, SEARCHED):
        for path in folder.glob(f"{kind}{tag}-[0-9]*.safetensors"):
            path.unlink(missing_ok=True)


def _path(folder: Path, i: int, tag: str, kind: str) -> Path:
    """Return the file of layer `i`."""
    return folder / f"{kind}{tag}-{i:03d}.safetensors"


def _write(path: Path, tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
    """Write one checkpoint. Raises StudioError when the disk does not take the file."""
    try:
        write_whole(
            path, lambda part: save_file(tensors, part, metadata={"facts": json.dumps(facts)})
        )
    except (OSError, SafetensorError) as err:
        raise StudioError(
            f"The order of a layer could not be kept ({cache_trouble(err)}; finished layers stay."
        ) from err


def _read(
    path: Path, key: str, names: tuple[str, ...]
) -> tuple[list[Tensor], dict[str, Any]] | None:
    """Return tensors and facts of a checkpoint; None where there is none of this key."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            if facts["key"] != key:
                return None
            return [file.get_tensor(name).clone() for name in names], facts
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
