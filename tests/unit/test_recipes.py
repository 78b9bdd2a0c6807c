"""The recipes that come with this version: each can be read, names files that are there, and says what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config.reading import load_recipe, load_section
from engine.magpie.recipe import MagpieRecipe
from engine.paths import PROJECT_ROOT, home
from engine.runs.recipes import with_absolute_paths

RECIPES = PROJECT_ROOT / "recipes"
RUNS = sorted(
    p for folder in (".", "domains", "drafts") for p in (RECIPES / folder).glob("*.yaml") if p.stem != "common"
)
OTHERS = sorted(p for folder in ("magpie", "targets") for p in (RECIPES / folder).glob("*.yaml"))


def named(path: Path) -> str:
    return path.relative_to(RECIPES).with_suffix("").as_posix()


@pytest.mark.parametrize("path", RUNS, ids=named)
def test_a_runs_recipe_names_only_what_is_there(path: Path):
    read = load_recipe(path)
    if read.train.selection.reference:  # a run that its header says how to make
        home().run(read.train.selection.reference).mkdir(parents=True)
    recipe = with_absolute_paths(read, path.parent, home())
    for source in (*recipe.prompts.train, *recipe.prompts.heldout):
        assert source.path.startswith("pack:") or Path(source.path).exists()


@pytest.mark.parametrize("path", [*RUNS, *OTHERS], ids=named)
def test_its_header_says_what_it_does_how_long_it_takes_and_how_to_start_it(path: Path):
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = " ".join(header)
    assert f"recipes/{named(path)}.yaml" in text
    assert "draftbench " in text
    assert "MINUTES" not in text
    assert any(word in text for word in ("minute", "hour", "quarter", "takes about as long"))


def test_every_domain_has_the_three_scenarios_on_one_held_out_set():
    for domain in ("function_calling", "biology", "chinese"):
        recipes = {
            s: load_recipe(RECIPES / "domains" / f"{domain}-{s}.yaml") for s in ("historical", "curated", "synthetic")
        }
        assert {recipe.prompts.scenario for recipe in recipes.values()} == set(recipes)
        assert len({str(recipe.prompts.heldout) for recipe in recipes.values()}) == 1
        assert len({recipe.target for recipe in recipes.values()}) == 1
        assert all(recipe.draft.checkpoint == "sample_data/drafts/generic" for recipe in recipes.values())


@pytest.mark.parametrize("path", sorted((RECIPES / "magpie").glob("*.yaml")), ids=named)
def test_a_magpie_recipe_keeps_held_out_queries_away(path: Path):
    recipe = load_section(MagpieRecipe, path)
    assert any(source.path.endswith("heldout.jsonl") for source in recipe.heldout)
