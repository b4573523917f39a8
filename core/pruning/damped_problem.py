"""Check and damp one layer's removal problem, and climb when its Gram has no factor.

Rungs of the ladder, each tried when the one before fails (a Cholesky pivot that is only noise, an
order whose own account of its cost is wrong): the search for the order in float32 (large layers),
in float64, ten times the damping up to three times, an eigenvalue floor. Everything but the search
is float64 from the start. The Gram is symmetrised before the first rung.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import StudioError
from .picker import Picker
from .tiled import gathered, symmetrised

DEFAULT_DAMPING = 1e-2
CHOICE_LEVELS = (0.25, 0.5, 0.75)  # shares removed at which errors and costs are compared
PLAIN = "plain"  # the first rung: nothing was changed
PRECISIONS = ("auto", "float64", "float32")
# columns above which "auto" searches in float32: up to here float64 takes a second, and eight times
# more with each doubling
LARGE = 2048
# first help for a singular Gram at damping 0: moves the objective by 1e-10, leaves six digits in
# the inverse
FIRST_RIDGE = 1e-10
# a float64 Cholesky pivot below this share of its diagonal is rounding noise, not information
MIN_PIVOT = 1e-11
EIGENVALUE_FLOOR = 1e-7  # of the largest eigenvalue: what float32 accumulation leaves trustworthy
NOT_A_GRAM = -1e-3  # of the largest eigenvalue: more negative than any rounding explains

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Rung:
    """What is minimised on one rung of the ladder, and how the order is searched.

    The objective is tr((W' - W) (M + diag(added)) (W' - W)^T).
    """

    name: str
    # as a share of mean(diag H); on the eigenvalue floor the floor, where that is more
    damping: float
    matrix: Tensor  # (n, n) float64, M, all of it
    added: Tensor  # (n,) what is added to its diagonal
    dtype: torch.dtype = torch.float64  # of the search; factors and weights are float64 always

    def lower(self, columns: Tensor | None, out: Tensor) -> Tensor:
        """Write (M + diag(added))[columns][:, columns] into `out` (k, k), and return `out`.

        The result is a lower matrix (`core.pruning.tiled`). None: all columns as they come.
        """
        return gathered(self.matrix, columns, self.added, out)


@dataclass(eq=False)
class DampedProblem:
    """A checked layer in float64 on the Gram's device.

    The Gram is divided by its mean diagonal, so that no scale can overflow.
    """

    weight: Tensor  # (d, n) as given
    w: Tensor  # (d, n) float64
    gram: Tensor  # (n, n) symmetric, mean diagonal 1, zero in the rows and columns of dead inputs
    scale: float  # the mean diagonal taken out
    dead: Tensor  # (n,) bool: no token ever reached this column
    group_size: int
    held_out: Tensor | None  # (n, n) symmetric, as given
    picker: Picker | None = None  # launches the picks of a search at once

    @classmethod
    def checked(
        cls, weight: Tensor, gram: Tensor, group_size: int, held_out: Tensor | None
    ) -> DampedProblem:
        """Return the problem of a layer after checks of shapes and numbers.

        Raises StudioError for shapes that do not match, numbers that are not finite, or a matrix
        that is not a Gram.
        """
        if weight.ndim != 2 or not weight.is_floating_point() or not weight.numel():
            raise StudioError(
                f"A weight must be a float matrix of outputs x inputs, not {weight.dtype} of shape"
                f" {tuple(weight.shape)}."
            )
        n = weight.shape[1]
        if (
            isinstance(group_size, bool)
            or not isinstance(group_size, numbers.Integral)
            or group_size < 1
            or n % group_size
        ):
            raise StudioError(f"{n} input columns cannot be cut into groups of {group_size}.")
        if not weight.isfinite().all():
            raise StudioError(
                "The weight holds NaN or infinite values: load the model again before pruning."
            )
        gram, scale = _checked_gram(gram, n, "Gram")
        if held_out is not None:
            held_out = (
                _checked_gram(held_out, n, "held-out Gram")[0]
                .to(gram.device)
                .mul_(_mean_diagonal(held_out))
            )
        dead = gram.diagonal() <= 0
        if dead.any():
            gram[dead] = 0
            gram[:, dead] = 0
        weight = weight.detach()
        return cls(
            weight=weight,
            w=weight.to(gram),
            gram=gram,
            scale=scale,
            dead=dead,
            group_size=int(group_size),
            held_out=held_out,
        )

    @property
    def groups(self) -> int:
        """Return the number of groups of the layer."""
        return self.w.shape[1] // self.group_size

    def climb(
        self,
        damping: float,
        attempt: Callable[[Rung], Result | None],
        dtype: torch.dtype = torch.float64,
    ) -> tuple[Result, Rung]:
        """Try `attempt` on ever safer rungs, and return its result and the rung that held.

        Raises StudioError when no rung holds.
        """
        for rung in self._ladder(damping, dtype):
            result = attempt(rung)
            if result is not None:
                return result, rung
        raise StudioError(
            "The Gram cannot be factorised even with its eigenvalues raised: calibrate again with"
            " more images."
        )

    def first_rung(self, damping: float, dtype: torch.dtype = torch.float64) -> Rung:
        """Return the rung that `climb` tries first."""
        return Rung(PLAIN, damping, self.gram, self._added(damping), dtype)

    def _ladder(self, damping: float, dtype: torch.dtype) -> Iterator[Rung]:
        """Yield the rungs from the plain one to the eigenvalue floor."""
        yield self.first_rung(damping, dtype)
        if dtype != torch.float64:
            yield Rung("order in float64", damping, self.gram, self._added(damping))
        for i in range(3):
            rho = max(damping * 10 ** (i + 1), FIRST_RIDGE * 10**i)
            yield Rung(f"damping raised to {rho:.0e}", rho, self.gram, self._added(rho))
        values, vectors = torch.linalg.eigh(self.gram + self._added(damping).diag())
        if values[0] < NOT_A_GRAM * values[-1]:
            raise StudioError(
                "The Gram is not a sum of x x^T: it has large negative eigenvalues, so calibrate"
                " again."
            )
        floor = EIGENVALUE_FLOOR * values[-1].item()
        raised = (vectors * values.clamp_min(floor)) @ vectors.mT
        yield Rung("eigenvalue floor", max(damping, floor), raised, torch.zeros_like(values))

    def _added(self, damping: float) -> Tensor:
        """Return the ridge (n,).

        Dead columns become unit columns apart from the rest: harmless to factorise, never counted.
        """
        return torch.full_like(self.w[0], damping).masked_fill_(self.dead, 1.0)


def checked_damping(damping: float) -> float:
    """Return the damping as a float. Raises StudioError for anything but a number of at least 0."""
    if (
        isinstance(damping, bool)
        or not isinstance(damping, numbers.Real)
        or not math.isfinite(damping)
        or damping < 0
    ):
        raise StudioError(
            "Damping must be a number that is 0 or larger, as a share of the mean diagonal, not"
            f" {damping}."
        )
    return float(damping)


def search_dtype(precision: str, columns: int) -> torch.dtype:
    """Return the type in which to search the order.

    Raises StudioError for a precision that is not in `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise StudioError(
            f"The precision of the search must be one of {', '.join(PRECISIONS)}, not {precision}."
        )
    if precision == "auto":
        precision = "float32" if columns > LARGE else "float64"
    return torch.float32 if precision == "float32" else torch.float64


def _checked_gram(gram: Tensor, n: int, name: str) -> tuple[Tensor, float]:
    """Return the Gram in float64, symmetric, over its mean diagonal, and that mean.

    The result lies on the Gram's own device where that device has float64, else on the CPU.
    """
    if tuple(gram.shape) != (n, n):
        raise StudioError(
            f"The {name} must be {n} x {n} for a layer with {n} input columns, not"
            f" {tuple(gram.shape)}."
        )
    gram = gram.detach().to("cpu" if gram.device.type == "mps" else gram.device)
    smallest, largest = (value.item() for value in gram.aminmax())  # NaN goes through both
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        raise StudioError(
            f"The {name} holds NaN or infinite values: calibrate again, in float32 rather than half"
            " precision."
        )
    scale = _mean_diagonal(gram)
    largest = max(-smallest, largest)
    whole, gap = symmetrised(gram, scale)
    if gap > 1e-3 * largest or gram.diagonal().min().item() < NOT_A_GRAM * largest:
        raise StudioError(
            f"The {name} is not a sum of x x^T: it must be symmetric with no negative diagonal."
        )
    return whole, scale


def _mean_diagonal(gram: Tensor) -> float:
    """Return the mean diagonal of a Gram, 1 where it is zero."""
    return gram.detach().diagonal().double().mean().item() or 1.0
