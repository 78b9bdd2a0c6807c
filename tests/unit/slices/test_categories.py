"""SPEED-Bench's names: every group of the sample prompts has one, and what fits none keeps its own."""

from __future__ import annotations

import json

import pytest

from engine.paths import PROJECT_ROOT
from engine.slices.categories import CATEGORIES, category_of

PROMPTS = PROJECT_ROOT / "sample_data" / "prompts"


@pytest.mark.parametrize("domain", ["general", "biology", "chinese"])
@pytest.mark.parametrize("side", ["train", "heldout"])
def test_every_group_of_the_sample_prompts_has_a_category(domain: str, side: str):
    lines = (PROMPTS / domain / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()
    groups = {json.loads(line)["group"] for line in lines}
    assert groups
    assert {group: category_of(group, domain) for group in groups if category_of(group, domain) not in CATEGORIES} == {}


@pytest.mark.parametrize(
    ("group", "domain", "category"),
    [
        ("simple", "function_calling", "function_calling"),  # SPEED-Bench has no function calls
        ("finance", "function_calling", "function_calling"),
        ("MIRACL 1.0", "chinese", "multilingual"),
        ("Natural Questions", "biology", "qa"),
        ("Roleplay", "", "roleplay"),  # a user's own group that bears the name
        ("invoices", "accounting", "accounting"),
        ("", "", "other"),
    ],
)
def test_the_category_of_a_group(group: str, domain: str, category: str):
    assert category_of(group, domain) == category


def test_the_categories_are_eleven():
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 11
