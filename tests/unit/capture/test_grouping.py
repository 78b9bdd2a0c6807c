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


def cost(groups: list[list[Family]], prompts: list[list[int]], pass_tokens: int) -> int:
    """Tokens read with padding, and those of the passes."""
    total = 0
    for group in groups:
        rests = [len(prompts[i]) - family.shared for family in group for i in family.indices]
        beginnings = [family.shared for family in group if family.shared]
        total += len(rests) * max(rests) + len(beginnings) * max(beginnings, default=0)
        total += pass_tokens * (2 if beginnings else 1)
    return total


@pytest.mark.parametrize("most", [1, 60, 100, 10_000])
@pytest.mark.parametrize("seed", range(8))
def test_what_is_read_together_stays_within_the_limit(seed: int, most: int):
    prompts = PROMPTS if seed == 0 else random_prompts(seed)
    some = families(prompts, range(len(prompts)), 5)
    groups = read_together(some, prompts, 5, most)
    assert [i for group in groups for f in group for i in f.indices] == [i for f in some for i in f.indices]
    for group in groups:
        assert len({family.shared > 0 for family in group}) == 1
        assert {family.shared for family in group} <= {family.shared for family in some}
        rests = [len(prompts[i]) - family.shared for family in group for i in family.indices]
        padded = max(len(group) * max(family.shared for family in group), len(rests) * max(rests))
        assert len(rests) == 1 or padded <= most


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pass_tokens", [0, 6, 1000])
def test_no_other_grouping_of_some_prompts_reads_less(seed: int, pass_tokens: int):
    """Of all that keep the order."""
    prompts = random_prompts(seed)[:9]
    some = families(prompts, range(9), None)
    tried = []
    for cuts in range(2**8):
        ends = [place + 1 for place in range(8) if cuts >> place & 1]
        starts = [0, *ends]
        tried.append(cost([some[a:b] for a, b in zip(starts, [*ends, 9], strict=True)], prompts, pass_tokens))
    assert cost(read_together(some, prompts, pass_tokens), prompts, pass_tokens) == min(tried)


def test_a_large_family_is_read_in_parts_where_its_rests_differ_much():
    prompts = [[*TOOLS, *[1] * rest] for rest in (1, 1, 2, 2, 300, 310)]
    [family] = families(prompts, range(6), 10)
    assert read_together([family], prompts, 10) == [
        [Family([0, 1, 2, 3], len(TOOLS))],
        [Family([4, 5], len(TOOLS))],
    ]


def test_a_family_is_split_where_fewer_rows_are_free():
    some, others = Family([4, 1, 7], 5).split(2)
    assert (some, others) == (Family([4, 1], 5), Family([7], 5))
