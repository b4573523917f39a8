"""Remember the hash of a network's weights by the identity of its files.

To hash gigabytes takes seconds, and every result in the cache is named by that hash. A remembered
hash counts only while the folder's files have the same path, size, time of writing and inode, and
the tensors in memory are as they were loaded: of another network in the same folder's place, or of
weights changed since, the hash is worked out anew.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..cache import fingerprint, network_key, plain_config
from ..files import write_whole

FILE = "weights.json"  # in the cache folder
FORMAT = 1  # raise this number when `network_key` comes out differently
MOST = 64  # networks that are remembered, the latest
SAMPLES = 16  # numbers of each tensor that are compared with those remembered


@dataclass(frozen=True)
class WeightFiles:
    """The folder that a network was loaded from, and the state of its tensors at that time."""

    folder: Path
    version: int  # see `tensors_version`

    @classmethod
    def of(cls, network: nn.Module) -> WeightFiles | None:
        """Return the files of a network that diffusers has just loaded; None where unknown."""
        folder = Path(str(getattr(network, "config", {}).get("_name_or_path", "")))
        if not (folder / "config.json").is_file():
            return None
        version = tensors_version(network)
        return None if version is None else cls(folder.absolute(), version)

    def identity(self) -> list[list[str | int]] | None:
        """Return name, size, time of writing and inode of every file; None if one is missing."""
        try:
            stats = [(path, path.stat()) for path in sorted(self.folder.iterdir())]
        except OSError:
            return None
        return [[str(p), x.st_size, x.st_mtime_ns, x.st_ino] for p, x in stats]


def tensors_version(network: nn.Module) -> int | None:
    """Return a number that grows with every change of a weight in place; None where none counts."""
    if any(tensor.is_inference() for tensor in network.state_dict().values()):
        return None
    # torch has no public name for it
    return sum(tensor._version for tensor in network.state_dict().values())  # noqa: SLF001


def remembered_key(
    network: nn.Module, files: WeightFiles | None, cache: Path, rounded: bool = False
) -> str:
    """Return `network_key`, from the cache folder where it is remembered for these very files.

    files: None for a network that comes from no folder. A memory that is damaged or cannot be
    written is ignored.
    """
    identity = files.identity() if files is not None else None
    if files is None or identity is None or files.version != tensors_version(network):
        return network_key(network, rounded)
    weights = network.state_dict()
    dtypes = sorted({str(tensor.dtype) for tensor in weights.values()})
    config = plain_config(getattr(network, "config", {}))
    name = fingerprint(FORMAT, identity, type(network).__name__, config, dtypes, rounded)
    samples = fingerprint(
        {k: t.flatten()[:: max(1, t.numel() // SAMPLES)] for k, t in weights.items()}
    )
    known = _read(cache)
    entry = known.get(name)
    if entry is not None and entry[0] == samples:
        return entry[1]
    key = network_key(network, rounded)
    if files.identity() == identity:  # else the files were changed meanwhile
        known = _read(cache)
        known.pop(name, None)
        known[name] = [samples, key]
        latest = dict(list(known.items())[-MOST:])
        with suppress(OSError):
            write_whole(cache / FILE, lambda part: part.write_text(json.dumps(latest)))
    return key


def _read(cache: Path) -> dict[str, list[str]]:
    """Return what is remembered: name -> [samples, key]; nothing where the file is damaged."""
    try:
        known = json.loads((cache / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {name: entry for name, entry in known.items() if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    """Say whether an entry holds two hashes."""
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and all(isinstance(x, str) and len(x) == 16 for x in entry)
    )
