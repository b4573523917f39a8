"""Compare our sampling loop with stock diffusers.

Samplers x scheduler configurations x step counts.

    python tests/sampler_matrix.py              # the whole matrix, about a quarter of an hour on
        two cores
    python tests/sampler_matrix.py UniPC DEIS   # some samplers

Reference: `StableDiffusionXLPipeline` with a tiny random UNet and one generator per picture, for
step counts up to 50; above that the loop of diffusers' documentation around a tiny DiT. A cell says
"equal" (the same bits), "refused" (a sentence before anything runs), or what went wrong.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from core.curves.noise import NoiseSchedule  # noqa: E402
from core.curves.samplers import SCHEDULERS, sampling_timesteps  # noqa: E402
from core.errors import StudioError  # noqa: E402
from core.models.families import Conditions  # noqa: E402
from core.mosaic.transformer import MosaicTransformer  # noqa: E402
from core.sampling.denoise import Denoiser, start_noise  # noqa: E402
from core.workshop.compare import scheduler_like  # noqa: E402

SDXL = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
DIT = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}
# What people ship, as entries of scheduler_config.json: (class of the shipped file, configuration)
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "SDXL as shipped": ("EulerDiscreteScheduler", SDXL),
    "DiT as shipped": ("DDIMScheduler", DIT),
    "trailing": ("DDIMScheduler", SDXL | {"timestep_spacing": "trailing", "steps_offset": 0}),
    "linspace": ("EulerDiscreteScheduler", SDXL | {"timestep_spacing": "linspace"}),
    "offset 0": ("PNDMScheduler", SDXL | {"steps_offset": 0}),
    "alpha to one": ("DDIMScheduler", SDXL | {"set_alpha_to_one": True}),
    "zero terminal SNR": (
        "DDIMScheduler",
        SDXL | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "zero SNR, leading": ("DDIMScheduler", SDXL | {"rescale_betas_zero_snr": True}),
    "Karras": ("DPMSolverMultistepScheduler", SDXL | {"use_karras_sigmas": True}),
    "exponential": ("EulerDiscreteScheduler", SDXL | {"use_exponential_sigmas": True}),
    "beta sigmas": ("EulerDiscreteScheduler", SDXL | {"use_beta_sigmas": True}),
    "thresholding": ("DDPMScheduler", SDXL | {"thresholding": True, "sample_max_value": 1.5}),
    "clipping": ("DDPMScheduler", SDXL | {"clip_sample": True, "clip_sample_range": 2.0}),
    "fixed_large": ("DDPMScheduler", SDXL | {"variance_type": "fixed_large"}),
    "learned variance": ("DDPMScheduler", DIT | {"variance_type": "learned_range"}),
    "SDE, order 1": (
        "DPMSolverMultistepScheduler",
        SDXL | {"algorithm_type": "sde-dpmsolver++", "solver_order": 1},
    ),
    "order 3, lower order final": (
        "DPMSolverMultistepScheduler",
        SDXL | {"solver_order": 3, "lower_order_final": True, "solver_type": "midpoint"},
    ),
    "final sigma": ("DPMSolverMultistepScheduler", SDXL | {"final_sigmas_type": "sigma_min"}),
    "squared cosine": ("DDIMScheduler", DIT | {"beta_schedule": "squaredcos_cap_v2"}),
    "100 timesteps": ("DDIMScheduler", DIT | {"num_train_timesteps": 100}),
    "500 timesteps": ("DDIMScheduler", SDXL | {"num_train_timesteps": 500}),
    "2000 timesteps": ("DDPMScheduler", DIT | {"num_train_timesteps": 2000}),
}
FEW = (1, 2, 3, 4, 5, 7, 10, 25, 50)
MANY = (61, 103, 250, -2, -1)  # -2: all timesteps but one, -1: all of them
SEED = 11


@dataclass(frozen=True)
class Models:
    """A tiny SDXL pipeline with its conditions, and a tiny DiT."""

    pipeline: Any
    words: Conditions
    unet: MosaicTransformer
    dit: MosaicTransformer


def make_models(folder: Path) -> Models:
    """Build both models, random weights, fp32 on the CPU."""
    from conftest import make_pipeline
    from diffusers import DiTPipeline, StableDiffusionXLPipeline
    from tiny_sdxl import make_sdxl

    from core.models.families import SDXL as Family

    pipeline = StableDiffusionXLPipeline.from_pretrained(make_sdxl(folder / "xl"))
    pipeline.set_progress_bar_config(disable=True)
    dit = DiTPipeline.from_pretrained(make_pipeline(folder / "dit", blocks=1)).transformer
    return Models(
        pipeline,
        Family.conditions(pipeline, ["a cat"]),
        MosaicTransformer(pipeline.unet, None, [None] * 3),
        MosaicTransformer(dit, None, [None] * 3),
    )


def shipped_scheduler(configuration: str) -> Any:
    """Make the scheduler of a model folder with this configuration."""
    import diffusers

    name, values = CONFIGURATIONS[configuration]
    cls = getattr(diffusers, name)
    known = set(cls._get_init_keys(cls))
    scheduler = cls(**{k: v for k, v in values.items() if k in known})
    # a config file may hold entries of other classes; diffusers keeps them for `from_config`
    scheduler.register_to_config(**values)
    return scheduler


def stock_scheduler(shipped: Any, name: str) -> Any:
    """Make the named scheduler as diffusers' users do, from the shipped configuration."""
    import diffusers

    cls, config = getattr(diffusers, SCHEDULERS[name]), dict(shipped.config)
    if str(config.get("variance_type", "")).startswith("learned"):
        config["variance_type"] = "fixed_small"  # the noise alone is taken from such a model
    if name == "PNDM":
        config["skip_prk_steps"] = True
    return cls.from_config(config)


def documented_loop(scheduler: Any, model: MosaicTransformer, steps: int) -> torch.Tensor:
    """Sample by the loop of diffusers' documentation, one generator for all noise."""
    import inspect

    random = torch.Generator().manual_seed(SEED)
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 4, 8, 8, generator=random) * scheduler.init_noise_sigma
    takes = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": random} if takes else {}
    labels = torch.tensor([3])
    with torch.inference_mode():
        for t in scheduler.timesteps:
            rows = scheduler.scale_model_input(x, t)
            eps = model.full(rows, timestep=t.expand(1), class_labels=labels, return_dict=False)[0]
            x = scheduler.step(eps, t, x, **extra).prev_sample
    return x


def cell(models: Models, configuration: str, name: str, steps: int) -> str:
    """Say what became of one sampler with one configuration and one number of steps."""
    shipped = shipped_scheduler(configuration)
    total = shipped.config.num_train_timesteps
    steps = total + 1 + steps if steps < 0 else steps
    small = steps <= max(FEW)
    if steps > total:
        return "-"
    refusal = None
    try:
        ours_scheduler = scheduler_like(shipped, name)
        visited = sampling_timesteps(ours_scheduler, steps)
    except StudioError as err:
        refusal = str(err)
    try:
        stock = stock_scheduler(shipped, name)
        if small:
            models.pipeline.scheduler = stock
            generator = torch.Generator().manual_seed(SEED)
            theirs = models.pipeline(
                "a cat",
                num_inference_steps=steps,
                guidance_scale=4.0,
                generator=generator,
                output_type="latent",
            ).images
        else:
            theirs = documented_loop(stock, models.dit, steps)
    except Exception as err:  # what stock cannot do
        return "refused" if refusal else f"stock: {type(err).__name__}"
    if refusal:
        return "refused" if not torch.isfinite(theirs).all() else f"refused, stock can: {refusal}"
    schedule = NoiseSchedule.from_scheduler(shipped)
    if small:
        noise, given, guidance = start_noise(1, (4, 16, 16), SEED), models.words, 4.0
        model = models.unet
    else:
        labels = {"class_labels": torch.tensor([3])}
        noise, given, guidance = start_noise(1, (4, 8, 8), SEED), Conditions(labels, labels), 1.0
        model = models.dit
    # stock works its adaLN vectors out at every step
    side = Denoiser(model, ours_scheduler, schedule, steps, tabulate=False)
    try:
        ours = side.run(noise, given, guidance, SEED)[0]
    except Exception as err:
        return f"ours: {type(err).__name__}: {err}"
    if not torch.isfinite(ours).all():
        return "ours not finite"
    if torch.equal(ours, theirs):
        return "equal"
    if len(visited) != len(stock.timesteps):
        return "without -1"  # "trailing" gave a timestep -1, which stock takes for pure noise
    gap = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-9))
    return f"gap {gap:.1e}"


def main() -> int:
    """Print the matrix, one line per configuration and sampler; return 1 if a cell is wrong."""
    warnings.simplefilter("ignore")
    names = sys.argv[1:] or list(SCHEDULERS)
    bad, start, counts = [], time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        for configuration in CONFIGURATIONS:
            for name in names:
                cells = {n: cell(models, configuration, name, n) for n in (*FEW, *MANY)}
                for n, said in cells.items():
                    kind = said.split(",")[0].split(":")[0].split(" ")[0]
                    counts[kind] = counts.get(kind, 0) + 1
                    if said not in ("equal", "refused", "-", "without -1"):
                        bad.append(f"{configuration}, {name}, {n} steps: {said}")
                groups: dict[str, list[str]] = {}
                for n, said in cells.items():
                    groups.setdefault(said, []).append({-1: "T", -2: "T-1"}.get(n, str(n)))
                text = "; ".join(f"{k} ({', '.join(v)})" for k, v in groups.items() if k != "-")
                print(f"{configuration:28s} {name:16s} {text}", flush=True)
    print(counts, f"{time.perf_counter() - start:.0f} s", *bad, sep="\n")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
