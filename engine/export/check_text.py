"""Which text an exported folder is checked on: the run's own captures, else what is at hand.

The check asks only whether the folder is the draft, which any text of the target answers as long as
both read the same. So a run whose prompt files, packs, captures or server are elsewhere (a
sample, a run copied from another machine) is checked on fewer prompts of its own, on the questions it
stored, or on prompts that come with Draftbench; the report says which.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from engine.chat.prompt import Prompt, prompts_hash
from engine.chat.rendering import render
from engine.config.schema import PromptSource, Recipe
from engine.data.readers import read_prompts
from engine.data.subsets import split_heldout
from engine.errors import DraftbenchError, boundary
from engine.paths import PROJECT_ROOT
from engine.runs.folder import RunFolder
from engine.runs.pipeline import Pipeline, PromptSplit

_SHIPPED = "sample_data/prompts"
_EACH = 24  # stand-in prompts of each kind
_CHECKED = 6  # prompts that are enough where the target has to answer them first


@dataclass(frozen=True)
class CheckText:
    """The prompts of a check, and in words where they come from."""

    prompts: list[Prompt]
    origin: str


def text_at_hand(pipeline: Pipeline, run: RunFolder) -> CheckText:
    """Prompts that this machine has, the run's own first; `pipeline` is set to capture those."""
    measured, problem = _own_prompts(pipeline)
    if measured:
        if _captured(pipeline):
            return CheckText(measured, f"{_own(measured, run)}, as captured for the run")
        here = CheckText(measured, _own(measured, run))
    else:
        stored, shipped = _stored_questions(run), _shipped_prompts(pipeline.recipe)
        usable = [prompt for prompt in _alternating(stored, shipped) if _renders(pipeline, prompt)]
        names = {prompt.id for prompt in stored}
        counts = sum(prompt.id in names for prompt in usable)
        parts = [f"{counts} questions that the run stored, without tools and earlier turns"] if counts else []
        if len(usable) > counts:
            parts.append(f"{len(usable) - counts} of {_shipped_name(pipeline.recipe)}")
        here = CheckText(usable, f"{' and '.join(parts)}, not the run's held-out set ({problem})")
    pipeline.recipe = _of_the_model(pipeline.recipe)
    pipeline.prompts = PromptSplit([], [], here.prompts, {})
    return here


def fewer(pipeline: Pipeline, text: CheckText) -> CheckText:
    """The text for the comparison itself: all of it where it is captured, else the first few prompts."""
    if _captured(pipeline) or len(text.prompts) <= _CHECKED:
        return text
    few = text.prompts[:_CHECKED]
    pipeline.prompts = PromptSplit([], [], few, {})
    return CheckText(few, f"the first {len(few)} of {text.origin}")


def _own_prompts(pipeline: Pipeline) -> tuple[list[Prompt], str]:
    """The held-out prompts the recipe names, or none and why; prompts to train on are not needed here."""
    try:
        return pipeline.prompts.measured, ""
    except DraftbenchError:
        recipe = pipeline.recipe
    try:
        heldout = read_prompts(recipe.prompts.heldout, skip_bad=recipe.prompts.skip_bad).prompts
        watched, measured = split_heldout(heldout, recipe.train.eval_prompts, recipe.measure.heldout_prompts)
    except DraftbenchError as error:
        return [], error.what
    pipeline.prompts = PromptSplit([], watched, measured, {})
    return measured, ""


def _own(measured: list[Prompt], run: RunFolder) -> str:
    same = run.summary().conditions.heldout_hash == prompts_hash(measured)
    if same:
        return f"the run's {len(measured)} held-out prompts"
    return (
        f"{len(measured)} held-out prompts as the recipe's sources hold them now, others than the run was measured on"
    )


def _captured(pipeline: Pipeline) -> bool:
    """Whether the target need not answer anything."""
    return all((plan.folder / "done.json").exists() for plan in pipeline.heldout_plans().values())


def _of_the_model(recipe: Recipe) -> Recipe:
    """The recipe with answers of the target at hand instead of a server's, which may be gone."""
    return recipe.model_copy(
        update={
            "capture": recipe.capture.model_copy(update={"server": None}),
            "measure": recipe.measure.model_copy(update={"against": "model"}),
        }
    )


def _stored_questions(run: RunFolder) -> list[Prompt]:
    """What the held-out prompts of the measurement ask in words."""
    path = run.path / "measure" / "prompts.parquet"
    if not path.is_file():
        return []
    with boundary(f"{path} cannot be read", "restore it or remove it, or add --no-check"):
        table = pd.read_parquet(path)
        if "text" not in table:
            return []
        texts = table.drop_duplicates("prompt_id").set_index("prompt_id").text.dropna()
    asked = [(str(name), str(text)) for name, text in texts.items() if str(text).strip()]
    return [Prompt(name, ({"role": "user", "content": text},)) for name, text in asked[:_EACH]]


def _shipped_name(recipe: Recipe) -> str:
    """The file with prompts of the run's domain that comes with Draftbench, or of general ones."""
    name = f"{_SHIPPED}/{Path(recipe.prompts.domain).name}/heldout.jsonl"
    return name if (PROJECT_ROOT / name).is_file() else f"{_SHIPPED}/general/heldout.jsonl"


def _shipped_prompts(recipe: Recipe) -> list[Prompt]:
    path = PROJECT_ROOT / _shipped_name(recipe)
    return read_prompts([PromptSource(path=str(path), limit=_EACH)]).prompts if path.is_file() else []


def _alternating(first: list[Prompt], second: list[Prompt]) -> list[Prompt]:
    """Both lists, one of each in turn, no id twice."""
    mixed = itertools.chain.from_iterable(itertools.zip_longest(first, second))
    return list({prompt.id: prompt for prompt in mixed if prompt is not None}.values())


def _renders(pipeline: Pipeline, prompt: Prompt) -> bool:
    """Whether the target's template takes the prompt, its embeddings the tokens, and its context the answer."""
    target, tokens = pipeline.target, pipeline.recipe.measure.max_new_tokens
    context, rows = target.context_tokens, target.input_rows
    try:
        render(target.tokenizer, prompt, context_tokens=context, max_new_tokens=tokens, rows=rows)
    except DraftbenchError:
        return False
    return True
