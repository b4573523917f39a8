"""The damping that subnetworks were really compensated with: per layer and stage, and in words
where it is more than was asked for.

A Gram of too few tokens has no factor at the damping asked for; `core.pruning.damped_problem` then
climbs a ladder of safer problems, and what came out must say on which rung. So every `Cut` that was
compensated carries its `Damping`, and subnetworks can be asked for it.
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
    """(stage, layer name) -> its damping; layers that were not compensated (whole, empty or cut by
    magnitude) are not there.
    """
    found = {}
    for stage, cuts in zip(STAGES, mosaic.cuts, strict=True):
        for layer, cut in zip(mosaic.layers, cuts or [None] * len(mosaic.layers), strict=True):
            if cut is not None and cut.damping is not None:
                found[stage, layer.name] = cut.damping
    return found


def damping_facts(mosaic: Subnetworks, orders: RemovalOrders) -> dict[str, dict[str, Any]]:
    """What a manifest says of each layer: `asked`, `in_force` by stage and, only where it is not
    plain, the `rung` by stage.

    `order` and `curves` are there only where finding the order, or the error curve of some bin,
    took another rung than the plain one; orders of an older file do not know, and nothing is said.
    """
    used, facts = dampings(mosaic), {}
    for i, layer in enumerate(mosaic.layers):
        mine = {stage: used[stage, layer.name] for stage in STAGES if (stage, layer.name) in used}
        said: dict[str, Any] = {
            "asked": orders.damping[i],
            "in_force": {stage: d.in_force for stage, d in mine.items()},
        }
        rungs = {stage: d.rung for stage, d in mine.items() if not d.plain}
        order, *curves = orders.rungs[i] if orders.rungs is not None else [PLAIN]
        curves = sorted(set(curves) - {PLAIN})
        facts[layer.name] = (
            said
            | ({"rung": rungs} if rungs else {})
            | ({"order": order} if order != PLAIN else {})
            | ({"curves": curves} if curves else {})
        )
    return facts


def with_dampings(rows: list[dict[str, Any]], mosaic: Subnetworks) -> list[dict[str, Any]]:
    """The rows of `Workshop.layer_table` with `damping_asked` and `damping` (None where nothing was
    compensated), and `rung` where it is not plain.
    """
    used, wider = dampings(mosaic), []
    for row in rows:
        d = used.get((row["stage"], row["layer"]))
        said = {"damping_asked": d and d.asked, "damping": d and d.in_force}
        wider.append(row | said | ({"rung": d.rung} if d is not None and not d.plain else {}))
    return wider


def damping_sentence(mosaic: Subnetworks) -> str | None:
    """One sentence when a layer needed more damping than asked, with the largest that each came to;
    None when none did.
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
        " --damping."
    )
