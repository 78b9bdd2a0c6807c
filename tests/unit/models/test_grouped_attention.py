"""Grouped heads as rows of one query: the same bits, and the library's own way wherever a bit would differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from engine.decode.runner import runner_for
from engine.models import grouped_attention
from engine.models.fused_linears import as_loaded, packs
from engine.models.grouped_attention import fold_attention
from tests.conftest import tiny_llama

pytestmark = pytest.mark.skipif(
    not packs(torch.device("cpu"), torch.bfloat16), reason="this processor has no bfloat16 products"
)
SHAPE = (4, 2, 8)


@pytest.fixture(autouse=True)
def nothing_compared_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_attention, "_folded", {})


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the queries that are read by groups, those of the comparison included."""
    shapes: list[torch.Size] = []
    by_groups = grouped_attention._by_groups

    def noted(query: torch.Tensor, *rest: Any) -> torch.Tensor:
        shapes.append(query.shape)
        return by_groups(query, *rest)

    monkeypatch.setattr(grouped_attention, "_by_groups", noted)
    return shapes


@torch.no_grad()
def test_a_verification_has_the_same_bits_as_with_repeated_keys(used: list[torch.Size]):
    model = tiny_llama().bfloat16()
    fold_attention(model)
    allowed = grouped_attention._folded[SHAPE]
    fast, plain = runner_for(model), runner_for(model)
    for tokens in (70, 1, *range(2, 10), 30):
        used.clear()
        ids = [[(7 * tokens + place) % 250 + 2 for place in range(tokens)]] * 2
        ours = fast.feed(ids, last=tokens)
        assert len(used) == (4 if tokens in allowed else 0), "a call for each layer"
        used.clear()
        with as_loaded():
            assert torch.equal(plain.feed(ids, last=tokens), ours)
        assert not used


@pytest.mark.parametrize("heads", [(9, 3, 64), (14, 2, 64)])
@torch.no_grad()
def test_numbers_of_tokens_with_a_bit_that_differs_are_left_out(heads: tuple[int, int, int]):
    query_heads, groups, size = heads
    fitting = [tokens for tokens in grouped_attention._TOKENS if grouped_attention._same_bits(*heads, tokens)]
    for tokens in fitting:
        for slots in (33, 150, 640):
            query, key, value = (torch.randn(2, n, t, size).bfloat16() for n, t in _shapes(*heads, tokens, slots))
            mask = torch.ones(2, 1, tokens, slots, dtype=torch.bool).tril(slots - tokens)
            repeated = [part.repeat_interleave(query_heads // groups, dim=1) for part in (key, value)]
            plain = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask)
            assert torch.equal(plain, grouped_attention._by_groups(query, key, value, mask, None))


def _shapes(heads: int, groups: int, size: int, tokens: int, slots: int) -> list[tuple[int, int]]:
    return [(heads, tokens), (groups, slots), (groups, slots)]


@torch.no_grad()
def test_a_shape_is_not_folded_where_it_would_change_something(monkeypatch: pytest.MonkeyPatch):
    by_groups = grouped_attention._by_groups
    noisy = {5, 7}
    monkeypatch.setattr(
        grouped_attention, "_by_groups", lambda query, *rest: by_groups(query, *rest) + (query.shape[2] in noisy)
    )
    fold_attention(tiny_llama().bfloat16())
    assert grouped_attention._folded[SHAPE] & noisy == set()


def test_models_without_groups_or_in_float32_are_left_alone():
    fold_attention(tiny_llama(num_key_value_heads=4).bfloat16())
    fold_attention(tiny_llama())
    assert grouped_attention._folded == {}


@torch.no_grad()
def test_a_model_with_other_bits_anyway_folds_every_step(used: list[torch.Size]):
    model, other = tiny_llama().bfloat16(), tiny_llama().bfloat16()
    fold_attention(model, every_step=True)
    fold_attention(other)
    fast, plain = runner_for(model), runner_for(other)
    for tokens in (40, 1, 1, 2, 3, 1):
        ids = [[(5 * tokens + place) % 250 + 2 for place in range(tokens)]]
        used.clear()
        ours = fast.feed(ids, last=tokens)
        assert len(used) == (4 if tokens < 40 else 0)
        used.clear()
        torch.testing.assert_close(ours, plain.feed(ids, last=tokens), rtol=2e-2, atol=2e-2)
        assert not used or tokens in grouped_attention._folded[SHAPE]
