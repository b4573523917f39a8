"""Prune the bundled model and sample it beside the dense one: curves, plan, build, compare.

    python examples/prune_and_sample.py [FOLDER]    # the pictures go to FOLDER (default: pictures)

Runs in under a minute on two CPU cores, without a download: the calibration is small, and so are
the numbers. With `pip install .` write `mosaicdiff` for `core`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout, where `core` is

from PIL import Image

from core import get_workshop, propose_plan
from core.calibration.settings import CalibrationSettings
from core.curves.plan import STAGES
from core.curves.samplers import sampling_timesteps
from core.workshop.compare import compare
from core.workshop.comparison import Comparison, SampleSettings, grid

STEPS = 10
TARGET = 0.33  # mean share of heads and neurons removed over the sampling steps
SMALL = CalibrationSettings(  # 4 tokens per column and bin, the least that is not a warning
    edges=(0, 93, 550, 1000),  # a bin per stage of the plan below
    images=128,
    held_out=40,
)


def main(folder: Path) -> None:
    """Propose a plan, build its three networks, and sample both sides from the same noise."""
    workshop = get_workshop(settings=SMALL)

    # Curves -> plan: where does the model learn fast, and how much may each stage lose?
    timesteps = sampling_timesteps(workshop.scheduler, STEPS)
    proposal = propose_plan(workshop.schedule, TARGET, timesteps)
    plan = proposal.plan
    print(proposal.rule)
    for stage, sparsity, steps in zip(
        STAGES, plan.sparsity, plan.steps_per_stage(timesteps).values(), strict=True
    ):
        print(f"  {stage}: {steps} of {STEPS} steps, sparsity {sparsity:.2f}")

    # Plan -> networks: the first call calibrates; the next plan takes about a second.
    mosaic = workshop.build(plan)
    print(f"built {type(mosaic).__name__} over {workshop.name}")

    # Networks -> pictures: dense and pruned, timed in turn.
    settings = SampleSettings(labels=tuple(range(10)), steps=STEPS, repeats=3)
    *_, result = compare(workshop, None, plan, settings, previews=False)
    assert isinstance(result, Comparison)
    print(result.verdict)
    print(f"latent MSE to dense {result.latent_mse:.4f}, SSIM {result.ssim:.3f} (n = {result.n})")

    folder.mkdir(parents=True, exist_ok=True)
    for name, side in (("dense", result.a), ("pruned", result.b)):
        Image.fromarray(grid(side.images, columns=10, scale=2)).save(folder / f"{name}.png")
    print(f"pictures in {folder}/")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "pictures"))
