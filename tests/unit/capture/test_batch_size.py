"""The batch size that fits the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from engine.capture import batch_size
from engine.capture.batch_size import key_value_bytes, most_rows, row_bytes, rows_that_fit
from engine.config.reading import parse_recipe
from engine.config.schema import CaptureSpec
from engine.errors import DraftbenchError
from tests.conftest import tiny_llama


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


@pytest.mark.parametrize(
    ("memory", "rows"), [(6400, 64), (6399, 32), (3200, 32), (3199, 16), (250, 2), (199, 1), (0, 1), (-5, 1)]
)
def test_rows_are_halved_until_they_fit(memory: int, rows: int):
    assert rows_that_fit(memory, bytes_per_row=100, most=64) == rows


def test_keys_and_values_are_counted_as_the_cache_holds_them(model: Any):
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.ones(1, 7, dtype=torch.long), past_key_values=cache)
    held = sum(
        states.numel() * states.element_size() for layer in cache.layers for states in (layer.keys, layer.values)
    )
    assert key_value_bytes(model) * 7 == held
    assert row_bytes(model, 100) > 100 * key_value_bytes(model)


def test_longer_answers_and_less_memory_mean_fewer_rows(model: Any, monkeypatch: pytest.MonkeyPatch):
    def rows(free: int, tokens: int) -> int:
        monkeypatch.setattr(batch_size, "free_bytes", lambda device: free)
        return most_rows(model, [[1, 2, 3], [1] * 50], tokens)

    assert rows(2**40, 100) == 64
    assert rows(0, 100) == 1
    between = [rows(2**26, tokens) for tokens in (10, 1000, 10_000, 100_000)]
    assert between == sorted(between, reverse=True)
    assert 1 <= between[-1] < between[0]


def test_auto_is_the_default_and_the_same_everywhere_while_a_draft_trains():
    assert CaptureSpec().batch_size == "auto"
    assert CaptureSpec().side_by_side == 64
    assert CaptureSpec(batch_size=7).side_by_side == 7


@pytest.mark.parametrize("wrong", [0, -1, "all", True, 2.5])
def test_other_batch_sizes_are_refused(wrong: object):
    with pytest.raises(DraftbenchError, match=r"capture\.batch_size|batch_size is true"):
        parse_recipe({"prompts": {"train": "a", "heldout": "b"}, "capture": {"batch_size": wrong}})
