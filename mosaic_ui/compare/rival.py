"""Say what distance tells, and what not, where a side is the dense model in fewer steps.

Pure functions, no Gradio. What is said of quality comes from the comparison's own FID or from the
shipped study, else nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from core.sampling.metrics import MIN_IMAGES_FOR_FID
from core.workshop.comparison import Comparison
from core.workshop.study import Finding, nearest_verdict

from ..text import plural, spaced

# why fewer steps of one network stay near to many, where the scheduler draws no noise of its own
BY_CONSTRUCTION = (
    "That is so by construction, as it is the same network on nearly the same path, and a pruned"
    " network is another one."
)
STUDIED = "DDIM"  # scheduler of the study
NOISY = ("DDPM", "Euler ancestral", "DPM2 ancestral")  # schedulers that draw noise in every step
NOT_BETTER = "Distance says who copies the dense pictures, not whose pictures are better."


def fewer_steps_side(comparison: Comparison) -> int | None:
    """Return which side, 0 or 1, is the dense model in fewer steps than the other, or None."""
    steps = [comparison.settings.steps_of(k) for k in (0, 1)]
    for k, side in enumerate((comparison.a, comparison.b)):
        if side.plan is None and steps[k] < steps[1 - k]:
            return k
    return None


def rival_html(comparison: Comparison, study: Sequence[Finding] = ()) -> str:
    """Answer why one would prune where fewer dense steps stay nearer; nothing without such a side.

    study: of this model, empty where there is none.
    """
    k = fewer_steps_side(comparison)
    if k is None:
        return ""
    sides = (comparison.a, comparison.b)
    fewer, other, most = sides[k], sides[1 - k], comparison.settings.steps_of(1 - k)
    if other.plan is None:
        distance = "they are equal" if comparison.psnr is None else f"{comparison.psnr:.1f} dB"
        said = f"{fewer.name} copies {other.name}: {distance}."
    else:
        said = (
            f"{fewer.name} is the rival of pruning. The distance here is that between both sides;"
            f" how near each of them is to the dense model in {plural(most, 'step')} is not"
            " measured here. Expect fewer steps to be nearer."
        )
    if comparison.settings.scheduler not in NOISY:
        said += f" {BY_CONSTRUCTION}"
    return (
        '<p class="cmp-sub cmp-rival"><b>Why prune, then?</b>'
        f" {escape(f'{said} {NOT_BETTER} {_quality(comparison, k, study)}')}</p>"
    )


def _quality(comparison: Comparison, k: int, study: Sequence[Finding]) -> str:
    """Say what is measured of quality: here by FID, and by the study.

    k: the side of fewer steps.
    """
    sides, settings = (comparison.a, comparison.b), comparison.settings
    fewer, other = sides[k], sides[1 - k]
    dense = fewer.macs / len(fewer.timesteps) * len(other.timesteps)  # work in all steps
    cheap = fewer if other.plan is None else other
    found = nearest_verdict(study, settings.steps_of(1 - k), 1 - cheap.macs / dense)
    parts = []
    if other.plan is not None and fewer.fid is not None and other.fid is not None:
        parts.append(
            f"FID here (lower is better): {fewer.fid:.1f} for {fewer.name}, {other.fid:.1f} for"
            f" {other.name}, n = {comparison.n}, one seed."
        )
    if found is not None and settings.scheduler == STUDIED:
        own = f"DDIM and guidance {study[0].guidance:g}"
        parts.append(f"The study of this model, with MosaicDiff, {own}: {spaced(found)}")
    if not parts:
        parts.append(
            "That is for FID: compare a pruned side with this one in at least"
            f" {MIN_IMAGES_FOR_FID} images."
        )
    return " ".join(parts)
