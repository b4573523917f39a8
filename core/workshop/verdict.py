"""Write the sentence that sums up how fast one side ran beside the other."""

from __future__ import annotations

from dataclasses import dataclass

from ..mosaic.modes import PLAIN, WORDS
from ..words import percent
from .sample_settings import BATCH
from .why_slow import Circumstances

ONE_RUN_DOUBT = 0.1  # a ratio of one timed run nearer to 1 than this is called no difference
# share of the ratio; with a wider spread the runs cannot say by how much a side is faster
WIDE_SPREAD = 0.2
# a measured ratio that lies beyond MACs and prediction by more than its spread and this share of
# itself contradicts them
BEYOND = 0.15
# nearer to 1 than this, MACs or a prediction say that both sides are as fast
NO_GAIN = 0.03
# nearer to 1, both sides do the same work
SAME_WORK = 0.005


@dataclass(frozen=True)
class Verdict:
    """The measured ratio of two sides, and what it rests on."""

    a: str  # names of the sides
    b: str
    ratio: float | None  # seconds of A / seconds of B; None: not timed
    spread: float | None  # of the ratio; None for one timed run
    runs: int  # timed runs of each side
    images: int
    macs_ratio: float  # MACs of A / MACs of B
    equal_pictures: bool
    predicted: float | None = None  # predicted seconds of A / of B, before anything was timed
    calls: tuple[int, int] | None = None  # denoiser calls per image of A and of B
    mode: str = PLAIN  # that both sides ran in
    where: Circumstances | None = None  # what reasons are read from; None: not known

    @property
    def inert(self) -> bool:
        """Say whether both sides are the same network."""
        return abs(self.macs_ratio - 1) < 1e-9 and self.equal_pictures

    @property
    def doubtful(self) -> bool:
        """Say whether the measured ratio is no number to go by."""
        if self.ratio is None or self.inert:
            return True
        unsure = self._unsure
        return self._too_wide(unsure) or abs(self.ratio - 1) <= unsure or self._contradicted(unsure)

    @property
    def sentence(self) -> str:
        """Return one plain sentence, also when B is not faster."""
        if self.ratio is None:
            if self.inert:
                return "Both sides are the same network: equal pictures; not timed."
            than = "as" if abs(self.macs_ratio - 1) < SAME_WORK else "than"
            return f"Not timed: {self.b} works {self._work} {than} {self.a}."
        if self.inert:
            return (
                "Both sides are the same network: equal pictures, and a measured ratio that is"
                f" only noise ({self._facts})."
            )
        return self._timed(self.ratio)

    def _timed(self, ratio: float) -> str:
        """Return the sentence for two networks that were timed."""
        facts, work, unsure = self._facts, self._work, self._unsure
        if self._too_wide(unsure):
            return f"{self._doubt(unsure)} ({facts}) {work}; {self._again}."
        if self._contradicted(unsure):
            return self._unbelieved(ratio)
        if ratio - unsure > 1:
            return (
                f"{self.b} took {percent(1 - 1 / ratio)} less time than {self.a} ({facts})"
                f" {work}{self._one_run}."
            )
        if ratio + unsure < 1:
            return (
                f"{self.b} is slower: it took {percent(1 / ratio - 1)} more time than {self.a}"
                f" ({facts}) {work}{self._reason}{self._one_run}."
            )
        return (
            f"{self.b} was not measurably faster than {self.a} ({facts})"
            f" {work}{self._reason}{self._one_run}."
        )

    @property
    def _unsure(self) -> float:
        """Return how far from 1 a ratio must lie to be a difference."""
        return ONE_RUN_DOUBT if self.spread is None else max(self.spread, 0.02)

    def _contradicted(self, unsure: float) -> bool:
        """Say whether the ratio lies beyond what MACs and prediction, both, could explain.

        Fewer MACs alone promise no time, so a ratio below theirs contradicts nothing unless a
        prediction says otherwise.
        """
        if self.ratio is None:
            return False
        room = unsure + BEYOND * self.ratio
        known = [self.macs_ratio] if self.predicted is None else [self.macs_ratio, self.predicted]
        if self.ratio - room > max(1.0, *known):
            return True
        return self.predicted is not None and self.ratio + room < min(1.0, *known)

    def _unbelieved(self, ratio: float) -> str:
        """Return the sentence for a ratio that nothing known explains."""
        known = self._work
        if self.predicted is not None:
            known += f" and a prediction of ×{self.predicted:.2f}"
        if ratio < 1:
            widths = "" if self.where is None else self.where.on_widths
            return (
                f"{self.b} is slower: it took {percent(1 / ratio - 1)} more time than {self.a}"
                f" ({self._facts}), which does not go {known}{widths}; {self._again}."
            )
        return (
            f"{self.b} seemed to take less time than {self.a} ({self._facts}), but it goes {known},"
            f" which do not explain that much; {self._again}."
        )

    @property
    def _reason(self) -> str:
        """Return why B gains nothing, and which mode would help, where that is known."""
        if self.calls is not None and self.calls[1] > self.calls[0] and self.macs_ratio > 0.97:
            return (
                f"; it calls the network {self.calls[1]} times per image against {self.calls[0]},"
                " and each call has a cost that multiply-accumulates do not count"
            )
        if self.macs_ratio <= 1 + NO_GAIN:
            return ""
        why = "" if self.where is None else self.where.sentence
        if self.predicted is None or self.predicted > 1 + NO_GAIN:
            return why
        general = (
            ": at this batch a forward is bound by its launches and memory, so a narrower network"
            " is hardly faster"
        )
        return f"; this device's latency table foresaw it{why or general}"

    @property
    def _facts(self) -> str:
        """Return the ratio and what it is the median of."""
        if self.ratio is None:
            return "not timed"
        how = "" if self.mode == PLAIN else f", both {WORDS[self.mode]}"
        if self.spread is None:
            return f"×{self.ratio:.2f} as fast, one timed run, no spread{how}"
        return (
            f"×{self.ratio:.2f} as fast, median of {self.runs} timed runs in turn, spread"
            f" ± {self.spread:.2f}{how}"
        )

    @property
    def _work(self) -> str:
        """Return by how much the MACs of the sides differ."""
        if abs(self.macs_ratio - 1) < SAME_WORK:
            return "with as many multiply-accumulates"
        fewer = "fewer" if self.macs_ratio >= 1 else "more"
        return f"with {percent(abs(1 - 1 / self.macs_ratio))} {fewer} multiply-accumulates"

    @property
    def _one_run(self) -> str:
        """Return what to do about a single timed run, or an empty text."""
        if self.spread is not None:
            return ""
        more = "time at least 3"
        if self.images >= BATCH:
            more = "ask for 300 images or more, or for fewer than 100,"
        return f"; one run cannot tell small differences, so {more} to be sure"

    def _too_wide(self, unsure: float) -> bool:
        """Say whether the timed runs differ too much for a number."""
        if self.spread is None or self.ratio is None:
            return False
        gain = abs(self.ratio - 1)
        return self.spread > WIDE_SPREAD * self.ratio or unsure < gain < 2 * self.spread

    def _doubt(self, unsure: float) -> str:
        """Return which side seemed faster, where the timed runs differ too much for a number."""
        if self.ratio is None or abs(self.ratio - 1) <= unsure:
            return (
                f"Whether {self.b} is faster than {self.a} is open, as the timed runs differ too"
                " much"
            )
        less = "less" if self.ratio > 1 else "more"
        return (
            f"{self.b} seemed to take {less} time than {self.a}, but the timed runs differ too much"
            " to say how much"
        )

    @property
    def _again(self) -> str:
        """Return what to do about timed runs that differ."""
        more = "images" if self.images >= BATCH else "timed runs"
        return f"close other programs and compare again, with more {more}"
