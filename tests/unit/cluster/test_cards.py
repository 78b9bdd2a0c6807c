"""A run sees only the cards that it asks for, so it must ask for as many as it computes on."""

import pytest

from engine.cluster.cards import check_cards
from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError


def recipe(target: dict[str, object], gpus: float, draft: dict[str, object] | None = None) -> Recipe:
    prompts = {"train": "a.jsonl", "heldout": "b.jsonl"}
    values = {"prompts": prompts, "target": target, "draft": draft or {}, "resources": {"gpus": gpus}}
    return parse_recipe(values)


@pytest.mark.parametrize(
    ("target", "gpus", "words"),
    [
        ({"device": "cuda"}, 0, "resources.gpus is 0"),
        ({"device": "cuda:1"}, 0, "resources.gpus is 0"),
        ({"device": "cuda:1"}, 1, "target.device is cuda:1 and resources.gpus is 1"),
        ({"tensor_parallel": 4}, 2, "target.tensor_parallel is 4 and resources.gpus is 2"),
        ({"tensor_parallel": 2}, 0.5, "target.tensor_parallel is 2 and resources.gpus is 0.5"),
    ],
)
def test_too_few_cards_are_refused(target: dict[str, object], gpus: float, words: str):
    with pytest.raises(DraftbenchError, match=words) as refused:
        check_cards(recipe(target, gpus))
    assert "--set resources.gpus=" in refused.value.fix


@pytest.mark.parametrize(
    ("target", "gpus"),
    [
        ({}, 0),
        ({"device": "cpu"}, 0),
        ({"device": "cuda"}, 0.5),
        ({"tensor_parallel": 2}, 2),
        ({"tensor_parallel": 2}, 0),
    ],
)
def test_enough_cards_or_a_cpu_are_not(target: dict[str, object], gpus: float):
    check_cards(recipe(target, gpus))


@pytest.mark.parametrize(("device", "gpus", "enough"), [("cuda", 0, 1), ("cuda:0", 0, 1), ("cuda:1", 1, 2)])
def test_the_drafts_own_card_must_be_asked_for_too(device: str, gpus: float, enough: int):
    with pytest.raises(DraftbenchError, match=rf"draft\.device is {device} and resources\.gpus is {gpus:g}") as refused:
        check_cards(recipe({}, gpus, {"device": device}))
    assert refused.value.fix == f"--set resources.gpus={enough}"
    check_cards(recipe({}, enough, {"device": device}))
