"""Making a recipe independent of where it was read, so that its run can be resumed from anywhere."""

from __future__ import annotations

from pathlib import Path

from engine.config import PromptSource, Recipe
from engine.paths import resolve_input


def with_absolute_paths(recipe: Recipe, beside: Path) -> Recipe:
    """The recipe with every local file or folder in it as an absolute path; a missing one is an error.

    `beside` is the folder of the recipe file.
    """
    prompts = recipe.prompts.model_copy(
        update={
            "train": [_absolute_source(s, beside) for s in recipe.prompts.train],
            "heldout": [_absolute_source(s, beside) for s in recipe.prompts.heldout],
        }
    )
    target = recipe.target.model_copy(
        update={"model": _absolute(recipe.target.model, beside), "adapter": _maybe(recipe.target.adapter, beside)}
    )
    return recipe.model_copy(update={"prompts": prompts, "target": target})


def _absolute_source(source: PromptSource, beside: Path) -> PromptSource:
    return source.model_copy(update={"path": _absolute(source.path, beside)})


def _maybe(name: str | None, beside: Path) -> str | None:
    return None if name is None else _absolute(name, beside)


def _absolute(name: str, beside: Path) -> str:
    return name if name.startswith(("hub:", "asset:")) else str(resolve_input(name, beside))
