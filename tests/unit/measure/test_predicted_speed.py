"""Predicted speed-ups: against rounds that are simulated one by one, and intervals against what they should cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.measure.cost_model import expected_tokens
from engine.measure.predicted_speed import (
    RoundCosts,
    TokensPerRound,
    acceptance_for,
    draft_seconds_for,
    predict_speed,
    ranges,
    smallest_of_the_best,
)
from engine.measure.text_rounds import rounds_over

GAMMAS = (1, 2, 3, 4)
PLAIN_S, DRAFT_S, EXTRA_S, REST_S = 0.040, 0.003, 0.002, 0.004  # a verification takes EXTRA_S more per proposed token


def round_s(gamma: int) -> float:
    return gamma * DRAFT_S + PLAIN_S + gamma * EXTRA_S + REST_S


def texts(rng: np.random.Generator, prompts: int, acceptance: float, tokens: int = 60) -> list[list[bool]]:
    return [(rng.random(tokens) < acceptance).tolist() for _ in range(prompts)]


def tokens_of(hits: list[list[bool]]) -> TokensPerRound:
    rounds = {gamma: [rounds_over(text, gamma, limit=None).rounds for text in hits] for gamma in GAMMAS}
    return TokensPerRound([len(text) for text in hits], rounds)


def seconds(rng: np.random.Generator, turns: int, noise: float) -> RoundCosts:
    """Noisy turns: a drift that all gammas share, and a part of each one's own."""
    drift = np.exp(rng.normal(0, noise, turns))

    def noisy(true: float) -> np.ndarray:
        return true * drift * np.exp(rng.normal(0, noise / 3, turns))

    return RoundCosts(noisy(PLAIN_S), {gamma: noisy(round_s(gamma)) for gamma in GAMMAS})


def exact() -> RoundCosts:
    return RoundCosts([PLAIN_S], {gamma: [round_s(gamma)] for gamma in GAMMAS})


def clock(hits: list[list[bool]], gamma: int) -> float:
    """Seconds of decoding the texts, a round after the other, on a clock that is counted by hand."""
    spent = 0.0
    for text in hits:
        place = 0
        while place < len(text):
            kept = 0
            while kept < gamma and place + kept < len(text) and text[place + kept]:
                kept += 1
            place += kept + 1
            spent += gamma * DRAFT_S + (PLAIN_S + gamma * EXTRA_S) + REST_S
    return spent


def test_the_prediction_is_the_ratio_of_two_clocks_that_are_run_by_hand():
    hits = texts(np.random.default_rng(0), 12, 0.6)
    plain = sum(len(text) for text in hits) * PLAIN_S
    for speed in predict_speed(tokens_of(hits), exact()).by_gamma:
        assert speed.speedup.value == pytest.approx(plain / clock(hits, speed.gamma), rel=1e-12)
        assert speed.cost.value == pytest.approx(round_s(speed.gamma) / PLAIN_S)


def test_over_long_texts_the_prediction_is_the_cost_models():
    hits = texts(np.random.default_rng(1), 30, 0.7, tokens=4000)
    for speed in predict_speed(tokens_of(hits), exact()).by_gamma:
        expected = expected_tokens(0.7, speed.gamma) * PLAIN_S / round_s(speed.gamma)
        assert speed.speedup.value == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("acceptance", "best"), [(0.02, 0), (0.95, 4)])
def test_the_best_gamma_is_none_where_drafting_loses_and_the_largest_where_all_is_accepted(acceptance, best):
    hits = texts(np.random.default_rng(2), 40, acceptance)
    assert predict_speed(tokens_of(hits), seconds(np.random.default_rng(3), 15, 0.02)).best == best


def test_the_best_gamma_of_a_middling_draft_is_that_of_the_true_times():
    hits = texts(np.random.default_rng(4), 400, 0.6)
    choice = predict_speed(tokens_of(hits), seconds(np.random.default_rng(5), 101, 0.002))
    true = {gamma: expected_tokens(0.6, gamma) * PLAIN_S / round_s(gamma) for gamma in GAMMAS}
    assert choice.best == max(true, key=lambda gamma: true[gamma])


def test_within_noise_the_smaller_gamma_is_taken_and_none_at_all_is_the_smallest():
    rng = np.random.default_rng(0)
    draws = {0: np.ones(2000), 1: rng.normal(1.05, 0.1, 2000), 2: rng.normal(1.3, 0.02, 2000)}
    draws[3] = draws[2] * rng.normal(1.005, 0.02, 2000)
    values = {gamma: float(drawn.mean()) for gamma, drawn in draws.items()}
    assert max(values, key=lambda gamma: values[gamma]) == 3
    assert smallest_of_the_best(values, draws, 50) == 2  # 3 cannot be told from 2, but both from 1 and 0
    weak = {gamma: draws[gamma] for gamma in (0, 1)}
    assert smallest_of_the_best({gamma: values[gamma] for gamma in weak}, weak, 50) == 0


def test_one_prompt_or_one_turn_decides_nothing_in_favour_of_a_draft():
    hits = texts(np.random.default_rng(2), 1, 0.95)
    choice = predict_speed(tokens_of(hits), seconds(np.random.default_rng(3), 15, 0.02))
    assert choice.best == 0
    assert math.isnan(choice.at(4).speedup.low)


@pytest.mark.slow
def test_the_interval_of_a_speed_up_covers_the_true_one_and_is_not_much_wider_than_needed():
    rng, speeds = np.random.default_rng(7), []
    true = expected_tokens(0.6, 3) * PLAIN_S / round_s(3)
    for trial in range(200):
        # long texts, so that their ends cost nothing and the true tokens per round are the formula's
        hits = texts(rng, 20, 0.6, tokens=600)
        rounds = [rounds_over(text, 3, limit=None).rounds for text in hits]
        tokens = TokensPerRound([len(text) for text in hits], {3: rounds})
        speeds.append(predict_speed(tokens, seconds(rng, 15, 0.06), samples=400, seed=trial).at(3).speedup)
    covered = sum(speed.low <= true <= speed.high for speed in speeds) / len(speeds)
    assert covered >= 0.90  # 95%, three standard deviations of 200 trials below it
    low, high = np.quantile([speed.value for speed in speeds], [0.025, 0.975])
    assert np.mean([speed.high - speed.low for speed in speeds]) < 1.6 * (high - low)


def test_the_acceptance_that_gives_some_tokens_is_the_inverse_of_the_tokens_that_it_gives():
    for gamma in GAMMAS:
        for alpha in (0.0, 0.3, 0.8, 1.0):
            assert acceptance_for(expected_tokens(alpha, gamma), gamma) == pytest.approx(alpha, abs=1e-9)
    assert acceptance_for(0.9, 2) == 0
    assert acceptance_for(3.1, 2) == math.inf


def test_a_draft_of_the_longest_time_that_pays_breaks_even():
    longest = draft_seconds_for(1.8, 3, PLAIN_S, 0.05, REST_S)
    assert 3 * longest + 0.05 + REST_S == pytest.approx(1.8 * PLAIN_S)
    assert draft_seconds_for(1.0, 3, PLAIN_S, 0.05, REST_S) < 0


def test_ranges_give_sizes_in_between_the_gamma_of_the_larger_one_and_join_equals():
    assert ranges({1: 3, 2: 3, 4: 2, 8: 0}) == [(1, 2, 3), (3, 4, 2), (5, 8, 0)]
    assert ranges({4: 1}) == [(1, 4, 1)]
    assert ranges({8: 0, 1: 2}) == [(1, 1, 2), (2, 8, 0)]


@pytest.mark.parametrize("times", [{}, {9: [0.1]}])
def test_without_a_common_gamma_nothing_is_predicted(times):
    with pytest.raises(ValueError, match="needs a gamma"):
        predict_speed(tokens_of([[True, False]]), RoundCosts([0.1], times))
