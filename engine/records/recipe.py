"""`config.yaml`: the resolved recipe of a run."""

from __future__ import annotations

from pathlib import Path

from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_bounded
from engine.records.files import CONFIG
from engine.untrusted.yaml_text import MAX_BYTES, parse_yaml


def read_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run. Raises DraftbenchError if it is missing or not whole."""
    path = folder / CONFIG
    try:
        raw = read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        raise DraftbenchError(f"{path} is missing", "it is the recipe of the run", _NO_RECIPE) from None
    with boundary(f"{path} is not valid", _NO_RECIPE, "the file is damaged"):
        values = parse_yaml(raw.decode("utf-8"), str(path), _NO_RECIPE)
        if not isinstance(values, dict):
            raise DraftbenchError(f"{path} is not a recipe", "a recipe is a mapping of sections", _NO_RECIPE)
        return parse_recipe(values, stored=True)


_NO_RECIPE = "restore it, or remove the run with `draftbench runs remove`"
