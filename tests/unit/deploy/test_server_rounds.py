"""Counts over a text: against a plain walk, against simulated draws, and at the end of a text."""

from __future__ import annotations

import random

import pytest

from engine.deploy.server_rounds import ServerRule, explains, rule_of

AT_LIMIT, BEYOND = ServerRule(stops_at_limit=True), ServerRule(stops_at_limit=False)


def walk(hits: list[bool], gamma: int, limit: int, *, stops: bool) -> tuple[int, int, int]:
    """Rounds, proposed and accepted tokens of a text that ends at its limit, counted one round after another."""
    rounds = proposed = accepted = 0
    place = 1  # the first token comes with the prompt
    while place < min(len(hits), limit):
        width = min(gamma, limit - place - 1) if stops else gamma
        kept = 0
        while kept < width and place + kept < len(hits) and hits[place + kept]:
            kept += 1
        rounds, proposed, accepted = rounds + (width > 0), proposed + width, accepted + kept
        place += kept + 1
    return rounds, proposed, accepted


@pytest.mark.parametrize("rule", [AT_LIMIT, BEYOND])
def test_hits_and_misses_give_the_counts_of_a_plain_walk(rule: ServerRule):
    draw = random.Random(0)
    for length in range(1, 30):
        hits = [draw.random() < 0.6 for _ in range(length)]
        for gamma in (1, 2, 3, 5):
            counted = rule.over([float(hit) for hit in hits], gamma, limit=length)
            assert (counted.rounds, counted.proposed, counted.accepted) == walk(
                hits, gamma, length, stops=rule.stops_at_limit
            )
            assert counted.accepted == sum(counted.accepted_at)
            if rule.stops_at_limit:
                assert counted.open == 0


def test_a_server_that_is_not_known_stops_at_the_limit():
    assert rule_of("llama.cpp") == rule_of("some-other-server") == AT_LIMIT
    assert rule_of("vllm") == BEYOND


def test_tokens_of_rounds_are_those_after_the_first_and_without_one_that_needed_no_round():
    assert AT_LIMIT.over([1, 0, 0, 0], 3, limit=4).emitted == 2  # the last one is wanted alone: no proposal, no round
    assert AT_LIMIT.over([1, 0, 1, 0], 3, limit=4).emitted == 3  # the last one ends a round
    assert BEYOND.over([1, 0, 0, 0], 3, limit=4).emitted == 3


def test_a_server_that_does_not_stop_at_the_limit_proposes_gamma_tokens_in_every_round():
    # Tokens 0, 1 | 2, 3 | 4: the last round begins at the last token that was asked for.
    counted = BEYOND.over([1, 0, 1, 0, 1, 1, 0], 3, limit=5)
    assert (counted.rounds, counted.proposed, counted.accepted) == (3, 9, 3)
    assert counted.accepted_at == (2, 1, 0)
    assert counted.open == 0
    cut = BEYOND.over([1, 0, 1, 0, 1], 3, limit=5)
    assert (cut.rounds, cut.proposed, cut.accepted, cut.open) == (3, 9, 2, 2)


def test_proposals_after_the_token_that_ends_an_answer_are_open():
    counted = AT_LIMIT.over([0, 0, 1], 3, limit=50)
    assert (counted.rounds, counted.proposed, counted.accepted, counted.open) == (2, 6, 1, 2)
    assert explains(counted, 2, 6, 1)
    assert explains(counted, None, 6, 3)
    assert not explains(counted, 2, 6, 4)
    assert not explains(counted, 2, 5, 1)
    assert not explains(counted, 3, 6, 1)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [AT_LIMIT, BEYOND])
def test_chances_give_the_mean_of_drawn_walks(rule: ServerRule):
    draw = random.Random(1)
    chances = [draw.random() for _ in range(15)]
    walks = [rule.over([float(draw.random() < chance) for chance in chances], 3, limit=12) for _ in range(20_000)]
    expected = rule.over(chances, 3, limit=12)
    for name in ("rounds", "proposed", "accepted", "open"):
        mean = sum(getattr(walk, name) for walk in walks) / len(walks)
        assert mean == pytest.approx(getattr(expected, name), abs=0.06), name  # some four standard errors


def test_an_answer_of_one_token_has_no_round():
    assert BEYOND.over([1.0], 3, limit=20).rounds == 0
    assert BEYOND.over([], 3, limit=20).rounds == 0
    with pytest.raises(ValueError, match="gamma"):
        BEYOND.over([1.0], 0, limit=20)
