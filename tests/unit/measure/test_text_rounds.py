"""Rounds over a text, against a walk written down by hand."""

from __future__ import annotations

import pytest

from engine.measure.text_rounds import TextRounds, rounds_over


def test_a_round_keeps_the_hits_before_the_first_miss_and_the_targets_own_token():
    hits = [True, True, False, True, True, True, True, False]
    # T T F: two kept and the target's own; T T T: three kept and the target's own, which is T; F: the target's own
    assert rounds_over(hits, 3) == TextRounds(3, 6, 5, (2, 2, 1), 8)


def test_a_text_of_one_token_is_the_targets_own():
    assert rounds_over([True], 4) == TextRounds(1, 0, 0, (0, 0, 0, 0), 1)


def test_gamma_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        rounds_over([True], 0)
