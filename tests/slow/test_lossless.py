"""The long form of the losslessness check: enough tokens that a small bias would show."""

import pytest

from engine.decode import acceptance_rule
from engine.measure.certificate import chi_square

pytestmark = pytest.mark.slow


def test_two_hundred_thousand_tokens_follow_the_target():
    check = chi_square(tokens=200_000)
    assert check.n_tokens >= 200_000
    assert check.figures["p_value"] > 0.01


@pytest.mark.parametrize("gamma", [1, 4])
def test_other_lengths_of_proposal_too(gamma):
    assert chi_square(tokens=60_000, gamma=gamma, seed=1).figures["p_value"] > 0.01


def slightly_wrong(target_probs, draft_probs):
    """Nine tenths of the right residual: a fault that a short test would let pass."""
    left = (target_probs - draft_probs).clamp_min(0)
    return 0.9 * left / left.sum(-1, keepdim=True) + 0.1 * target_probs


def test_a_residual_that_is_slightly_wrong_fails(monkeypatch):
    monkeypatch.setattr(acceptance_rule, "residual", slightly_wrong)
    assert chi_square(tokens=200_000).passed is False


def test_a_replacement_from_the_target_itself_fails(monkeypatch):
    monkeypatch.setattr(acceptance_rule, "residual", lambda target_probs, draft_probs: target_probs)
    assert chi_square(tokens=60_000).figures["p_value"] < 1e-12
