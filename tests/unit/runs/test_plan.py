"""The plan of a run: the same whether the target has weights or not, and nothing is written to make it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config.schema import Recipe
from engine.paths import home
from engine.planning.outlines import target_outline
from engine.runs.plan import RunPlan, plan_run, split_prompts
from engine.runs.recipes import read_recipe
from engine.runs.session import load_target

SERVER = ("capture.server.base_url=http://127.0.0.1:9/v1", "capture.server.model=m", "capture.signal=none")


def asked(recipe: Path, *settings: str) -> Recipe:
    return read_recipe(home(), str(recipe), settings, skip_bad=False)


def planned(recipe: Recipe, *, with_weights: bool) -> RunPlan:
    target = load_target(recipe) if with_weights else target_outline(recipe.target)
    assert target is not None
    return plan_run(home().captures, recipe, target, split_prompts(recipe, target))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ((), ["training", "held-out T=0", "held-out T=1"]),
        (("train.mode=online",), ["held-out T=0", "held-out T=1"]),  # its training answers are decoded meanwhile
        (("train.loss=sft", *SERVER), ["training", "watched T=0", "held-out T=0", "held-out T=1"]),
    ],
)
def test_an_outline_has_the_plan_of_the_loaded_target(recipe: Path, settings: tuple[str, ...], names: list[str]):
    wanted = asked(recipe, *settings)
    outline, loaded = (planned(wanted, with_weights=weights) for weights in (False, True))
    assert list(outline.captures) == names
    assert {name: plan.address for name, plan in outline.captures.items()} == {
        name: plan.address for name, plan in loaded.captures.items()
    }
    assert outline.training is not None
    assert len(outline.training.prompts) == 8
    assert not home().captures.exists()
