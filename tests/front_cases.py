"""Rows of a study of the front, made up."""

from __future__ import annotations

from core.curves.plan import StagePlan
from core.tuner.configuration import Configuration


def row(label, solver, steps, macs, fid, stage="choose", seed=7, guidance=1.5, plan=None):
    what = Configuration(plan, solver, steps, guidance, label)
    return {
        "stage": stage,
        "configuration": what.to_json(),
        "macs": macs,
        "fid": fid,
        "seed": seed,
        "n": 500,
    }


PRUNED = StagePlan((93, 550), (0.4, 0.1, 0.5))
ROWS = [
    row("dense", "UniPC", 10, 10.0, 20.0),
    row("dense", "UniPC", 10, 10.0, 18.0, guidance=2.0),
    row("dense", "DDIM", 50, 50.0, 25.0),
    row("dense", "UniPC", 7, 7.0, 22.0),
    row("dense", "UniPC", 5, 5.0, 30.0),
    row("formula 0.33", "UniPC", 10, 6.7, 19.0, plan=PRUNED),
    row("formula 0.5", "UniPC", 10, 5.0, 24.0, plan=PRUNED),
    row("uniform 0.5", "UniPC", 10, 5.0, 28.0, plan=PRUNED),
]
