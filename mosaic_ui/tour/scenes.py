"""Write the scenes of the present view, one large thing each, of plan and comparison in hand.

Counted, predicted and measured numbers say which they are. No component is touched.
"""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import parse_qsl

from core.curves.dynamics import curves
from core.curves.plan import STAGES
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
    "dense": "dense, fewer steps",
    "MosaicDiff": "pruned by stages",
    "uniform OBS": "pruned evenly",
}

Scene = dict[str, str]  # kind, title, html


def scenes(shared: Shared, query: Any, id: Any) -> list[Scene]:
    """Return the five scenes, in the order in which they are told.

    query: of an address, with plan, scheduler and steps; empty: what the page opens with. id: of
    the comparison on the page; empty: the example of the model. Raises StudioError for a query or
    an id that cannot be.
    """
    found = in_hand(shared, query)
    comparison = _comparison(shared, id)
    return [
        _idea(shared, found),
        _plan(shared, found),
        _pictures(found, comparison, id),
        _number(comparison),
        _cost(shared, found, comparison),
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


def _idea(shared: Shared, found: Predicted) -> Scene:
    score = curves(shared.workshop.schedule).score
    counted = found.plan.steps_per_stage(found.timesteps)
    parts = "".join(
        f'<li style="--stage:{STAGE_COLOURS[stage]}"><b>{stage}</b> {STAGE_MEANING[stage]}'
        f"<small>{plural(counted[stage], 'step')}</small></li>"
        for stage in reversed(STAGES)
    )
    html = (
        "<p>A model learns slowly at pure noise and at fine detail, and fast in between. So"
        " sampling is cut into three stages, and each has a network of its own.</p>"
        f'{curve_html(score, found.plan.boundaries)}<ul class="present-stages">{parts}</ul>'
    )
    return {"kind": "idea", "title": "Learning is fast only in the middle", "html": html}


def _plan(shared: Shared, found: Predicted) -> Scene:
    workshop, plan = shared.workshop, found.plan
    saved = 1 - found.prediction.macs / found.prediction.macs_dense
    kept = workshop.kept_share(plan)
    stages = plan.stages_of(found.timesteps)
    what = f"{plural(kept.shape[1], 'block')} of the network by {plural(len(stages), 'step')}"
    removed = "".join(
        f'<li style="--stage:{STAGE_COLOURS[stage]}"><b>{stage}</b> loses {percent(share)}</li>'
        for stage, share in reversed(list(zip(STAGES, plan.sparsity, strict=True)))
    )
    html = (
        f'<div class="present-split"><div class="present-mosaic">{mosaic_svg(kept, stages, what)}'
        f'<p class="tour-ends"><span>first step</span><span>{what}</span><span>last'
        f' step</span></p></div><div class="present-side">{_big(percent(saved), "less work")}'
        f'<p class="tour-note">counted, not timed</p><ul class="present-stages">{removed}</ul>'
        "</div></div>"
    )
    return {"kind": "plan", "title": "What runs at every step", "html": html}


def _big(value: str, what: str) -> str:
    return f'<p class="present-number"><b>{value}</b><span>{what}</span></p>'


def _pictures(found: Predicted, comparison: Comparison | None, id: Any) -> Scene:
    title = "Same noise, two networks"
    if comparison is None:
        none = "There are no pictures yet: press Compare in 3 Compare, then come back."
        return {"kind": "pictures", "title": title, "html": f"<p>{none}</p>"}
    rows = "".join(map(_row, (comparison.a, comparison.b)))
    html = (
        f'<div class="present-pictures" style="--count:{min(comparison.n, MOST_PICTURES)}">{rows}'
        f'</div><p class="tour-note">{escape(_origin(found, comparison, id))}</p>'
    )
    return {"kind": "pictures", "title": title, "html": html}


def _row(side: Side) -> str:
    """Write the pictures of one side; pictures keep their order, so columns have one noise."""
    images = shrunk(to_uint8(side.images[:MOST_PICTURES]), PICTURE_PIXELS)
    tags = "".join(
        f'<img src="{data_address(png_bytes(picture))}" alt="{escape(side.name)}, picture {i}">'
        for i, picture in enumerate(images, start=1)
    )
    return f"<h3>{escape(side.name)}</h3><div>{tags}</div>"


def _origin(found: Predicted, comparison: Comparison, id: Any) -> str:
    """Say which pictures these are, and whether they are of the plan in hand."""
    shown = f"The first {min(comparison.n, MOST_PICTURES)} of {comparison.n}, not picked."
    if not id or id == EXAMPLE:
        shown += " The example that comes with the model."
    plan = comparison.b.plan or comparison.a.plan
    if plan is not None and plan.cut != found.plan.cut:
        shown += " They are of another plan than the one in hand."
    return shown


def _number(comparison: Comparison | None) -> Scene:
    title = "What it brings"
    if comparison is None:
        none = "Nothing was measured yet: press Compare in 3 Compare, then come back."
        return {"kind": "number", "title": title, "html": f"<p>{none}</p>"}
    verdict = comparison.judged
    if verdict.ratio is None or verdict.doubtful:
        saved = 1 - comparison.b.macs / comparison.a.macs
        big = _big(percent(abs(saved)), f"{'more' if saved < 0 else 'less'} work, counted")
    else:
        big = _big(factor_text(verdict.ratio), "as fast, measured")
    html = (
        f"{big}<p>{escape(comparison.verdict)}</p><p>{escape(comparison.distance)}</p>"
        f'<p class="tour-note">{escape(_made_of(comparison))}</p>'
    )
    return {"kind": "number", "title": title, "html": html}


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
    """Tell what the pictures lose, and that fewer steps are the rival, with what was measured."""
    title = "Is it worth it? The rival: fewer steps"
    study = shared.workshop.study()
    saved = 1 - found.prediction.macs / found.prediction.macs_dense
    if comparison is not None:
        saved = 1 - comparison.b.macs / comparison.a.macs
    rows = rival_rows(study, found.asked, saved)
    if not rows:
        said = (
            "Leaving steps out saves work as well. What is better for this model at this work was"
            " not studied: in 3 Compare choose “Dense, fewer steps” for one side and see."
        )
        return {"kind": "cost", "title": title, "html": f"<p>{said}</p>"}
    best, most = min(row.fid for row in rows), max(row.fid for row in rows)
    bars = "".join(_bar(row, most, row.fid == best) for row in rows)
    base = rows[0].base_steps
    sentence = next((s for s in verdicts(study) if _speaks_of(s, base, rows)), "")
    html = (
        "<p>Leaving steps out saves work as well, without pruning. FID: distance to real pictures,"
        f' shorter is better.</p><div class="present-bars">{bars}</div>'
        f"<p>{escape(sentence)}</p>"
        f'<p class="tour-note">The study that comes with the model: {base} steps, n = {rows[0].n},'
        f" {plural(rows[0].seeds, 'seed')}, guidance {rows[0].guidance:g}. Not this visit's own"
        " measurement.</p>"
    )
    return {"kind": "cost", "title": title, "html": html}


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
    name = f"dense, {row.steps} steps" if row.family == "dense" else RIVALS[row.family]
    colour = "var(--present-dense)" if row.family == "dense" else "var(--body-text-color)"
    note = "all the work" if whole else f"{percent(row.saved)} less work"
    return (
        f'<div class="present-bar{" is-best" if best else ""}"><span>{escape(name)}<small>{note}'
        f'</small></span><i style="--share:{row.fid / most:.3f};--bar:{colour}"></i>'
        f"<b>{row.fid:.1f}</b></div>"
    )
