"""Nested subsets: by id alone, smaller within larger, in the order of the file; held-out prompts once, in two parts."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from engine.chat.prompt import Prompt
from engine.data.subsets import distinct, nested_subset, split_heldout
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


def test_the_kept_draft_is_not_chosen_on_the_prompts_it_is_measured_on():
    watched, measured = split_heldout(PROMPTS[:12], 16, None)
    assert (len(watched), len(measured)) == (3, 9)
    assert not set(ids(watched)) & set(ids(measured))
    assert split_heldout(PROMPTS[:12], 2, 4)[1] == PROMPTS[2:6]
    with pytest.raises(DraftbenchError, match=r"1 held-out prompt is not enough\nwhy"):
        split_heldout(PROMPTS[:1], 1, None)


def test_a_held_out_prompt_that_is_there_again_is_no_second_sample():
    again = [replace(prompt, id=f"again-{prompt.id}") for prompt in PROMPTS[:4]]
    with_tools = replace(PROMPTS[0], id="tools", tools=({"type": "function", "function": {"name": "f"}},))
    assert ids(distinct([*PROMPTS[:4], *again, with_tools])) == ["p0", "p1", "p2", "p3", "tools"]
    assert split_heldout([*PROMPTS[:4], *again], 1, None) == (PROMPTS[:1], PROMPTS[1:4])
    with pytest.raises(DraftbenchError, match="1 held-out prompt is not enough, and 39 repeat it"):
        split_heldout([replace(PROMPTS[0], id=f"{i}") for i in range(40)], 1, None)
