"""The rule of acceptance by enumeration, and what decides how many tokens to propose."""

import itertools
from collections import Counter
from fractions import Fraction

import pytest
import torch

from engine.decode.acceptance_rule import judge
from engine.decode.events import Fate, Round, Token
from engine.decode.settings import AdaptiveLength, FixedLength
from engine.errors import DraftbenchError
from engine.measure.cost_model import best_gamma

P, Q = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.3, 0.2, 0.1])
BONUS = torch.tensor([0.0, 0.0, 0.0, 1.0])
LARGEST_UNIFORM = 1 - 2**-53


def grid(size):
    """Midpoints of equal parts of [0, 1): stand for all uniform numbers where thresholds fall between parts."""
    return [(i + 0.5) / size for i in range(size)]


def judged(proposed, uniforms, p=P, q=Q):
    target = torch.stack([p] * len(proposed) + [BONUS])
    return judge(
        target, torch.stack([q] * len(proposed)), torch.tensor(proposed), torch.tensor(uniforms, dtype=torch.float64)
    )


@pytest.mark.parametrize(("token", "accepted"), [(0, 3), (1, 8), (2, 12), (3, 12)])
def test_a_token_is_kept_with_probability_min_1_p_over_q(token, accepted):
    # p/q is 1/4, 2/3, 3/2, 4: of 12 equal parts of the uniform number 3, 8, 12, 12.
    assert sum(judged([token], [u, 0.5]).accepted for u in grid(12)) == accepted


def test_the_emitted_token_follows_the_target_exactly():
    # Every proposal weighted by q, every part of both uniform numbers: thresholds are twelfths and quarters.
    law = Counter()
    for token, u, v in itertools.product(range(4), grid(12), grid(4)):
        verdict = judged([token], [u, v])
        written = token if verdict.accepted else verdict.next_token
        law[written] += Fraction(4 - token, 10) / 48
    assert [law[i] for i in range(4)] == [Fraction(i + 1, 10) for i in range(4)]


def test_a_refused_token_is_replaced_from_the_residual():
    replacements = Counter(judged([0], [0.9, v]).next_token for v in grid(8))
    assert replacements == {2: 2, 3: 6}
    assert judged([0], [0.9, 0.0]).refused


def test_the_replacement_comes_from_the_residual_at_the_refused_place():
    target = torch.stack([Q, P, P, BONUS])
    draft = torch.stack([Q, torch.tensor([0.0, 0.2, 0.0, 0.8]), Q])
    # The residual there is .1, 0, .3, 0: its first quarter is token 0, the rest token 2. At .2 P itself would give
    # token 1, at .35 the first place's (where p = q) token 0.
    for uniform, token in [(0.2, 0), (0.35, 2)]:
        verdict = judge(target, draft, torch.tensor([0, 3, 1]), torch.tensor([0.5, 0.9, 0.1, uniform]))
        assert (verdict.accepted, verdict.refused, verdict.next_token) == (1, True, token)


def test_nothing_after_the_first_refusal_counts():
    assert judged([2, 0, 2], [0.5, 0.9, 0.0, 0.5]).accepted == 1


def test_a_round_without_refusal_earns_a_token_from_the_target():
    verdict = judged([2, 3], [0.5, 0.5, 0.0])
    assert (verdict.accepted, verdict.next_token, verdict.refused) == (2, 3, False)


def test_without_a_proposal_the_token_is_the_targets():
    p = torch.tensor([[0.25, 0.75]])
    tokens = [judge(p, torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), torch.tensor([u])) for u in grid(4)]
    assert [t.next_token for t in tokens] == [0, 1, 1, 1]


def test_equal_probabilities_are_never_refused():
    torch.manual_seed(0)
    probs = torch.randn(500, 40).softmax(-1)
    proposed = torch.randint(40, (499,))
    uniforms = torch.full((500,), LARGEST_UNIFORM, dtype=torch.float64)
    assert judge(probs, probs[:-1], proposed, uniforms).accepted == 499


def test_what_the_target_cannot_say_is_always_refused():
    p, q = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])
    target = torch.stack([p, p])
    verdict = judge(target, q.unsqueeze(0), torch.tensor([0]), torch.tensor([0.0, 0.0]))
    assert (verdict.accepted, verdict.next_token) == (0, 1)


def tokens(*fates):
    return tuple(Token(i, fate, i) for i, fate in enumerate(fates))


def test_a_round_that_lost_count_of_a_token_is_refused():
    kept = tokens(Fate.ACCEPTED, Fate.REJECTED, Fate.CORRECTED)
    assert Round(0, 0, 2, kept, 0.0, 0.0, 0.0).emitted == [0, 2]
    for wrong in (1, 3):
        with pytest.raises(DraftbenchError, match=f"{wrong} drafted is not 1 accepted"):
            Round(0, 0, wrong, kept, 0.0, 0.0, 0.0)


def test_fixed_length_stays():
    length = FixedLength(3)
    length.saw(0, 3)
    assert length.next() == 3


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_adaptive_length_stays_in_bounds(rate):
    for choose in (lambda alpha: 100, lambda alpha: -5, lambda alpha: best_gamma(alpha, 0.1)):
        length = AdaptiveLength(6, choose)
        for _ in range(40):
            assert 1 <= length.next() <= 6
            length.saw(round(4 * rate), 4)


def test_adaptive_length_rises_with_acceptance_and_falls_without():
    length = AdaptiveLength(8, lambda alpha: best_gamma(alpha, 0.1))
    seen = [length.next()]
    for _ in range(30):
        length.saw(9, 10)
        seen.append(length.next())
    assert seen == sorted(seen)
    assert seen[-1] == best_gamma(0.9, 0.1, 8) > seen[0]
    for _ in range(60):
        length.saw(0, 1)
    assert length.next() == 1


def test_adaptive_length_forgets_the_distant_past():
    quick, slow = (AdaptiveLength(8, lambda alpha: round(8 * alpha), memory=m) for m in (0.5, 0.99))
    for length in (quick, slow):
        for accepted in [4] * 20 + [0] * 5:
            length.saw(accepted, 4)
    assert quick.next() < slow.next()
