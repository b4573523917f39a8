"""Draw the mosaic, blocks x sampling steps, as a Plotly figure in plain JSON.

Pure functions, no Plotly import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.curves.plan import STAGES
from core.guidance import Half, half_of

from ..figures import AXIS
from ..text import percent
from ..theme import STAGE_COLOURS, STAGE_INK


def mosaic_height(blocks: int) -> int:
    """Return the mosaic's pixels: every block keeps a row that can be seen."""
    return max(320, 130 + 7 * blocks)


MANY_BLOCKS = 20  # from here on rows are thin: no gaps, and one label for each group of blocks


def _groups(names: list[str]) -> list[tuple[str, int, int]]:
    """Return (name, first, last) of each run of blocks of one place, counted from 1.

    "down 2.1 block 3" belongs to "down 2.1".
    """
    found: list[tuple[str, int, int]] = []
    for i, name in enumerate(names, start=1):
        place = name.rpartition("block")[0].strip()
        if found and found[-1][0] == place:
            found[-1] = (place, found[-1][1], i)
        else:
            found.append((place, i, i))
    return found


def _block_axis(names: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (ticks of the block axis, lines between groups): a UNet's blocks go by places."""
    groups = _groups(names)
    if len(groups) == 1:
        return {
            "dtick": 1 if len(names) <= 14 else 4,
            "title": {"text": "block", "standoff": 6, "font": {"size": 12}},
        }, []
    ticks = {
        "automargin": True,
        "tickvals": [(a + b) / 2 for _, a, b in groups],
        "ticktext": [name for name, _, _ in groups],
        "tickfont": {"size": 10},
    }
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "line": {"color": "INK", "width": 0.6},
        "opacity": 0.5,
    }
    return ticks, [{**line, "y0": last + 0.5, "y1": last + 0.5} for _, _, last in groups[:-1]]


def mosaic_figure(
    kept_share: np.ndarray,
    stages: list[int],
    timesteps: list[float],
    names: list[str] | None = None,
    guidance: Sequence[float | None] = (None, None, None),
) -> dict[str, Any]:
    """Draw blocks x sampling steps, each tile as strong as the share of the block that runs.

    `kept_share` (3 stages, blocks) in 0..1; `stages` and `timesteps` per sampling step, in sampling
    order; `names` of the blocks. A strip above the tiles names the stage of every step.
    `guidance` that the plan sets in its stages: of a stage that runs one half of the guided pair,
    half of every tile is drawn, the upper one for the conditional half.
    """
    kept_share = np.asarray(kept_share, dtype=np.float64)
    blocks = kept_share.shape[1]
    names = names or [f"block {b + 1}" for b in range(blocks)]
    tiles, strips, annotations = [], [], []
    for i, stage in enumerate(STAGES):
        mine = [s == i for s in stages]
        scale = guidance[i]
        half: Half = "both" if scale is None else half_of(scale)
        words = _tile_words(stage, timesteps, names, half)
        tiles.append(_tiles(STAGE_COLOURS[stage], kept_share[i], mine, words, half))
        strips.append(_strip(STAGE_COLOURS[stage], mine))
        annotations += _stage_label(stage, mine, half)
    ticks, lines = _block_axis(names)
    layout = {
        "margin": {"l": 46, "r": 8, "t": 8, "b": 48},
        "showlegend": False,
        "shapes": lines,
        "annotations": annotations,
        "hoverlabel": {"font": {"color": "#18181b"}, "bgcolor": "#ffffff"},
        **_mosaic_axes(len(stages), blocks, ticks),
    }
    return {"data": [*tiles, *strips], "layout": layout}


def _tile_words(
    stage: str, timesteps: list[float], names: list[str], half: Half
) -> list[list[str]]:
    """Return what each tile of a stage is, per block and step."""
    steps = len(timesteps)
    what = f"{stage} stage" if half == "both" else f"{stage} stage, {half} half alone"
    return [
        [
            f"step {k} of {steps}, t = {t:.0f}, {what}<br>{name}"
            for k, t in enumerate(timesteps, start=1)
        ]
        for name in names
    ]


def _heatmap(mine: list[bool]) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "x": list(range(1, len(mine) + 1)),
        "showscale": False,
        "xgap": 1 if len(mine) <= 100 else 0,
        "hoverongaps": False,
        "zmin": 0,
        "zmax": 1,
    }


def _tiles(
    colour: str, kept: np.ndarray, mine: list[bool], words: list[list[str]], half: Half
) -> dict[str, Any]:
    """Draw one stage's tiles; `kept` is the share of each block that runs.

    With one guidance half every block has two rows, of which one stays empty.
    """
    shares = [round(float(share), 4) for share in kept]
    drawn = [[share if here else None for here in mine] for share in shares]
    empty: list[Any] = [None] * len(mine)
    places: list[float] = list(range(1, len(shares) + 1))
    if half != "both":
        upper = half == "conditional"
        drawn = [row for full in drawn for row in ((full, empty) if upper else (empty, full))]
        words = [row for row in words for _ in range(2)]
        places = [k + side for k in places for side in (-0.25, 0.25)]
    return {
        **_heatmap(mine),
        "y": places,
        "z": drawn,
        "ygap": 2 if len(shares) <= MANY_BLOCKS else 0,
        "text": words,
        "customdata": [
            [None if share is None else percent(share) for share in row] for row in drawn
        ],
        "colorscale": [[0, _alpha(colour, 0.04)], [1, _alpha(colour, 1)]],
        "hovertemplate": "%{text}: %{customdata} runs<extra></extra>",
    }


def _strip(colour: str, mine: list[bool]) -> dict[str, Any]:
    """Draw one stage's part of the strip above the tiles."""
    return {
        **_heatmap(mine),
        "y": [0],
        "z": [[1 if here else None for here in mine]],
        "yaxis": "y2",
        "xgap": 0,
        "hoverinfo": "skip",
        "colorscale": [[0, colour], [1, colour]],
    }


def _stage_label(stage: str, mine: list[bool], half: Half) -> list[dict[str, Any]]:
    """Return the stage's name and steps in the middle of its strip; none for an empty stage.

    Steps of one guidance half are marked "× ½".
    """
    steps = [k for k, here in enumerate(mine, start=1) if here]
    if not steps:
        return []
    wide = len(steps) / len(mine) >= 0.14
    name = f"{stage} · {len(steps)}" if wide else f"{len(steps)}"
    if half != "both":
        name += " × ½"
    return [
        {
            "x": sum(steps) / len(steps),
            "y": 0,
            "yref": "y2",
            "text": f"<b>{name}</b>",
            "showarrow": False,
            "font": {"color": STAGE_INK[stage], "size": 12},
        }
    ]


def _mosaic_axes(steps: int, blocks: int, ticks: dict[str, Any]) -> dict[str, Any]:
    """Return the axes of the steps, of the blocks and of the strip above them."""
    # a strip of 26 pixels, whatever the number of rows; 56 are margins
    strip = 26.4 / (mosaic_height(blocks) - 56)
    return {
        "xaxis": {
            **AXIS,
            "showgrid": False,
            "range": [0.5, steps + 0.5],
            "title": {"text": "sampling step, first to last →", "font": {"size": 12}},
            "anchor": "y",
        },
        "yaxis": {
            **AXIS,
            "showgrid": False,
            "range": [blocks + 0.5, 0.5],
            "domain": [0, 1 - 1.3 * strip],
            **ticks,
        },
        "yaxis2": {
            "domain": [1 - strip, 1],
            "anchor": "x",
            "fixedrange": True,
            "visible": False,
            "range": [-0.5, 0.5],
        },
    }


def _alpha(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
