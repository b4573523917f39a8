"""Share a budget over rows of (error, cost) points, one point per row.

Solvers: Lagrangian with greedy fill, and dynamic programming. Pure arithmetic on padded arrays.
`errors` and `costs` are (rows, levels), fewest removals first, already weighted by sampling steps;
a row with fewer levels is padded with error inf and cost 0. Rows stand in the order in which ties
are settled: the earlier row is removed less. Every function here needs a budget that the cheapest
choice can meet, and never exceeds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BUCKETS = 10_000
# levels x buckets: 56 layers x 3 stages x 17 levels have 10,000 buckets, more levels fewer, and a
# drag's end stays short
WORK = 30_000_000
ROUNDS = 100  # of the search for the multiplier; a few dozen settle thousands of levels
CLOSE = 1e-12  # relative: what rounding may do to a sum of a few hundred numbers


@dataclass(frozen=True)
class Solved:
    """One level for every row, and what is known about how good that is."""

    choice: np.ndarray  # (rows,) index of the level
    bound: float  # no choice within the budget has a smaller sum of errors
    multiplier: float  # error per cost at which the budget clears
    # bucket of dynamic programming, in units of cost; 0 when every sum is exact
    width: float = 0.0


def total(table: np.ndarray, choice: np.ndarray) -> float:
    """Return the sum over rows of the chosen entries."""
    return float(table[np.arange(len(table)), choice].sum())


def cheapest(errors: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return the least cost level of each row (rows,).

    Among equals the least error counts, then the fewest removals.
    """
    real = np.where(np.isfinite(errors), costs, np.inf)
    return np.where(real == real.min(axis=1, keepdims=True), errors, np.inf).argmin(axis=1)


def solve_lagrangian(errors: np.ndarray, costs: np.ndarray, budget: float) -> Solved:
    """Minimise sum of error + mu cost at the mu that meets the budget, then fill greedily.

    For a given mu every row is on its own, and only points of its lower convex hull can win: no
    curve has to be convexified beforehand. mu is found by secant steps, which end on the exact
    breakpoint, taken in turn with bisection steps, which bound their number. Rows on which both
    ends of the bracket agree are settled and not looked at again. Everett 1963, Generalized
    Lagrange multipliers.
    """
    high = errors.argmin(axis=1)  # mu = 0: the most expensive end, over the budget
    if total(costs, high) <= budget:
        return Solved(high, total(errors, high), 0.0)
    low = cheapest(errors, costs)  # mu = inf: within the budget
    mu, mu_high, mu_low = 0.0, 0.0, np.inf
    for turn in range(ROUNDS):
        open_rows = np.flatnonzero(high != low)
        e, c = errors[open_rows], costs[open_rows]
        mu = max(
            0.0,
            (total(e, low[open_rows]) - total(e, high[open_rows]))
            / (total(c, high[open_rows]) - total(c, low[open_rows])),
        )
        bisect = turn % 2 == 1 and 0 < mu_high and mu_low < np.inf
        if bisect:
            mu = float(np.sqrt(mu_high * mu_low))
        values = e + mu * c
        middle = low.copy()
        middle[open_rows] = values.argmin(axis=1)
        reference = total(values, low[open_rows])
        if not bisect and total(values, middle[open_rows]) >= reference - CLOSE * abs(reference):
            break  # both ends lie on one line: nothing between them is better
        if total(costs, middle) <= budget:
            low, mu_low = middle, mu
        else:
            high, mu_high = middle, mu
    bound = float((errors + mu * costs).min(axis=1).sum() - mu * budget)
    return Solved(
        greedy_fill(errors, costs, _walk(errors, costs, low, high, budget), budget), bound, mu
    )


def _walk(
    errors: np.ndarray, costs: np.ndarray, low: np.ndarray, high: np.ndarray, budget: float
) -> np.ndarray:
    """Move rows from the cheap end to the expensive end, one by one, where the budget allows.

    All these moves are worth the same, so early rows go first.
    """
    rows = np.flatnonzero(low != high)
    extra = costs[rows, high[rows]] - costs[rows, low[rows]]
    gain = errors[rows, low[rows]] - errors[rows, high[rows]]
    choice = low.copy()
    left = budget - total(costs, low)
    for row, more, better in zip(rows, extra, gain, strict=True):
        if more <= left and better > 0:
            choice[row] = high[row]
            left -= more
    return choice


def greedy_fill(
    errors: np.ndarray, costs: np.ndarray, choice: np.ndarray, budget: float
) -> np.ndarray:
    """Spend the rest of the budget on the moves of one row that gain most error per cost."""
    choice = choice.copy()
    live = np.arange(len(errors))
    while len(live):
        e, c, at = errors[live], costs[live], choice[live, None]
        gain = np.take_along_axis(e, at, axis=1) - e  # (rows, levels)
        extra = c - np.take_along_axis(c, at, axis=1)
        fits = (gain > 0) & (extra <= budget - total(costs, choice))
        # a free gain comes before all others
        worth = np.divide(gain, extra, out=np.full(gain.shape, np.inf), where=extra > 0)
        worth[~fits] = 0.0
        best = int(worth.argmax())
        row, level = divmod(best, worth.shape[1])
        if not fits[row, level]:
            break
        choice[live[row]] = level
        # the rest of the budget only shrinks: what fits nowhere now never will
        live = live[fits.any(axis=1)]
    return choice


def solve_dynamic(
    errors: np.ndarray, costs: np.ndarray, budget: float, buckets: int = BUCKETS
) -> Solved:
    """Find the optimum by dynamic programming over bucketed cost.

    best[row][c] = min over levels of best[row - 1][c - cost] + error. The Lagrangian solution comes
    first. The distance between its error and its bound rules out every level whose price error + mu
    cost is further than that from the best of its row; only what remains is searched, which makes
    the buckets narrow. Costs are rounded to the nearest bucket, and of the choices that end near
    the budget the best one that true costs allow is taken; so the budget holds, and the result is
    never worse than the Lagrangian one, nor than the optimum for a budget smaller by `width` times
    rows. When all costs are multiples of one number and few enough, that number is the bucket and
    the result is the exact optimum (width 0). The recurrence is that of SPDY, Frantar & Alistarh
    2022.
    """
    relaxed = solve_lagrangian(errors, costs, budget)
    found = total(errors, relaxed.choice)
    gap = found - relaxed.bound
    if gap <= CLOSE * max(abs(found), 1e-300):
        return relaxed
    price = errors + relaxed.multiplier * costs
    alive = price - price.min(axis=1, keepdims=True) <= gap * (1 + 1e-6) + CLOSE * abs(found)
    base = np.where(alive, costs, np.inf).min(axis=1)  # (rows,) the cheapest level left
    extra = np.where(alive, costs - base[:, None], np.inf)
    reach = min(float(np.where(alive, extra, 0.0).max(axis=1).sum()), budget - float(base.sum()))
    if reach <= 0:
        return relaxed
    width, exact = _bucket(extra[alive], reach, max(1, min(buckets, WORK // int(alive.sum()))))
    choice = least_errors(errors, extra, alive, width, reach)
    choice = greedy_fill(errors, costs, choice, budget)
    if total(errors, choice) > found * (1 + CLOSE) or total(costs, choice) > budget:
        choice = relaxed.choice
    return Solved(choice, relaxed.bound, relaxed.multiplier, 0.0 if exact else width)


def _bucket(extra: np.ndarray, reach: float, buckets: int) -> tuple[float, bool]:
    """Return (width, exact): the width of a bucket, and whether sums are exact.

    The width is the common divisor of all costs if they are whole numbers and it leaves few enough
    buckets, else reach / buckets.
    """
    if extra.max() < 2**53 and np.array_equal(extra, np.rint(extra)):
        unit = int(np.gcd.reduce(extra.astype(np.int64)))
        if unit and reach / unit <= buckets:
            return float(unit), True
    return reach / buckets, False


def least_errors(
    errors: np.ndarray, extra: np.ndarray, alive: np.ndarray, width: float, room: float
) -> np.ndarray:
    """Return the levels (rows,) of the least sum of errors within `room`, to the bucket.

    errors, extra: (rows, levels); extra costs count from the cheapest level. alive: (rows, levels)
    bool, the levels to choose from. Rows are added last to first and traced back first to last, so
    that among equal sums the first rows are removed least. Errors are whole numbers here (2^52 over
    their greatest sum), because sums of those do not depend on their order and ties are ties.
    """
    scale = 2.0**52 / max(float(np.where(alive, errors, 0.0).max(axis=1).sum()), 1e-300)
    whole = np.rint(np.where(alive, errors, 0.0) * scale).astype(np.int64)
    extra = np.where(alive, extra, 0.0)
    shift = np.rint(extra / width).astype(np.int64)
    free = np.flatnonzero(alive.sum(axis=1) > 1)
    near = len(free) // 2 + 1  # buckets by which the rounding of all rows together can mislead
    top = int(room / width) + near
    # least error of the rows so far, at no more than so many buckets
    best = np.zeros(top + 1, dtype=np.int64)
    picks = np.zeros((len(free), top + 1), dtype=np.int16)
    for n in range(len(free) - 1, -1, -1):
        row = free[n]
        new = np.full(top + 1, np.iinfo(np.int64).max)
        for level in np.flatnonzero(alive[row]):
            s = int(shift[row, level])
            if s > top:
                continue
            sums = best[: top + 1 - s] + whole[row, level]
            better = sums < new[s:]
            np.copyto(new[s:], sums, where=better)
            picks[n, s:][better] = level
        best = new
    # trace back from all ends near the budget
    left = np.arange(top, max(-1, top - 2 * near - 1), -1)
    choice = np.repeat(alive.argmax(axis=1)[:, None], len(left), axis=1)  # (rows, ends)
    for n, row in enumerate(free):
        choice[row] = picks[n, left]
        left = left - shift[row, choice[row]]
    fits = np.take_along_axis(extra, choice, axis=1).sum(axis=0) <= room * (1 + CLOSE)
    sums = np.where(
        fits, np.take_along_axis(whole, choice, axis=1).sum(axis=0), np.iinfo(np.int64).max
    )
    return choice[:, int(sums.argmin())]
