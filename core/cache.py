"""Where results are kept between runs, and the hashes that name them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .paths import cache_folder


def cache_root() -> Path:
    """Where calibrations and latency tables are kept, see `core.paths.cache_folder`. Raises
    StudioError.
    """
    return cache_folder()


def fingerprint(*parts: dict[str, Tensor] | object) -> str:
    """SHA-256 over tensors (names, dtypes, bytes) and anything that JSON can say; 16 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, dict) and all(torch.is_tensor(v) for v in part.values()):
            for name in sorted(part):
                tensor = part[name].detach().cpu().contiguous()
                digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.flatten().view(torch.uint8).numpy())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def plain_config(config: Any) -> dict[str, Any]:
    """Return a diffusers or transformers configuration as plain data, without its private notes.

    Notes such as `_name_or_path` say where a file came from, not what the module computes.
    """
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    said = {
        k: v for k, v in values.items() if not k.startswith("_") and k != "transformers_version"
    }
    return json.loads(json.dumps(said, sort_keys=True, default=str))


def network_key(network: nn.Module, rounded: bool = False) -> str:
    """Hash a network: its class, its whole configuration, its weights.

    rounded: weights count as bf16, so that the same file gives the same hash in every precision.
    """
    config, weights = getattr(network, "config", {}), network.state_dict()
    if rounded:
        weights = {k: v.bfloat16() if v.is_floating_point() else v for k, v in weights.items()}
    return fingerprint(type(network).__name__, plain_config(config), weights)
