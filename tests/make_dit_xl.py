"""Write a DiT-XL/2 pipeline folder of the true configuration with random weights.

For proofs at full size where no checkpoint can be had.

    python tests/make_dit_xl.py FOLDER                 # 1.5 GB in fp16
    python app.py prune --model FOLDER --plan assets/plans/... --out PRUNED --bins 3
        --images-per-bin 48 --damping 0.01

All 28 embedders are equal, as in the converted checkpoint; adaLN layers are random too, so that
every block does something. Calibration latents are unit Gaussian noise: the numbers mean nothing,
the work is the real model's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

CONFIG = dict(
    num_attention_heads=16,
    attention_head_dim=72,
    in_channels=4,
    out_channels=8,
    num_layers=28,
    sample_size=32,
    patch_size=2,
    num_embeds_ada_norm=1000,
    attention_bias=True,
    activation_fn="gelu-approximate",
    norm_type="ada_norm_zero",
)


def make_dit_xl(folder: Path, latents: int = 128, blocks: int = 28, seed: int = 0) -> Path:
    """Write the folder as diffusers does, in fp16, with `latents` calibration latents beside it."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(seed)
    transformer = DiTTransformer2DModel(**CONFIG | {"num_layers": blocks})
    first = transformer.transformer_blocks[0].norm1.emb.state_dict()
    for block in transformer.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
        torch.nn.init.normal_(block.norm1.linear.weight, std=0.02)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=256,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.18215,
    )
    scheduler = DDIMScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False
    )
    pipeline = DiTPipeline(transformer, vae, scheduler)
    pipeline.to(torch.float16)
    pipeline.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    # diffusers reads them there, but does not write them
    names = {str(i): f"class {i}" for i in range(1000)}
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": names}, indent=2))
    (folder / "calibration").mkdir(exist_ok=True)
    labels = torch.arange(latents, dtype=torch.int16) * 7 % 1000
    save_file(
        {"latents": torch.randn(latents, 4, 32, 32), "labels": labels},
        folder / "calibration" / "latents.safetensors",
    )
    return folder


if __name__ == "__main__":
    make_dit_xl(Path(sys.argv[1]))
