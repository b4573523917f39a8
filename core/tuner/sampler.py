"""Ask Optuna for the numbers to try next."""

from __future__ import annotations

import warnings
from typing import Any

from .space import Params, Range

STARTING = 6  # told results before the sampler models what it saw


class Asker:
    """Numbers to try next, given those that were tried and what they gave.

    Seeded: the same history gives the same numbers.
    """

    def __init__(self, ranges: dict[str, Range], seed: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sampler is marked experimental
            sampler = optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=STARTING, deterministic_objective=True
            )
        self._study = optuna.create_study(sampler=sampler)
        self._optuna: Any = optuna
        self._spread = {name: _distribution(optuna, one) for name, one in ranges.items()}
        self._asked: dict[tuple, Any] = {}  # numbers that were asked for, and not told yet
        self._worst: float | None = None

    def ask(self) -> Params:
        """Return numbers to try."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self._study.ask(self._spread)
        self._asked[_key(trial.params)] = trial
        return dict(trial.params)

    def tell(self, params: Params, quality: float) -> None:
        """Say what some numbers gave, whether they were asked for or not."""
        self._worst = quality if self._worst is None else max(self._worst, quality)
        trial = self._asked.pop(_key(params), None)
        if trial is not None:
            self._study.tell(trial, quality)
            return
        known = {name: params[name] for name in self._spread if name in params}
        if len(known) < len(self._spread):
            return  # numbers of another space
        try:
            made = self._optuna.trial.create_trial(
                params=known, distributions=self._spread, value=quality
            )
        except ValueError:  # outside of the ranges: a formula's boundary, say
            return
        self._study.add_trial(made)

    def refuse(self, params: Params) -> None:
        """Say that some numbers cannot be: they count as the worst that was seen."""
        trial = self._asked.pop(_key(params), None)
        if trial is None:
            return
        if self._worst is None:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, self._worst)


def _distribution(optuna: Any, one: Range) -> Any:
    """Return a range as Optuna writes it."""
    kinds = optuna.distributions
    if one.choices:
        return kinds.CategoricalDistribution(one.choices)
    if one.whole:
        return kinds.IntDistribution(int(one.low), int(one.high), log=one.log)
    return kinds.FloatDistribution(one.low, one.high, log=one.log)


def _key(params: Params) -> tuple:
    """Return numbers as a key."""
    return tuple(sorted(params.items()))
