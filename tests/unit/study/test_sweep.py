"""Sweeps: the product of the axes, names that tell the runs apart, and errors that name the axis."""

from __future__ import annotations

import pytest

from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.paths import home
from engine.study.sweep import expand


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe({"name": "base", "prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}})


def test_a_sweep_is_the_product_of_its_axes_in_order(recipe: Recipe):
    made = expand(recipe, {"train.loss": ["forward_kl", "tvd_pp"], "train.seed": [0, 1, 2]})
    assert [(r.train.loss[0].name, r.train.seed) for r in made] == [
        (loss, seed) for loss in ("forward_kl", "tvd_pp") for seed in (0, 1, 2)
    ]
    assert [r.name for r in made][::3] == ["base-forward-kl-seed0", "base-tvd-pp-seed0"]
    plain = {"name", "train"}
    assert all(r.model_dump(exclude=plain) == recipe.model_dump(exclude=plain) for r in made)


def test_names_are_unique_and_name_a_folder_even_when_values_are_long(recipe: Recipe):
    values = [[{"name": "jsd", "beta": beta}, {"name": "sft"}] for beta in (0.1, 0.100001, 0.5)]
    domains = ["x" * 80 + str(i) for i in range(3)] + ["生物", "a/b", "../up"]
    made = expand(recipe, {"train.loss": values, "prompts.domain": domains})
    names = [r.name for r in made]
    assert len(set(names)) == len(made) == 18
    for r in made:
        assert parse_recipe(r.model_dump(mode="json")) == r
        assert home().run(f"{r.name}-20260101-000000-abcd")


def test_sizes_are_an_axis_beside_scenarios(recipe: Recipe):
    scenarios = [{"scenario": name, "train": f"{name}.jsonl"} for name in ("historical", "synthetic")]
    made = expand(recipe, {"prompts": scenarios, "prompts.train_prompts": [50, 200, None]})
    assert [r.prompts.train_prompts for r in made] == [50, 200, None] * 2
    assert [r.prompts.train[0].path for r in made[::3]] == ["historical.jsonl", "synthetic.jsonl"]
    assert made[0].name == "base-historical-train-prompts50"
    with pytest.raises(DraftbenchError, match="train_prompts = 0"):
        expand(recipe, {"prompts.train_prompts": [0]})


def test_an_axis_of_one_value_is_set_but_not_part_of_the_name(recipe: Recipe):
    made = expand(recipe, {"prompts.scenario": ["historical"], "train.seed": [3, 3]})
    assert [(r.name, r.prompts.scenario, r.train.seed) for r in made] == [("base", "historical", 3)]


def test_no_axis_gives_the_recipe_itself(recipe: Recipe):
    assert expand(recipe, {}) == [recipe]


@pytest.mark.parametrize(
    ("axes", "named"),
    [
        ({"train.seed": [0, -1]}, "train.seed = -1"),
        ({"prompts.scenario": ["imagined"]}, "prompts.scenario = imagined"),
        ({"train.los": ["tvd"]}, "train.los = tvd"),
        ({"train.loss": []}, "train.loss has no values"),
        ({"train.loss": ["forward_lk"]}, "forward_lk"),
    ],
)
def test_a_value_that_is_not_valid_is_named(recipe: Recipe, axes: dict[str, list[object]], named: str):
    with pytest.raises(DraftbenchError, match=named):
        expand(recipe, axes)


def test_values_that_fit_alone_but_not_together_are_named_together(recipe: Recipe):
    with pytest.raises(DraftbenchError, match=r"capture.signal = compact.*train.distill_temperature = 2"):
        expand(recipe, {"capture.signal": ["compact"], "train.distill_temperature": [2.0]})


def test_text_that_looks_like_yaml_stays_text(recipe: Recipe):
    assert [r.prompts.domain for r in expand(recipe, {"prompts.domain": ["1", "a: b", "[x"]})] == ["1", "a: b", "[x"]


def test_each_scenario_brings_its_own_training_prompts(recipe: Recipe):
    pairs = [{"scenario": "historical", "train": "asked.jsonl"}, {"scenario": "synthetic", "train": "made.jsonl"}]
    made = expand(recipe, {"prompts": pairs, "train.seed": [0, 1]})
    assert [(r.name, r.prompts.scenario, r.prompts.train[0].path) for r in made] == [
        ("base-historical-seed0", "historical", "asked.jsonl"),
        ("base-historical-seed1", "historical", "asked.jsonl"),
        ("base-synthetic-seed0", "synthetic", "made.jsonl"),
        ("base-synthetic-seed1", "synthetic", "made.jsonl"),
    ]
    assert all(r.prompts.heldout == recipe.prompts.heldout for r in made)


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"prompts.scenario": ["historical", "synthetic"]}, "scenarios have the same prompts"),
        (
            {
                "prompts": [
                    {"scenario": "historical", "train": "a.jsonl"},
                    {"scenario": "synthetic", "train": "a.jsonl"},
                ]
            },
            "historical and synthetic have the same training prompts",
        ),
        (
            {"prompts": [{"scenario": "historical", "train": "a.jsonl"}, {"scenario": "synthetic", "train": ""}]},
            "synthetic has no training prompts",
        ),
    ],
)
def test_scenarios_that_differ_in_their_label_alone_are_refused(
    recipe: Recipe, axes: dict[str, list[object]], reason: str
):
    with pytest.raises(DraftbenchError, match=reason):
        expand(recipe, axes)
