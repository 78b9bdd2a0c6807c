"""Nested subsets: by id alone, smaller within larger, in the order of the file."""

from __future__ import annotations

import itertools
import random

import pytest

from engine.chat.prompt import Prompt
from engine.data.subsets import nested_subset
from engine.errors import DraftbenchError

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},), group="ab"[i >= 30]) for i in range(60)]


def ids(prompts: list[Prompt]) -> list[str]:
    return [prompt.id for prompt in prompts]


def test_a_smaller_subset_is_part_of_every_larger_one():
    chosen = [set(ids(nested_subset(PROMPTS, count))) for count in range(1, 61)]
    assert [len(some) for some in chosen] == list(range(1, 61))
    assert all(small < large for small, large in itertools.pairwise(chosen))


def test_the_order_of_the_file_decides_the_order_and_not_the_choice():
    shuffled = random.Random(1).sample(PROMPTS, k=60)
    assert set(ids(nested_subset(shuffled, 20))) == set(ids(nested_subset(PROMPTS, 20)))
    assert ids(nested_subset(shuffled, 20)) == [i for i in ids(shuffled) if i in ids(nested_subset(PROMPTS, 20))]


def test_a_subset_is_no_beginning_of_the_file():
    groups = [prompt.group for prompt in nested_subset(PROMPTS, 20)]
    assert 5 <= groups.count("a") <= 15


def test_all_are_all_whether_counted_or_not():
    assert nested_subset(PROMPTS, None) == nested_subset(PROMPTS, 60) == PROMPTS


def test_more_than_there_are_is_an_error_that_says_how_many_there_are():
    with pytest.raises(DraftbenchError, match="train_prompts is 61, but there are 60 training prompts") as caught:
        nested_subset(PROMPTS, 61)
    assert "at most 60" in caught.value.fix
