"""Rounds timed in the middle of texts: every gamma at the same context, which a round leaves as it was."""

from __future__ import annotations

import math

import pytest
import torch

from engine.measure.step_times import (
    TimedRound,
    _one_round,
    _prefilled,
    median,
    round_seconds,
    texts_of,
    time_cell,
)
from tests.conftest import tiny_llama
from tests.tiny_decoders import KINDS, made
from tests.tiny_pair import noisy_copy

pytestmark = pytest.mark.slow

TARGET, NOISY = tiny_llama(), noisy_copy()
TEXTS = texts_of([list(range(40, 90)), list(range(100, 160))], 3, 21)


def test_a_cell_has_a_plain_step_and_each_gamma_with_as_many_turns():
    cell = time_cell(TARGET, NOISY, TEXTS, gammas=(1, 3), turns=4)
    assert (cell.batch_size, cell.context) == (3, 20)
    assert [times.gamma for times in cell.rounds] == [0, 1, 3]
    assert {len(times.turns) for times in cell.rounds} == {4}
    for times in cell.rounds:
        assert times.round_s.low <= times.round_s.median <= times.round_s.high
        assert all(seconds > 0 for seconds in times.turns)
    assert cell.at(3).draft_s.median > cell.at(0).draft_s.median
    assert cell.gammas == [1, 3]
    with pytest.raises(KeyError):
        cell.at(2)


# a model whose rows share a cache of slots, and one whose rows each have a cache of their own
@pytest.mark.parametrize("models", [(TARGET, NOISY), tuple(made("bloom", KINDS["bloom"], seed) for seed in (0, 1))])
def test_a_round_leaves_the_context_as_it_was(models):
    target, draft = models
    texts = [[token % 200 for token in ids] for ids in TEXTS]
    runners = _prefilled(target, draft, texts, slots=40)
    for gamma in (3, 0, 5, 1):
        timed = _one_round(*runners, texts, gamma, seed=0)
        assert timed.round_s > 0
        assert runners[0].lengths == [20] * 3
        assert runners[1].lengths == [19] * 3
    logits = runners[0].feed([ids[-1:] for ids in texts], last=1)[:, 0]
    with torch.no_grad():
        whole = target(torch.tensor(texts)).logits[:, -1]
    assert torch.allclose(logits, whole, atol=1e-4)


def test_the_median_has_an_interval_that_holds_it_and_none_for_a_single_turn():
    seconds = median([0.1, 0.3, 0.2, 0.5, 0.4])
    assert seconds.low <= seconds.median <= seconds.high
    assert seconds.median == 0.3
    assert math.isnan(median([0.2]).low)


def test_a_round_is_the_sum_of_its_parts_turn_by_turn():
    times = round_seconds(2, [TimedRound(0.1, 0.2, 0.3), TimedRound(0.2, 0.2, 0.2), TimedRound(0.1, 0.5, 0.1)])
    assert times.turns == pytest.approx([0.6, 0.6, 0.7])
    assert (times.draft_s.median, times.verify_s.median, times.round_s.median) == pytest.approx((0.1, 0.2, 0.6))


def test_texts_are_cut_from_all_rows_one_after_the_other_and_begin_again():
    assert texts_of([[1, 2], [3], [4, 5, 6]], 2, 4) == [[1, 2, 3, 4], [4, 5, 6, 1]]
    with pytest.raises(ValueError, match="no text"):
        texts_of([[], []], 1, 3)


@pytest.mark.parametrize("texts", [[[1, 2]], [[1, 2, 3], [1, 2, 3, 4]]])
def test_texts_must_be_alike_and_long_enough_for_both_models(texts):
    with pytest.raises(ValueError, match="one length"):
        time_cell(TARGET, NOISY, texts)
