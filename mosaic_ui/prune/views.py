"""What the Prune tab shows of a plan: cost, mosaic picture, per-layer table, plan file. Pure
functions, no components.
"""

from __future__ import annotations

import urllib.parse
from typing import Any

from core.curves.plan import STAGES, StagePlan
from core.mosaic.damping_report import damping_sentence

from .. import model_facts, tables
from ..figures import mosaic_figure

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


def predicted_cost(
    workshop: Any, plan: StagePlan, timesteps: list[float], exact: bool = False
) -> str:
    """The four figures above the mosaic, as HTML."""
    return tables.cost_cards(
        plan,
        workshop.predict(plan, timesteps, batch=model_facts.batch(workshop), exact=exact),
        timesteps,
    )


def block_names(workshop: Any) -> list[str]:
    """What each block is called, in the order of the mosaic's rows: "block 3",
    "down 2.1 block 1".
    """
    return [site.name for site in workshop.family.sites(workshop.transformer)]


def picture(workshop: Any, plan: StagePlan, timesteps: list[float]) -> dict[str, Any]:
    """The mosaic figure of a plan."""
    return mosaic_figure(
        workshop.kept_share(plan), plan.stages_of(timesteps), timesteps, block_names(workshop)
    )


def layer_rows(workshop: Any, plan: StagePlan) -> list[list[Any]]:
    """The per-layer table, dense against pruned, one row per layer and stage; columns as
    LAYER_HEADERS, errors where they come in time.
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
        for row in workshop.layer_table(plan, exact=model_facts.exact_in_time(workshop))
    ]


def layers_caption(workshop: Any) -> str:
    """What the columns mean, and where the errors are when they are not here."""
    where = (
        "written by app.py prune for a model of this size"
        if model_facts.large(workshop)
        else "empty until calibrated"
    )
    return (
        '<p class="fine">MMACs: million multiply-accumulates in one forward pass of one image. '
        f"Error: relative output error on calibration data, {where}.</p>"
    )


def download_link(plan: StagePlan) -> str:
    """A link that holds the plan file itself, so nothing is written on the server."""
    data = urllib.parse.quote(plan.dumps())
    return (
        '<a class="button-link" download="plan.json"'
        f' href="data:application/json;charset=utf-8,{data}">Download plan (JSON)</a>'
    )


def pruned_sentence(
    workshop: Any, plan: StagePlan, seconds: float | None, mosaic: Any = None
) -> str:
    """What has just been built, in one sentence; `seconds` None where nothing had to be, as a kept
    network is not a fast one.

    A second one follows where a layer of the built `mosaic` needed more damping than asked.
    """
    kept = workshop.kept_share(plan).mean(1)  # (stages,)
    parts = ", ".join(
        f"{stage} {tables.percent(share)}" for stage, share in zip(STAGES, kept, strict=True)
    )
    how = (
        "Ready, nothing had to be built"
        if seconds is None
        else f"Pruned in {tables.seconds_text(seconds)} (measured)"
    )
    more = None if mosaic is None else damping_sentence(mosaic)
    return f"{how}: one network per stage, keeping of its weights {parts}. See it in 3 Compare." + (
        f" {more}" if more else ""
    )


def ready(workshop: Any) -> str:
    """What stands below Calibrate and Prune before either is pressed."""
    if workshop.calibrated:
        return tables.message("Calibrated: any plan can be pruned without measuring again.")
    return tables.message(f"{BEFORE} {' '.join(model_facts.calibration_sentences(workshop))}")


BEFORE = (
    "Prune calibrates first where that has not been done; the measurements are kept for every later"
    " plan."
)
