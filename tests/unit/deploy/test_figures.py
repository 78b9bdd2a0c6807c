"""Intervals over requests and totals, and how far apart one of several places may be by chance."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from engine.deploy.figures import Figure, Served, Z, _holm, by_place, headline, ratio_over_requests
from engine.deploy.prediction import Prediction
from engine.measure.statistics import bootstrap_ratio
from engine.measure.text_rounds import TextRounds
from engine.records.interval import Interval
from engine.records.served import RoundTotals


def test_of_few_requests_each_is_resampled():
    tops, bottoms = [3.0, 1.0, 4.0, 1.0, 5.0], [9.0, 2.0, 6.0, 5.0, 8.0]
    assert ratio_over_requests(tops, bottoms) == bootstrap_ratio(tops, bottoms)


@pytest.mark.slow
def test_of_many_requests_groups_give_the_same_interval():
    rng = np.random.default_rng(0)
    bottoms = rng.integers(10, 100, 5_500).astype(float)
    tops = rng.binomial(bottoms.astype(int), 0.3).astype(float)
    grouped, each = ratio_over_requests(list(tops), list(bottoms)), bootstrap_ratio(tops, bottoms)
    assert (grouped.value, grouped.n_prompts) == (pytest.approx(each.value, abs=1e-12), 5_500)
    assert grouped.high - grouped.low == pytest.approx(each.high - each.low, rel=0.1)


def at_places(*distances: float) -> list[Figure]:
    one = Interval(0.5)
    return [Figure(f"place_{i}", "", one, one, "rounds", distance) for i, distance in enumerate(distances, 1)]


def test_the_furthest_of_several_places_is_held_to_the_widest_bound():
    """5% / 3, 5% / 2, 5%: 2.39, 2.24 and 1.96 standard errors."""
    figures = _holm(at_places(-3.71, 2.2, 3.7))
    assert [round(figure.limit, 2) for figure in figures] == [2.39, 1.96, 2.24]
    assert [figure.agrees for figure in figures] == [False, False, False]


def test_after_one_that_agrees_the_rest_agree_too():
    figures = _holm(at_places(2.1, -2.3, math.nan, 2.2))
    assert [figure.agrees for figure in figures] == [True, True, None, True]
    assert {round(figure.limit, 2) for figure in figures if figure.agrees} == {2.39}


def test_places_that_agree_are_called_different_in_five_of_a_hundred_cases_in_all():
    rng = np.random.default_rng(1)
    wrong = sum(any(f.agrees is False for f in _holm(at_places(*rng.standard_normal(8)))) for _ in range(2000))
    assert NormalDist(0.05, math.sqrt(0.05 * 0.95 / 2000)).zscore(wrong / 2000) < 3


def evenly(accepted_at: tuple[float, ...], rounds: float = 10.0) -> Prediction:
    """Twenty prompts that are all alike, so that what is predicted has no spread of its own."""
    text = TextRounds(rounds, 3 * rounds, sum(accepted_at), accepted_at, rounds)
    return Prediction(1.0, "sampled", 3, {str(i): text for i in range(20)})


def test_a_place_that_was_never_accepted_agrees_with_one_that_hardly_ever_is():
    """Resampled zeros have no spread, which is not evidence that the rate is 0."""
    requests = [RoundTotals(requests=1, rounds=10, proposed=30, accepted=4, accepted_at=[3, 1])] * 20
    whole = RoundTotals(requests=20, rounds=200, proposed=600, accepted=80, accepted_at=[60, 20])
    for served in (Served(whole), Served(whole, requests), Served(whole, requests, [str(i) for i in range(20)])):
        places = by_place(evenly((3.0, 1.0, 0.02)), served)
        assert [(figure.name, figure.agrees) for figure in places] == [(f"place_{i}", True) for i in (1, 2, 3)]
        assert by_place(evenly((3.0, 1.0, 0.9)), served)[2].agrees is False, "missing from the list, it is a count of 0"


def test_a_distance_that_is_no_number_is_said_in_words():
    """Two measurements without spread were shown as -inf standard errors apart."""
    assert [figure.apart for figure in at_places(0.44, -3.7, float("nan"), float("-inf"))] == [
        *("+0.4", "-3.7", "–", "no spread")
    ]


@pytest.mark.parametrize("accepted", [2, 118])
def test_an_interval_from_totals_ends_where_the_figure_does_and_the_distance_does_not_shrink(accepted):
    """118 of 120 accepted tokens were shown as 0.983 [0.944, 1.023]; of 2, the part below 0 that was cut off made the
    standard error smaller by a third, so that a server was sooner said to differ."""
    totals = RoundTotals(requests=2, rounds=40, proposed=120, accepted=accepted)
    share, length = headline(evenly((4.0, 4.0, 4.0)), Served(totals))
    assert 0 <= share.served.low < share.served.value < share.served.high <= 1
    assert 1 <= length.served.low < length.served.value < length.served.high <= 4
    mean = accepted / 40
    error = math.sqrt(mean * (3 - mean) / 40) / 3
    assert share.distance == pytest.approx((accepted / 120 - 0.4) / error)
    assert length.distance == pytest.approx(share.distance)
    assert share.served.high - share.served.low < 2 * Z * error
