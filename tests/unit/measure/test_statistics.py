"""Intervals that cover, pairs that cancel, and tests that agree with textbook values."""

import math

import numpy as np
import pytest
import scipy.stats

from engine.measure.statistics import (
    bootstrap_ratio,
    calibration_z,
    expanded_level,
    mcnemar,
    paired_difference,
    paired_ratio,
    percentile_interval,
)


def clustered(rng, n_prompts, rate=0.7, spread=0.1):
    """(accepted, proposed) of prompts whose own rates differ, of unequal lengths."""
    proposed = rng.integers(20, 200, size=n_prompts)
    own = np.clip(rng.normal(rate, spread, size=n_prompts), 0.01, 0.99)
    return rng.binomial(proposed, own), proposed


def test_value_is_the_ratio_of_sums_not_the_mean_of_ratios():
    interval = bootstrap_ratio([1, 90], [10, 100])
    assert interval.value == pytest.approx(91 / 110)
    assert interval.n_prompts == 2
    assert interval.low <= interval.value <= interval.high


@pytest.mark.slow
def test_interval_covers_the_truth_as_often_as_it_says():
    # 400 experiments: 95% +- 3 binomial standard deviations (3.3 points).
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(400):
        interval = bootstrap_ratio(*clustered(rng, 40), samples=400, seed=trial)
        hits += interval.low <= 0.7 <= interval.high
    assert 0.917 <= hits / 400 <= 0.983


def test_a_speed_up_over_six_prompts_is_covered_too():
    # A plain percentile interval holds the truth in 85% of these; benchmarks/coverage.py has more cases.
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(400):
        plain, fast = rng.normal(2.0, 0.1, 6), rng.normal(1.6, 0.1, 6)
        interval = paired_ratio(np.ones(6), plain, np.ones(6), fast, samples=1000, seed=trial)
        hits += interval.low <= 2.0 / 1.6 <= interval.high
    assert 0.905 <= hits / 400 <= 0.983


def test_levels_are_widened_by_students_t():
    for n in (2, 6, 10, 40, 1000):
        level = expanded_level(0.95, n)
        tail = scipy.stats.norm.cdf(-math.sqrt(n / (n - 1)) * scipy.stats.t.ppf(0.975, n - 1))
        assert level == pytest.approx(1 - 2 * tail)
        assert 0.95 < level <= 1
    assert expanded_level(0.95, 10**6) == pytest.approx(0.95, abs=1e-5)
    assert expanded_level(0.95, 30, strata=3) > expanded_level(0.95, 30)


def test_an_interval_never_leaves_the_range_of_what_was_drawn():
    interval = bootstrap_ratio([0, 5, 9], [10, 10, 10])
    assert (interval.low, interval.high) == (0.0, 0.9)
    found = percentile_interval(0.5, np.array([0.1, np.nan, 0.9, np.inf]), 2)
    assert 0.1 <= found.low < 0.11
    assert 0.89 < found.high <= 0.9
    for few in (percentile_interval(0.5, np.array([0.1]), 1), percentile_interval(0.5, np.array([np.nan]), 9)):
        assert math.isnan(few.low)
        assert math.isnan(few.high)


def test_clustering_widens_what_treating_tokens_as_independent_would_claim():
    accepted, proposed = clustered(np.random.default_rng(2), 60, spread=0.2)
    interval = bootstrap_ratio(accepted, proposed)
    rate = accepted.sum() / proposed.sum()
    naive_width = 2 * 1.96 * math.sqrt(rate * (1 - rate) / proposed.sum())
    assert interval.high - interval.low > 3 * naive_width


def test_same_seed_same_interval_and_wider_level_wider_interval():
    accepted, proposed = clustered(np.random.default_rng(3), 30)
    first = bootstrap_ratio(accepted, proposed, seed=5)
    assert first == bootstrap_ratio(accepted, proposed, seed=5)
    assert first != bootstrap_ratio(accepted, proposed, seed=6)
    wide = bootstrap_ratio(accepted, proposed, seed=5, level=0.99)
    assert wide.low < first.low < first.high < wide.high


@pytest.mark.parametrize("n_prompts", [0, 1])
def test_too_few_prompts_have_no_interval(n_prompts):
    interval = bootstrap_ratio([3] * n_prompts, [4] * n_prompts)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.n_prompts == n_prompts
    assert math.isnan(interval.value) if n_prompts == 0 else interval.value == 0.75


def test_draws_without_a_denominator_are_left_out():
    interval = bootstrap_ratio([1, 0], [2, 0])  # a quarter of the draws takes the second prompt twice
    assert (interval.low, interval.value, interval.high) == (0.5, 0.5, 0.5)
    assert math.isnan(bootstrap_ratio([0, 0], [0, 0]).value)


@pytest.mark.parametrize("bad", [([1, 2], [1]), ([[1]], [[1]]), ([1, math.nan], [1, 1]), ([1, 2], [1, math.inf])])
def test_arrays_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match=r"array|finite"):
        bootstrap_ratio(*bad)


@pytest.mark.parametrize("options", [{"samples": 0}, {"level": 0}, {"level": 1}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="samples"):
        bootstrap_ratio([1, 2], [2, 3], **options)


def test_as_dict_is_what_the_summary_holds():
    assert bootstrap_ratio([1, 1], [2, 2]).as_dict() == {"value": 0.5, "low": 0.5, "high": 0.5, "n_prompts": 2}


def test_a_draft_against_itself_differs_by_exactly_nothing():
    accepted, proposed = clustered(np.random.default_rng(4), 25)
    difference = paired_difference(accepted, proposed, accepted, proposed)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    ratio = paired_ratio(accepted, proposed, accepted, proposed)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1, 1, 1))


def test_pairing_sees_a_difference_that_separate_intervals_hide():
    rng = np.random.default_rng(5)
    proposed = np.full(40, 100)
    easy = rng.normal(60, 15, size=40)  # prompts differ far more than the drafts do
    better = easy + rng.normal(2, 1, size=40)
    a, b = bootstrap_ratio(easy, proposed), bootstrap_ratio(better, proposed)
    assert a.high > b.low  # apart, they overlap
    difference = paired_difference(easy, proposed, better, proposed)
    assert difference.value == pytest.approx(b.value - a.value)
    assert difference.low > 0


def test_sides_of_a_pair_are_not_swapped():
    assert paired_difference([1, 1], [4, 4], [3, 3], [4, 4]).value == 0.5
    assert paired_ratio([1, 1], [4, 4], [3, 3], [4, 4]).value == pytest.approx(3)


def test_speed_up_is_plain_seconds_a_token_over_speculative_seconds_a_token():
    interval = paired_ratio([1.0, 2.1], [64, 128], [2.0, 4.2], [64, 128])
    assert (interval.low, interval.value, interval.high) == pytest.approx((2, 2, 2))


def test_mcnemar_against_values_worked_out_by_hand():
    # 8 discordant, 1 against 7: 2 (C(8,0) + C(8,1)) / 2^8 = 18/256
    result = mcnemar(both=50, only_a=1, only_b=7, neither=20)
    assert result.p_value == pytest.approx(18 / 256)
    assert (result.both, result.only_a, result.only_b, result.neither) == (50, 1, 7, 20)
    assert mcnemar(0, 7, 1, 0).p_value == pytest.approx(18 / 256)
    assert mcnemar(9, 0, 0, 9).p_value == 1
    with pytest.raises(ValueError, match="negative"):
        mcnemar(1, -1, 0, 0)


def test_calibration_is_quiet_for_a_correct_engine_and_loud_for_a_biased_one():
    rng = np.random.default_rng(6)
    expected = rng.uniform(0, 1, size=20_000)
    scores = [calibration_z(rng.random(20_000) < expected, expected).z for _ in range(50)]
    # The mean of 50 standard normals has a deviation of 0.14, their spread one of 0.1.
    assert abs(np.mean(scores)) < 0.6
    assert 0.6 < np.std(scores) < 1.4
    biased = calibration_z(rng.random(20_000) < expected * 0.95, expected)
    assert biased.z < -5
    assert biased.p_value < 1e-6
    assert biased.n_tokens == 20_000


def test_calibration_where_all_is_certain():
    assert calibration_z([True, False], [1.0, 0.0]).z == 0
    assert calibration_z([True, False], [1.0, 0.0]).p_value == 1
    assert calibration_z([False], [1.0]).z == -math.inf
    assert calibration_z([True], [0.0]).z == math.inf
    assert calibration_z([True], [0.0]).p_value == 0
    assert calibration_z([], []).z == 0


def test_calibration_forgives_rounding_above_one_and_nothing_more():
    assert calibration_z([True] * 3, [1 + 1e-6] * 3).z == 0
    for bad in ([1.1], [-0.1], [math.nan]):
        with pytest.raises(ValueError, match="probabilities"):
            calibration_z([True], bad)
    with pytest.raises(ValueError, match="token"):
        calibration_z([True, False], [0.5])
