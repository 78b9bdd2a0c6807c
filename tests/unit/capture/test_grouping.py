"""Prompts that begin alike are read together, and each prompt once."""

from __future__ import annotations

import random

import pytest

from engine.capture.grouping import Family, families, read_together

TOOLS, OTHER_TOOLS = list(range(100, 140)), list(range(200, 260))
PROMPTS = [[*TOOLS, 1], [5, 6], [*OTHER_TOOLS, 2, 2], [*TOOLS, 3, 4, 5], [*TOOLS, 3, 9], [*OTHER_TOOLS, 7], [8] * 30]


def random_prompts(seed: int) -> list[list[int]]:
    """Prompts over three tokens, so that many begin alike, are equal, or begin with another prompt."""
    chance = random.Random(seed)
    return [chance.choices(range(3), k=chance.randint(1, 12)) for _ in range(30)]


def test_prompts_with_the_same_beginning_are_a_family():
    found = families(PROMPTS, range(len(PROMPTS)), 10)
    assert found == [Family([1]), Family([6]), Family([0, 4, 3], len(TOOLS)), Family([5, 2], len(OTHER_TOOLS))]


def test_a_pass_that_costs_more_than_it_saves_is_not_made():
    alone = [Family([i]) for i in sorted(range(len(PROMPTS)), key=lambda i: len(PROMPTS[i]))]
    assert families(PROMPTS, range(len(PROMPTS)), 1000) == alone
    assert families(PROMPTS, range(len(PROMPTS)), None) == alone


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pass_tokens", [0, 3, 10])
def test_each_prompt_is_in_one_family_and_reads_at_least_its_last_token_itself(seed: int, pass_tokens: int):
    prompts = random_prompts(seed)
    found = families(prompts, range(30), pass_tokens)
    assert sorted(i for family in found for i in family.indices) == list(range(30))
    for family in found:
        beginnings = {tuple(prompts[i][: family.shared]) for i in family.indices}
        assert len(beginnings) == 1
        assert all(len(prompts[i]) > family.shared for i in family.indices)
        lengths = [len(prompts[i]) for i in family.indices]
        assert lengths == sorted(lengths)
    read = sum(len(prompts[i]) - f.shared for f in found for i in f.indices) + sum(f.shared for f in found)
    passes = pass_tokens * sum(f.shared > 0 for f in found)
    assert read + passes <= sum(map(len, prompts))


@pytest.mark.parametrize("most", [1, 60, 100, 10_000])
def test_what_is_read_together_stays_within_the_limit(most: int):
    found = families(PROMPTS, range(len(PROMPTS)), 10)
    groups = list(read_together(found, PROMPTS, most))
    assert [family for group in groups for family in group] == found
    for group in groups:
        assert len({family.shared > 0 for family in group}) == 1
        rests = [len(PROMPTS[i]) - family.shared for family in group for i in family.indices]
        padded = max(len(group) * max(family.shared for family in group), len(rests) * max(rests))
        assert len(group) == 1 or padded <= most
    assert len(groups) == (2 if most == 10_000 else len(groups))


def test_a_family_is_split_where_fewer_rows_are_free():
    some, others = Family([4, 1, 7], 5).split(2)
    assert (some, others) == (Family([4, 1], 5), Family([7], 5))
