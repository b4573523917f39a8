"""Which heads or neurons of a linear layer to remove, in what order, at what error, and the best weights at every level.

One layer y = W x with Gram H = sum of x x^T over calibration tokens (Optimal Brain Surgeon: Hassibi & Stork 1993; in groups:
ZipLM, Kurtic et al. 2023; MosaicDiff, Guo et al. 2025). Minimised, with the removed columns of W' at zero and m = mean(diag H):

    tr((W' - W) (H + damping m I) (W' - W)^T),    which at damping 0 is ||W'X - WX||^2.

The greedy order comes from exact saliencies, rescored after each removal. Everything else comes from one factorisation: with the
survivors first (longest kept first), L = chol(H) and Z = W L, the best weights on the first k columns are Z[:, :k] L[:k, :k]^-1 and
their error is the energy of the other columns of Z. So the whole curve is a cumulative sum and each level one triangular solve.

All of it runs in float64 on the Gram's device. A column that no token ever reached (diag H = 0) is *dead*: it goes first, at no cost,
and the ridge does not count it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .errors import StudioError
from .greedy import order_columns, order_groups

DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1)  # what a held-out Gram chooses from
DEFAULT_DAMPING = 1e-2
CHOICE_LEVELS = (0.25, 0.5, 0.75)  # shares removed at which held-out errors are compared
FIRST_RIDGE = 1e-10  # first help for a singular Gram at damping 0: moves the objective by 1e-10, leaves six digits in the inverse
MIN_PIVOT = 1e-11  # a Cholesky pivot below this share of its diagonal is rounding noise, not information
EIGENVALUE_FLOOR = 1e-7  # of the largest eigenvalue: what float32 accumulation leaves trustworthy
NOT_A_GRAM = -1e-3  # of the largest eigenvalue: more negative than any rounding explains


@dataclass(eq=False)  # tensors do not compare as a whole; one path is equal to itself
class RemovalPath:
    """One layer's way from dense to empty: order, errors and weights at every level. Make one with `from_gram` or `from_order`."""

    order: Tensor  # (groups,) int64 on the CPU, first removed first
    errors: Tensor  # (groups + 1,) float64 on the CPU: the minimised objective after each removal, never falling
    energy: float  # tr(W H W^T), not damped: what errors are relative to
    damping: float  # the one in force, as a share of mean(diag H); above the one asked for if `rung` says so
    rung: str  # "plain", or the rung of the failure ladder that made the Gram factorisable
    group_size: int
    _weight: Tensor = field(repr=False)  # (d, n) as given
    _columns: Tensor = field(repr=False)  # (n,) columns, longest kept first
    _factor: Tensor = field(repr=False)  # (n, n) L, lower, in that order, of the Gram over its mean diagonal
    _scores: Tensor = field(repr=False)  # (d, n) Z = W L
    _held_out: Tensor | None = field(default=None, repr=False)  # (n, n)

    @classmethod
    def from_gram(
        cls, weight: Tensor, gram: Tensor, group_size: int = 1, damping: float | None = None, held_out: Tensor | None = None
    ) -> RemovalPath:
        """Order the groups greedily by exact saliency, then factorise.

        weight: (d, n), any float type. gram, held_out: (n, n), sums of x x^T over tokens (scale does not matter).
        group_size: consecutive columns that go together (head_dim for heads, 1 for neurons).
        damping: share of mean(diag gram), 0 for none; None chooses on `held_out` if given, else 0.01.
        Raises StudioError for shapes that do not match, numbers that are not finite, or a matrix that is not a Gram.
        """
        return cls._chosen(_Problem.checked(weight, gram, group_size, held_out), damping, None)

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
        """The same path for an order found elsewhere (per-stage compensation with a pooled order): one Cholesky, no search.

        order: (groups,) each group index once, first removed first. The rest as in `from_gram`.
        """
        problem = _Problem.checked(weight, gram, group_size, held_out)
        given = _indices(order, problem.groups, "order")
        if len(given) != problem.groups:
            raise StudioError(f"A removal order names each of the {problem.groups} groups once; this one has {len(given)}.")
        return cls._chosen(problem, damping, given)

    @classmethod
    def _chosen(cls, problem: _Problem, damping: float | None, order: Tensor | None) -> RemovalPath:
        """The path at `damping`, or if that is None at the one with the smallest mean held-out error."""
        if damping is not None:
            return cls._build(problem, _checked_damping(damping), order)
        levels = sorted({min(max(round(share * problem.groups), 1), problem.groups - 1) for share in CHOICE_LEVELS} - {0})
        if not levels or problem.held_out is None or not problem.held_out.any():
            return cls._build(problem, DEFAULT_DAMPING, order)
        candidates = (cls._build(problem, rho, order) for rho in DAMPINGS)  # lazily: two in memory at a time
        return min(candidates, key=lambda path: path.held_out_errors[levels].mean().item())

    @classmethod
    def _build(cls, problem: _Problem, damping: float, order: Tensor | None) -> RemovalPath:
        def attempt(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
            found = _greedy_order(problem, matrix) if order is None else order
            if found is None:
                return None
            columns = _expand(found.flip(0), problem.group_size).to(matrix.device)
            factor = _cholesky(matrix[columns][:, columns])
            return None if factor is None else (found, columns, factor)

        (found, columns, factor), damping, rung = _climb(problem, damping, attempt)
        scores = problem.w[:, columns] @ factor  # (d, n)
        costs = scores.square().sum(0) * ~problem.dead[columns]  # (n,)
        steps = costs.view(-1, problem.group_size).sum(1).flip(0).cpu() * problem.scale  # (groups,) in removal order
        errors = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
        return cls(
            order=found.cpu(),
            errors=errors,
            energy=problem.energy(),
            damping=damping,
            rung=rung,
            group_size=problem.group_size,
            _weight=problem.weight,
            _columns=columns,
            _factor=factor,
            _scores=scores,
            _held_out=problem.held_out,
        )

    @property
    def groups(self) -> int:
        """How many heads or neurons the layer has."""
        return len(self.order)

    def kept(self, removed: int) -> Tensor:
        """Indices of the groups that remain after `removed` removals, ascending."""
        return self.order[self._level(removed) :].sort().values

    def weights_at(self, removed: int) -> Tensor:
        """Best full-width weight (d, n) after `removed` removals: type and device of the given weight, removed columns exactly zero.

        One triangular solve of d k^2 multiplications for k kept columns; at 0 the given weight itself, bit for bit.
        """
        kept = len(self._columns) - self._level(removed) * self.group_size
        if removed == 0:
            return self._weight.clone()
        weight = torch.zeros_like(self._weight)
        if kept:
            solved = torch.linalg.solve_triangular(self._factor[:kept, :kept], self._scores[:, :kept], upper=False, left=False)
            weight[:, self._columns[:kept].to(weight.device)] = solved.to(weight)
        return weight

    @cached_property
    def held_out_errors(self) -> Tensor | None:
        """(groups + 1,) float64: ||(W' - W) X||^2 on the held-out tokens at every level, not damped; None without a held-out Gram.

        W' - W = -Z_R (L^-1)_R,: for the removed columns R, so the error is the sum over R x R of (Z^T Z) * (L^-1 H' L^-T), and
        one more removal adds one more row and column of that product: the whole curve costs two triangular solves.
        """
        if self._held_out is None:
            return None
        gram = self._held_out[self._columns][:, self._columns]
        half = torch.linalg.solve_triangular(self._factor, gram, upper=False)  # L^-1 H'
        whitened = torch.linalg.solve_triangular(self._factor, half.mT, upper=False)  # L^-1 H' L^-T
        product = whitened.mul_(self._scores.mT @ self._scores)
        steps = product.diagonal() + 2 * product.triu(1).sum(1)  # column i joins those after it, which went earlier
        steps = steps.view(-1, self.group_size).sum(1).flip(0)
        return torch.cat([steps.new_zeros(1), steps.cumsum(0).clamp_min(0)]).cpu()

    def _level(self, removed: int) -> int:
        if isinstance(removed, bool) or not isinstance(removed, numbers.Integral) or not 0 <= removed <= self.groups:
            raise StudioError(f"The number of removed groups must be a whole number from 0 to {self.groups}, not {removed}.")
        return int(removed)


def compensated_weights(weight: Tensor, gram: Tensor, kept_columns: Tensor | Sequence[int], damping: float = DEFAULT_DAMPING) -> Tensor:
    """Best weight (d, n) with only `kept_columns` non-zero, W'_K = (W H)_:,K (H_KK)^-1, for one set without the whole path.

    Same objective, types and errors as `RemovalPath`; costs one Cholesky of the kept columns only.
    """
    problem = _Problem.checked(weight, gram, 1, None)
    kept = _indices(kept_columns, problem.groups, "kept_columns").to(problem.gram.device)
    if len(kept) == problem.groups:
        return problem.weight.clone()
    solved_weight = torch.zeros_like(problem.weight)
    if not len(kept):
        return solved_weight

    def attempt(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
        factor = _cholesky(matrix[kept][:, kept])
        return None if factor is None else (matrix[:, kept], factor)

    (columns, factor), _, _ = _climb(problem, _checked_damping(damping), attempt)
    solved = torch.cholesky_solve((problem.w @ columns).mT, factor).mT  # (d, kept)
    solved_weight[:, kept.to(weight.device)] = solved.to(solved_weight)
    return solved_weight


@dataclass
class _Problem:
    """A checked layer in float64 on the Gram's device, the Gram over its mean diagonal so that no scale can overflow."""

    weight: Tensor  # (d, n) as given
    w: Tensor  # (d, n) float64
    gram: Tensor  # (n, n) symmetric, mean diagonal 1
    scale: float  # the mean diagonal taken out
    dead: Tensor  # (n,) bool
    group_size: int
    held_out: Tensor | None

    @classmethod
    def checked(cls, weight: Tensor, gram: Tensor, group_size: int, held_out: Tensor | None) -> _Problem:
        if weight.ndim != 2 or not weight.is_floating_point() or not weight.numel():
            raise StudioError(f"A weight must be a float matrix of outputs x inputs, not {weight.dtype} of shape {tuple(weight.shape)}.")
        n = weight.shape[1]
        if isinstance(group_size, bool) or not isinstance(group_size, numbers.Integral) or group_size < 1 or n % group_size:
            raise StudioError(f"{n} input columns cannot be cut into groups of {group_size}.")
        if not weight.isfinite().all():
            raise StudioError("The weight holds NaN or infinite values: load the model again before pruning.")
        gram = _checked_gram(gram, n, "Gram")
        if held_out is not None:
            held_out = _checked_gram(held_out, n, "held-out Gram").to(gram.device)
        diagonal = gram.diagonal()
        scale = diagonal.mean().item() or 1.0
        dead = diagonal <= 0
        weight = weight.detach()
        return cls(weight, weight.to(gram), gram / scale, scale, dead, int(group_size), held_out)

    @property
    def groups(self) -> int:
        return self.w.shape[1] // self.group_size

    def energy(self) -> float:
        return ((self.w @ self.gram) * self.w).sum().item() * self.scale

    def damped(self, damping: float) -> Tensor:
        """The Gram with its ridge. Dead columns become unit columns apart from the rest: harmless to factorise, never counted."""
        matrix = self.gram.masked_fill(self.dead[:, None] | self.dead[None, :], 0.0)
        matrix.diagonal().add_(damping).masked_fill_(self.dead, 1.0)
        return matrix


def _checked_gram(gram: Tensor, n: int, name: str) -> Tensor:
    """float64, symmetric, finite, not negative on the diagonal; on its own device where that has float64."""
    if tuple(gram.shape) != (n, n):
        raise StudioError(f"The {name} must be {n} x {n} for a layer with {n} input columns, not {tuple(gram.shape)}.")
    gram = gram.detach().to("cpu" if gram.device.type == "mps" else gram.device).double()
    if not gram.isfinite().all():
        raise StudioError(f"The {name} holds NaN or infinite values: calibrate again, in float32 rather than half precision.")
    largest = gram.abs().max()
    if (gram - gram.mT).abs().max() > 1e-3 * largest or gram.diagonal().min() < NOT_A_GRAM * largest:
        raise StudioError(f"The {name} is not a sum of x x^T: it must be symmetric with no negative diagonal.")
    return (gram + gram.mT) / 2


def _checked_damping(damping: float) -> float:
    if isinstance(damping, bool) or not isinstance(damping, numbers.Real) or not math.isfinite(damping) or damping < 0:
        raise StudioError(f"Damping must be a number that is 0 or larger, as a share of the mean diagonal, not {damping}.")
    return float(damping)


def _indices(values: Tensor | Sequence[int], count: int, name: str) -> Tensor:
    """Distinct int64 indices below `count`, on the CPU."""
    indices = torch.as_tensor(values).detach().cpu()
    if indices.numel() == 0:
        return torch.zeros(0, dtype=torch.int64)
    if indices.ndim != 1 or indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex():
        raise StudioError(f"{name} must be a list of whole numbers, not {indices.dtype} of shape {tuple(indices.shape)}.")
    indices = indices.to(torch.int64)
    if indices.min() < 0 or indices.max() >= count or len(indices.unique()) != len(indices):
        raise StudioError(f"{name} must hold different numbers from 0 to {count - 1}.")
    return indices


def _expand(groups: Tensor, size: int) -> Tensor:
    """Group indices (g,) -> their column indices (g * size,), group by group."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def _cholesky(matrix: Tensor) -> Tensor | None:
    """Lower factor, or None when it fails or when a pivot is only rounding noise (dependent columns that pass by luck)."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed.item() or not factor.isfinite().all():
        return None
    return factor if (factor.diagonal().square() >= MIN_PIVOT * matrix.diagonal()).all() else None


def _climb(problem: _Problem, damping: float, attempt: Callable[[Tensor], tuple | None]) -> tuple[tuple, float, str]:
    """Try `attempt` on ever safer versions of the Gram -> (its result, the damping in force, the rung's name)."""
    for matrix, rho, rung in _ladder(problem, damping):
        result = attempt(matrix)
        if result is not None:
            return result, rho, rung
    raise StudioError("The Gram cannot be factorised even with its eigenvalues raised: calibrate again with more images.")


def _ladder(problem: _Problem, damping: float) -> Iterator[tuple[Tensor, float, str]]:
    """The failure ladder: as asked, ten times the damping up to three times, an eigenvalue floor. (Symmetric and float64 already.)"""
    yield problem.damped(damping), damping, "plain"
    for i in range(3):
        rho = max(damping * 10 ** (i + 1), FIRST_RIDGE * 10**i)
        yield problem.damped(rho), rho, f"damping raised to {rho:.0e}"
    values, vectors = torch.linalg.eigh(problem.damped(damping))
    if values[0] < NOT_A_GRAM * values[-1]:
        raise StudioError("The Gram is not a sum of x x^T: it has large negative eigenvalues, so calibrate again.")
    yield (vectors * values.clamp_min(EIGENVALUE_FLOOR * values[-1])) @ vectors.mT, damping, "eigenvalue floor"


def _greedy_order(problem: _Problem, matrix: Tensor) -> Tensor | None:
    """Exact greedy order (groups,), dead groups first; None when the numbers do not hold up."""
    size = problem.group_size
    dead = problem.dead.view(-1, size).all(1)
    live = (~dead).nonzero()[:, 0]
    columns = _expand(live, size)
    factor = _cholesky(matrix[columns][:, columns])
    if factor is None:
        return None
    inverse = torch.cholesky_inverse(factor)
    w = problem.w[:, columns] * ~problem.dead[columns]  # a dead column inside a live group must not count either
    if size == 1:
        found = order_columns(inverse, w.mT @ w, 1 / matrix.diagonal()[columns])
    else:
        found = order_groups(inverse, w, size)
    return None if found is None else torch.cat([dead.nonzero()[:, 0], live[found.to(live.device)]]).cpu()
