"""Count the MACs of DiT-XL/2 from its shapes, beside the figures that the paper prints.

The paper's 5.72 T for 50 steps are 114.375 G per forward, without guidance doubling: the linear
layers of the 28 blocks, which are attention projections, MLP and adaLN modulation. Left out, and
the same 5.72 and 2.29 T in print with all of it: 29 evaluations of the conditioning embedder (0.05
G), the final layer (0.01 G), the patch convolution (0.005 G). Attention products (4.2 G) are no
linear layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from ..models.layers import PrunableLayer, find_layers
from ..mosaic.transformer import assemble
from ..sampling.timing import forward_call, model_macs
from .subjects import Subject, cuts_of, shapes_of_dit

PARTS = (
    "attention projections",
    "MLP",
    "adaLN modulation",
    "conditioning embedders",
    "final layer",
)
OF_THE_PAPER = PARTS[:3]  # what the paper's figures count
PAPER = (  # method, steps, MACs, speed-up, IS, FID: ImageNet 256 x 256, DiT-XL/2
    ("dense", 50, 5.72e12, 1.00, 238.6, 2.26),
    ("Diff-Pruning 0.3", 50, 4.10e12, 1.29, 4.68, 180.8),
    ("Learning-to-Cache", 50, 4.36e12, 1.27, 244.1, 2.27),
    ("MosaicDiff 0.33", 50, 3.92e12, 1.32, 267.8, 2.24),
    ("dense", 20, 2.29e12, 1.00, 223.5, 3.48),
    ("MosaicDiff 0.30", 20, 1.64e12, 1.28, 266.7, 3.20),
)


def macs_benchmark(**changes: Any) -> dict[str, Any]:
    """Return counted and quoted MACs of one image without guidance.

    `measured`: dense 50 and 20 steps; 30 % of heads and neurons, rounded down, at 20 steps.
    `quoted`: the paper's figures. changes: to DiT-XL/2's configuration.
    """
    model = shapes_of_dit(**changes)
    layers = find_layers(model)
    cuts = cuts_of(Subject("", model, layers), floored(layers, 30))
    dense, pruned = linear_macs(model), linear_macs(assemble(model, cuts, None, layers=layers))
    of_paper, of_pruned = (sum(count[p] for p in OF_THE_PAPER) for count in (dense, pruned))
    everything, _ = model_macs(model)
    return {
        "measured": {
            "dense_50": 50 * of_paper,
            "dense_20": 20 * of_paper,
            "uniform_30_floor_20": 20 * of_pruned,
        },
        "unit": "MACs of one image, without the doubling by guidance",
        "counts": (
            "linear layers of the transformer blocks: attention projections, MLP and adaLN"
            " modulation"
        ),
        "forward": {
            "dense": of_paper,
            "uniform_30_floor": of_pruned,
            "dense_by_part": dense,
            "uniform_30_floor_by_part": pruned,
            "all_linear": sum(dense.values()),
            "patch_convolution": everything - sum(dense.values()),
            "attention_products": sum(x.attention_macs_per_group * x.groups for x in layers),
        },
        "quoted": {
            "source": (
                "MosaicDiff, ICCV 2025 (arXiv 2510.11962), DiT-XL/2 on ImageNet 256 x 256; not"
                " measured here"
            ),
            "rows": [
                dict(
                    zip(
                        ("method", "steps", "macs", "speedup", "inception_score", "fid"),
                        row,
                        strict=True,
                    )
                )
                for row in PAPER
            ],
        },
    }


def floored(layers: list[PrunableLayer], percent: int) -> list[int]:
    """Return the removed groups per layer at `percent`, rounded down to whole groups."""
    return [layer.groups * percent // 100 for layer in layers]


def linear_macs(model: nn.Module) -> dict[str, int]:
    """Return the MACs of one forward of one image in linear layers, by part (PARTS).

    Hooks count while the model runs on shapes. DiT on device "meta" only.
    """
    counts = dict.fromkeys(PARTS, 0)

    def watch(path: str) -> Callable[..., None]:
        def count(module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
            counts[_part(path)] += output.numel() * cast(nn.Linear, module).in_features

        return count

    handles = [
        m.register_forward_hook(watch(path))
        for path, m in model.named_modules()
        if isinstance(m, nn.Linear)
    ]
    try:
        forward_call(
            lambda x, t, **conditions: model(x, t, **conditions, return_dict=False), model, 1
        )()
    finally:
        for handle in handles:
            handle.remove()
    return counts


def _part(path: str) -> str:
    """Return the part that a linear layer belongs to."""
    if path.startswith("proj_out"):
        return "final layer"
    if ".norm1.emb." in path:
        return "conditioning embedders"
    return next(
        part
        for mark, part in (
            (".norm1.", "adaLN modulation"),
            (".attn1.", "attention projections"),
            (".ff.", "MLP"),
        )
        if mark in path
    )
