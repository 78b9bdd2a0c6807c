"""The text that an exported folder is checked on: the run's own captures, else what is at hand.

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

from engine.capture.plan import CapturePlan
from engine.chat.prompt import Prompt, prompts_hash
from engine.chat.rendering import render
from engine.config.schema import PromptSource, Recipe
from engine.data.readers import read_prompts
from engine.data.subsets import split_heldout
from engine.errors import DraftbenchError, boundary
from engine.models.load import LoadedModel
from engine.paths import PROJECT_ROOT, Home
from engine.runs.folder import RunFolder
from engine.runs.plan import PromptSplit, plan_heldout, split_prompts

_SHIPPED = "sample_data/prompts"
_EACH = 24  # stand-in prompts of each kind
_CHECKED = 6  # prompts that are enough where the target has to answer them first


@dataclass(frozen=True)
class CheckText:
    """The prompts that an export is checked on, where they come from in words, and how the target's text is captured.

    `recipe` is the run's own as long as its captures or sources are at hand.
    """

    recipe: Recipe
    prompts: PromptSplit
    origin: str

    def plans(self, home: Home, target: LoadedModel) -> dict[float, CapturePlan]:
        """The captures of the text, by temperature."""
        return plan_heldout(home.captures, self.recipe, target, self.prompts)

    def captured(self, home: Home, target: LoadedModel) -> bool:
        """Return whether every answer of the text is captured already."""
        return all((plan.folder / "done.json").exists() for plan in self.plans(home, target).values())


def text_at_hand(home: Home, run: RunFolder, recipe: Recipe, target: LoadedModel) -> CheckText:
    """The prompts that this machine has, the run's own first."""
    own, problem = _own_prompts(recipe, target)
    if own.measured:
        text = CheckText(recipe, own, f"{_own(own.measured, run)}, as captured for the run")
        if text.captured(home, target):
            return text
        origin, prompts = _own(own.measured, run), own.measured
    else:
        stored, shipped = _stored_questions(run), _shipped_prompts(recipe)
        prompts = [prompt for prompt in _alternating(stored, shipped) if _renders(recipe, target, prompt)]
        names = {prompt.id for prompt in stored}
        counts = sum(prompt.id in names for prompt in prompts)
        parts = [f"{counts} questions that the run stored, without tools and earlier turns"] if counts else []
        if len(prompts) > counts:
            parts.append(f"{len(prompts) - counts} of {_shipped_name(recipe)}")
        origin = f"{' and '.join(parts)}, not the run's held-out set ({problem})"
    return CheckText(_answered_here(recipe), PromptSplit([], [], prompts), origin)


def fewer(text: CheckText, home: Home, target: LoadedModel) -> CheckText:
    """The text for the comparison itself: all of it where it is captured, else the first few prompts."""
    prompts = text.prompts.measured
    if len(prompts) <= _CHECKED or text.captured(home, target):
        return text
    return CheckText(text.recipe, PromptSplit([], [], prompts[:_CHECKED]), f"the first {_CHECKED} of {text.origin}")


def _own_prompts(recipe: Recipe, target: LoadedModel) -> tuple[PromptSplit, str]:
    """The held-out prompts that the recipe names, or none and why; no training prompts are needed here."""
    try:
        return split_prompts(recipe, target), ""
    except DraftbenchError:
        pass
    try:
        heldout = read_prompts(recipe.prompts.heldout, skip_bad=recipe.prompts.skip_bad, stored=True).prompts
        watched, measured = split_heldout(heldout, recipe.train.eval_prompts, recipe.measure.heldout_prompts)
    except DraftbenchError as error:
        return PromptSplit([], [], []), error.what
    return PromptSplit([], watched, measured), ""


def _own(measured: list[Prompt], run: RunFolder) -> str:
    same = run.summary().conditions.heldout_hash == prompts_hash(measured)
    if same:
        return f"the run's {len(measured)} held-out prompts"
    return (
        f"{len(measured)} held-out prompts as the recipe's sources hold them now, others than the run was measured on"
    )


def _answered_here(recipe: Recipe) -> Recipe:
    """The recipe with answers of the target at hand instead of a server's, which may be gone."""
    return recipe.model_copy(
        update={
            "capture": recipe.capture.model_copy(update={"server": None}),
            "measure": recipe.measure.model_copy(update={"against": "model"}),
        }
    )


def _stored_questions(run: RunFolder) -> list[Prompt]:
    """Prompts made from the questions that the measurement stored."""
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


def _renders(recipe: Recipe, target: LoadedModel, prompt: Prompt) -> bool:
    """Return whether the target can read the prompt, and has room for an answer."""
    try:
        render(
            target.tokenizer,
            prompt,
            context_tokens=target.context_tokens,
            max_new_tokens=recipe.measure.max_new_tokens,
            rows=target.input_rows,
        )
    except DraftbenchError:
        return False
    return True
