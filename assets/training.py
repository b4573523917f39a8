"""Steps that the recipes of both bundled models share: batches, checkpoints, progress, rates."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor


class ShuffledBatches:
    """The indices of every step's batch: epochs are shuffled, and resuming needs no sampler state.

    A batch is a function of (seed, step) alone; the permutation of the present epoch is kept.
    """

    def __init__(self, n: int, batch: int, seed: int):
        self.n, self.batch, self.seed = n, batch, seed
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.long)

    def __call__(self, step: int) -> Tensor:
        """Return the indices (batch,) of one step."""
        per_epoch = self.n // self.batch
        if step // per_epoch != self.epoch:
            self.epoch = step // per_epoch
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            self.order = torch.randperm(self.n, generator=generator)
        return self.order[(step % per_epoch) * self.batch :][: self.batch]


def save_checkpoint(
    path: Path, step: int, optimiser: torch.optim.Optimizer, **states: dict[str, Tensor]
) -> None:
    """Write one safetensors file and move it into place: a kill leaves the old one whole."""
    tensors = {f"{group}/{k}": v for group, state in states.items() for k, v in state.items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{i}/{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors["step"] = torch.tensor(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    save_file(whole, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def load_checkpoint(
    path: Path, optimiser: torch.optim.Optimizer, *groups: str
) -> tuple[int, list[dict[str, Tensor]]]:
    """Return the step reached and the named states; fill the moments of the optimiser."""
    tensors = load_file(path)
    state: dict[int, dict[str, Tensor]] = {}
    for key in (k for k in tensors if k.startswith("optimiser/")):
        _, i, name = key.split("/")
        state.setdefault(int(i), {})[name] = tensors[key]
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    named = [
        {k[len(g) + 1 :]: v for k, v in tensors.items() if k.startswith(g + "/")} for g in groups
    ]
    return int(tensors["step"]), named


class Progress:
    """Print one line per `every` steps: step, mean loss, images per second, minutes left."""

    def __init__(self, what: str, total: int, batch: int, first: int = 0, every: int = 100):
        self.what, self.total, self.batch, self.first, self.every = what, total, batch, first, every
        self.start, self.losses = time.perf_counter(), []

    def __call__(self, step: int, loss: Tensor) -> None:
        """Take the loss of one step and print when a line is due."""
        self.losses.append(float(loss.detach()))
        if (step + 1) % self.every and step + 1 != self.total:
            return
        done = step + 1 - self.first
        seconds = time.perf_counter() - self.start
        left = seconds / done * (self.total - step - 1) / 60
        mean = sum(self.losses) / len(self.losses)
        print(
            f"{self.what} {step + 1}/{self.total} loss {mean:.5f} "
            f"{done * self.batch / seconds:.0f} images/s {left:.1f} min left",
            flush=True,
        )
        self.losses.clear()


def rate(step: int, total: int, warm_up: int = 200) -> float:
    """Return the factor on the base rate: linear warm-up, constant, linear decay to the end."""
    return min(1.0, (step + 1) / warm_up, 2 * (total - step) / total)


def set_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = value


@torch.no_grad()
def whiten(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold per-channel mean and deviation (channels,) into the 1 x 1 convolutions (exact).

    Latents then have mean 0 and variance 1 per channel, and `scaling_factor` is 1.
    """
    c = len(mean)
    vae.quant_conv.weight[:c] /= std.view(c, 1, 1, 1)
    vae.quant_conv.bias[:c] = (vae.quant_conv.bias[:c] - mean) / std
    vae.quant_conv.bias[c:] -= 2 * std.log()  # log-variance of the posterior scales along
    post = vae.post_quant_conv
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= std.view(1, c, 1, 1)


def make_example(folder: Path, seed: int) -> None:
    """Write what the studio opens with: removal orders with per-bin curves, and one comparison.

    The comparison is dense against the formula's plan, two pictures per class, 50 DDIM steps. Run
    it on an idle machine: its times are shown.
    """
    from core.curves.proposals import propose_plan
    from core.workshop.compare import compare
    from core.workshop.comparison import Comparison, Preview, SampleSettings
    from core.workshop.workshop import get_workshop

    workshop = get_workshop(folder)
    workshop.calibrate(lambda done, total, text: print(f"[{done}/{total}] {text}", flush=True))
    orders = workshop.orders
    orders.save(folder / "calibration")
    timesteps = [float(t) for t in range(0, 1000, 20)]
    plan = propose_plan(workshop.schedule, 0.33, timesteps).plan
    labels, guidance = tuple(range(10)) * 2, workshop.guidance
    settings = SampleSettings(labels, seed=seed, guidance=guidance, repeats=5)
    for item in compare(workshop, None, plan, settings):
        if isinstance(item, Preview):
            print(item.text, flush=True)
    assert isinstance(item, Comparison)
    item.save(folder / "example")
    print(item.verdict, f"calibration took {orders.seconds} s", flush=True)


def tie_embedders(model: DiTTransformer2DModel) -> None:
    """Share one timestep and label embedder, as the original DiT; diffusers stores a copy each."""
    for block in model.transformer_blocks[1:]:
        block.norm1.emb = model.transformer_blocks[0].norm1.emb


def zero_modulation(model: DiTTransformer2DModel) -> None:
    """Start as adaLN-Zero: modulation and output layers at zero."""
    for block in model.transformer_blocks:
        torch.nn.init.zeros_(block.norm1.linear.weight)
        torch.nn.init.zeros_(block.norm1.linear.bias)
    for layer in (model.proj_out_1, model.proj_out_2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)


def to_float(images: np.ndarray, device: str = "cpu") -> Tensor:
    """Pictures (n, 64, 64, 3) uint8 -> (n, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def autocast(device: str):
    """bf16 where it pays."""
    return torch.autocast(device, dtype=torch.bfloat16)


def sheet(images: Tensor, columns: int, path: Path, scale: int = 1) -> None:
    """Write pictures (n, 3, h, w) in [-1, 1] as one PNG, row by row."""
    n, c, h, w = images.shape
    grid = images.view(n // columns, columns, c, h, w).permute(0, 3, 1, 4, 2)
    grid = ((grid.reshape(n // columns * h, columns * w, c) + 1) * 127.5).round().clamp(0, 255)
    picture = Image.fromarray(grid.byte().numpy())
    picture.resize((picture.width * scale, picture.height * scale), 0).save(path)


def strip_path(config: Path) -> None:
    """Remove the path of the machine it was trained on from a config.json."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2) + "\n")
