"""Name the results that are kept between runs: the cache folder and the SHA-256 hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .paths import cache_folder


class Digest(Protocol):
    """A hash in progress, as `hashlib` makes it."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes to the hash."""


def cache_root() -> Path:
    """Return the folder of calibrations and latency tables (`core.paths.cache_folder`).

    Raises StudioError where no such folder can be named.
    """
    return cache_folder()


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of the bytes of a file, 64 hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_tensor(digest: Digest, head: str, tensor: Tensor) -> None:
    """Add a head line and the bytes of a tensor, on any device, to a hash in progress."""
    digest.update(head.encode())
    plain = tensor.detach().cpu().contiguous().flatten()
    digest.update(plain.view(torch.uint8).numpy().data)


def fingerprint(*parts: dict[str, Tensor] | object) -> str:
    """Return a SHA-256 over tensors (names, dtypes, bytes) and JSON data, 16 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, dict) and all(torch.is_tensor(v) for v in part.values()):
            for name in sorted(part):
                tensor = part[name]
                add_tensor(digest, f"{name}{tensor.dtype}{tuple(tensor.shape)}", tensor)
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def plain_config(config: Any) -> dict[str, Any]:
    """Return a diffusers or transformers configuration as plain data, without private notes.

    Notes such as `_name_or_path` say where a file came from, not what the module computes.
    """
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    public = {
        k: v for k, v in values.items() if not k.startswith("_") and k != "transformers_version"
    }
    return json.loads(json.dumps(public, sort_keys=True, default=str))


def network_key(network: nn.Module, rounded: bool = False) -> str:
    """Hash the class, the whole configuration and the weights of a network.

    rounded: weights count as bf16, so that the same file gives the same hash in every precision.
    """
    config = getattr(network, "config", {})
    weights = network.state_dict()
    if rounded:
        weights = {k: v.bfloat16() if v.is_floating_point() else v for k, v in weights.items()}
    return fingerprint(type(network).__name__, plain_config(config), weights)
