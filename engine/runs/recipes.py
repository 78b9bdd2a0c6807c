"""Reading a recipe for a new run: checked, and independent of where it was read, so that the run can be resumed anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.config.reading import load_recipe
from engine.config.schema import ModelSpec, PromptSource, Recipe
from engine.errors import DraftbenchError
from engine.models.assets import find_asset
from engine.paths import Home, resolve_input
from engine.runs.folder import RunFolder


def read_recipe(home: Home, path: str, settings: Sequence[str], *, skip_bad: bool) -> Recipe:
    """The recipe in a file with `key=value` settings over it; what a run would stumble over is refused here."""
    # not above: it needs torch, which a page that uses the rest of this module does without
    from engine.distill.losses import check_terms

    file = resolve_input(path)
    if skip_bad:  # the option of its own wins over the setting
        settings = [*(s for s in settings if not s.startswith("prompts.skip_bad=")), "prompts.skip_bad=true"]
    recipe = load_recipe(file, settings)
    check_terms(recipe.train.loss)
    return with_absolute_paths(recipe, file.parent, home)


def with_absolute_paths(recipe: Recipe, beside: Path, home: Home) -> Recipe:
    """The recipe with every local file or folder in it as an absolute path; a missing one is an error.

    `beside` is the folder of the recipe file.
    """
    prompts = recipe.prompts.model_copy(
        update={
            "train": [_absolute_source(s, beside) for s in recipe.prompts.train],
            "heldout": [_absolute_source(s, beside) for s in recipe.prompts.heldout],
        }
    )
    target = absolute_model(recipe.target, beside)
    draft = recipe.draft.model_copy(update={"checkpoint": _checkpoint(recipe.draft.checkpoint, beside, home)})
    reference = _checkpoint(recipe.train.selection.reference, beside, home)
    selection = recipe.train.selection.model_copy(update={"reference": reference})
    train = recipe.train.model_copy(update={"selection": selection})
    return recipe.model_copy(update={"prompts": prompts, "target": target, "draft": draft, "train": train})


def absolute_model(spec: ModelSpec, beside: Path) -> ModelSpec:
    """The specification with local folders as absolute paths; `beside` is the folder of the recipe file."""
    return spec.model_copy(update={"model": _absolute(spec.model, beside), "adapter": _maybe(spec.adapter, beside)})


def _absolute_source(source: PromptSource, beside: Path) -> PromptSource:
    return source.model_copy(update={"path": _absolute(source.path, beside)})


def _maybe(name: str | None, beside: Path) -> str | None:
    return None if name is None else _absolute(name, beside)


def _absolute(name: str, beside: Path) -> str:
    if name.startswith("asset:"):
        find_asset(name.removeprefix("asset:"))
    return name if name.startswith(("hub:", "asset:", "pack:")) else str(resolve_input(name, beside))


def _checkpoint(name: str | None, beside: Path, home: Home) -> str | None:
    """A file or folder as in the rest of the recipe, else the whole id of a run."""
    try:
        return _maybe(name, beside)
    except DraftbenchError as nowhere:
        assert name is not None
        try:
            return RunFolder.open(home, name).id
        except DraftbenchError:
            raise nowhere from None
