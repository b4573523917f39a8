"""Test the sentences on a comparison: how fast, how far, and where a number is doubted."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from core.models.alignment import width_warnings
from core.models.layers import PrunableLayer
from core.sampling.timing import LatencyTable
from core.workshop.closeness import closeness, distance_sentence
from core.workshop.verdict import Verdict
from core.workshop.why_slow import Circumstances, fixed_share, outside_share

LAYERS = [
    PrunableLayer("block 1 neurons", 0, "neurons", "", "", 128, 1, 1, 1),
    PrunableLayer("block 1 heads", 0, "heads", "", "", 4, 16, 1, 1),
]


def verdict(ratio, macs=1.06, predicted=1.04, spread=0.02, equal=False) -> Verdict:
    return Verdict(
        a="Dense",
        b="Mine",
        ratio=ratio,
        spread=spread,
        runs=3,
        images=16,
        macs_ratio=macs,
        equal_pictures=equal,
        predicted=predicted,
    )


def test_a_ratio_that_work_and_prediction_do_not_explain_is_doubted():
    found = verdict(2.0)
    assert found.doubtful and "seemed to take less time" in found.sentence
    assert "50 %" not in found.sentence and "compare again" in found.sentence
    assert "6 % fewer multiply-accumulates and a prediction of ×1.04" in found.sentence
    wide = verdict(2.0, spread=0.7)
    assert wide.doubtful and "differ too much" in wide.sentence


@pytest.mark.parametrize(("macs", "predicted"), [(1.06, 1.9), (1.9, 1.04), (2.1, None)])
def test_a_ratio_that_one_of_them_explains_is_announced(macs, predicted):
    found = verdict(2.0, macs, predicted)
    assert not found.doubtful and "took 50 % less time" in found.sentence


def test_fewer_multiply_accumulates_alone_promise_no_time():
    found = verdict(1.1, macs=2.0, predicted=None)
    assert not found.doubtful and "took 9 % less time" in found.sentence


def test_a_slower_side_says_why_only_where_it_is_known():
    foreseen = verdict(0.93, macs=1.5, predicted=1.0)
    assert "is slower: it took 8 % more time" in foreseen.sentence
    assert "latency table foresaw it" in foreseen.sentence
    assert "foresaw" not in verdict(0.93, macs=1.5, predicted=None).sentence
    more_work = verdict(0.7, macs=0.7, predicted=0.7).sentence
    assert "43 % more multiply-accumulates" in more_work and "foresaw" not in more_work


def test_more_calls_of_the_same_work_are_named_as_the_reason():
    found = replace(verdict(0.86, macs=1.0, predicted=1.04), calls=(7, 10))
    assert "calls the network 10 times per image against 7" in found.sentence
    assert "calls the network" not in replace(found, calls=(10, 10)).sentence


def test_no_difference_and_no_timing_are_doubtful_numbers():
    assert verdict(1.01).doubtful and "not measurably faster" in verdict(1.01).sentence
    untimed = verdict(None, spread=None)
    assert untimed.doubtful
    assert (
        untimed.sentence == "Not timed: Mine works with 6 % fewer multiply-accumulates than Dense."
    )
    same = verdict(None, macs=1.0, spread=None, equal=True)
    assert same.inert and "not timed" in same.sentence


@pytest.mark.parametrize(
    ("decibel", "words"),
    [
        (45, "hardly to be seen"),
        (40, "hardly to be seen"),
        (39.9, "small differences"),
        (25, "clearly different details"),
        (19.9, "other pictures"),
        (math.nan, "not comparable"),
    ],
)
def test_a_distance_has_words_that_a_person_knows(decibel, words):
    assert closeness(decibel) == words


def test_the_distance_names_number_span_and_n():
    assert distance_sentence(27.46, [20.0, 35.0, math.inf], seed=7) == (
        "How far do the pictures move? Clearly different details: 27.5 dB PSNR on average,"
        " from 20 to 35 (n = 3, 1 of them equal, seed 7)."
    )
    assert "Not at all: all 2 are equal" in distance_sentence(None, [math.inf] * 2, seed=0)


# ------------------------------------------------------------ why not faster, and what would help

SLOW_GPU = Circumstances("cuda", 2, "plain", ("plain", "graphs", "compiled"), fixed=0.9)
SLOW_CPU = Circumstances("cpu", 2, "plain", ("plain", "compiled"), fixed=0.4)


def why(where, ratio=1.0, macs=1.9, predicted=1.0):
    found = replace(verdict(ratio, macs, predicted), where=where)
    return found.sentence


def test_launches_are_the_reason_on_cuda_run_plain_and_graphs_the_help():
    said = why(SLOW_GPU)
    assert "was not measurably faster" in said and "latency table foresaw it" in said
    assert "90 % of a dense forward of 2 rows takes as long at every width" in said
    assert "waits for launches" in said and "captured graphs would take the launches away" in said
    # without graphs, what is next
    said = why(replace(SLOW_GPU, modes=("plain", "compiled")))
    assert "compiled blocks would" in said and "captured graphs" not in said


def test_in_graphs_nothing_waits_for_launches_and_compiling_is_the_help():
    said = why(replace(SLOW_GPU, mode="graphs", fixed=0.4))
    assert "launches" not in said and "40 % of a dense forward" in said
    assert "norms, modulation, gates" in said and "compiled blocks would" in said
    said = why(replace(SLOW_GPU, mode="compiled", fixed=0.4))
    assert "no other mode of this device takes that away" in said and "more images" in said


def test_on_a_cpu_compiling_is_the_help_where_it_is_there():
    assert "compiled blocks would" in why(SLOW_CPU) and "launches" not in why(SLOW_CPU)
    assert "no other mode runs on this device" in why(replace(SLOW_CPU, modes=("plain",)))


def test_times_of_single_layers_say_more_exactly_what_does_not_shrink():
    said = why(replace(SLOW_CPU, outside=0.55))
    assert "55 % of a dense forward of 2 rows does not shrink with the layers" in said
    assert "40 %" not in said


def test_unaligned_widths_are_the_reason_by_layer():
    (odd,) = width_warnings(LAYERS, [[37, 4]] * 3, "cuda")
    where = replace(SLOW_GPU, mode="graphs", fixed=0.05, widths=(odd,))
    for ratio in (0.93, 0.6):  # foreseen, and beyond all that was
        said = why(where, ratio=ratio)
        assert "is slower" in said and "at every width" not in said
        assert "kept columns are no multiple of 8 in block 1 neurons (37)" in said


def test_a_faster_side_has_no_reason_and_one_with_as_much_work_neither():
    assert "every width" not in why(SLOW_GPU, ratio=1.8, predicted=1.8)
    assert "every width" not in why(SLOW_GPU, macs=1.0)
    # nothing known: nothing said
    assert why(Circumstances("cpu", 2, "plain", ("plain",)), predicted=None).count(";") == 0


def test_the_fixed_share_is_where_the_line_of_the_table_meets_no_work():
    table = LatencyTable("CPU", 2, (1e6, 2e6, 4e6), (3.0, 4.0, 6.0))
    assert fixed_share(table) == pytest.approx(2 / 6)
    assert fixed_share(None) is None
    assert fixed_share(replace(table, seconds=(1.0, 2.0, 4.0))) == 0
    assert fixed_share(replace(table, seconds=(6.0, 6.0, 5.0))) == 1
    assert outside_share(2.0, 0.5) == 0.75 and outside_share(1.0, 3.0) == 0


def test_circumstances_come_back_from_json():
    where = replace(SLOW_GPU, widths=("One.",), outside=0.5)
    assert Circumstances.from_json(json.loads(json.dumps(where.to_json()))) == where
