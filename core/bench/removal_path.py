"""Time the path engine against the textbook loop: same layer, same threads, in turn.

The textbook loop (ZipLM, Kurtic et al. 2023, algorithm 1; OBC, Frantar & Alistarh 2022) rewrites
the (d, n) weight and the (n, n) inverse in full for every removed column. Two ways to write it in
torch stand in the result. As published, `inverse -= outer(v, v)`: the outer product is a second n x
n tensor each time. Fused, `inverse.addr_(v, v)`: one pass over the memory, the best that we found
for it.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import Stopped, StudioError
from ..models.devices import device_text, pick_device
from ..progress import Progress
from ..pruning.damped_problem import DEFAULT_DAMPING
from ..pruning.obs import RemovalPath
from ..sampling.timing import spread, synchronise

LEVELS = (0.1, 0.5, 0.9)  # shares removed at which `weights_at` is timed
FORMS = ("fused", "as_published")


def path_benchmark(
    n: int = 4608,
    d: int = 1152,
    naive_steps: int = 48,
    rounds: int = 3,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> dict:
    """Time `RemovalPath.from_gram` and the textbook loop in turn.

    `from_gram`: order, factor, scores and error curve, from a float32 Gram. n, d: columns and
    outputs of the layer; the defaults are one DiT-XL/2 MLP. naive_steps: removals of each textbook
    form timed in each round; its whole time is the inversion and n times the mean step, as every
    step touches the same full arrays. threads: of torch, for both; None leaves them. One untimed
    small round warms up. Returns a dict for JSON, seconds as median over the rounds:

      layer {n, d, damping, data}, device, threads, rounds, naive_steps, extrapolation (a sentence),
          when;
      engine {seconds, spread, rounds, rung, search}; weights_at [{removed, seconds, spread}];
      textbook {fused, as_published: {step_seconds, step_spread, inverse_seconds, whole_seconds,
          dtype}};
      ratio, ratio_spread: the fused loop's whole time over the engine's, round by round;
          ratio_as_published, ..._spread: the other's;
      same_order: share of the first naive_steps columns that the float32 loop and the engine agree
          on, place by place.

    Raises StudioError for sizes that make no sense, Stopped.
    """
    if not (1 <= naive_steps <= n and d >= 1 and rounds >= 1 and (threads is None or threads >= 1)):
        raise StudioError(
            "The path benchmark needs at least one output, round and thread, and at most as many"
            " removals as columns."
        )
    place = pick_device(device)
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        weight, gram = synthetic_layer(n, d, place)
        total = rounds * 3
        done = 0
        times: dict[str, list[float]] = {name: [] for name in ("engine", "inverse", *FORMS)}
        levels: list[list[float]] = [[] for _ in LEVELS]
        order = torch.empty(0)
        path = RemovalPath.from_gram(*synthetic_layer(min(n, 256), d, place))  # loads the libraries
        for _ in range(rounds):
            for name in ("engine", *FORMS):
                if stop is not None and stop.is_set():
                    raise Stopped("Stopped while timing the path engine; nothing was stored.")
                if progress is not None:
                    progress(done, total, f"path engine: {name.replace('_', ' ')}, {n} columns")
                if name == "engine":
                    del path
                    path, took = _timed(
                        place, RemovalPath.from_gram, weight, gram, 1, DEFAULT_DAMPING
                    )
                    for seconds, share in zip(levels, LEVELS, strict=True):
                        seconds.append(_timed(place, path.weights_at, round(share * n))[1])
                else:
                    inverse, took = _timed(place, textbook_inverse, gram, DEFAULT_DAMPING)
                    times["inverse"].append(took)
                    order, took = _time_textbook(
                        place, weight.clone(), inverse, naive_steps, name == "fused"
                    )
                    del inverse
                times[name].append(took)
                done += 1
        if progress is not None:
            progress(total, total, "path engine: done")
        return _report(weight, times, levels, path, order, place, naive_steps)
    finally:
        torch.set_num_threads(before)


def synthetic_layer(n: int, d: int, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a float32 weight (d, n) and the Gram (n, n) of correlated inputs.

    The spectrum is a power law in a random basis, the scales are uneven.
    """
    generator = torch.Generator().manual_seed(seed)
    # columns are directions
    mix = torch.randn(n, n, generator=generator) * torch.arange(1, n + 1).pow(-0.5)
    mix *= torch.logspace(0, -1, n)[torch.randperm(n, generator=generator), None]
    gram = (mix @ mix.T).to(device)
    return torch.randn(d, n, generator=generator).to(device), gram


def textbook_inverse(gram: Tensor, damping: float) -> Tensor:
    """Return the damped inverse that the loop starts from, in the Gram's type."""
    damped = gram.clone()
    damped.diagonal().add_(damping * gram.diagonal().mean())
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))


def textbook_loop(weight: Tensor, inverse: Tensor, steps: int, fused: bool = True) -> Tensor:
    """Return the first `steps` columns (steps,) that the textbook removes.

    `weight` (d, n) and `inverse` (n, n) are rewritten at each removal.
    """
    n = len(inverse)
    gone = torch.zeros(n, dtype=torch.bool, device=weight.device)
    squares = torch.empty_like(weight)
    order = torch.empty(steps, dtype=torch.int64, device=weight.device)
    for k in range(steps):
        scores = (
            torch.mul(weight, weight, out=squares)
            .sum(0)
            .div_(inverse.diagonal())
            .masked_fill_(gone, torch.inf)
        )
        j = scores.argmin(0, keepdim=True)
        root = inverse[j, j].rsqrt()
        v, c = inverse[j][0] * root, weight[:, j][:, 0] * root
        if fused:
            weight.addr_(c, v, alpha=-1)
            inverse.addr_(v, v, alpha=-1)
        else:
            weight -= torch.outer(c, v)
            inverse -= torch.outer(v, v)
        gone.index_fill_(0, j, True)
        order[k : k + 1] = j
    return order


def _time_textbook(
    place: torch.device, weight: Tensor, inverse: Tensor, steps: int, fused: bool
) -> tuple[Tensor, float]:
    """Return the order found and the seconds of one step."""
    # so that no first call is timed
    textbook_loop(weight.clone(), inverse.clone(), min(2, steps), fused)
    order, took = _timed(place, textbook_loop, weight, inverse, steps, fused)
    return order.cpu(), took / steps


def _timed(place: torch.device, call: Callable, *arguments: object) -> tuple:
    """Return the result of the call and the seconds that it took."""
    synchronise(place)
    start = time.perf_counter()
    result = call(*arguments)
    synchronise(place)
    return result, time.perf_counter() - start


def _report(
    weight: Tensor,
    times: dict[str, list[float]],
    levels: list[list[float]],
    path: RemovalPath,
    order: Tensor,
    place: torch.device,
    steps: int,
) -> dict:
    """Return the result for JSON."""
    d, n = weight.shape
    middle = statistics.median
    inverse = middle(times["inverse"])
    whole = {form: [inverse + n * step for step in times[form]] for form in FORMS}
    ratios = {
        form: [slow / fast for slow, fast in zip(whole[form], times["engine"], strict=True)]
        for form in FORMS
    }
    return {
        "layer": {"n": n, "d": d, "damping": path.damping, "data": "synthetic, correlated, seed 0"},
        "device": device_text(place),
        "threads": torch.get_num_threads(),
        "rounds": len(times["engine"]),
        "naive_steps": steps,
        "extrapolation": (
            f"The textbook loop was timed on its first {steps} removals; every removal touches the"
            f" same full arrays, so its whole time is one inversion and {n} times one step."
        ),
        "engine": {
            "seconds": middle(times["engine"]),
            "spread": spread(times["engine"]),
            "rounds": times["engine"],
            "rung": path.rung,
            "search": path.search,
        },
        "weights_at": [
            {"removed": round(share * n), "seconds": middle(took), "spread": spread(took)}
            for share, took in zip(LEVELS, levels, strict=True)
        ],
        "textbook": {
            form: {
                "step_seconds": middle(times[form]),
                "step_spread": spread(times[form]),
                "inverse_seconds": inverse,
                "whole_seconds": middle(whole[form]),
                "dtype": str(weight.dtype).removeprefix("torch."),
            }
            for form in FORMS
        },
        "ratio": middle(ratios["fused"]),
        "ratio_spread": spread(ratios["fused"]),
        "ratio_as_published": middle(ratios["as_published"]),
        "ratio_as_published_spread": spread(ratios["as_published"]),
        "same_order": float((order == path.order[:steps]).double().mean()),
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }
