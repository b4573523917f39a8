"""Time ways to lay a DiT's forward out that compute the same, dense and pruned alike.

"Lean" is how networks run (`core.mosaic.lean_block`). The others are candidates: one product for
q, k and v, and sums and products that multiply and add in one pass. A candidate that wins on a
device, for the dense network and for the pruned one, is worth building there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.families import first_parameter
from ..mosaic.slimming import graft, linear, shallow
from ..progress import Progress
from ..sampling.timing import forward_call, model_macs, module_forward
from .measure import Effort, Shares, in_turn, machine, medians, ratio
from .subjects import Subject, mosaic_of, uniform_cuts

ROWS = (2, 32)  # of the denoiser's batch: 1 and 16 images with guidance
SPARSITY = 0.5
EFFORT = Effort(60)
STOCK, LEAN, ONE_PRODUCT, ONE_PASS = "stock", "lean", "one product for q, k and v", "addcmul"
NETWORKS = ("dense", f"{SPARSITY:g} removed")


class Candidate(nn.Module):
    """A lean block with other products or sums, for networks that run without gradients.

    stacked: q, k and v as one product. passes: modulate and gate by torch.addcmul, which may round
    once less.
    """

    def __init__(self, block: Any, stacked: bool, passes: bool):
        super().__init__()
        self.norm1, self.norm3 = block.norm1, block.norm3
        self.attn1, self.ff = block.attn1, block.ff
        self.stacked = stack(block.attn1) if stacked else None
        self.passes = passes

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor, **_: object) -> Tensor:
        """Return the block's output (batch, tokens, d)."""
        normed, gate, shift, scale, gate_mlp = self.norm1(
            x, timestep, class_labels, hidden_dtype=x.dtype
        )
        x = self._add(x, gate[:, None], self._attend(normed))
        normed = self.norm3(x)
        if self.passes:
            normed = torch.addcmul(shift[:, None], normed, 1 + scale[:, None])
        else:
            normed = normed * (1 + scale[:, None]) + shift[:, None]
        activation = self.ff.net[0]
        hidden = activation.proj(normed)
        torch.ops.aten.gelu_.default(hidden, approximate=activation.approximate)
        return self._add(x, gate_mlp[:, None], self.ff.net[2](hidden))

    def _add(self, x: Tensor, gate: Tensor, out: Tensor) -> Tensor:
        """Return x + gate * out."""
        return torch.addcmul(x, gate, out) if self.passes else gate * out + x

    def _attend(self, x: Tensor) -> Tensor:
        """Return the attention's output."""
        attention = self.attn1
        if self.stacked is not None:
            stacked = self.stacked(x).unflatten(2, (3, attention.heads, -1))
            q, k, v = stacked.permute(2, 0, 3, 1, 4).unbind()
        else:
            layers = (attention.to_q, attention.to_k, attention.to_v)
            q, k, v = (y(x).unflatten(2, (attention.heads, -1)).transpose(1, 2) for y in layers)
        found = F.scaled_dot_product_attention(q, k, v)
        return attention.to_out[0](found.transpose(1, 2).flatten(2))


def stack(attention: Any) -> nn.Linear:
    """Return one linear layer with the rows of q, k and v, in turn."""
    parts = [attention.to_q, attention.to_k, attention.to_v]
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    return linear(torch.cat([part.weight for part in parts]), bias)


def candidates(network: nn.Module) -> dict[str, nn.Module]:
    """Return a network of lean blocks in every layout, by name, over the same tensors."""
    from diffusers.models.attention import BasicTransformerBlock

    def changed(make: Callable[[Any], nn.Module]) -> nn.Module:
        blocks: Any = network.transformer_blocks
        return graft(
            network, {f"transformer_blocks.{i}": make(block) for i, block in enumerate(blocks)}
        )

    def stock(block: nn.Module) -> nn.Module:
        twin = shallow(block)
        twin.__class__ = BasicTransformerBlock
        return cast(nn.Module, twin)

    return {
        STOCK: changed(stock),
        LEAN: network,
        ONE_PRODUCT: changed(lambda block: Candidate(block, stacked=True, passes=False)),
        ONE_PASS: changed(lambda block: Candidate(block, stacked=False, passes=True)),
    }


def layouts_benchmark(
    subject: Subject,
    rows: tuple[int, ...] = ROWS,
    effort: Effort = EFFORT,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Return diffusers' layout over each other one, and the realised share of each, by rows.

    The realised share is dense over pruned in one layout, over the ratio of their MACs. Single
    forwards, uniform random cuts, plain. Raises Stopped.
    """
    device = first_parameter(subject.model).device
    networks = {
        NETWORKS[0]: mosaic_of(subject, None).stages[0],
        NETWORKS[1]: mosaic_of(subject, uniform_cuts(subject, SPARSITY)).stages[0],
    }
    dense, pruned = (model_macs(network)[0] for network in networks.values())
    made = {name: candidates(network) for name, network in networks.items()}
    shares = Shares(effort.seconds, len(rows))
    found: list[dict[str, Any]] = []
    for i, count in enumerate(rows):
        if progress is not None:
            progress(i, len(rows), f"{subject.name}, {count} rows")
        calls = {
            f"{name}, {layout}": forward_call(module_forward(one), subject.model, count)
            for name, layouts in made.items()
            for layout, one in layouts.items()
        }
        times = in_turn(calls, device, shares.next(), effort, stop)
        found += _rows(subject.name, count, times, dense / pruned)
    dtype = str(first_parameter(subject.model).dtype).removeprefix("torch.")
    return machine(device) | {
        "dtype": dtype,
        "ratios": found,
        "note": "single forwards, run plain; a layout is never counted as pruning: both sides have"
        " the same.",
    }


def _rows(
    model: str, count: int, times: dict[str, list[float]], macs: float
) -> list[dict[str, Any]]:
    """Return the rows for one number of denoiser rows. macs: of dense over pruned."""
    seconds, found = medians(times), []
    layouts = (STOCK, LEAN, ONE_PRODUCT, ONE_PASS)
    for layout in layouts[1:]:
        for name in NETWORKS:
            mine, stock = f"{name}, {layout}", f"{name}, {STOCK}"
            title = f"{model}, {count} rows, {name}: diffusers' layout / {layout}"
            found.append(ratio(title, times[stock], times[mine], seconds=seconds[mine]))
    for layout in layouts:
        dense, pruned = (times[f"{name}, {layout}"] for name in NETWORKS)
        title = f"{model}, {count} rows, {layout}: measured / predicted speed-up"
        found.append(ratio(title, dense, pruned, macs, layout=layout, macs_ratio=macs))
    return found
