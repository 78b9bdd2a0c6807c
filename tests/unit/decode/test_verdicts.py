"""All rows judged at once get the verdicts of the plain mathematics of one row."""

import pytest
import torch

from engine.decode.acceptance_rule import choices_of, judge, judge_greedy_rows, judge_rows
from engine.decode.device import to_host
from engine.decode.sampling import NOT_NUMBERS, Sampling, one_hot, overlap
from engine.decode.speculative import Proposal, _verdicts
from tests.operators import Operators

VOCAB, GAMMA, ROWS = 300, 4, 64  # more ids than one block of the draw


def probabilities(*shape, seed):
    scores = torch.randn(*shape, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
    return torch.softmax(scores.masked_fill(scores < -1, float("-inf")), -1)


def rows(seed=0):
    """p, q close to it, proposals, draws, and how many proposals of each row count."""
    drawn = torch.Generator().manual_seed(seed)
    p, other = probabilities(ROWS, GAMMA + 1, seed=seed), probabilities(ROWS, GAMMA + 1, seed=seed + 1)
    q = (0.7 * p + 0.3 * other)[:, :GAMMA]
    proposed = q.flatten(0, 1).multinomial(1, generator=drawn).view(ROWS, GAMMA)
    uniforms = torch.rand(ROWS, GAMMA + 1, dtype=torch.float64, generator=drawn)
    return p, q, proposed, uniforms, torch.randint(0, GAMMA + 1, (ROWS,), generator=drawn)


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_is_judged_as_its_rows_are(seed):
    p, q, proposed, uniforms, gammas = rows(seed)
    verdicts = judge_rows(p, q, proposed, uniforms, gammas)
    refusals = 0
    for row, gamma in enumerate(gammas.tolist()):
        own = torch.cat([uniforms[row, :gamma], uniforms[row, -1:]])
        alone = judge(p[row, : gamma + 1], q[row, :gamma], proposed[row, :gamma], own)
        assert (int(verdicts.accepted[row]), int(verdicts.next_tokens[row])) == (alone.accepted, alone.next_token)
        at = alone.accepted
        assert verdicts.next_target_prob[row] == p[row, at, alone.next_token]
        assert verdicts.next_draft_prob[row] == (q[row, at, alone.next_token] if alone.refused else 0)
        refusals += alone.refused
    index = proposed.unsqueeze(-1)
    assert torch.equal(verdicts.target_prob, p[:, :GAMMA].gather(-1, index)[..., 0])
    assert torch.equal(verdicts.draft_prob, q.gather(-1, index)[..., 0])
    torch.testing.assert_close(verdicts.overlaps, overlap(p[:, :GAMMA], q))
    assert 10 < refusals < ROWS - 10, "both kinds of round"


def test_without_a_draft_the_token_is_drawn_from_p():
    p, _, _, uniforms, _ = rows()
    none = torch.zeros(ROWS, 0, dtype=torch.long)
    verdicts = judge_rows(p[:, :1], torch.zeros(ROWS, 0, VOCAB), none, uniforms[:, :1], torch.zeros(ROWS).long())
    for row in range(ROWS):
        assert int(verdicts.next_tokens[row]) == judge(p[row, :1], p[row, :0], none[row], uniforms[row, :1]).next_token


def test_greedy_verdicts_are_those_of_one_hot_distributions():
    _, _, proposed, uniforms, gammas = rows()
    proposed = proposed % 3
    choices = torch.randint(0, 3, (ROWS, GAMMA + 1), generator=torch.Generator().manual_seed(5))
    choices[::2, :GAMMA] = proposed[::2]  # every second row agrees throughout
    slow = judge_rows(one_hot(choices, VOCAB), one_hot(proposed, VOCAB), proposed, uniforms, gammas)
    fast = judge_greedy_rows(choices.tolist(), proposed.tolist(), gammas.tolist())
    assert list(fast) == to_host(*slow.columns())


def test_at_temperature_zero_the_device_only_chooses():
    """On a GPU every operator here is time in which it does not decode."""
    logits = torch.randn(2, GAMMA + 1, VOCAB, generator=torch.Generator().manual_seed(0))
    choices = logits.argmax(-1)
    proposal = Proposal(choices[:, :GAMMA].clone(), None)
    proposal.ids[1, 2] += 1
    deciding = torch.zeros(2, GAMMA + 1)
    with Operators() as seen:
        _, columns = _verdicts(logits, proposal, deciding, [GAMMA, GAMMA], Sampling(0.0))
    assert sum(seen.counts.values()) <= 7, seen.counts
    assert columns[:3] == (proposal.ids.tolist(), [[GAMMA], [2]], [[int(choices[0, GAMMA])], [int(choices[1, 2])]])


def test_no_choice_is_read_behind_logits_that_are_no_numbers():
    logits = torch.zeros(3, 2, 8)
    logits[0, 1, 3], logits[1, 0, 3] = float("nan"), float("inf")
    choices = choices_of(logits)
    assert choices.tolist() == [[0, NOT_NUMBERS], [NOT_NUMBERS, 0], [0, 0]]
    accepted, next_tokens, *_ = judge_greedy_rows(choices.tolist(), [[0], [0], [0]], [1, 1, 1])
    assert (accepted, next_tokens) == ([[1], [0], [1]], [[NOT_NUMBERS], [NOT_NUMBERS], [0]])
