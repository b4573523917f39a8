"""Say why fewer multiply-accumulates gave no time, and which mode would help.

The reasons are read from facts: the widths that are kept, the device's own times of forwards and of
single layers, the mode that both sides ran in, and the modes that the device has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from ..mosaic.modes import COMPILED, GRAPHS, PLAIN
from ..sampling.timing import LatencyTable
from ..words import percent

LARGE = 0.3  # share of a forward that is named as a reason where it does not shrink
WAITING = 0.5  # from this share on, a GPU that runs plain waits for launches
UNSHRUNK = "norms, modulation, gates, residual sums, embeddings"
HELP = {  # mode -> what it takes away
    GRAPHS: "captured graphs would take the launches away",
    COMPILED: "compiled blocks would join the small operations into few",
}


@dataclass(frozen=True)
class Circumstances:
    """What two timed sides ran under."""

    device: str  # kind of device: "cpu", "cuda"
    rows: int  # of one timed forward
    mode: str  # that both sides ran in
    modes: tuple[str, ...]  # that networks can run in here
    # share of a dense forward's seconds that is the same at every width, from the latency table
    fixed: float | None = None
    # share of a dense forward's seconds that its prunable layers, timed alone, do not save
    outside: float | None = None
    widths: tuple[str, ...] = ()  # sentences on widths that the device minds, by layer

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """Return what `to_json` wrote. Raises TypeError for other data."""
        known: dict[str, Any] = {**plain}
        known |= {name: tuple(plain[name]) for name in ("modes", "widths") if name in plain}
        return cls(**known)

    @property
    def better_mode(self) -> str | None:
        """Return the mode to try next, or None where none of this device takes more away."""
        order = [GRAPHS, COMPILED] if self.launches else [COMPILED, GRAPHS]
        beyond = {PLAIN: order, GRAPHS: [COMPILED], COMPILED: []}[self.mode]
        return next((mode for mode in beyond if mode in self.modes), None)

    @property
    def launches(self) -> bool:
        """Say whether launches of kernels are part of what does not shrink.

        They are on CUDA in plain mode, where a forward takes nearly as long at every width.
        """
        return self.device == "cuda" and self.mode == PLAIN and (self.fixed or 0.0) >= WAITING

    @property
    def reasons(self) -> list[str]:
        """Return clauses on why narrower layers save no time, without capital letters or stops."""
        of = f"of a dense forward of {self.rows} rows"
        found = []
        if self.outside is not None and self.outside >= LARGE:
            found.append(
                f"{percent(self.outside)} {of} does not shrink with the layers ({UNSHRUNK})"
            )
        elif self.fixed is not None and self.fixed >= LARGE:
            found.append(f"{percent(self.fixed)} {of} takes as long at every width ({UNSHRUNK})")
        if self.launches:
            found.append("run plain, the GPU waits for launches of kernels")
        return found

    @property
    def sentence(self) -> str:
        """Return the reasons and what would help, to be added to a verdict; "" without a reason.

        Each clause begins with "; ". What is said of widths comes last.
        """
        found = "".join(f"; {clause}" for clause in self.reasons)
        if found:
            better = self.better_mode
            found += f"; {HELP[better]}" if better else f"; {self._no_mode}"
        return found + self.on_widths

    @property
    def on_widths(self) -> str:
        """Return what is said of the widths, to be added to a verdict; "" without."""
        if not self.widths:
            return ""
        words = " ".join(self.widths)
        return f"; {words[0].lower()}{words[1:].removesuffix('.')}"

    @property
    def _no_mode(self) -> str:
        """Return that no mode helps, and what does."""
        if self.mode == PLAIN:
            return "no other mode runs on this device, so try more images at once"
        return "no other mode of this device takes that away, so try more images at once"


def fixed_share(table: LatencyTable | None) -> float | None:
    """Return the share of a dense forward's seconds that does not depend on its MACs.

    The straight line through the narrowest and the widest measured network, at no MACs. None
    without a table.
    """
    if table is None:
        return None
    rise = (table.seconds[-1] - table.seconds[0]) / (table.macs[-1] - table.macs[0])
    rest = table.seconds[-1] - rise * table.macs[-1]
    return min(1.0, max(0.0, rest / table.seconds[-1]))


def outside_share(dense: float, layers: float) -> float:
    """Return the share of a forward's seconds that its prunable layers cannot save.

    dense: seconds of a dense forward. layers: seconds that its layers, each timed alone, take more
    at full width than with nothing kept.
    """
    return min(1.0, max(0.0, 1 - layers / dense))
