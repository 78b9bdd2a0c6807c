"""The formulas against the paper's table, a simulation, and their own limits."""

import math

import numpy as np
import pytest

from engine.measure.cost_model import (
    best_gamma,
    break_even_alpha,
    expected_speedup,
    expected_tokens,
    measured_speedup,
    speedup_table,
)

# arXiv 2211.17192: with c = 0, alpha, gamma -> speed
PAPER = [(0.6, 2, 1.96), (0.7, 3, 2.53), (0.8, 2, 2.44), (0.8, 5, 3.69), (0.9, 2, 2.71), (0.9, 10, 6.86)]


@pytest.mark.parametrize(("alpha", "gamma", "speed"), PAPER)
def test_table_of_the_paper(alpha, gamma, speed):
    assert round(expected_speedup(alpha, gamma, c=0), 2) == speed


@pytest.mark.parametrize(("alpha", "gamma"), [(0.0, 4), (0.3, 1), (0.7, 3), (0.95, 8), (1.0, 5)])
def test_expected_tokens_against_a_simulation(alpha, gamma):
    rounds = 200_000
    accepted = np.random.default_rng(0).random((rounds, gamma)) < alpha
    emitted = np.cumprod(accepted, axis=1).sum(axis=1) + 1  # what is accepted before the first refusal, and one more
    tolerance = 5 * emitted.std() / math.sqrt(rounds)  # five standard errors
    assert expected_tokens(alpha, gamma) == pytest.approx(emitted.mean(), abs=tolerance + 1e-12)


def test_expected_tokens_at_its_limits():
    assert expected_tokens(1.0, 7) == 8
    assert expected_tokens(0.0, 7) == 1
    assert expected_tokens(0.5, 0) == 1
    # Next to 1 the closed form would divide two roundings by each other.
    assert expected_tokens(1 - 1e-16, 7) == pytest.approx(8, rel=1e-14)


@pytest.mark.parametrize(("alpha", "gamma"), [(-0.1, 1), (1.1, 1), (math.nan, 1), (0.5, -1)])
def test_values_that_are_no_probability_or_count_are_refused(alpha, gamma):
    with pytest.raises(ValueError, match=r"alpha|gamma"):
        expected_tokens(alpha, gamma)


def test_best_gamma_is_the_maximum_and_grows_with_alpha():
    for alpha, c in [(0.5, 0.05), (0.8, 0.1), (0.9, 0.02)]:
        best = best_gamma(alpha, c, max_gamma=20)
        assert expected_speedup(alpha, best, c) == max(expected_speedup(alpha, gamma, c) for gamma in range(21))
    chosen = [best_gamma(alpha, 0.1, 32) for alpha in (0.2, 0.5, 0.7, 0.9, 0.97)]
    assert chosen == sorted(chosen)
    assert best_gamma(1.0, 0.1, 12) == 12


def test_speculation_pays_exactly_above_c():
    for c in (0.05, 0.3, 0.8):
        assert break_even_alpha(c) == c
        assert best_gamma(c - 0.01, c, 32) == 0
        assert best_gamma(c + 0.01, c, 32) >= 1
        assert break_even_alpha(c, gamma=1) == pytest.approx(c)


@pytest.mark.parametrize("gamma", [1, 3, 10])
@pytest.mark.parametrize("c", [0.01, 0.2, 0.9])
def test_break_even_at_a_gamma_is_where_the_speed_up_passes_one(c, gamma):
    alpha = break_even_alpha(c, gamma)
    assert expected_speedup(alpha, gamma, c) >= 1
    assert expected_speedup(alpha - 1e-9, gamma, c) < 1
    assert alpha >= c - 1e-12  # a gamma that was not chosen for alpha can only need more


def test_break_even_at_its_limits():
    assert break_even_alpha(0) == break_even_alpha(0, gamma=4) == 0
    assert break_even_alpha(1) == break_even_alpha(1, gamma=4) == 1
    assert break_even_alpha(1.01) == break_even_alpha(1.01, gamma=4) == math.inf
    for call in (lambda: break_even_alpha(-1), lambda: break_even_alpha(math.nan), lambda: break_even_alpha(0.1, 0)):
        with pytest.raises(ValueError, match="got"):
            call()


def test_measured_equals_the_formula_when_verifying_is_as_cheap_as_it_assumes():
    assert measured_speedup(0.8, 5, plain_s=0.02, draft_s=0.002, verify_s=0.02) == pytest.approx(
        expected_speedup(0.8, 5, c=0.1)
    )


def test_measured_costs_lower_the_speed_up_and_may_move_the_best_gamma():
    table = speedup_table(
        0.8, 8, plain_s=0.02, draft_s=0.001, verify_s=lambda gamma: 0.02 + 0.004 * gamma, overhead_s=0.001
    )
    assert [row.gamma for row in table] == list(range(1, 9))
    assert all(row.measured < row.formula for row in table)
    assert max(table, key=lambda row: row.measured).gamma < max(table, key=lambda row: row.formula).gamma
    row = table[2]
    assert row.measured == pytest.approx(expected_tokens(0.8, 3) * 0.02 / (3 * 0.001 + 0.032 + 0.001))
    assert row.expected_tokens == expected_tokens(0.8, 3)
    assert row.formula == expected_speedup(0.8, 3, c=0.05)


def test_a_gamma_that_was_not_measured_is_no_guess():
    with pytest.raises(KeyError):
        speedup_table(0.8, 3, plain_s=1, draft_s=0.1, verify_s={1: 1.0, 2: 1.1}.__getitem__)


@pytest.mark.parametrize("times", [(0, 1, 1, 0), (1, -1, 1, 0), (1, 0, 0, 0)])
def test_times_that_cannot_be_are_refused(times):
    with pytest.raises(ValueError, match=r"seconds|time"):
        measured_speedup(0.5, 2, *times)
