"""Search for the plan with the best pictures within a budget, guided by what was seen so far.

The space is searched with Optuna's Gaussian process sampler (Akiba et al. 2019, arXiv 1907.10902),
which starts from the paper's formula, fewer dense steps and the error curves. A budget is kept by
construction: sparsities are scaled until the run costs what it may.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import Stopped, StudioError
from ..sampling.timing import measure_alternating, spread
from ..workshop.workshop import Workshop
from .configuration import Configuration
from .found import Report, Tuned
from .goal import Effort, Goal
from .kept import question
from .quality import Quality, draw, quick_dtype
from .record import Evaluation, Journal, front, within
from .sampler import Asker
from .space import Params, Space

FINALISTS = 3  # judged on held-out noises
SLACK = 1.15  # of times that are foreseen from those before
ROUNDS = 3  # of timed runs
FEWEST_ON_FRONT = 5
LADDER = (0.7, 0.5, 1.4, 2.0, 0.35, 2.8, 0.25, 0.18)  # of the best one's cost, to fill the front
DECODING = 0.1  # of the reference's time, before anything is known of it
FIRST_SHARE, LEAST_SHARE = 0.12, 0.01  # of the reference's cost, where `match_dense` looks
TRIES = 6  # evaluations at one budget before `match_dense` takes another
SEEDS = 12  # at most so many numbers are not the sampler's own
REFUSED = 40  # numbers in a row that keep no budget, after which the search ends
HELD_OUT_SEED = 104_729  # beside the seed of the search


@dataclass
class Tune:
    """One search. `run` yields reports and, last, what it found.

    folder: where evaluations are kept, to go on after a stop or a kill; None: nowhere.
    """

    workshop: Workshop
    goal: Goal
    space: Space
    quality: Quality
    effort: Effort = field(default_factory=Effort)
    folder: Path | None = None
    stop: threading.Event | None = None

    def __post_init__(self) -> None:
        self.reference = self.space.reference
        if self.goal.match_dense and not self.quality.moves:
            raise StudioError(
                "As good as dense takes a feature network or an image encoder: by the distance to"
                " dense nothing but the dense model itself is as good."
            )
        self.journal = Journal(
            self.folder, question(self.goal, self.space, self.quality, self.effort)
        )
        self._start = time.monotonic() - self.journal.spent
        self._seen = {e.configuration: e for e in self.journal.evaluations}
        self._dtype = quick_dtype(self.workshop)
        if max(self.effort.images, self.effort.held_out) < self.quality.least:
            raise StudioError(
                f"{self.quality.name} needs at least {self.quality.least} images of a"
                " configuration."
            )

    # ------------------------------------------------------------ time

    @property
    def spent(self) -> float:
        """Return the seconds of this tune so far, those before a kill included."""
        return time.monotonic() - self._start

    def _time_for(self, seconds: float, front: bool = True) -> bool:
        """Say whether something of so many seconds still fits before the finalists are judged.

        front: with time kept to fill the front.
        """
        return self.spent + seconds + self._reserve(front) < self.effort.seconds

    def _usual(self) -> float:
        """Return the seconds that an evaluation usually takes, those that ran last counting.

        Before the first one, what the reference's time and the budget let expect.
        """
        first = self._seen.get(self.reference)
        own = [e for e in self.journal.evaluations if e.held_out is None]
        took = [e.took for e in own if e.configuration != self.reference][-8:]
        if took:
            return statistics.median(took)
        if first is None:
            return 0.0
        whole = first.cost(self.goal.counts)
        share = min(1.0, self.goal.budget(whole) / whole)
        return first.took * ((FIRST_SHARE if self.goal.match_dense else share) + DECODING)

    def _reserve(self, front: bool) -> float:
        """Return the seconds to keep for the finalists, the measurement and perhaps the front."""
        usual, first = self._usual(), self._seen.get(self.reference)
        whole = 0.0 if first is None else first.took
        judging = FINALISTS * usual + (whole if self.goal.match_dense else 0.0)
        share = self.effort.held_out / self.effort.images
        filling = (FEWEST_ON_FRONT - 1) * usual if front else 0.0
        kept = SLACK * (share * judging + filling) + self._measuring()
        return min(kept, 0.6 * self.effort.seconds)

    def _measuring(self) -> float:
        """Return the seconds that timing the reference against the best will take."""
        first = self._seen.get(self.reference)
        one = 0.0 if first is None else first.took * self.space.batch / first.n
        return SLACK * (ROUNDS + 1) * 2 * one

    # ------------------------------------------------------------ evaluations

    def _evaluate(self, what: Configuration, params: Params | None = None) -> Evaluation:
        """Draw and judge a configuration, once. Raises Stopped, StudioError."""
        if what in self._seen:
            return self._seen[what]
        start = time.monotonic()
        effort = self.effort
        drawn = draw(self.workshop, what, effort.images, effort.seed, self.stop, self._dtype)
        if what == self.reference:
            self.quality.keep(drawn, effort.seed)
        found = Evaluation(
            configuration=what,
            macs=what.macs(self.workshop),
            seconds=what.seconds(self.workshop, self.space.batch, self.space.mode),
            quality=self.quality.score(drawn, effort.seed),
            n=effort.images,
            took=time.monotonic() - start,
            params=params,
        )
        self.journal.add(found)
        self._seen[what] = found
        return found

    def _held_out(self, one: Evaluation) -> Evaluation:
        """Judge an evaluation on held-out noises, once. Raises Stopped, StudioError."""
        for known in self.journal.evaluations:
            if known.configuration == one.configuration and known.held_out is not None:
                return known
        start = time.monotonic()
        seed = self.effort.seed + HELD_OUT_SEED
        drawn = draw(
            self.workshop, one.configuration, self.effort.held_out, seed, self.stop, self._dtype
        )
        score = self.quality.score(drawn, seed)
        judged = self.journal.judge(one, score, time.monotonic() - start)
        self._seen[one.configuration] = judged
        return judged

    def _report(self, text: str) -> Report:
        """Return how far the tune is."""
        total = self.effort.evaluations
        return Report(text, min(len(self._seen), total), total, tuple(self._seen.values()))

    def _room(self) -> bool:
        """Say whether one more evaluation may begin."""
        if self.stop is not None and self.stop.is_set():
            return False
        return len(self._seen) < self.effort.evaluations and self._time_for(self._usual())

    # ------------------------------------------------------------ the search

    def run(self) -> Iterator[Report | Tuned]:
        """Yield a report after every evaluation, and last what was found.

        Stop keeps the best so far. Raises StudioError for a goal that nothing can meet, and Stopped
        where nothing within the budget was evaluated before the stop.
        """
        self.space.check_reachable(self.goal)
        stopped = False
        try:
            yield self._report(f"drawing the reference, {self.reference.text}")
            reference = self._evaluate(self.reference)
            yield from self._search(reference)
            yield from self._fill_front(reference)
        except Stopped:
            stopped = True
        if self.reference not in self._seen:
            raise Stopped("Stopped before the reference was drawn.")
        yield from self._finish(self._seen[self.reference], stopped)

    def _search(self, reference: Evaluation) -> Iterator[Report]:
        """Yield reports while configurations are tried, at one budget or along a ladder of them."""
        whole = reference.cost(self.goal.counts)
        if not self.goal.match_dense:
            yield from self._at_budget(self.goal.budget(whole), self.effort.evaluations)
            return
        share, step = FIRST_SHARE, 0.7
        best: float | None = None  # the smallest share that was good enough
        while self._room() and LEAST_SHARE < share <= 1:
            before = len(self._seen)
            yield from self._at_budget(share * whole, TRIES)
            good = [
                e.cost(self.goal.counts) / whole
                for e in self._seen.values()
                if e.quality <= reference.quality and e.configuration != self.reference
            ]
            best = min(good, default=None)
            if best is None:
                share = min(1.0, share * 1.8)
            elif best <= share * 1.02:
                share = best * step
            else:  # not good enough here: nearer to what was
                share, step = (share * best) ** 0.5, min(0.95, step**0.5)
            if len(self._seen) == before:
                step = min(0.95, step**0.5)
                if best is None and share >= 1:
                    return

    def _at_budget(self, budget: float, most: int) -> Iterator[Report]:
        """Yield reports while up to `most` new configurations of one budget are evaluated."""
        asker = Asker(self.space.ranges(), self.effort.seed)
        counts = self.goal.counts
        for known in self._seen.values():
            if known.params is not None and abs(known.cost(counts) / budget - 1) < 0.1:
                asker.tell(known.params, known.quality)
        seeds = self.space.seeds(budget)
        count = refused = 0
        while count < most and refused < REFUSED and self._room():
            label, params = next(seeds, ("", {})) if count + refused < SEEDS else ("", {})
            params = params or asker.ask()
            what = self.space.configuration(params, budget, label)
            if what is None or self._known(what):
                refused += 1
                asker.refuse(params)
                continue
            try:
                found = self._evaluate(what, params)
            except Stopped:
                raise
            except StudioError:  # a solver that ends in NaN at these steps, say
                refused += 1
                asker.refuse(params)
                continue
            refused, count = 0, count + 1
            asker.tell(params, found.quality)
            yield self._report(f"{what.text}: {found.quality:.2f}")

    def _fill_front(self, reference: Evaluation) -> Iterator[Report]:
        """Yield reports while the best numbers are tried at other budgets, to fill the front."""
        counts = self.goal.counts
        found = [e for e in self._seen.values() if e.params is not None]
        if not found:
            return
        budget = self.goal.budget(reference.cost(counts))
        best = min(within(found, budget, counts) or found, key=lambda e: e.quality)
        assert best.params is not None  # chosen above
        for share in LADDER:
            if len(front(self._seen.values(), counts)) >= FEWEST_ON_FRONT:
                return
            if self.stop is not None and self.stop.is_set():
                return
            if not self._time_for(self._usual(), front=False):
                return
            what = self.space.configuration(best.params, share * best.cost(counts))
            if what is not None and what not in self._seen:
                self._evaluate(what, best.params)
                yield self._report(f"the front: {what.text}")

    # ------------------------------------------------------------ the end

    def _finish(self, reference: Evaluation, stopped: bool) -> Iterator[Report | Tuned]:
        """Yield reports while the finalists are judged, and what was found."""
        counts, notes = self.goal.counts, []
        budget = self.goal.budget(reference.cost(counts))
        own = [e for e in self._seen.values() if e.configuration != self.reference]
        kept = within(own, budget, counts)
        if not kept and (stopped or (self.stop is not None and self.stop.is_set())):
            raise Stopped("Stopped before a plan within the budget was evaluated.")
        if not kept:
            raise StudioError(
                f"In {self.effort.seconds:g} s no plan within the budget could be evaluated: the"
                f" reference alone took {reference.took:.0f} s. Allow more time, or fewer images."
            )
        ranked = self._ranked(kept, reference)
        judged: list[Evaluation] = []
        try:
            if not stopped:
                yield self._report("judging the best on held-out noises")
                if self.goal.match_dense:
                    reference = self._held_out(reference)
                share = self.effort.held_out / self.effort.images
                for one in ranked[:FINALISTS]:
                    if self.spent + SLACK * share * one.took > self.effort.seconds:
                        continue
                    judged.append(self._held_out(one))
        except Stopped:
            stopped = True
        if judged:
            best = self._best(judged, reference)
        else:
            best = ranked[0]
            notes.append("The best was not judged on held-out noises: there was no time for it.")
        speedup = None
        if not stopped and self.spent + self._measuring() <= self.effort.seconds:
            yield self._report("timing the reference and the best in turn")
            try:
                speedup = self._measure(best.configuration)
            except Stopped:
                stopped = True
        if self.goal.match_dense and not self._good(best, reference):
            notes.append("Nothing cheaper was found that is no worse than the reference.")
        yield Tuned(
            goal=self.goal,
            reference=reference,
            best=best,
            evaluations=tuple(self._seen.values()),
            quality=self.quality.name,
            seconds=self.spent,
            notes=tuple(notes),
            stopped=stopped,
            speedup=speedup,
        )

    def _known(self, what: Configuration) -> bool:
        """Say whether a configuration was evaluated, under this label or another."""
        return any(replace(known, label="") == replace(what, label="") for known in self._seen)

    def _measure(self, best: Configuration) -> tuple[float, float]:
        """Return how many times faster the best runs than the reference: median, spread.

        Whole runs of the usual images in turn, after one of each that does not count, in the
        precision of the model. Raises Stopped.
        """
        workshop, images = self.workshop, self.space.batch

        def call(what: Configuration) -> Callable[[], object]:
            mode = self.space.mode
            return lambda: draw(workshop, what, images, self.effort.seed, self.stop, mode=mode)

        seconds = measure_alternating(
            [call(self.reference), call(best)],
            workshop.device,
            repeats=ROUNDS,
            warm_up=1,
            stop=self.stop,
        )
        ratios = [a / b for a, b in zip(*seconds, strict=True)]
        return statistics.median(ratios), spread(ratios)

    def _ranked(self, kept: list[Evaluation], reference: Evaluation) -> list[Evaluation]:
        """Return the finalists first: the best, or the cheapest of those that are good enough."""
        good = [e for e in kept if e.quality <= reference.quality]
        if self.goal.match_dense and good:
            return sorted(good, key=lambda e: e.cost(self.goal.counts))
        return sorted(kept, key=lambda e: e.quality)

    @staticmethod
    def _good(one: Evaluation, reference: Evaluation) -> bool:
        """Say whether an evaluation is no worse than the reference, by held-out noises."""
        if one.held_out is None or reference.held_out is None:
            return one.quality <= reference.quality
        return one.held_out <= reference.held_out

    def _best(self, judged: list[Evaluation], reference: Evaluation) -> Evaluation:
        """Return the best of the finalists by held-out noises."""
        if self.goal.match_dense:
            good = [e for e in judged if self._good(e, reference)]
            if good:
                return min(good, key=lambda e: e.cost(self.goal.counts))
        return min(judged, key=lambda e: float("inf") if e.held_out is None else e.held_out)
