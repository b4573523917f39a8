"""Write the sentence that sums up how fast one side ran beside the other."""

from __future__ import annotations

from dataclasses import dataclass

from .sample_settings import BATCH

ONE_RUN_DOUBT = 0.1  # a ratio of one timed run nearer to 1 than this is called no difference
# share of the ratio; with a wider spread the runs cannot say by how much a side is faster
WIDE_SPREAD = 0.2


@dataclass(frozen=True)
class Verdict:
    """The measured ratio of two sides, and what it rests on."""

    a: str  # names of the sides
    b: str
    ratio: float  # seconds of A / seconds of B
    spread: float | None  # of the ratio; None for one timed run
    runs: int  # timed runs of each side
    images: int
    macs_ratio: float  # MACs of A / MACs of B
    equal_pictures: bool

    @property
    def sentence(self) -> str:
        """Return one plain sentence, also when B is not faster."""
        if abs(self.macs_ratio - 1) < 1e-9 and self.equal_pictures:
            return (
                "Both sides are the same network: equal pictures, and a measured ratio that is"
                f" only noise ({self._facts})."
            )
        ratio, facts, work = self.ratio, self._facts, self._work
        unsure = ONE_RUN_DOUBT if self.spread is None else max(self.spread, 0.02)
        if self._too_wide(unsure):
            return f"{self._doubt(unsure)} ({facts}) {work}; {self._again}."
        if ratio - unsure > 1:
            return (
                f"{self.b} took {1 - 1 / ratio:.0%} less time than {self.a} ({facts})"
                f" {work}{self._one_run}."
            )
        if ratio + unsure < 1:
            return (
                f"{self.b} was not faster: it took {1 / ratio - 1:.0%} more time than {self.a}"
                f" ({facts}) {work}{self._one_run}."
            )
        return f"{self.b} was not measurably faster than {self.a} ({facts}) {work}{self._one_run}."

    @property
    def _facts(self) -> str:
        """Return the ratio and what it is the median of."""
        if self.spread is None:
            return f"×{self.ratio:.2f}, one timed run, no spread"
        return (
            f"×{self.ratio:.2f}, median of {self.runs} timed runs in turn, spread"
            f" ±{self.spread:.2f}"
        )

    @property
    def _work(self) -> str:
        """Return by how much the MACs of the sides differ."""
        fewer = "fewer" if self.macs_ratio >= 1 else "more"
        return f"with {abs(1 - 1 / self.macs_ratio):.0%} {fewer} multiply-accumulates"

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
        if self.spread is None:
            return False
        gain = abs(self.ratio - 1)
        return self.spread > WIDE_SPREAD * self.ratio or unsure < gain < 2 * self.spread

    def _doubt(self, unsure: float) -> str:
        """Return which side seemed faster, where the timed runs differ too much for a number."""
        if abs(self.ratio - 1) <= unsure:
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
