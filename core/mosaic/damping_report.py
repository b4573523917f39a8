"""Report the damping that subnetworks were compensated with, per layer and stage.

A Gram of too few tokens has no factor at the damping asked for; `core.pruning.damped_problem` then
climbs a ladder of safer problems, and the report must name the rung. So every `Cut` that was
compensated carries its `Damping`, and this module reads it from the subnetworks.
"""

from __future__ import annotations

from typing import Any

from ..curves.plan import STAGES
from ..pruning.cuts import Damping
from ..pruning.damped_problem import PLAIN
from ..pruning.orders import RemovalOrders
from .subnetworks import Subnetworks

NAMED = 3  # layers that a sentence names; the manifest has all


def dampings(mosaic: Subnetworks) -> dict[tuple[str, str], Damping]:
    """Return (stage, layer name) -> the damping of every compensated layer.

    Layers that were not compensated (whole, empty or cut by magnitude) are left out.
    """
    found = {}
    for stage, cuts in zip(STAGES, mosaic.cuts, strict=True):
        for layer, cut in zip(mosaic.layers if cuts else [], cuts or [], strict=True):
            if cut.damping is not None:
                found[stage, layer.name] = cut.damping
    return found


def damping_facts(mosaic: Subnetworks, orders: RemovalOrders) -> dict[str, dict[str, Any]]:
    """Return what a manifest holds per layer: `asked`, `in_force` per stage, and odd rungs.

    `rung` holds the rungs per stage that are not plain. `order` and `curves` are there only where
    the order, or the error curve of some bin, was found on another rung than the plain one; orders
    in an older file do not know their rungs.
    """
    used = dampings(mosaic)
    facts = {}
    for i, layer in enumerate(mosaic.layers):
        mine = {stage: used[stage, layer.name] for stage in STAGES if (stage, layer.name) in used}
        row: dict[str, Any] = {
            "asked": orders.damping[i],
            "in_force": {stage: d.in_force for stage, d in mine.items()},
        }
        rungs = {stage: d.rung for stage, d in mine.items() if not d.plain}
        order, *curves = orders.rungs[i] if orders.rungs is not None else [PLAIN]
        curves = sorted(set(curves) - {PLAIN})
        facts[layer.name] = (
            row
            | ({"rung": rungs} if rungs else {})
            | ({"order": order} if order != PLAIN else {})
            | ({"curves": curves} if curves else {})
        )
    return facts


def with_dampings(rows: list[dict[str, Any]], mosaic: Subnetworks) -> list[dict[str, Any]]:
    """Add `damping_asked`, `damping` and odd rungs to the rows of `Workshop.layer_table`.

    `damping` is None where nothing was compensated; `rung` is there where it is not plain.
    """
    used = dampings(mosaic)
    wider = []
    for row in rows:
        d = used.get((row["stage"], row["layer"]))
        wider.append(row | {"damping_asked": d and d.asked, "damping": d and d.in_force})
        if d is not None and not d.plain:
            wider[-1]["rung"] = d.rung
    return wider


def damping_sentence(mosaic: Subnetworks) -> str | None:
    """Return one sentence about layers that needed more damping than asked, or None.

    Each named layer comes with the largest damping that it needed.
    """
    worst: dict[str, Damping] = {}
    for (_, name), d in dampings(mosaic).items():
        if not d.plain and (name not in worst or d.in_force > worst[name].in_force):
            worst[name] = d
    if not worst:
        return None
    first = [
        f"{name} {d.in_force:.1g} instead of {d.asked:g} ({d.rung.split(' to ')[0]})"
        for name, d in list(worst.items())[:NAMED]
    ]
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    return (
        f"{len(worst)} of {len(mosaic.layers)} layers needed more damping than asked:"
        f" {', '.join(first)}{more}; calibrate with more images per bin, or with a larger"
        " damping."
    )
