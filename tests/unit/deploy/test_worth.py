"""Is a draft worth it: the answer follows the interval, and says what would change it, with figures that do."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from engine.deploy.worth import StepCosts, worth_it
from engine.measure.predicted_speed import GammaChoice, RoundCosts, TokensPerRound, predict_speed
from engine.measure.text_rounds import rounds_over

PLAIN_S, OVERHEAD_S = 0.040, 0.003


def costs(gamma: int, draft_s: float, verify_s: float) -> StepCosts:
    return StepCosts(gamma, PLAIN_S, draft_s, verify_s, OVERHEAD_S, PLAIN_S)


def choice(gammas: dict[int, StepCosts], acceptance: float, prompts: int = 40, tokens: int = 80) -> GammaChoice:
    rng = np.random.default_rng(0)
    texts = [(rng.random(tokens) < acceptance).tolist() for _ in range(prompts)]
    rounds = {gamma: [rounds_over(text, gamma, limit=None).rounds for text in texts] for gamma in gammas}
    noise = np.random.default_rng(1).normal(1, 0.01, 15)
    seconds = {g: (g * c.draft_s + c.verify_s + c.overhead_s) * noise[::-1] for g, c in gammas.items()}
    return predict_speed(TokensPerRound([tokens] * prompts, rounds), RoundCosts(PLAIN_S * noise, seconds))


def test_a_cheap_draft_that_is_often_accepted_is_worth_it():
    here = costs(3, 0.003, 0.045)
    worth = worth_it(here, choice({3: here}, 0.8))
    assert worth.answer == "serve it"
    assert worth.speedup.low > 1
    assert worth.break_even < worth.acceptance
    assert worth.acceptance == pytest.approx(0.8, abs=0.03)
    assert worth.cost_ratio == pytest.approx(0.003 / PLAIN_S)
    assert worth.sentence.startswith("Serve it at gamma 3: ")
    for figure in (f"{worth.speedup.value:.2f}", f"{worth.tokens.value:.2f}", f"{worth.break_even:.2f}"):
        assert figure in worth.sentence


def test_a_draft_that_loses_says_from_which_acceptance_and_cost_it_would_pay_and_both_do():
    here = costs(2, 0.020, 0.046)
    worth = worth_it(here, choice({2: here}, 0.4))
    assert worth.answer == "no gain"
    needed = float(re.search(r"acceptance of (\d\.\d+) on", worth.sentence)[1])
    assert worth_it(here, choice({2: here}, needed + 0.08)).speedup.value > 1
    ratio = float(re.search(r"at most [\d.]+ ms \(c = (\d\.\d+)\)", worth.sentence)[1])
    cheaper = costs(2, (ratio - 0.005) * PLAIN_S, 0.046)
    assert worth_it(cheaper, choice({2: cheaper}, 0.4)).speedup.value > 1


def test_where_verifying_alone_takes_too_long_no_draft_is_cheap_enough():
    here = costs(1, 0.002, 0.100)
    worth = worth_it(here, choice({1: here}, 0.5))
    assert worth.answer == "no gain"
    assert math.isinf(worth.break_even)
    assert "No acceptance is enough at gamma 1; no draft is cheap enough" in worth.sentence


def test_an_interval_that_holds_1_decides_nothing_and_says_what_narrows_it():
    here = costs(1, 0.0125, 0.0425)  # 1.45 plain steps, about what an acceptance of 0.45 gives
    worth = worth_it(here, choice({1: here}, 0.45, prompts=10))
    assert worth.answer == "not decided yet"
    assert worth.speedup.low < 1 < worth.speedup.high
    assert "more held-out prompts" in worth.sentence


def test_few_prompts_decide_nothing_however_clear_they_look():
    here = costs(3, 0.003, 0.045)
    worth = worth_it(here, choice({3: here}, 0.95, prompts=3))
    assert worth.answer == "not decided yet"
    assert "at least 6 prompts" in worth.sentence


def test_a_better_gamma_is_named():
    here, other = costs(4, 0.02, 0.05), costs(1, 0.02, 0.041)
    both = choice({4: here, 1: other}, 0.75)
    worth = worth_it(here, both)
    assert both.best == 1
    assert "Gamma 1 is predicted to give" in worth.sentence


def test_another_gamma_than_was_asked_for_is_said():
    here = costs(3, 0.003, 0.045)
    assert " at gamma 3 (gamma 9 was not timed): " in worth_it(here, choice({3: here}, 0.8), asked=9).sentence
    assert "not timed" not in worth_it(here, choice({3: here}, 0.8), asked=3).sentence


def test_a_gamma_that_was_not_timed_has_no_answer():
    with pytest.raises(KeyError):
        worth_it(costs(5, 0.01, 0.05), choice({1: costs(1, 0.01, 0.05)}, 0.5))
