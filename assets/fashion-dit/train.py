"""Train the bundled model: a class-conditional latent DiT on Fashion-MNIST, stored as a stock
diffusers folder.

    python assets/fashion-dit/train.py all            # everything, in order; about two hours on two
        CPU cores
    python assets/fashion-dit/train.py dit            # one stage: features | vae | latents | dit |
        evaluate | example

Every stage checkpoints into --work and resumes from there; `dit` also resumes from the EMA weights
in this folder alone (`--from-ema STEP`, fresh optimiser moments). Each batch is a function of
(seed, step), so a resumed run sees the data an uninterrupted one would have seen, and the
learning-rate schedule counts steps, not minutes. Data: the four files of Debian's package
`dataset-fashion-mnist` (Fashion-MNIST, Zalando Research, MIT licence).
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from training import (  # noqa: E402
    Progress,
    ShuffledBatches,
    load_checkpoint,
    make_example,
    rate,
    save_checkpoint,
    set_rate,
    tie_embedders,
    whiten,
    zero_modulation,
)

from core.sampling.metrics import (  # noqa: E402
    FeatureNetwork,
    Judge,
    ReferenceStatistics,
    class_variance,
    gaussian,
)

CLASSES = [
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
NULL_CLASS = 1000  # DiTPipeline hard-wires ImageNet's null label
CALIBRATION_LATENTS = 4096
GUIDANCE = 1.5


# ---------------------------------------------------------------- data


def read_idx(path: Path) -> Tensor:
    """Fashion-MNIST's idx format: a header of big-endian integers, then bytes."""
    raw = gzip.decompress(path.read_bytes())
    dims = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return torch.frombuffer(bytearray(raw[4 + 4 * len(dims) :]), dtype=torch.uint8).view(*dims)


def load_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Pictures (n, 1, 32, 32) in [-1, 1], padded with background, and labels (n,)."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    return F.pad(images[:, None].float() / 127.5 - 1, (2, 2, 2, 2), value=-1), labels.long()


# ---------------------------------------------------------------- stages


def train_features(args) -> None:
    """The feature network and its statistics over the 10,000 test pictures."""
    torch.manual_seed(args.seed)
    images, labels = load_split(args.data, "train")
    network = FeatureNetwork()
    total, batch = args.feature_steps, 128
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    progress = Progress("features", total, batch)
    batches = ShuffledBatches(len(images), batch, args.seed)
    for step in range(total):
        set_rate(optimiser, 2e-3 * rate(step, total))
        pick = batches(step)
        loss = F.cross_entropy(network(images[pick]), labels[pick], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress(step, loss)
    network.eval()
    test, test_labels = load_split(args.data, "t10k")
    empty = ReferenceStatistics(torch.zeros(64), torch.eye(64), torch.ones(10), 1)
    features, predicted = Judge(network, empty).look(test)
    mean, covariance = gaussian(features)
    Judge(
        network,
        ReferenceStatistics(mean, covariance, class_variance(features, test_labels, 10), len(test)),
    ).save(HERE / "features")
    print(
        f"feature network: test accuracy {(predicted == test_labels).float().mean():.4f} (n ="
        f" {len(test)})",
        flush=True,
    )


def new_vae() -> AutoencoderKL:
    """32 x 32 x 1 pictures to 4 x 8 x 8 latents."""
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        sample_size=32,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def train_vae(args) -> None:
    """Squared error plus a small KL term; bf16 autocast."""
    torch.manual_seed(args.seed)
    images, _ = load_split(args.data, "train")
    vae, batch, total = new_vae(), 64, args.vae_steps
    optimiser = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    checkpoint, first = args.work / "vae.safetensors", 0
    if checkpoint.exists():
        first, (weights,) = load_checkpoint(checkpoint, optimiser, "weights")
        vae.load_state_dict(weights)
        print(f"vae resumes at step {first}", flush=True)
    progress = Progress("vae", total, batch, first)
    batches = ShuffledBatches(len(images), batch, args.seed + 1)
    for step in range(first, total):
        set_rate(optimiser, 2e-3 * rate(step, total))
        x = images[batches(step)]
        noise = torch.Generator().manual_seed(args.seed * 7_919 + step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            decoded = vae.decode(posterior.sample(generator=noise)).sample
        error = (decoded.float() - x).square().mean()
        # A firm KL term: the decoder learns to forgive small latent errors, which a small denoiser
        # will make. 256 latent values a picture.
        loss = error + 3e-3 * (posterior.kl().float() / 256).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        progress(step, error)
        if (step + 1) % 500 == 0:
            save_checkpoint(checkpoint, step + 1, optimiser, weights=vae.state_dict())
    vae.eval()
    with torch.no_grad():
        parts = images[:10_000].split(500)
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in parts])
    whiten(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
    vae.half().save_pretrained(HERE / "vae")
    vae = AutoencoderKL.from_pretrained(HERE / "vae").eval()
    test, _ = load_split(args.data, "t10k")
    with torch.inference_mode():
        error = torch.cat(
            [
                (vae.decode(vae.encode(p).latent_dist.mode()).sample - p)
                .square()
                .flatten(1)
                .mean(1)
                for p in test.split(500)
            ]
        ).mean()
    print(
        f"VAE: test MSE {error:.5f} on [-1, 1] pictures (n = {len(test)}, shipped fp16 weights)",
        flush=True,
    )


def make_latents(args) -> None:
    """Latents of the training pictures (into --work) and the calibration set (shipped; drawn from
    the training split).
    """
    vae = AutoencoderKL.from_pretrained(HERE / "vae").eval()
    images, labels = load_split(args.data, "train")
    with torch.inference_mode():
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in images.split(500)])
    args.work.mkdir(parents=True, exist_ok=True)
    save_file({"latents": latents, "labels": labels}, args.work / "latents.safetensors")
    pick = torch.randperm(len(latents), generator=torch.Generator().manual_seed(args.seed))[
        :CALIBRATION_LATENTS
    ]
    (HERE / "calibration").mkdir(exist_ok=True)
    save_file(
        {"latents": latents[pick].half().contiguous(), "labels": labels[pick].to(torch.int16)},
        HERE / "calibration" / "latents.safetensors",
    )
    print(
        f"latents {tuple(latents.shape)}: mean {latents.mean():.4f}, mean square"
        f" {latents.square().mean():.4f}",
        flush=True,
    )


def new_transformer() -> DiTTransformer2DModel:
    """8 blocks x 256 wide, 8 heads of 32. adaLN-Zero: modulation and output start at zero. One
    conditioning embedder for all blocks.
    """
    model = DiTTransformer2DModel(
        num_attention_heads=8,
        attention_head_dim=32,
        num_layers=8,
        in_channels=4,
        out_channels=4,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=NULL_CLASS,
    )
    tie_embedders(model)
    zero_modulation(model)
    return model.eval()


def save_pipeline(weights: dict[str, Tensor]) -> None:
    """The diffusers folder: fp16 weights, DDIM on the linear schedule, ids as DiTPipeline wants
    them.
    """
    model = new_transformer()
    model.load_state_dict(weights)
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
    config = json.loads((HERE / "vae" / "config.json").read_text())
    config.pop("_name_or_path", None)  # a path of the machine it was trained on
    (HERE / "vae" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    index = json.loads((HERE / "model_index.json").read_text())
    # DiTPipeline reads it from here and does not write it back
    index["id2label"] = {str(i): name for i, name in enumerate(CLASSES)}
    (HERE / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def train_dit(args) -> None:
    """Epsilon loss, uniform timesteps, EMA; bf16 autocast."""
    torch.manual_seed(args.seed)
    data = load_file(args.work / "latents.safetensors")
    latents, labels = data["latents"], data["labels"]
    alphas = DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02).alphas_cumprod
    model, batch, total, first = new_transformer(), 128, args.dit_steps, 0
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=0.0, betas=(0.9, 0.99), fused=True
    )
    ema = {k: v.clone() for k, v in model.state_dict().items()}
    checkpoint = args.work / "dit.safetensors"
    if args.from_ema is not None:
        first = args.from_ema
        ema = {
            k: v.clone()
            for k, v in (
                DiTTransformer2DModel.from_pretrained(HERE / "transformer").state_dict().items()
            )
        }
        model.load_state_dict(ema)
    elif checkpoint.exists():
        first, (weights, ema) = load_checkpoint(checkpoint, optimiser, "weights", "ema")
        model.load_state_dict(weights)
        print(f"dit resumes at step {first}", flush=True)
    live = {k: v for k, v in model.state_dict(keep_vars=True).items()}
    progress = Progress("dit", total, batch, first)
    batches = ShuffledBatches(len(latents), batch, args.seed + 2)
    for step in range(first, total):
        set_rate(optimiser, args.lr * rate(step, total))
        random = torch.Generator().manual_seed(args.seed * 104_729 + step)
        pick = batches(step)
        x0, y = latents[pick], labels[pick].clone()
        y[torch.rand(batch, generator=random) < 0.1] = NULL_CLASS
        t = torch.randint(0, 1000, (batch,), generator=random)
        noise = torch.randn(x0.shape, generator=random)
        a = alphas[t].view(-1, 1, 1, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = model(
                a.sqrt() * x0 + (1 - a).sqrt() * noise,
                timestep=t,
                class_labels=y,
                return_dict=False,
            )[0]
        loss = (predicted.float() - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            decay = min(0.9995, (step + 1) / (step + 10))
            torch._foreach_lerp_([ema[k] for k in ema], [live[k] for k in ema], 1 - decay)
        progress(step, loss)
        if (step + 1) % 500 == 0 or step + 1 == total:
            save_checkpoint(checkpoint, step + 1, optimiser, weights=model.state_dict(), ema=ema)
            save_pipeline(ema)
        if (step + 1) % 1000 == 0:
            picture(args.work / f"samples-{step + 1}.png")


# ---------------------------------------------------------------- samples and evaluation


def sample(
    n: int, seed: int, steps: int = 50, guidance: float = GUIDANCE, batch: int = 250
) -> tuple[Tensor, Tensor]:
    """Pictures (n, 1, 32, 32) in [-1, 1] by the stock DiTPipeline and DDIM, and their labels,
    classes in turn.
    """
    pipeline = DiTPipeline.from_pretrained(HERE)
    pipeline.set_progress_bar_config(disable=True)
    labels = torch.arange(n) % len(CLASSES)
    parts = []
    for i in range(0, n, batch):
        generator = torch.Generator().manual_seed(seed + i)
        out = pipeline(
            labels[i : i + batch].tolist(),
            guidance_scale=guidance,
            num_inference_steps=steps,
            generator=generator,
            output_type="np",
        )
        parts.append(torch.from_numpy(out.images).permute(0, 3, 1, 2).float() * 2 - 1)
        print(f"sampled {min(i + batch, n)}/{n}", flush=True)
    return torch.cat(parts), labels


def picture(path: Path) -> None:
    """Eight pictures of each class."""
    images, _ = sample(80, seed=0, steps=25, batch=80)
    rows = images[:, 0].view(8, 10, 32, 32).permute(1, 2, 0, 3).reshape(320, 256)
    Image.fromarray(((rows + 1) * 127.5).round().clamp(0, 255).byte().numpy()).resize(
        (768, 960), 0
    ).save(path)


def evaluate(args) -> None:
    """The bars of the model card, into evaluation.json."""
    judge = Judge.load(HERE / "features")
    test, test_labels = load_split(args.data, "t10k")
    vae = AutoencoderKL.from_pretrained(HERE / "vae").eval()
    with torch.inference_mode():
        through = torch.cat(
            [vae.decode(vae.encode(p).latent_dist.mode()).sample for p in test.split(500)]
        )
    some = torch.randperm(len(test), generator=torch.Generator().manual_seed(args.seed))[:2000]
    images, labels = sample(2000, seed=args.seed)
    fid, fid_vae = judge.fid(images), judge.fid(through[some].clamp(-1, 1))
    report = {
        "feature_network_test_accuracy": judge.class_accuracy(test, test_labels),
        "vae_test_mse": float((through - test).square().mean()),
        "fid": fid,
        "fid_of_2000_test_images_through_vae": fid_vae,
        "fid_ratio": fid / fid_vae,
        "class_variance_ratio": judge.variance_ratio(images, labels),
        "class_variance_ratio_of_test_images_through_vae": judge.variance_ratio(
            through, test_labels
        ),
        "class_accuracy": judge.class_accuracy(images, labels),
        "n": 2000,
        "n_reference": len(test),
        "seed": args.seed,
        "steps": 50,
        "scheduler": "DDIM",
        "guidance": GUIDANCE,
        "device": "cpu, fp32",
    }
    (HERE / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2), flush=True)


STAGES = {
    "features": train_features,
    "vae": train_vae,
    "latents": make_latents,
    "dit": train_dit,
    "evaluate": evaluate,
    "example": lambda args: make_example(HERE, args.seed),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder with the four idx.gz files",
    )
    parser.add_argument(
        "--work", type=Path, default=HERE / "work", help="checkpoints and latents (not committed)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--feature-steps", type=int, default=2000)
    parser.add_argument("--vae-steps", type=int, default=4500)
    parser.add_argument("--dit-steps", type=int, default=8000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--from-ema",
        type=int,
        metavar="STEP",
        help="resume the DiT from the shipped EMA weights, as step STEP",
    )
    args = parser.parse_args()
    for name in STAGES if args.stage == "all" else [args.stage]:
        print(f"== {name}", flush=True)
        STAGES[name](args)


if __name__ == "__main__":
    main()
