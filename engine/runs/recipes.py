"""Reading a recipe for a new run: checked, and independent of its folder, so that the run can be resumed anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.catalogue import check_losses
from engine.config.reading import ELSEWHERE, load_recipe, map_paths
from engine.config.schema import ModelSpec, Recipe
from engine.errors import DraftbenchError
from engine.models.assets import find_asset
from engine.paths import Home, resolve_input
from engine.runs.folder import RunFolder


def read_recipe(home: Home, path: str, settings: Sequence[str], *, skip_bad: bool) -> Recipe:
    """The recipe in a file with `key=value` settings over it; what a run would stumble over is refused here."""
    file = resolve_input(path)
    if skip_bad:  # the option of its own wins over the setting
        settings = [*(s for s in settings if not s.startswith("prompts.skip_bad=")), "prompts.skip_bad=true"]
    return with_absolute_paths(load_recipe(file, settings), file.parent, home)


def with_absolute_paths(recipe: Recipe, beside: Path, home: Home) -> Recipe:
    """The recipe with every local file or folder in it as an absolute path; a missing one is an error, as is an
    unknown loss.

    `beside` is the folder of the recipe file.
    """
    check_losses(term.name for term in recipe.train.loss)

    def absolute(path: str, kind: str) -> str:
        return _draft(path, beside, home) if kind == "draft" else _absolute(path, beside)

    return Recipe.model_validate(map_paths(recipe.model_dump(mode="json"), absolute))


def absolute_model(spec: ModelSpec, beside: Path) -> ModelSpec:
    """The specification with local folders as absolute paths; `beside` is the folder of the recipe file."""
    values = map_paths(spec.model_dump(mode="json"), lambda path, kind: _absolute(path, beside), ModelSpec)
    return ModelSpec.model_validate(values)


def _absolute(name: str, beside: Path) -> str:
    if name.startswith("asset:"):
        find_asset(name.removeprefix("asset:"))
    return name if name.startswith(ELSEWHERE) else str(resolve_input(name, beside))


def _draft(name: str, beside: Path, home: Home) -> str:
    """A file or folder as in the rest of the recipe, else the whole id of a run."""
    try:
        return _absolute(name, beside)
    except DraftbenchError as nowhere:
        try:
            return RunFolder.open(home, name).id
        except DraftbenchError:
            raise nowhere from None
