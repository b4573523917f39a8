"""Write the scenes of the present view, one large thing each, of plan and comparison in hand.

Counted, predicted and measured numbers say which they are. No component is touched.
"""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape
from typing import Any
from urllib.parse import parse_qsl

from core.curves.dynamics import curves
from core.curves.plan import STAGES, StagePlan
from core.curves.proposals import propose_plan
from core.errors import StudioError
from core.workshop.comparison import Comparison, Side
from core.workshop.study import Finding, verdicts

from ..compare.at_hand import EXAMPLE, find
from ..compare.pictures import shrunk, to_uint8
from ..inputs import read_upload
from ..page_state import Shared
from ..png import data_address, png_bytes
from ..predictions import Predicted
from ..text import factor_text, percent, plural, seconds_text
from ..theme import STAGE_COLOURS, STAGE_MEANING
from .drawings import curve_html, mosaic_svg

MOST_QUERY = 60_000  # characters
MOST_PICTURES = 6  # of each side
PICTURE_PIXELS = 256  # of a picture's longer side
NEAR = 0.08  # of the work saved, by which a row of the study may differ from what it is shown for
RIVALS = {  # family of the study -> words, in the order of the bars
    "dense": "whole network, fewer steps",
    "MosaicDiff": "pruned by stages",
    "uniform OBS": "pruned evenly",
}

# what a verdict's sentence says of its measurement, in brackets
FACTS = re.compile(r" \((?:×|one timed|not timed)[^)]*\)")

Scene = dict[str, str]  # kind, title, html


def scenes(shared: Shared, query: Any, id: Any) -> list[Scene]:
    """Return the five scenes, in the order in which they are told.

    query: of an address, with plan, scheduler and steps; empty: what the page opens with. id: of
    the comparison on the page; empty: the example of the model. Raises StudioError for a query or
    an id that cannot be.
    """
    found = in_hand(shared, query)
    comparison = _comparison(shared, id)
    other = "" if comparison is None else other_run(found, comparison)
    return [
        _idea(shared, found),
        _plan(shared, found),
        _pictures(comparison, id, other),
        _number(comparison, other, found),
        _cost(shared, found, None if other else comparison),
    ]


def in_hand(shared: Shared, query: Any) -> Predicted:
    """Return what is predicted of the plan in hand. Raises StudioError for what is none."""
    if not isinstance(query, str) or len(query) > MOST_QUERY:
        raise StudioError("The plan in hand cannot be read: load the page again.")
    given, (scheduler, steps) = dict(parse_qsl(query)), shared.opening_sampler
    if "plan" not in given:
        return shared.predictions.predict(shared.opening, scheduler, steps)
    asked = given.get("steps", "")
    return shared.predictions.predict(
        read_upload(given["plan"].encode()),
        given.get("scheduler", scheduler),
        int(asked) if asked.isdecimal() and len(asked) < 6 else steps,
    )


def _comparison(shared: Shared, id: Any) -> Comparison | None:
    """Return the comparison of an id, else the example, else None."""
    if id:
        return find(shared.workshop, id)
    return shared.workshop.example()


def other_run(found: Predicted, comparison: Comparison) -> str:
    """Say in one sentence that a comparison is not of what is in hand; nothing where it is."""
    sides = (comparison.a, comparison.b)
    plans = [(k, side.plan) for k, side in enumerate(sides) if side.plan is not None]
    mine = [k for k, plan in plans if plan.cut == found.plan.cut]
    if plans and not mine:
        return f"Another plan ({whose(plans[-1][1])}), not the one in hand."
    side = mine[-1] if mine else 1
    steps = comparison.settings.steps_of(side)
    if steps != found.asked:
        return f"A run of {steps} steps, not of the {found.asked} in hand."
    # the sampler in hand shows in the timesteps that it visits
    same = not mine or list(sides[side].timesteps) == list(found.timesteps)
    sampler = comparison.settings.scheduler
    return "" if same else f"A run of {sampler}, not of the sampler in hand."


def whose(plan: StagePlan) -> str:
    """Write what a plan removes: early 55 %, middle 10 %, late 40 %."""
    shares = reversed(list(zip(STAGES, plan.sparsity, strict=True)))
    return ", ".join(f"{stage} {percent(share)}" for stage, share in shares)


def plain_name(side: Side) -> str:
    """Name a side for people who know no word of the field."""
    if side.plan is None or not any(side.plan.sparsity):
        return "whole network"
    even = len(set(side.plan.sparsity)) == 1
    return "network pruned evenly" if even else "network pruned by stages"


def plain_names(comparison: Comparison) -> tuple[str, str]:
    """Name both sides in plain words, with their steps or their own name where these are alike."""
    sides = (comparison.a, comparison.b)
    a, b = map(plain_name, sides)
    if comparison.settings.steps_of(0) != comparison.settings.steps_of(1):
        a, b = (
            f"{name} in {comparison.settings.steps_of(k)} steps" for k, name in enumerate((a, b))
        )
    if a == b:
        a, b = (f"{a} ({side.name})" for side in sides)
    return a, b


def _idea(shared: Shared, found: Predicted) -> Scene:
    score = curves(shared.workshop.schedule).score
    counted = found.plan.steps_per_stage(found.timesteps)
    parts = "".join(
        f'<li style="--stage:{STAGE_COLOURS[stage]}"><b>{stage}:</b> {STAGE_MEANING[stage]}'
        f"<small>{plural(counted[stage], 'step')}</small></li>"
        for stage in reversed(STAGES)
    )
    turned = "The line is how fast it learned. Noise is at the left, as sampling goes; 1 Explore"
    turned += " has it turned round."
    html = (
        "<p>A model learns slowly at pure noise and at fine detail, and fast in between. So"
        " sampling is cut into three stages, and each has a network of its own.</p>"
        f"{curve_html(score, found.plan.boundaries, turned)}"
        f'<ul class="present-stages is-even">{parts}</ul>'
    )
    return {"kind": "idea", "title": "Learning is fast only in the middle", "html": html}


def _plan(shared: Shared, found: Predicted) -> Scene:
    workshop, plan = shared.workshop, found.plan
    saved = 1 - found.prediction.macs / found.prediction.macs_dense
    kept = workshop.kept_share(plan)
    stages, counted = plan.stages_of(found.timesteps), plan.steps_per_stage(found.timesteps)
    what = f"{plural(kept.shape[1], 'block')} of the network by {plural(len(stages), 'step')}"
    removed = "".join(
        f'<li style="--stage:{STAGE_COLOURS[stage]}"><b>{stage}:</b> {percent(share)} removed'
        f"<small>{plural(counted[stage], 'step')}</small></li>"
        for stage, share in reversed(list(zip(STAGES, plan.sparsity, strict=True)))
    )
    html = (
        f'<div class="present-split"><div class="present-mosaic">{mosaic_svg(kept, stages, what)}'
        f'<p class="tour-ends"><span>first step</span><span>{what}</span><span>last'
        f' step</span></p></div><div class="present-side">{_big(percent(saved), "less work")}'
        f'<ul class="present-stages">{removed}</ul><p>Heads and neurons are removed: the fainter a'
        f' tile, the less of it runs.</p><p class="tour-note">Work: multiplications of all'
        f" {len(stages)} steps, counted, not timed.</p></div></div>"
    )
    return {"kind": "plan", "title": "What runs at every step", "html": html}


def _big(value: str, what: str) -> str:
    return f'<p class="present-number"><b>{value}</b><span>{what}</span></p>'


def _other(sentence: str) -> str:
    """Write in large type that a scene is not of what is in hand."""
    return f'<p class="present-other">{escape(sentence)}</p>' if sentence else ""


def _pictures(comparison: Comparison | None, id: Any, other: str) -> Scene:
    title = "Same noise, two networks"
    if comparison is None:
        none = "There are no pictures yet: press Compare in 3 Compare, then come back."
        return {"kind": "pictures", "title": title, "html": f"<p>{none}</p>"}
    names, sides = plain_names(comparison), (comparison.a, comparison.b)
    rows = "".join(_row(side, name) for side, name in zip(sides, names, strict=True))
    html = (
        f'{_other(other)}<div class="present-pictures"'
        f' style="--count:{min(comparison.n, MOST_PICTURES)}">{rows}'
        f'</div><p class="tour-note">{escape(_origin(comparison, id))}</p>'
    )
    return {"kind": "pictures", "title": title, "html": html}


def _row(side: Side, name: str) -> str:
    """Write the pictures of one side; pictures keep their order, so columns have one noise."""
    images = shrunk(to_uint8(side.images[:MOST_PICTURES]), PICTURE_PIXELS)
    tags = "".join(
        f'<img src="{data_address(png_bytes(picture))}" alt="{escape(name)}, picture {i}">'
        for i, picture in enumerate(images, start=1)
    )
    return f"<h3>{escape(first_upper(name))}</h3><div>{tags}</div>"


def first_upper(words: str) -> str:
    """Begin with a capital letter."""
    return words[:1].upper() + words[1:]


def _origin(comparison: Comparison, id: Any) -> str:
    """Say which pictures these are, and what the page calls both sides."""
    shown = f"The first {min(comparison.n, MOST_PICTURES)} of {comparison.n}, not picked."
    if not id or id == EXAMPLE:
        shown += " The example that comes with the model."
    return f"{shown} In 3 Compare: {comparison.a.name} and {comparison.b.name}."


def _number(comparison: Comparison | None, other: str, found: Predicted) -> Scene:
    title = "What it brings"
    if comparison is None:
        none = "Nothing was measured yet: press Compare in 3 Compare, then come back."
        return {"kind": "number", "title": title, "html": f"<p>{none}</p>"}
    a, b = plain_names(comparison)
    verdict = replace(comparison.judged, a=f"the {a}", b=f"the {b}")
    if verdict.ratio is None or verdict.doubtful:
        saved = 1 - comparison.b.macs / comparison.a.macs
        big = _big(percent(abs(saved)), f"{'more' if saved < 0 else 'less'} work, counted")
    else:
        big = _big(factor_text(verdict.ratio), "as fast, measured")
    if other:
        big = f'<div class="present-two">{big}{_foretold(found)}</div>'
    said = first_upper(verdict.sentence.replace("multiply-accumulates", "multiplications"))
    plain = FACTS.sub("", said)
    facts = " ".join(FACTS.findall(said))
    moved, _, distance = comparison.distance.partition(": ")
    html = (
        f"{_other(other)}{big}<p>{escape(plain)}</p><p>{escape(moved.rstrip('.'))}.</p>"
        f'<p class="tour-note">{escape(_small(comparison, facts, distance))}</p>'
    )
    return {"kind": "number", "title": title, "html": html}


def _foretold(found: Predicted) -> str:
    """Write what is predicted of the plan in hand, as large as what was measured of another."""
    prediction = found.prediction
    if prediction.speedup_seconds is None:
        saved = percent(1 - prediction.macs / prediction.macs_dense)
        return _big(saved, "less work with the plan in hand, counted")
    factor = factor_text(prediction.speedup_seconds)
    return _big(factor, "as fast with the plan in hand, predicted")


def _small(comparison: Comparison, facts: str, distance: str) -> str:
    """Write the facts of a number for those who know the words of the field."""
    said = [facts.strip(" ()"), distance.rstrip("."), _made_of(comparison).rstrip(".")]
    return ". ".join(first_upper(one) for one in said if one) + "."


def _made_of(comparison: Comparison) -> str:
    """Say what the number rests on."""
    steps = sorted({comparison.settings.steps_of(k) for k in (0, 1)})
    times = [
        f"{side.name} {seconds_text(side.seconds, side.seconds_spread)}"
        for side in (comparison.a, comparison.b)
        if side.seconds is not None
    ]
    said = f"{comparison.model}, {plural(comparison.n, 'picture')}, {' and '.join(map(str, steps))}"
    said += f" steps of {comparison.settings.scheduler}, {comparison.device}, {comparison.when}."
    return f"{said} {'; '.join(times)}." if times else said


def _cost(shared: Shared, found: Predicted, comparison: Comparison | None) -> Scene:
    """Tell what the pictures lose, and that fewer steps are the rival, with what was measured.

    comparison: of the plan in hand, or None.
    """
    title = "Is it worth it? The rival: fewer steps"
    study = shared.workshop.study()
    saved = 1 - found.prediction.macs / found.prediction.macs_dense
    if comparison is not None:
        saved = 1 - comparison.b.macs / comparison.a.macs
    rows = rival_rows(study, found.asked, saved)
    if not rows:
        said = (
            "Leaving steps out saves work as well. What is better for this model at this work was"
            " not studied: in 3 Compare give one side fewer steps and see."
        )
        return {"kind": "cost", "title": title, "html": f"<p>{said}</p>"}
    best, most = min(row.fid for row in rows), max(row.fid for row in rows)
    bars = "".join(_bar(row, most, row.fid == best) for row in rows)
    base = rows[0].base_steps
    html = (
        "<p>Leaving steps out saves work as well, without pruning. The bars: distance to real"
        f' pictures, shorter is better.</p><div class="present-bars">{bars}</div>'
        f"<p>{_judgement(study, base, rows)}</p>{_other(_of_study(shared, found, rows))}"
        f'<p class="tour-note">The study that comes with the model, not this visit\'s own'
        f" measurement: FID, {base} steps, n = {rows[0].n} pictures,"
        f" {plural(rows[0].seeds, 'seed')}, guidance {rows[0].guidance:g}.</p>"
    )
    return {"kind": "cost", "title": title, "html": html}


def _judgement(study: list[Finding], base: int, rows: list[Finding]) -> str:
    """Say in plain words what the study found better; nothing where it does not say."""
    sentence = next((s for s in verdicts(study) if _speaks_of(s, base, rows)), "")
    found = re.search(r"FID [^(]*\(([^)]*)\)", sentence)
    return f"At the same work: {found[1]}." if found else ""


def _of_study(shared: Shared, found: Predicted, rows: list[Finding]) -> str:
    """Say what the study was of, where that is not the plan in hand; else nothing."""
    row = next(row for row in rows if row.family == "MosaicDiff")
    timesteps, target = found.timesteps, row.target or 0.0
    studied = propose_plan(shared.workshop.schedule, target, timesteps).plan
    if studied.counted(timesteps).cut == found.plan.cut and row.base_steps == found.asked:
        return ""
    return f"Studied was the rule's plan at {percent(row.saved)} less work, not the plan in hand."


def rival_rows(study: list[Finding], steps: int, saved: float) -> list[Finding]:
    """Return what the study measured near a share of saved work: dense, pruned, fewer steps.

    At so many steps, or at the nearest number of steps that was studied. Nothing where no pruned
    run saved about as much.
    """
    pruned = [f for f in study if f.family == "MosaicDiff" and f.target is not None]
    if not pruned:
        return []
    base = min({f.base_steps for f in pruned}, key=lambda b: abs(b - steps))
    here = [f for f in study if f.base_steps == base]
    near = min((f for f in here if f in pruned), key=lambda f: abs(f.saved - saved))
    if abs(near.saved - saved) > NEAR:
        return []
    whole = [f for f in here if f.family == "dense" and f.target is None]
    rest = [f for f in here if f.target == near.target and f.family in RIVALS]
    return [*whole[:1], *sorted(rest, key=lambda f: list(RIVALS).index(f.family))]


def _speaks_of(sentence: str, base: int, rows: list[Finding]) -> bool:
    """Say whether a sentence of `verdicts` is about these rows."""
    pruned = next(row for row in rows if row.family == "MosaicDiff")
    return sentence.startswith(f"At {base} steps with {pruned.saved:.0%} less work")


def _bar(row: Finding, most: float, best: bool) -> str:
    """Write one method's FID as a bar, the shortest marked."""
    whole = row.family == "dense" and row.target is None
    name = f"whole network, {row.steps} steps" if row.family == "dense" else RIVALS[row.family]
    colour = "var(--present-dense)" if row.family == "dense" else "var(--body-text-color)"
    note = "all the work" if whole else f"{percent(row.saved)} less work"
    return (
        f'<div class="present-bar{" is-best" if best else ""}"><span>{escape(name)}<small>{note}'
        f'</small></span><i style="--share:{row.fid / most:.3f};--bar:{colour}"></i>'
        f"<b>{row.fid:.1f}</b></div>"
    )
