"""Counts over a text: against a plain walk, against simulated draws, and at the end of a text."""

from __future__ import annotations

import random

import pytest

from engine.deploy.server_rounds import ServerRule, expected_rounds, explains
from engine.measure.text_rounds import rounds_over

AT_LIMIT, BEYOND = ServerRule(stops_at_limit=True), ServerRule(stops_at_limit=False)


def test_hits_and_misses_give_the_walk_of_the_text_after_its_first_token():
    draw = random.Random(0)
    for length in range(1, 30):
        hits = [draw.random() < 0.6 for _ in range(length)]
        for gamma in (1, 2, 3, 5):
            counted = expected_rounds([float(hit) for hit in hits], gamma, limit=length, rule=AT_LIMIT)
            walked = rounds_over(hits[1:], gamma, limit=length - 1)  # whose last round may propose nothing
            assert (counted.proposed, counted.accepted) == (walked.proposed, walked.accepted)
            assert counted.accepted_at == walked.accepted_at
            assert walked.rounds - counted.rounds in (0, 1)
            assert counted.open == 0


def test_a_server_that_does_not_stop_at_the_limit_proposes_gamma_tokens_in_every_round():
    # Tokens 0, 1 | 2, 3 | 4: the last round begins at the last token that was asked for.
    counted = expected_rounds([1, 0, 1, 0, 1, 1, 0], 3, limit=5, rule=BEYOND)
    assert (counted.rounds, counted.proposed, counted.accepted) == (3, 9, 3)
    assert counted.accepted_at == (2, 1, 0)
    assert counted.open == 0
    cut = expected_rounds([1, 0, 1, 0, 1], 3, limit=5, rule=BEYOND)
    assert (cut.rounds, cut.proposed, cut.accepted, cut.open) == (3, 9, 2, 2)


def test_proposals_after_the_token_that_ends_an_answer_are_open():
    counted = expected_rounds([0, 0, 1], 3, limit=50, rule=AT_LIMIT)
    assert (counted.rounds, counted.proposed, counted.accepted, counted.open) == (2, 6, 1, 2)
    assert explains(counted, 2, 6, 1)
    assert explains(counted, None, 6, 3)
    assert not explains(counted, 2, 6, 4)
    assert not explains(counted, 2, 5, 1)
    assert not explains(counted, 3, 6, 1)


@pytest.mark.parametrize("rule", [AT_LIMIT, BEYOND])
def test_chances_give_the_mean_of_drawn_walks(rule: ServerRule):
    draw = random.Random(1)
    chances = [draw.random() for _ in range(15)]
    walks = [
        expected_rounds([float(draw.random() < chance) for chance in chances], 3, limit=12, rule=rule)
        for _ in range(20_000)
    ]
    expected = expected_rounds(chances, 3, limit=12, rule=rule)
    for name in ("rounds", "proposed", "accepted", "open"):
        mean = sum(getattr(walk, name) for walk in walks) / len(walks)
        assert mean == pytest.approx(getattr(expected, name), abs=0.06), name  # some four standard errors


def test_an_answer_of_one_token_has_no_round():
    assert expected_rounds([1.0], 3, limit=20, rule=BEYOND).rounds == 0
    assert expected_rounds([], 3, limit=20, rule=BEYOND).rounds == 0
    with pytest.raises(ValueError, match="gamma"):
        expected_rounds([1.0], 0, limit=20, rule=BEYOND)
