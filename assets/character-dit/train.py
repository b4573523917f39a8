"""Train the colour model: a class-conditional latent DiT on ten styles of drawn characters.

    python assets/character-dit/train.py all      # everything, in order
    python assets/character-dit/train.py dit      # one stage; see --help

Every stage checkpoints into --work and resumes from there; `dit` also resumes from the EMA weights
in this folder alone (`--from-ema STEP`, fresh optimiser moments). Each batch is a function of
(seed, step), so a resumed run sees the data an uninterrupted one would have seen. The pictures are
rendered here (pictures.py); they need three packages that the studio itself does not use.
Runs on CUDA when --device cuda is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import pictures  # noqa: E402
from evaluate import evaluate, sample  # noqa: E402
from feature_network import train_features  # noqa: E402
from training import (  # noqa: E402
    Progress,
    ShuffledBatches,
    autocast,
    load_checkpoint,
    make_example,
    rate,
    save_checkpoint,
    set_rate,
    sheet,
    strip_path,
    tie_embedders,
    to_float,
    whiten,
    zero_modulation,
)

from core.sampling.metrics import Judge  # noqa: E402

CLASSES = [style.name for style in pictures.STYLES]
NULL_CLASS = 1000  # DiTPipeline hard-wires ImageNet's null label


# ---------------------------------------------------------------- data


def render_data(args) -> None:
    """Draw the training and the test pictures into --work."""
    pictures.render_split(args.work / "data", "test", 1000, args.processes)
    pictures.render_split(args.work / "data", "train", args.per_class, args.processes)


# ---------------------------------------------------------------- VAE


def new_vae(kind: str = "f4") -> AutoencoderKL:
    """64 x 64 x 3 pictures to 4 x 16 x 16 latents (f4) or 16 x 8 x 8 (f8, the other candidate)."""
    channels = (24, 48, 96) if kind == "f4" else (24, 48, 96, 128)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4 if kind == "f4" else 16,
        sample_size=64,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    start_near_identity(vae)
    return vae


def start_near_identity(vae: AutoencoderKL) -> None:
    """Norm-preserving weights, zero biases, silent residual branches, a narrow posterior.

    PyTorch's default start keeps the loss flat for hundreds of steps.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight)
            nn.init.zeros_(module.bias)
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            module.weight.data.mul_(0.1)
    c = vae.config.latent_channels
    vae.quant_conv.weight.data[c:] *= 0.1
    vae.quant_conv.bias.data[c:] = -5.0  # log-variance: deviation exp(-2.5)


def picture_loss(decoded: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (loss, squared error): squared error, absolute error and that of image gradients."""
    error = (decoded - x).square().mean()
    edges = sum((decoded.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
    return error + 0.1 * (decoded - x).abs().mean() + 0.1 * edges, error


def vae_batch(images: np.ndarray, pick: Tensor, step: int, seed: int) -> np.ndarray:
    """Whole pictures in every second step, else four times as many aligned 32 x 32 crops."""
    chosen = images[pick.numpy()]
    if step % 2:
        return chosen[: len(chosen) // 4]
    random = np.random.default_rng(seed * 7_919 + step)
    corners = random.integers(0, 5, (len(chosen), 2)) * 8
    return np.stack([p[i : i + 32, j : j + 32] for p, (i, j) in zip(chosen, corners, strict=True)])


def train_vae(args) -> None:
    """Squared error, edges and a small KL term; bf16 autocast. Stores raw weights in --work."""
    torch.manual_seed(args.seed)
    images, _ = pictures.load_split(args.work / "data", "train")
    vae, batch, total = new_vae(args.vae).to(args.device), args.vae_batch, args.vae_steps
    optimiser = torch.optim.AdamW(vae.parameters(), lr=1.2e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    checkpoint, first = args.work / f"vae-{args.vae}.safetensors", 0
    if checkpoint.exists():
        first, (weights,) = load_checkpoint(checkpoint, optimiser, "weights")
        vae.load_state_dict(weights)
        print(f"vae resumes at step {first}", flush=True)
    progress = Progress(f"vae {args.vae}", total, batch, first)
    batches = ShuffledBatches(len(images), batch, args.seed + 1)
    for step in range(first, total):
        set_rate(optimiser, 1.2e-3 * rate(step, total))
        x = to_float(vae_batch(images, batches(step), step, args.seed), args.device)
        torch.manual_seed(args.seed * 7_919 + step)
        with autocast(args.device):
            posterior = vae.encode(x).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        loss, error = picture_loss(decoded.float(), x)
        values = posterior.mean[0].numel()
        loss = loss + args.kl * (posterior.kl().float() / values).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        progress(step, error)
        if (step + 1) % 500 == 0 or step + 1 == total:
            save_checkpoint(checkpoint, step + 1, optimiser, weights=vae.state_dict())
            look_at_vae(vae, args, step + 1)


@torch.no_grad()
def look_at_vae(vae: AutoencoderKL, args, step: int, what: str = "vae") -> None:
    """Print the test error and write a sheet: 8 originals of each class, then the same decoded."""
    images, labels = pictures.load_split(args.work / "data", "test")
    x = to_float(images[::20])  # 50 per class
    out = torch.cat(
        [
            vae.decode(vae.encode(p.to(args.device)).latent_dist.mode()).sample.cpu()
            for p in x.split(100)
        ]
    )
    error = (out - x).square().flatten(1).mean(1)
    kept = torch.from_numpy(labels[::20])
    by_class = " ".join(f"{float(error[kept == c].mean()):.4f}" for c in range(10))
    print(f"{what} {args.vae} step {step}: test MSE {error.mean():.5f}; {by_class}", flush=True)
    rows = [torch.cat([x[kept == c][:8], out[kept == c][:8]]) for c in range(10)]
    sheet(torch.cat(rows), 16, args.work / f"{what}-{args.vae}-{step}.png")


# ---------------------------------------------------------------- latents


@torch.no_grad()
def make_latents(args) -> None:
    """Whiten and store a VAE trained in --work, then store the latents of the training pictures."""
    images, labels = pictures.load_split(args.work / "data", "train")
    trained = args.work / f"vae-{args.vae}.safetensors"
    if trained.exists():  # else the VAE in this folder stays as it is
        vae = new_vae(args.vae)
        tensors = load_file(trained)
        vae.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("weights/")})
        vae = vae.eval().to(args.device)
        some = encode(vae, images[:10_000], args.device)
        whiten(vae, some.mean((0, 2, 3)), some.std((0, 2, 3)))
        vae.half().cpu().save_pretrained(HERE / "vae")
        strip_path(HERE / "vae" / "config.json")
    vae = AutoencoderKL.from_pretrained(HERE / "vae").eval().to(args.device)
    images, labels = images[: args.encode], labels[: args.encode]
    latents = encode(vae, images, args.device, say=True)
    stored = {"latents": latents.half().contiguous(), "labels": torch.from_numpy(labels)}
    save_file(stored, latents_file(args))
    print(f"latents {tuple(latents.shape)}: mean square {latents.square().mean():.4f}", flush=True)


def latents_file(args) -> Path:
    return args.work / f"latents-{args.vae}.safetensors"


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, device: str, say: bool = False) -> Tensor:
    """Pictures (n, 64, 64, 3) uint8 -> latents, posterior means, fp32 on the CPU."""
    parts = []
    for i in range(0, len(images), 250):
        with autocast(device):
            latent = vae.encode(to_float(images[i : i + 250], device)).latent_dist.mode()
        parts.append(latent.float().cpu())
        if say and i % 10_000 == 0:
            print(f"encoded {i}/{len(images)}", flush=True)
    return torch.cat(parts)


# ---------------------------------------------------------------- DiT


def new_transformer(kind: str) -> DiTTransformer2DModel:
    """8 blocks x 256 wide, 8 heads of 32, 16 tokens. adaLN-Zero, one conditioning embedder."""
    model = DiTTransformer2DModel(
        num_attention_heads=8,
        attention_head_dim=32,
        num_layers=8,
        in_channels=4 if kind == "f4" else 16,
        out_channels=4 if kind == "f4" else 16,
        sample_size=16 if kind == "f4" else 8,
        patch_size=4 if kind == "f4" else 2,
        num_embeds_ada_norm=NULL_CLASS,
    )
    tie_embedders(model)
    zero_modulation(model)
    return model.eval()  # label dropout is ours (one draw per row for all blocks)


def stable_then_decay(step: int, total: int, warm_up: int = 500, decay: float = 0.3) -> float:
    """Warm up, stay, decay linearly over the last share: the total may grow until the decay."""
    return min(1.0, (step + 1) / warm_up, (total - step) / (decay * total))


def train_dit(args) -> None:
    """Epsilon loss with min-SNR weights (Hang et al. 2023, equation 5), EMA; bf16 autocast."""
    torch.manual_seed(args.seed)
    data = load_file(latents_file(args))
    latents, labels = data["latents"], data["labels"]
    scheduler = DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    alphas = scheduler.alphas_cumprod.to(args.device)
    weights_of_t = (args.min_snr * (1 - alphas) / alphas).clamp(max=1.0)
    model = new_transformer(args.vae).to(args.device)
    batch, total, first = args.batch, args.dit_steps, 0
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=args.lr, weight_decay=0.0, betas=(0.9, 0.99), fused=True
    )
    ema = {k: v.clone() for k, v in model.state_dict().items()}
    checkpoint = args.work / f"dit-{args.vae}.safetensors"
    if args.from_ema is not None:
        first = args.from_ema
        stored = DiTTransformer2DModel.from_pretrained(HERE / "transformer").state_dict()
        ema = {k: v.clone().to(args.device) for k, v in stored.items()}
        model.load_state_dict(ema)
    elif checkpoint.exists():
        first, (weights, ema) = load_checkpoint(checkpoint, optimiser, "weights", "ema")
        model.load_state_dict(weights)
        print(f"dit resumes at step {first}", flush=True)
    for block in model.transformer_blocks:
        # On a CPU fused bf16 attention over 16 tokens takes most of a step; plain products do not.
        block.attn1.set_processor(AttnProcessor())
    forward = torch.compile(model) if args.compile else model
    live = {k: v for k, v in model.state_dict(keep_vars=True).items()}
    progress = Progress("dit", total, batch, first)
    batches = ShuffledBatches(len(latents), batch, args.seed + 2)
    for step in range(first, total):
        set_rate(optimiser, args.lr * stable_then_decay(step, total))
        random = torch.Generator().manual_seed(args.seed * 104_729 + step)
        pick = batches(step)
        x0, y = latents[pick].float(), labels[pick].clone()
        y[torch.rand(batch, generator=random) < 0.1] = NULL_CLASS
        t = torch.randint(0, 1000, (batch,), generator=random)
        noise = torch.randn(x0.shape, generator=random)
        x0, y, t, noise = (v.to(args.device) for v in (x0, y, t, noise))
        a = alphas[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * x0 + (1 - a).sqrt() * noise
        with autocast(args.device):
            predicted = forward(noisy, timestep=t, class_labels=y, return_dict=False)[0]
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        loss = (weights_of_t[t] * error).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            decay = min(args.ema, (step + 1) / (step + 10))
            torch._foreach_lerp_([ema[k] for k in ema], [live[k] for k in ema], 1 - decay)
        progress(step, loss)
        if (step + 1) % 1000 == 0 or step + 1 == total:
            save_checkpoint(checkpoint, step + 1, optimiser, weights=model.state_dict(), ema=ema)
            save_pipeline(ema, args)
        if (step + 1) % 2500 == 0 or step + 1 == total:
            half = {k: v.half().cpu().contiguous() for k, v in ema.items()}
            save_file(
                {k: v.clone() for k, v in half.items()}, args.work / f"ema-{step + 1}.safetensors"
            )
            images, _ = sample(80, seed=0, steps=25, batch=80)
            path = args.work / f"samples-{args.vae}-{step + 1}.png"
            rows = images.view(8, 10, *images.shape[1:]).transpose(0, 1).flatten(0, 1)
            sheet(rows, 8, path, scale=2)


def save_pipeline(weights: dict[str, Tensor], args) -> None:
    """Write the diffusers folder: fp16 weights, DDIM on the linear schedule, class names."""
    model = new_transformer(args.vae)
    model.load_state_dict({k: v.cpu() for k, v in weights.items()})
    untied = DiTTransformer2DModel.from_config(model.config)
    untied.load_state_dict(model.state_dict())
    vae = AutoencoderKL.from_pretrained(HERE / "vae", torch_dtype=torch.float16)
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        clip_sample=False,
    )
    DiTPipeline(untied.half(), vae, scheduler).save_pretrained(HERE)
    strip_path(HERE / "vae" / "config.json")
    index = json.loads((HERE / "model_index.json").read_text())
    index["id2label"] = {str(i): name for i, name in enumerate(CLASSES)}
    (HERE / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


# ---------------------------------------------------------------- what the studio needs


def ship_calibration(args) -> None:
    """Write 4,096 latents of training pictures with their labels, classes in turn."""
    data = load_file(latents_file(args))
    labels = data["labels"]
    by_class = [(labels == c).nonzero().flatten() for c in range(len(CLASSES))]
    rows = torch.stack([r[:410] for r in by_class], 1).flatten()[:4096]
    (HERE / "calibration").mkdir(exist_ok=True)
    shipped = {
        "latents": data["latents"][rows].half().contiguous(),
        "labels": labels[rows].to(torch.int16).contiguous(),
    }
    save_file(shipped, HERE / "calibration" / "latents.safetensors")


# ---------------------------------------------------------------- decoder


def train_decoder(args) -> None:
    """Sharpen the decoder on the fixed latents, noised a little as a small denoiser leaves them."""
    torch.manual_seed(args.seed)
    images, _ = pictures.load_split(args.work / "data", "train")
    latents = load_file(latents_file(args))["latents"]
    vae = AutoencoderKL.from_pretrained(HERE / "vae").to(args.device)
    trained = nn.ModuleList([vae.post_quant_conv, vae.decoder])
    body = Judge.load(HERE / "features").network.body.eval().requires_grad_(False).to(args.device)
    batch, total = args.decoder_batch, args.decoder_steps
    optimiser = torch.optim.AdamW(trained.parameters(), lr=6e-4, betas=(0.9, 0.99), weight_decay=0)
    checkpoint, first = args.work / "decoder.safetensors", 0
    if checkpoint.exists():
        first, (weights,) = load_checkpoint(checkpoint, optimiser, "weights")
        trained.load_state_dict(weights)
        print(f"decoder resumes at step {first}", flush=True)
    progress = Progress("decoder", total, batch, first)
    batches = ShuffledBatches(len(images), batch, args.seed + 5)
    for step in range(first, total):
        set_rate(optimiser, 6e-4 * rate(step, total))
        pick = batches(step)
        x = to_float(images[pick.numpy()], args.device)
        random = torch.Generator().manual_seed(args.seed * 15_485_863 + step)
        z = latents[pick].float()
        level = args.latent_noise * torch.rand(len(z), 1, 1, 1, generator=random)
        z = (z + level * torch.randn(z.shape, generator=random)).to(args.device)
        with autocast(args.device):
            decoded = vae.decode(z).sample
            seen = perceptual(body, decoded, x)
        loss, error = picture_loss(decoded.float(), x)
        loss = loss + args.perceptual * seen.float()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        progress(step, error)
        if (step + 1) % 250 == 0 or step + 1 == total:
            save_checkpoint(checkpoint, step + 1, optimiser, weights=trained.state_dict())
            look_at_vae(vae, args, step + 1, "decoder")
    vae.half().cpu().save_pretrained(HERE / "vae")
    strip_path(HERE / "vae" / "config.json")


def perceptual(body: nn.Module, decoded: Tensor, x: Tensor) -> Tensor:
    """Squared distance of normalised features after the first two stages (Zhang et al. 2018)."""
    total = 0.0
    for layer in range(7):
        decoded, x = body[layer](decoded), body[layer](x)
        if layer in (2, 6):  # the ReLUs
            a, b = (F.normalize(v.float(), dim=1, eps=1e-3) for v in (decoded, x))
            total = total + (a - b).square().sum(1).mean()
    return total


STAGES = {
    "data": render_data,
    "features": train_features,
    "vae": train_vae,
    "latents": make_latents,
    "dit": train_dit,
    "decoder": train_decoder,
    "calibration": ship_calibration,
    "evaluate": evaluate,
    "example": lambda args: make_example(HERE, args.seed),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--work", type=Path, default=HERE / "work", help="data and checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="threads of the CPU (default: all)")
    parser.add_argument("--processes", type=int, default=2, help="processes that render pictures")
    parser.add_argument("--per-class", type=int, default=12_000, help="training pictures per class")
    parser.add_argument("--feature-steps", type=int, default=2000)
    parser.add_argument("--vae", choices=["f4", "f8"], default="f4")
    parser.add_argument("--vae-steps", type=int, default=4000)
    parser.add_argument("--vae-batch", type=int, default=64)
    parser.add_argument("--encode", type=int, help="latents to store (default: all)")
    parser.add_argument("--kl", type=float, default=5e-4)
    parser.add_argument("--decoder-steps", type=int, default=2000)
    parser.add_argument("--decoder-batch", type=int, default=16)
    parser.add_argument("--latent-noise", type=float, default=0.1)
    parser.add_argument("--perceptual", type=float, default=0.05)
    parser.add_argument("--dit-steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=128, help="pictures per step of the DiT")
    parser.add_argument("--compile", action="store_true", help="compile the DiT (twice as fast)")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--min-snr", type=float, default=5.0, help="inf: every timestep alike")
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--from-ema", type=int, metavar="STEP", help="resume as step STEP")
    parser.add_argument(
        "--half", type=Path, help="evaluate: weights of the DiT at half its training"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in STAGES if args.stage == "all" else [args.stage]:
        print(f"== {name}", flush=True)
        STAGES[name](args)


if __name__ == "__main__":
    main()
