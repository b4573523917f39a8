"""Measure the bars of the model card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pictures
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor
from training import sheet, to_float

from core.models.checkpoints import load_checkpoint
from core.sampling.denoise import decode
from core.sampling.metrics import Judge
from core.workshop.drawing import draw_latents
from core.workshop.workshop import Workshop

HERE = Path(__file__).resolve().parent
CLASSES = [style.name for style in pictures.STYLES]


def sample(
    n: int,
    seed: int,
    steps: int = 50,
    guidance: float | None = None,
    batch: int = 250,
    scheduler: str = "DDIM",
    weights: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 64, 64) in [-1, 1] and labels, classes in turn.

    guidance: None for the model's own (sampling.json). The denoiser runs in `dtype`, the VAE in
    fp32. weights: of the DiT at another step of its training, in place of the shipped ones.
    """
    checkpoint = load_checkpoint(HERE, "cpu")
    if weights is not None:
        checkpoint.denoiser.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    workshop = Workshop(checkpoint)
    scale = workshop.guidance if guidance is None else guidance
    latents = draw_latents(workshop, workshop.dense, scheduler, steps, scale, n, seed, batch, dtype)
    return decode(workshop.vae, latents), torch.arange(n) % len(CLASSES)


def blurred(images: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) under a Gaussian blur of one pixel."""
    taps = torch.exp(-torch.arange(-3, 4).float().square() / 2)
    kernel = (taps / taps.sum()).expand(3, 1, -1)
    padded = F.pad(images, (3, 3, 3, 3), mode="reflect")
    once = F.conv2d(padded, kernel[:, :, None], groups=3)
    return F.conv2d(once, kernel[..., None], groups=3)


def evaluate(args) -> None:
    """Measure the bars of the model card into evaluation.json."""
    pictures.render_split(args.work / "data", "fresh", 1000, args.processes)
    judge = Judge.load(HERE / "features")
    fresh, _ = pictures.load_split(args.work / "data", "fresh")
    test, test_labels = pictures.load_split(args.work / "data", "test")
    vae = AutoencoderKL.from_pretrained(HERE / "vae").eval()

    def through(images: np.ndarray) -> Tensor:
        with torch.inference_mode():
            parts = to_float(images).split(100)
            return torch.cat([vae.decode(vae.encode(p).latent_dist.mode()).sample for p in parts])

    decoded = through(test)
    report = {
        "vae_test_mse": float((decoded - to_float(test)).square().mean()),
        "class_accuracy_of_test_pictures": judge.class_accuracy(
            to_float(test), torch.from_numpy(test_labels)
        ),
    }
    draws: dict[str, list[float]] = {"real": [], "vae": [], "blur": [], "test_through_vae": []}
    for k in range(5):
        pick = np.arange(2000) * 5 + k  # every fifth picture, so all ten classes
        x = fresh[pick]
        draws["real"].append(judge.fid(to_float(x)))
        draws["vae"].append(judge.fid(through(x).clamp(-1, 1)))
        draws["blur"].append(judge.fid(blurred(to_float(x))))
        draws["test_through_vae"].append(judge.fid(decoded[pick].clamp(-1, 1)))
    report["fid_of_2000"] = {k: [round(v, 3) for v in values] for k, values in draws.items()}
    images, labels = sample(2000, seed=args.seed)
    few, _ = sample(2000, seed=args.seed, steps=10, scheduler="UniPC")
    fid, fid_few = judge.fid(images), judge.fid(few)
    floor = max(draws["real"][0], draws["test_through_vae"][0])
    if args.half is not None:
        half, _ = sample(2000, seed=args.seed, weights=args.half)
        report |= {"fid_at_half_the_training": judge.fid(half), "half": args.half.stem}
    report |= {
        "fid": fid,
        "fid_ratio": fid / floor,
        "fid_unipc_10": fid_few,
        "fid_unipc_10_ratio": fid_few / fid,
        "class_variance_ratio": judge.variance_ratio(images, labels),
        "class_variance_ratio_of_test_images_through_vae": judge.variance_ratio(
            decoded, torch.from_numpy(test_labels)
        ),
        "class_accuracy": judge.class_accuracy(images, labels),
        "n": 2000,
        "n_reference": len(test),
        "seed": args.seed,
        "steps": 50,
        "scheduler": "DDIM",
        "guidance": load_checkpoint(HERE, "cpu").guidance,
        "device": "cpu, denoiser in bf16",
    }
    (HERE / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2), flush=True)
    rows = images[:120].view(12, 10, *images.shape[1:]).transpose(0, 1).flatten(0, 1)
    sheet(rows, 12, HERE / "samples.png")
