"""Find which heads or neurons of a linear layer to remove, and the best weights at each level.

One layer y = W x with Gram H = sum of x x^T over calibration tokens (Optimal Brain Surgeon: Hassibi
& Stork 1993; in groups: ZipLM, Kurtic et al. 2023; MosaicDiff, Guo et al. 2025). Minimised, with
the removed columns of W' at zero and m = mean(diag H):

    tr((W' - W) (H + damping m I) (W' - W)^T),    which at damping 0 is ||W'X - WX||^2.

The greedy order comes from exact saliencies, rescored after each removal. Everything else comes
from one factorisation: with the survivors first (longest kept first), L = chol(H) and Z = W L, the
best weights on the first k columns are Z[:, :k] L[:k, :k]^-1 and their error is the energy of the
other columns of Z. So the whole curve is a cumulative sum and each level one triangular solve.

Everything runs in float64 on the Gram's device, except the search of the order in large layers
(`damped_problem.LARGE`), which is float32. From condition numbers of some 1e5 the two orders may
part. The errors that the two orders reach then differ by well under 1 % for inputs like an MLP's;
on spectra that fall by six decades in a random basis they scatter by some percent to both sides, as
float64 does when the Gram is changed in its seventh digit. A search that accounts wrongly for its
own cost is repeated in float64. (To refine a float32 factor would save nothing: one residual takes
d k^2 multiplications, the float64 factor k^3 / 6.)

At n = 4608, d = 1152 a path peaks at 0.5 GB beside the Gram and the weight given, and keeps 0.2 GB.
A column that no token ever reached (diag H = 0) is *dead*: it goes first, at no cost, and the ridge
does not count it.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import StudioError
from .compensation import compensated_weights, compensation
from .damped_problem import (
    CHOICE_LEVELS,
    DEFAULT_DAMPING,
    MIN_PIVOT,
    DampedProblem,
    Rung,
    checked_damping,
    search_dtype,
)
from .greedy import Found
from .groups import columns_of_groups, distinct_indices
from .order_search import accounted, search_order, search_orders
from .picker import Picker
from .tiled import (
    cholesky_,
    quadratic,
    solved_by_factor,
    tiles,
    times_factor,
)

__all__ = [
    "DAMPINGS",
    "DEFAULT_DAMPING",
    "RemovalPath",
    "compensated_weights",
    "compensation",
]

DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1)  # what a held-out Gram chooses from


@dataclass(eq=False)  # tensors do not compare as a whole; one path is equal to itself
class RemovalPath:
    """One layer's way from dense to empty: order, errors and weights at every level.

    Make a path with `from_gram` or `from_order`.
    """

    order: Tensor  # (groups,) int64 on the CPU, first removed first
    # (groups + 1,) float64 on the CPU: the minimised objective after each removal, never falling
    errors: Tensor
    energy: float  # tr(W H W^T), not damped: what errors are relative to
    # the one in force, as a share of mean(diag H); above the one asked for if `rung` says so (the
    # floor itself, on that rung)
    damping: float
    # "plain", or the rung of the failure ladder that held: "order in float64", "damping raised to
    # ...", "eigenvalue floor"
    rung: str
    # what the order was searched in, "float64" or "float32"; "given" for one found elsewhere
    search: str
    group_size: int
    _weight: Tensor = field(repr=False)  # (d, n) as given
    _columns: Tensor = field(repr=False)  # (n,) columns, longest kept first
    # (n, n) L in that order, of the Gram over its mean diagonal; nothing above its diagonal tiles
    _factor: Tensor = field(repr=False)
    _scores: Tensor = field(repr=False)  # (d, n) Z = W L
    _held_out: Tensor | None = field(default=None, repr=False)  # (n, n)

    @classmethod
    def from_gram(
        cls,
        weight: Tensor,
        gram: Tensor,
        group_size: int = 1,
        damping: float | None = None,
        held_out: Tensor | None = None,
        precision: str = "auto",
        picker: Picker | None = None,
    ) -> RemovalPath:
        """Order the groups greedily by exact saliency, then factorise.

        weight: (d, n), any float type. gram, held_out: (n, n), sums of x x^T over tokens (scale
        does not matter). group_size: consecutive columns that go together (head_dim for heads, 1
        for neurons). damping: share of mean(diag gram), 0 for none; None chooses on `held_out` if
        given, else 0.01. The choice takes a search for each of `DAMPINGS`: on one order for all of
        them it would fall on a larger damping (scarce tokens: 0.1 for 0.001). precision: of the
        search: "float64", "float32", or "auto", which takes float32 above 2048 columns. The rest is
        float64. picker: launches the picks of a search at once, with the same order. Raises
        StudioError for shapes that do not match, numbers that are not finite, or a matrix that is
        not a Gram.
        """
        problem = DampedProblem.checked(weight, gram, group_size, held_out)
        problem = replace(problem, picker=picker)
        return cls._chosen(problem, damping, None, search_dtype(precision, problem.w.shape[1]))

    @classmethod
    def from_order(
        cls,
        weight: Tensor,
        gram: Tensor,
        order: Tensor | Sequence[int],
        group_size: int = 1,
        damping: float | None = DEFAULT_DAMPING,
        held_out: Tensor | None = None,
    ) -> RemovalPath:
        """Build the same path for an order found elsewhere: one Cholesky, no search.

        Per-stage compensation with a pooled order needs this. order: (groups,) each group index
        once, first removed first. The rest as in `from_gram`.
        """
        problem = DampedProblem.checked(weight, gram, group_size, held_out)
        given = distinct_indices(order, problem.groups, "order")
        if len(given) != problem.groups:
            raise StudioError(
                f"A removal order names each of the {problem.groups} groups once; this one has"
                f" {len(given)}."
            )
        return cls._chosen(problem, damping, given, torch.float64)

    @classmethod
    def from_problems(
        cls,
        problems: Sequence[DampedProblem],
        damping: float = DEFAULT_DAMPING,
        precision: str = "auto",
        tick: Callable[[], None] | None = None,
    ) -> Iterator[RemovalPath]:
        """Yield the paths of several layers of one device, whose searches run side by side.

        Each path equals that of `from_gram` at this damping; a layer whose search does not hold up
        climbs the ladder alone. Factors are made as paths are asked for, so that only what the
        caller keeps is in memory. tick: called now and then while the searches run; what it raises
        ends them. Raises StudioError as `from_gram` does.
        """
        damping = checked_damping(damping)
        types = [search_dtype(precision, problem.w.shape[1]) for problem in problems]
        rungs = [
            problem.first_rung(damping, dtype)
            for problem, dtype in zip(problems, types, strict=True)
        ]
        found = search_orders(problems, rungs, tick)
        for problem, dtype, first in zip(problems, types, found, strict=True):
            yield cls._build(problem, damping, None, dtype, first=[first])

    @classmethod
    def _chosen(
        cls, problem: DampedProblem, damping: float | None, order: Tensor | None, dtype: torch.dtype
    ) -> RemovalPath:
        """Return the path at `damping`, or with None at the one of least mean held-out error."""
        if damping is not None:
            return cls._build(problem, checked_damping(damping), order, dtype)
        levels = sorted(
            {
                min(max(round(share * problem.groups), 1), problem.groups - 1)
                for share in CHOICE_LEVELS
            }
            - {0}
        )
        if not levels or problem.held_out is None or not problem.held_out.any():
            return cls._build(problem, DEFAULT_DAMPING, order, dtype)
        # lazily: two in memory at a time
        candidates = (cls._build(problem, rho, order, dtype) for rho in DAMPINGS)
        return min(candidates, key=lambda path: path.mean_held_out_error(levels))

    @classmethod
    def _build(
        cls,
        problem: DampedProblem,
        damping: float,
        order: Tensor | None,
        dtype: torch.dtype,
        first: list[Found | None] | None = None,
    ) -> RemovalPath:
        """Search the order where none is given, and factorise, on the first rung that holds.

        first: what the search on the first rung has already found, one entry, which is used up.
        """

        def attempt(rung: Rung) -> RemovalPath | None:
            found: Tensor | None = order
            thought: Tensor | None = None
            if order is None:
                searched = first.pop() if first else search_order(problem, rung)
                found, thought = searched or (None, None)
            if found is None:
                return None
            columns = columns_of_groups(found.flip(0).to(problem.gram.device), problem.group_size)
            factor = cholesky_(rung.lower(columns, torch.empty_like(problem.gram)), MIN_PIVOT)
            if factor is None:
                return None
            scores, costs = times_factor(problem.w[:, columns], factor)
            costs.masked_fill_(problem.dead[columns], 0.0)
            steps = costs.view(-1, problem.group_size).sum(1).flip(0)  # (groups,) in removal order
            if (
                thought is not None
                and rung.dtype != torch.float64
                and not accounted(thought, steps)
            ):
                return None
            errors = torch.cat([steps.new_zeros(1), steps.cumsum(0)]).cpu() * problem.scale
            return cls(
                order=found.cpu(),
                errors=errors,
                energy=_energy(problem, rung, costs.sum()) * problem.scale,
                damping=rung.damping,
                rung=rung.name,
                search="given" if order is not None else str(rung.dtype).removeprefix("torch."),
                group_size=problem.group_size,
                _weight=problem.weight,
                _columns=columns,
                _factor=factor,
                _scores=scores,
                _held_out=problem.held_out,
            )

        return problem.climb(damping, attempt, dtype if order is None else torch.float64)[0]

    @property
    def bytes(self) -> int:
        """Return the bytes of memory that the path holds, without the given weight."""
        return sum(
            t.numel() * t.element_size()
            for t in (self._columns, self._factor, self._scores, self._held_out)
            if t is not None
        )

    @property
    def groups(self) -> int:
        """Return the number of heads or neurons of the layer."""
        return len(self.order)

    def kept(self, removed: int) -> Tensor:
        """Return the indices of the groups that remain after `removed` removals, ascending."""
        return self.order[self._level(removed) :].sort().values

    def weights_at(self, removed: int) -> Tensor:
        """Return the best full-width weight (d, n) after `removed` removals.

        Type and device are those of the given weight; removed columns are exactly zero. The cost is
        one triangular solve, from the side where less is to be done. At 0 the result is the given
        weight itself, bit for bit.
        """
        kept = len(self._columns) - self._level(removed) * self.group_size
        if removed == 0:
            return self._weight.clone()
        weight = torch.zeros_like(self._weight)
        if kept:
            weight[:, self._columns[:kept].to(weight.device)] = self._best(kept).to(weight)
        return weight

    def _best(self, kept: int) -> Tensor:
        """Return the float64 best weights (d, kept) on the first columns.

        The solve starts from the side with fewer multiplications.
        """
        d, n = self._scores.shape
        gone = n - kept
        return (
            self._from_kept(kept)
            if d * kept <= gone * kept + 2 * d * gone
            else self._from_removed(kept)
        )

    def _from_kept(self, kept: int) -> Tensor:
        """Return Z_K L_KK^-1: d k^2 / 2 multiplications, for few kept columns."""
        return solved_by_factor(self._scores[:, :kept], self._factor[:kept, :kept])

    def _from_removed(self, kept: int) -> Tensor:
        """Return W_K + W_R L_RK L_KK^-1, the same as Z_K L_KK^-1 with Z_K = W_K L_KK + W_R L_RK.

        It takes m k^2 / 2 + d m k multiplications, for few removed columns m.
        """
        lost = solved_by_factor(self._factor[kept:, :kept], self._factor[:kept, :kept])
        w = self._weight.to(lost.device).index_select(1, self._columns).to(lost)
        return torch.addmm(w[:, :kept], w[:, kept:], lost)

    @cached_property
    def held_out_errors(self) -> Tensor | None:
        """Return ||W'X - WX||^2 on the held-out tokens at every level, not damped.

        (groups + 1,) float64; None without a held-out Gram. W' - W = -Z_R (L^-1)_R,: for the
        removed columns R, so the error is the sum over R x R of

            (Z^T Z) * (L^-1 H' L^-T),

        and one more removal adds one more row and column of that product. The whole curve costs two
        triangular solves; of the second only the part on and above the diagonal is computed.
        """
        if self._held_out is None:
            return None
        gram = self._held_out.index_select(0, self._columns).index_select(1, self._columns)
        half = torch.linalg.solve_triangular(self._factor, gram, upper=False)  # L^-1 H'
        del gram
        steps = half.new_zeros(len(half))  # column i joins those after it, which went earlier
        for first, end in tiles(len(half)):
            # of L^-1 H' L^-T
            product = torch.linalg.solve_triangular(
                self._factor[:end, :end], half[first:end, :end].mT, upper=False
            )
            product *= self._scores[:, :end].mT @ self._scores[:, first:end]
            corner = product[first:]
            steps[:first] += 2 * product[:first].sum(1)
            steps[first:end] += corner.diagonal() + 2 * corner.triu(1).sum(1)
        steps = steps.view(-1, self.group_size).sum(1).flip(0)
        return torch.cat([steps.new_zeros(1), steps.cumsum(0).clamp_min(0)]).cpu()

    def mean_held_out_error(self, levels: Sequence[int]) -> float:
        """Return the mean of `held_out_errors` at a few levels, each from its weights.

        This takes a tenth of the work of the whole curve. Raises StudioError without a held-out
        Gram.
        """
        if self._held_out is None:
            raise StudioError("This path has no held-out Gram to measure an error on.")
        total = 0.0
        for removed in levels:
            kept = len(self._columns) - removed * self.group_size
            change = -self._weight.to(self._scores)
            change[:, self._columns[:kept]] += self._best(kept)
            total += quadratic(change, self._held_out).item()
        return total / len(levels)

    def _level(self, removed: int) -> int:
        """Return the number of removed groups. Raises StudioError for one that is out of range."""
        if (
            isinstance(removed, bool)
            or not isinstance(removed, numbers.Integral)
            or not 0 <= removed <= self.groups
        ):
            raise StudioError(
                f"The number of removed groups must be a whole number from 0 to {self.groups}, not"
                f" {removed}."
            )
        return int(removed)


def _energy(problem: DampedProblem, rung: Rung, everything: Tensor) -> float:
    """Return tr(W H W^T), not damped: the whole loss less its ridge.

    Where the ridge would cancel most of the loss, the energy is computed anew.
    """
    ridge = (problem.w.square().sum(0) * rung.added).masked_fill_(problem.dead, 0.0).sum()
    if rung.matrix is problem.gram and everything > 1.01 * ridge:
        return (everything - ridge).item()
    return quadratic(problem.w, problem.gram).item()
