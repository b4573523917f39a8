"""Draw the README's first picture: `python tests/make_pair.py [FILE]`.

Ten samples of the bundled model, classes in turn, 50 DDIM steps, one row per network from the same
noise: dense, then MosaicDiff by the formula at 0.33 and at 0.5. The seed is the first one; nothing
is picked.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from core.bench.studies import draw_samples  # noqa: E402
from core.curves.proposals import propose_plan  # noqa: E402
from core.workshop.picture_arrays import grid  # noqa: E402
from core.workshop.workshop import get_workshop  # noqa: E402

OUT = Path(__file__).resolve().parents[1] / "assets" / "screenshots" / "pair.png"
STEPS, SEED, SCALE, GAP = 50, 0, 2, 12


def main(path: Path) -> None:
    """Sample the three networks and write the picture to `path`."""
    workshop = get_workshop()
    workshop.calibrate()
    timesteps = [float(t) for t in range(0, 1000, 1000 // STEPS)]
    plans = [propose_plan(workshop.schedule, target, timesteps).plan for target in (0.33, 0.5)]
    rows = []
    for plan in (None, *plans):
        drawn = draw_samples(workshop, plan, STEPS, n=10, seed=SEED, dtype=torch.float32)
        rows.append(grid(drawn.images, columns=10, scale=SCALE))
    gap = np.full((GAP, *rows[0].shape[1:]), 255, np.uint8)
    Image.fromarray(np.concatenate([rows[0], gap, rows[1], gap, rows[2]])).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
