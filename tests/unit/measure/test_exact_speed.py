"""The arithmetic of benchmarks/exact_speed.py: time to an interval's width from seconds and from how prompts differ."""

import numpy as np
import pytest

from benchmarks.exact_speed import NORMAL, Way, compared
from engine.measure.statistics import bootstrap_ratio


def way(seconds, rates, judged):
    judged = np.asarray(judged, float)
    return Way(np.full(len(judged), seconds), np.asarray(rates) * judged, judged)


@pytest.fixture
def rates():
    return np.random.default_rng(0).uniform(0.3, 0.7, 400)


def test_the_half_width_is_that_of_the_interval_over_prompts(rates):
    judged = np.random.default_rng(1).integers(20, 60, len(rates))
    one = way(0.1, rates, judged)
    interval = bootstrap_ratio(one.accepted, one.judged)
    assert one.half_width(np.ones(len(rates))) == pytest.approx((interval.high - interval.low) / 2, rel=0.1)
    assert one.rate(np.ones(len(rates))) == pytest.approx(interval.value)


def test_time_goes_with_the_square_of_the_width_and_not_with_the_number_of_prompts(rates):
    whole, half = way(0.1, rates, np.full(400, 40)), way(0.1, rates[:200], np.full(200, 40))
    to = [one.seconds_to(0.01, np.ones(n)) for one, n in ((whole, 400), (half, 200))]
    assert to[0] == pytest.approx(to[1], rel=0.15)
    assert whole.seconds_to(0.005, np.ones(400)) == pytest.approx(4 * to[0])
    spread = NORMAL * rates.std()  # of one prompt; (spread / width) squared are needed
    assert to[0] == pytest.approx(0.1 * (spread / 0.01) ** 2)


def test_the_ratio_counts_pace_and_noise_and_has_an_interval(rates):
    exact = way(0.1, rates, np.full(400, 40))
    noisy = way(0.3, 0.5 + 2 * (rates - 0.5), np.full(400, 40))
    result = compared(exact, noisy, 40.0, 0.01)
    assert result["ratio"]["value"] == pytest.approx(3 * 4, rel=0.01)
    assert result["ratio_with_capture"]["value"] == pytest.approx(12 / 2, rel=0.01)  # 0.1 s a prompt more
    assert result["exact"]["seconds"] == pytest.approx(40.0)
    other = way(0.3, np.random.default_rng(2).uniform(0.1, 0.9, 400), np.full(400, 40))  # prompts differ twice as much
    found = compared(exact, other, 0.0, 0.01)["ratio"]
    assert found["low"] < 12 < found["high"]
    assert found["high"] - found["low"] < 6
    same = compared(exact, exact, 0.0, 0.01)["ratio"]
    assert (same["value"], same["low"], same["high"]) == pytest.approx((1, 1, 1))
