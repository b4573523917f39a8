"""Test the sentences on a comparison: how fast, how far, and where a number is doubted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from core.workshop.closeness import closeness, distance_sentence
from core.workshop.verdict import Verdict


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
    assert "50%" not in found.sentence and "compare again" in found.sentence
    assert "6% fewer multiply-accumulates and a prediction of ×1.04" in found.sentence
    wide = verdict(2.0, spread=0.7)
    assert wide.doubtful and "differ too much" in wide.sentence


@pytest.mark.parametrize(("macs", "predicted"), [(1.06, 1.9), (1.9, 1.04), (2.1, None)])
def test_a_ratio_that_one_of_them_explains_is_announced(macs, predicted):
    found = verdict(2.0, macs, predicted)
    assert not found.doubtful and "took 50% less time" in found.sentence


def test_fewer_multiply_accumulates_alone_promise_no_time():
    found = verdict(1.1, macs=2.0, predicted=None)
    assert not found.doubtful and "took 9% less time" in found.sentence


def test_a_slower_side_says_why_only_where_it_is_known():
    foreseen = verdict(0.93, macs=1.5, predicted=1.0)
    assert "is slower: it took 8% more time" in foreseen.sentence
    assert "latency table foresaw it" in foreseen.sentence
    assert "foresaw" not in verdict(0.93, macs=1.5, predicted=None).sentence
    more_work = verdict(0.7, macs=0.7, predicted=0.7).sentence
    assert "43% more multiply-accumulates" in more_work and "foresaw" not in more_work


def test_more_calls_of_the_same_work_are_named_as_the_reason():
    found = replace(verdict(0.86, macs=1.0, predicted=1.04), calls=(7, 10))
    assert "calls the network 10 times per image against 7" in found.sentence
    assert "calls the network" not in replace(found, calls=(10, 10)).sentence


def test_no_difference_and_no_timing_are_doubtful_numbers():
    assert verdict(1.01).doubtful and "not measurably faster" in verdict(1.01).sentence
    untimed = verdict(None, spread=None)
    assert untimed.doubtful
    assert (
        untimed.sentence == "Not timed: Mine works with 6% fewer multiply-accumulates than Dense."
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
