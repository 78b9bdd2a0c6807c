"""The settings of a draft's adapter."""

from __future__ import annotations

import pytest

from engine.config.decisive import decisive
from engine.config.reading import apply_overrides, parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError


def recipe(*changes: str) -> Recipe:
    return parse_recipe(apply_overrides({"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}}, changes))


def test_an_empty_section_takes_the_defaults_and_none_trains_all_weights():
    assert recipe().draft.lora is None
    lora = recipe("draft.lora={}").draft.lora
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.dropout) == (16, 32.0, 0.0)
    assert recipe("draft.lora.rank=4").draft.lora.rank == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("draft.lora={modules: [q_proj, lm_head]}", "lm_head is shared by target and draft"),
        ("draft.lora={modules: []}", "at least 1 item"),
        ("draft.lora={dropout: 1}", "less than 1"),
        ("draft.lora={rank: 0}", "greater than or equal to 1"),
        ("draft.lora={alpah: 1}", "did you mean 'alpha'"),
        ("draft={init: random, lora: {}}", "can do something already"),
    ],
)
def test_what_makes_no_adapter_is_refused(change: str, message: str):
    with pytest.raises(DraftbenchError, match=message):
        recipe(change)


def test_recipes_without_an_adapter_keep_their_identity():
    values = recipe().model_dump(mode="json")
    older = {**values, "draft": {key: value for key, value in values["draft"].items() if key != "lora"}}
    assert decisive(values) == decisive(older)
    assert decisive(recipe("draft.lora={}").model_dump(mode="json")) != decisive(values)
    assert decisive(recipe("draft.lora.rank=4").model_dump(mode="json")) != decisive(
        recipe("draft.lora={}").model_dump(mode="json")
    )
