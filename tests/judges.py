"""A random feature network whose reference pictures are noise."""

from __future__ import annotations

import torch

from core.sampling.metrics import (
    FeatureNetwork,
    Judge,
    ReferenceStatistics,
    class_variance,
    gaussian,
)


def noise_pictures(n: int, seed: int = 0) -> torch.Tensor:
    """Grey pictures of 32 x 32 in [-1, 1]."""
    return torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_judge() -> Judge:
    torch.manual_seed(0)
    network = FeatureNetwork(width=4, features=8).eval().requires_grad_(False)
    with torch.inference_mode():
        features = network.features(noise_pictures(300))
    spread = class_variance(features, torch.arange(300) % 10, 10)
    return Judge(network, ReferenceStatistics(*gaussian(features), spread, 300))
