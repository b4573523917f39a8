"""Read and seal `manifest.json` of saved subnetworks, and hash their base model.

The seal is a SHA-256 over the manifest's own content (not its layout: another indentation is no
change). It guards against accidental changes and damaged copies, not against a deliberate one. What
is read is therefore checked again where it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..cache import add_tensor, text_hash
from ..curves.plan import STAGES, StagePlan
from ..errors import Stopped, StudioError

FORMAT, VERSION = "mosaicdiff-subnetworks", 1
EXPORTED = "mosaicdiff-without-adaln"  # the format of `core.mosaic.exported`
MANIFEST = "manifest.json"
FILES = {stage: f"{stage}.safetensors" for stage in STAGES}
MAX_BYTES = 64_000_000  # SDXL with every other neuron gone takes about 3 MB
PRECISIONS = ("float64", "float32", "float16", "bfloat16")  # finest first
RANGES = re.compile("[0-9]+(-[0-9]+)?(, [0-9]+(-[0-9]+)?)*")


# ------------------------------------------------------------ the file


def checksum(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of everything in a manifest but its own checksum.

    Raises ValueError and TypeError for what JSON cannot hold (NaN, tensors).
    """
    rest = {k: v for k, v in manifest.items() if k != "checksum"}
    return text_hash(json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False))


def sealed(manifest: dict[str, Any]) -> str:
    """Return the text of `manifest.json`, checksum at the end. Raises as `checksum` does."""
    # as it will be read: tuples are lists, keys are text
    manifest = json.loads(json.dumps(manifest, allow_nan=False))
    return json.dumps(manifest | {"checksum": checksum(manifest)}, indent=2, allow_nan=False) + "\n"


def read_manifest(folder: Path, kind: str = FORMAT) -> dict[str, Any]:
    """Return the manifest of a folder, of one format.

    Raises StudioError when it is missing, damaged, changed by hand or of another version.
    """
    name = f"{MANIFEST} in {folder.name}/"
    try:
        with (folder / MANIFEST).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise StudioError(
            f"{folder.name}/ has no {MANIFEST}, so there are no saved subnetworks in it; check the"
            " path."
        ) from err
    except OSError as err:
        raise StudioError(f"{name} cannot be read ({err.strerror}).") from err
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("too large")
        manifest = json.loads(data.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as err:
        raise StudioError(
            f"{name} is damaged (it is not JSON): copy the folder again or save the subnetworks"
            " anew."
        ) from err
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found == EXPORTED != kind:
        raise StudioError(
            f"{folder.name}/ holds a whole model without adaLN weights, not subnetworks for a base:"
            " load it with load_without_adaln."
        )
    if found != kind:
        raise StudioError(
            f"{name} does not belong to subnetworks that MosaicDiff Studio saved; check the path."
        )
    if manifest.get("version") != VERSION:
        raise StudioError(
            f"{name} has format version {str(manifest.get('version'))[:20]}, this program reads"
            f" version {VERSION}: use the one that saved it."
        )
    if manifest.get("checksum") != checksum(manifest):
        raise StudioError(
            f"{name} was changed after it was saved (its checksum differs): restore the file or"
            " save the subnetworks anew."
        )
    return manifest


def _no_number(text: str) -> None:
    """Raise ValueError for NaN and infinity."""
    raise ValueError(f"{text} is not JSON")


@dataclass(frozen=True)
class StoredMosaic:
    """A manifest whose parts have the right types."""

    plan: StagePlan | None
    enabled: bool
    masked: bool
    dtype: str
    family: str
    hashes: dict[str, str]
    layers: list[dict[str, Any]]
    stages: list[tuple[str | None, dict[str, str]]]  # file and kept, in STAGES order
    files: dict[str, tuple[int, str]]  # bytes and SHA-256

    @classmethod
    def parse(cls, manifest: dict[str, Any]) -> StoredMosaic:
        """Return the parts of a manifest. Raises KeyError, TypeError or ValueError."""
        plan = None if manifest["plan"] is None else StagePlan.from_json(dict(manifest["plan"]))
        stages = [
            (manifest["stages"][stage]["file"], dict(manifest["stages"][stage]["kept"]))
            for stage in STAGES
        ]
        files = {
            name: (int(row["bytes"]), str(row["sha256"])) for name, row in manifest["files"].items()
        }
        wanted = {file for file, _ in stages if file is not None}
        if not wanted <= set(FILES.values()) or set(files) != wanted:
            raise ValueError("the files are not those of its stages")
        if (
            any(x is not True and x is not False for x in (manifest["enabled"], manifest["masked"]))
            or manifest["dtype"] not in PRECISIONS
        ):
            raise ValueError("enabled, masked or dtype")
        return cls(
            plan=plan,
            enabled=manifest["enabled"],
            masked=manifest["masked"],
            dtype=manifest["dtype"],
            family=str(manifest["family"]),
            hashes=dict(manifest["base"]["hash"]),
            layers=list(manifest["layers"]),
            stages=stages,
            files=files,
        )


@contextmanager
def complete(folder: Path) -> Iterator[None]:
    """Turn what the manifest lacks, or has in another form, into a StudioError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        why = f"{type(err).__name__}: {str(err)[:80]}"
        raise StudioError(
            f"{MANIFEST} in {folder.name}/ does not hold what it must ({why}): save the subnetworks"
            " anew."
        ) from err


# ------------------------------------------------------------ kept indices


def ranges(indices: Sequence[int]) -> str:
    """Return ascending indices as text: [0, 1, 2, 5] -> "0-2, 5"; no index is "none"."""
    runs: list[list[int]] = []
    for i in indices:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "none"


def indices(text: str, count: int) -> list[int]:
    """Return the indices that `ranges` has written as text.

    Raises ValueError for anything but ascending indices below `count` in that form.
    """
    if text == "none":
        return []
    if not RANGES.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a list of indices")
    found: list[int] = []
    for run in text.split(", "):
        first, _, last = run.partition("-")
        a, b = int(first), int(last or first)
        # looked at before the run is written out
        if b >= count or a > b or (found and a <= found[-1]):
            raise ValueError(f"{run[:40]!r} is out of place among {count} indices")
        found += range(a, b + 1)
    return found


# ------------------------------------------------------------ hashes


def precision(dtype: torch.dtype) -> str:
    """Return the name of a floating dtype as manifests write it.

    Raises StudioError for other dtypes.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in PRECISIONS:
        raise StudioError(
            f"A model in {name} cannot be saved or loaded as subnetworks; load it in"
            f" {', '.join(PRECISIONS[1:])}."
        )
    return name


def coarser(a: str, b: str) -> str:
    """Return the one of two precisions that keeps fewer digits."""
    return max(a, b, key=PRECISIONS.index)


def model_hash(model: nn.Module, at: str, stop: threading.Event | None = None) -> str:
    """Return the SHA-256 over names, shapes and values of a model's state dict.

    Floating values are rounded to the precision `at`. Rounding makes the hash independent of the
    precision that a checkpoint was loaded in, as long as `at` is no finer than that: round(fp32
    file) is what an fp16 load of the same file holds. fp16 and bf16 do not contain each other;
    those two agree only where one was rounded from the other. Raises StudioError for weights that
    are elsewhere (offloaded), Stopped.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if stop is not None and stop.is_set():
            raise Stopped("Stopped while hashing the base model.")
        if tensor.is_meta:
            raise StudioError(
                "The weights of the model are offloaded: call pipeline.remove_all_hooks() and move"
                " it to one device first."
            )
        value = (
            tensor.detach().to(getattr(torch, at))
            if tensor.is_floating_point()
            else tensor.detach()
        )
        add_tensor(digest, f"{name} {tuple(value.shape)} {value.dtype}\n", value)
    return digest.hexdigest()
