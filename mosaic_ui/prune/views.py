"""Write what the Prune tab shows of a plan: mosaic picture, per-layer table, plan file.

Pure functions, no components.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

from core.curves.guidance_words import listed, own_guidance
from core.curves.plan import STAGES, StagePlan, as_sampled
from core.mosaic.damping_report import damping_sentence
from core.mosaic.transformer import MosaicTransformer
from core.workshop.workshop import Workshop

from .. import model_facts, tables
from ..text import percent, seconds_text
from .mosaic_figure import mosaic_figure

MOST_FILE_NAME = 80  # characters; a name may have 200, of up to 4 bytes each
LAYER_HEADERS = [
    "layer",
    "stage",
    "kept",
    "of",
    "parameters dense",
    "parameters pruned",
    "MMACs dense",
    "MMACs pruned",
    "error %",
]


def block_names(workshop: Workshop) -> list[str]:
    """Return the blocks' names in the order of the mosaic's rows: "down 2.1 block 1"."""
    return [site.name for site in workshop.family.sites(workshop.transformer)]


def picture(workshop: Workshop, plan: StagePlan, timesteps: list[float]) -> dict[str, Any]:
    """Draw the mosaic figure of a plan."""
    return mosaic_figure(
        workshop.kept_share(plan),
        plan.stages_of(timesteps),
        timesteps,
        block_names(workshop),
        plan.guidance,
    )


def picture_key(plan: StagePlan) -> str:
    """Say what a full, a faint and a half tile of the picture mean."""
    words = (
        "Full colour: the whole block runs. The fainter the tile, the more of its heads and neurons"
        " are removed."
    )
    one = [stage for stage, rows in as_sampled(plan.halves(2)) if rows == 1]
    if one:
        words += (
            f" Half a tile ({listed(one)}): one half of the guided pair runs alone, which is half"
            " the work."
        )
    return f'<p class="fine" data-testid="mosaic-key">{words}</p>'


def layer_rows(workshop: Workshop, plan: StagePlan) -> list[list[Any]]:
    """Return the per-layer table, dense against pruned, one row per layer and stage.

    The early stage comes first, as it is sampled first. Columns as LAYER_HEADERS; errors where they
    come in time.
    """
    return [
        [
            row["layer"],
            row["stage"],
            row["kept"],
            row["of"],
            row["params_dense"],
            row["params_pruned"],
            round(row["macs_dense"] / 1e6, 3),
            round(row["macs_pruned"] / 1e6, 3),
            None if row["error"] is None else round(100 * row["error"], 2),
        ]
        for row in sorted(
            workshop.layer_table(plan, exact=model_facts.exact_in_time(workshop)),
            key=lambda row: -STAGES.index(row["stage"]),
        )
    ]


def layers_caption(workshop: Workshop) -> str:
    """Say what the columns mean, and where the errors are when they are not here."""
    where = (
        "computed by app.py prune for a model of this size"
        if model_facts.large(workshop)
        else "empty until the model is calibrated"
    )
    return (
        '<p class="fine">MMACs: million multiply-accumulates in one forward pass of one image. '
        f"Error: relative output error on calibration data, {where}.</p>"
    )


def download_link(plan: StagePlan) -> str:
    """Write a link that holds the plan file itself, so nothing is written on the server.

    The file is named after the plan.
    """
    data = urllib.parse.quote(plan.dumps())
    return (
        f'<a class="button-link" download="{file_name(plan)}"'
        f' href="data:application/json;charset=utf-8,{data}">Download plan (JSON)</a>'
    )


def file_name(plan: StagePlan) -> str:
    """Return a name for a plan's file: the plan's own, or its boundaries and sparsities.

    A plan without a name that sets guidance says it: "plan-93-550-40-10-55-guidance-off-early".
    """
    words = re.findall(r"\w+", plan.name)
    if not words:
        low, high = plan.boundaries
        words = ["plan", f"{low}", f"{high}", *(f"{100 * s:.0f}" for s in plan.sparsity)]
        if plan.sets_guidance:
            words += ["guidance", *re.findall(r"[\w.]+", own_guidance(plan))]
    return f"{'-'.join(words)[:MOST_FILE_NAME]}.json"


def pruned_sentence(
    workshop: Workshop,
    plan: StagePlan,
    seconds: float | None,
    mosaic: MosaicTransformer | None = None,
) -> str:
    """Say in one sentence what has just been built.

    `seconds` is None where nothing had to be built, as a kept network is not a fast one. A second
    sentence follows where a layer of the built `mosaic` needed more damping than asked.
    """
    kept = workshop.kept_share(plan).mean(1)  # (stages,)
    parts = ", ".join(f"{stage} {percent(share)}" for stage, share in as_sampled(kept))
    how = (
        "Ready, nothing had to be built"
        if seconds is None
        else f"Pruned in {seconds_text(seconds)} (measured)"
    )
    more = None if mosaic is None else damping_sentence(mosaic)
    return f"{how}: one network per stage. Weights kept: {parts}. See the result in 3 Compare." + (
        f" {more}" if more else ""
    )


def ready(workshop: Workshop) -> str:
    """Write what stands below Calibrate and Prune before either is pressed."""
    if workshop.calibrated:
        return tables.message("Calibrated: any plan can be pruned without measuring again.")
    return tables.message(f"{BEFORE} {' '.join(model_facts.calibration_sentences(workshop))}")


BEFORE = (
    "Prune calibrates first if that has not been done; the measurements are kept for all later"
    " plans."
)
