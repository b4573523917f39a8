"""The path benchmark: its textbook loop is the textbook's, its result is complete, its settings are
put back.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from core.bench.removal_path import (
    FORMS,
    LEVELS,
    path_benchmark,
    synthetic_layer,
    textbook_inverse,
    textbook_loop,
)
from core.errors import Stopped, StudioError
from core.pruning.obs import RemovalPath


@pytest.mark.parametrize("fused", [True, False])
def test_the_textbook_loop_picks_the_engines_order(fused: bool) -> None:
    weight, gram = (x.double() for x in synthetic_layer(64, 16, torch.device("cpu")))
    path = RemovalPath.from_gram(weight, gram, damping=1e-2)
    rewritten, inverse = weight.clone(), textbook_inverse(gram, 1e-2)
    order = textbook_loop(rewritten, inverse, 64, fused)
    assert torch.equal(order, path.order)
    rewritten, inverse = weight.clone(), textbook_inverse(gram, 1e-2)
    textbook_loop(rewritten, inverse, 20, fused)
    assert torch.allclose(rewritten, path.weights_at(20), atol=1e-9)


def test_a_tiny_benchmark_is_complete() -> None:
    threads, calls = torch.get_num_threads(), []
    found = path_benchmark(
        64,
        16,
        naive_steps=8,
        rounds=2,
        threads=1,
        progress=lambda done, total, text: calls.append((done, total)),
    )
    assert json.loads(json.dumps(found)) == found
    assert (
        torch.get_num_threads() == threads
        and found["threads"] == 1
        and found["device"].startswith("CPU")
    )
    assert calls == [(k, 6) for k in range(7)]
    assert found["engine"]["rung"] == "plain" and len(found["engine"]["rounds"]) == 2
    assert [level["removed"] for level in found["weights_at"]] == [
        round(64 * share) for share in LEVELS
    ]
    assert found["same_order"] == 1.0
    for form in FORMS:
        loop = found["textbook"][form]
        assert (
            loop["whole_seconds"]
            == pytest.approx(loop["inverse_seconds"] + 64 * loop["step_seconds"])
            and loop["dtype"] == "float32"
        )


def test_the_ratio_is_the_textbooks_whole_time_over_the_engines(monkeypatch) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)), strftime=time.strftime)
    monkeypatch.setattr("core.bench.removal_path.time", clock)
    found = path_benchmark(64, 16, naive_steps=8, rounds=2)
    # every timed call takes one second: the engine, the inversion, and eight steps together
    assert found["engine"]["seconds"] == 1.0
    assert found["ratio"] == found["ratio_as_published"] == 1.0 + 64 / 8
    assert found["ratio_spread"] == 0.0


def test_it_stops_and_refuses() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        path_benchmark(32, 8, naive_steps=4, rounds=1, stop=stop)
    for wrong in (
        {"naive_steps": 0},
        {"naive_steps": 33},
        {"rounds": 0},
        {"threads": 0},
        {"device": "abacus"},
    ):
        with pytest.raises(StudioError):
            path_benchmark(**{"n": 32, "d": 8, "naive_steps": 4, "rounds": 1} | wrong)
