"""What new runs read, looked at before there is a folder for them: a fault that shows now leaves no failed run."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config.schema import PromptsSpec, Recipe
from engine.data.readers import read_prompts
from engine.paths import Home


def check_inputs(home: Home, recipes: Sequence[Recipe]) -> None:
    """Read the prompts of the recipes, and look whether their models and drafts are ones, each of them once.

    Raises DraftbenchError for the first that a run could not read. Models are neither fetched, converted nor loaded.
    """
    prompts: list[PromptsSpec] = []
    models: set[str] = set()
    adapters: set[str] = set()
    drafts: set[str] = set()
    references: set[str] = set()
    for recipe in recipes:
        if recipe.prompts not in prompts:
            prompts.append(recipe.prompts)
        if not recipe.times_server:
            models.add(recipe.target.model)
            adapters.update(_named(recipe.target.adapter))
        drafts.update(_named(recipe.draft.checkpoint))
        references.update(_named(recipe.train.selection.reference if recipe.trains else None))
    for spec in prompts:
        for sources in (spec.train, spec.heldout):
            read_prompts(sources, skip_bad=spec.skip_bad)
    for name in sorted(references):
        from engine.runs.drafts import reference_folder

        reference_folder(home, name)
    for name in sorted(drafts):
        from engine.runs.drafts import draft_folder  # here and below: with torch, which most recipes need not load

        if draft_folder(home, name) is None:
            models.add(name)
    for name in filter(_is_local, sorted(models)):
        from engine.models.locate import local_model

        local_model(name)
    for name in filter(_is_local, sorted(adapters)):
        from engine.models.locate import locate_adapter

        locate_adapter(name)


def _named(*names: str | None) -> list[str]:
    return [name for name in names if name is not None]


def _is_local(name: str) -> bool:
    return not name.startswith(("hub:", "asset:"))
