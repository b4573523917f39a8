"""Write the study of the front as Markdown, and say what it comes to in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from ..tuner.front_rows import (
    ANCHOR,
    USUAL,
    Duel,
    Row,
    as_good,
    duels,
    guidance_of,
    kind_of,
)

GIGA = 1e9


def contender_table(found: Sequence[Row]) -> str:
    """Return all contenders as a table. found: one row per contender, cheapest first."""
    lines = [
        "| contender | solver, steps | guidance | GMACs an image | seconds for 16 | FID | n × seeds"
        " |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in found:
        what = r["configuration"]
        timed = r.get("seconds") is not None
        seconds = f"{r['seconds']:.2f} ± {r['seconds_spread']:.2f}" if timed else "-"
        lines.append(
            f"| {what['label']} | {what['scheduler']} {what['steps']} | {guidance_of(r)} |"
            f" {r['macs'] / GIGA:.2f} | {seconds} | {_fid(r)} | {r['n']} × {r.get('seeds', 1)} |"
        )
    return "\n".join(lines)


def budget_table(found: Sequence[Row]) -> str:
    """Return the best dense and the best pruned way within every budget, as a table.

    found: one row per contender. Ahead: a mean FID lower by more than the deviation of the paired
    difference over seeds.
    """
    lines = [
        "| work of dense UniPC 10 | the whole network | FID | pruned | FID | difference | ahead |",
        "|---|---|---|---|---|---|---|",
    ]
    for duel in duels(found):
        lines.append(
            f"| {duel.share:g} | {where(duel.dense)} | {_fid(duel.dense)} | {where(duel.pruned)} |"
            f" {_fid(duel.pruned)} | {_difference(duel)} | {AHEAD[duel.ahead]} |"
        )
    return "\n".join(lines)


AHEAD = {"pruned": "**pruned**", "dense": "the whole network", None: "too close to call"}


def as_good_sentences(found: Sequence[Row]) -> list[str]:
    """Return for both dense references the cheapest way whose pictures are as good."""
    sentences = []
    for kind, name in ((ANCHOR, "UniPC in 10 steps"), (USUAL, "DDIM in 50 steps")):
        pair = as_good(found, kind)
        if pair is None:
            continue
        whole, best = pair
        share = best["macs"] / whole["macs"]
        sentences.append(
            f"As good as the whole network with {name} (FID {_fid(whole)}): {where(best)},"
            f" {_fid(best)}, for {share:.2f} of its work."
        )
    return sentences


def where(row: Row) -> str:
    """Return a row's contender in a few words, with its work."""
    label, solver, steps = kind_of(row)
    return f"{label}, {solver} {steps} ({row['macs'] / GIGA:.2f} G)"


def _fid(row: Row) -> str:
    """Return FID, with the deviation over seeds where there are some."""
    around = f" ± {row['fid_spread']:.1f}" if row.get("seeds", 1) > 1 else ""
    return f"{row['fid']:.1f}{around}"


def _difference(duel: Duel) -> str:
    """Return how much higher the dense FID is, over common seeds."""
    around = "" if duel.around is None else f" ± {duel.around:.1f}"
    return f"{duel.difference:+.1f}{around}"
