"""The plan of a run: the same whether the target has weights or not, and nothing is written to make it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.paths import home
from engine.planning.outlines import target_outline
from engine.runs.execution import execute
from engine.runs.folder import RunFolder
from engine.runs.plan import RunPlan, decoded_texts, plan_heldout, plan_run, split_prompts
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


def test_answers_that_are_decoded_again_have_lengths_of_their_own(recipe: Path):
    """They are timed and certified, and may pass a context that the captured answers fit into."""
    wanted = asked(recipe, "measure.speed_prompts=1", "measure.speed_tokens=40", "measure.certificate_prompts=2")
    target = target_outline(wanted.target)
    assert target is not None
    prompts = split_prompts(wanted, target)
    heldout = plan_heldout(home().captures, wanted, target, prompts)
    lengths = {name: most - wanted.measure.max_new_tokens for name, most in heldout[0.0].texts}
    first, second = (prompt.id for prompt in prompts.measured[:2])
    certified = wanted.measure.certificate_tokens
    assert certified < 40
    assert decoded_texts(heldout, prompts, wanted.measure) == [
        (first, lengths[first] + 40),
        (second, lengths[second] + certified),
    ]
    assert not decoded_texts(heldout, prompts, wanted.measure.model_copy(update={"against": "server"}))


@pytest.mark.slow
def test_answers_timed_beyond_the_context_are_refused_before_anything_is_captured(recipe: Path):
    made = RunFolder.create(home(), asked(recipe, "measure.speed_tokens=2000"))
    with pytest.raises(DraftbenchError, match="and the target reads 512 at most") as refused:
        execute(home(), made, quiet=True)
    assert "measure.speed_tokens" in refused.value.fix
    assert not home().captures.exists()
