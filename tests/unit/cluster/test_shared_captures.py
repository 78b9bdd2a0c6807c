"""Runs that need the same captures wait for one job that makes them."""

from typing import Any

from engine.cluster.shared_captures import capture_groups
from engine.config.reading import parse_recipe
from engine.config.schema import Recipe


def recipe(**changes: Any) -> Recipe:
    prompts = {"train": "a.jsonl", "heldout": changes.pop("heldout", "b.jsonl")} | changes.pop("prompts", {})
    return parse_recipe({"prompts": prompts, **changes})


def test_runs_that_differ_in_training_share_their_captures():
    runs = [recipe(train={"loss": loss, "seed": seed}) for loss in ("sft", "tvd") for seed in (0, 1)]
    (group,) = capture_groups(runs)
    assert (group.members, group.after, group.alone) == ((0, 1, 2, 3), (), False)


def test_a_run_alone_makes_its_own():
    first, second = capture_groups([recipe(), recipe(heldout="c.jsonl")])
    assert (first.alone, second.alone) == (True, True)
    assert (first.after, second.after) == ((), ())


def test_smaller_sets_of_prompts_come_after_the_larger_that_holds_their_answers():
    many, few = (recipe(prompts={"train_prompts": count}) for count in (400, 100))
    online = recipe(train={"mode": "on_policy"})
    groups = capture_groups([many, few, online, many])
    assert [group.members for group in groups] == [(0, 3), (1,), (2,)]
    assert [group.after for group in groups] == [(), (0,), (1,)]
    assert not any(group.alone for group in groups)
