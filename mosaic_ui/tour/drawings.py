"""Draw curve and mosaic as plain SVG that fills its place, in the direction of sampling.

Noise stands left and the picture right, as in the mosaic and the film strips. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.curves.plan import STAGES

from ..theme import STAGE_COLOURS

POINTS = 120  # of the curve


def curve_html(score: np.ndarray, boundaries: tuple[int, int], note: str = "") -> str:
    """Draw the score (T,), cleanest first, over three coloured stages; `note` stands below.

    It reaches from its least to its largest value.
    """
    total = len(score)
    at = np.unique(np.linspace(0, total - 1, POINTS).round().astype(int))[::-1]
    least, most = float(score.min()), float(score.max())
    heights = (score[at] - least) / max(most - least, 1e-12)
    line = " ".join(
        f"{1000 * (total - 1 - t) / (total - 1):.1f},{97 - 89 * h:.1f}"
        for t, h in zip(at, heights, strict=True)
    )
    below = f'<p class="tour-note">{note}</p>' if note else ""
    return (
        f'<div class="tour-curve"><div class="tour-bands">{bands(total, boundaries)}</div>'
        '<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="Learning'
        ' speed from noise to picture: low, high in the middle, low">'
        f'<polyline points="{line}"/></svg><i class="tour-here" hidden></i></div>'
        f'<p class="tour-ends"><span>pure noise</span><span>finished picture</span></p>{below}'
    )


def bands(total: int, boundaries: tuple[int, int]) -> str:
    """Write the three stages as coloured bands, early first, as wide as their timesteps."""
    low, high = boundaries
    widths = {"late": low, "middle": high - low, "early": total - high}
    return "".join(
        f'<span class="tour-band" data-stage="{stage}" style="flex-grow:{widths[stage]};'
        f'--stage:{STAGE_COLOURS[stage]}"><b>{stage}</b></span>'
        for stage in reversed(STAGES)
    )


def mosaic_svg(kept: np.ndarray, stages: Sequence[int], what: str) -> str:
    """Draw blocks (rows) by sampling steps (columns), each tile as strong as what of it runs.

    kept: (3 stages, blocks) shares in 0..1; stages: index into STAGES per step, in sampling order.
    """
    blocks = kept.shape[1]
    tiles = "".join(
        f'<rect x="{10 * k + 0.5}" y="{10 * row + 0.5}" width="9" height="9"'
        f' fill="{STAGE_COLOURS[STAGES[stage]]}" opacity="{_strength(kept[stage, row])}"/>'
        for k, stage in enumerate(stages)
        for row in range(blocks)
    )
    return (
        f'<svg class="tour-mosaic" viewBox="0 0 {10 * len(stages)} {10 * blocks}"'
        f' preserveAspectRatio="none" role="img" aria-label="{what}">{tiles}</svg>'
    )


def _strength(share: float) -> str:
    """Return the opacity of a tile: a block that is gone leaves a trace."""
    return f"{0.06 + 0.94 * float(share):.2f}"
