"""What a run's page says of its draft: what is trained of it, and what the run keeps."""

from __future__ import annotations

from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.records.training import Training
from engine.runs.draft_size import DraftSize
from workbench.run.facts import facts


def recipe(**draft: object) -> Recipe:
    return parse_recipe({"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}, "draft": draft})


def test_of_an_adapter_its_rank_its_share_of_the_weights_and_the_shared_draft():
    size = DraftSize(1.4, 14.2, 325_632, 40_110_912)
    rows = dict(facts(recipe(lora={"rank": 16}), Training(), size))
    assert rows["Trained"] == "325,632 of 40,110,912 parameters (LoRA of rank 16 on a shared draft)"
    assert rows["Draft on disk"] == "1.4 MB, and 14.2 MB of the shared draft"


def test_of_any_other_draft_what_was_trained_and_nothing_where_that_is_not_known():
    rows = dict(facts(recipe(), Training(), DraftSize(28.4, None, 7_080_768, 40_110_912)))
    assert rows["Trained"] == "7,080,768 of 40,110,912 parameters"
    assert rows["Draft on disk"] == "28.4 MB"
    assert not {"Trained", "Draft on disk"} & dict(facts(recipe(), Training())).keys()


def test_before_a_run_begins_the_adapter_is_named_all_the_same():
    assert dict(facts(recipe(lora={}), Training()))["Trained"] == "a LoRA adapter of rank 16 on a shared draft"
