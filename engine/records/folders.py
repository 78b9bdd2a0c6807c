"""List the folders of runs, and read the recipe of each."""

from __future__ import annotations

import os
from pathlib import Path

from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_bounded
from engine.paths import Home, is_run_name
from engine.untrusted.yaml_text import MAX_BYTES, parse_yaml

CONFIG = "config.yaml"


def run_names(home: Home) -> list[str]:
    """The names of the folders of all runs, sorted: each folder in `runs`, or link there, that is not hidden.

    A link that leads nowhere is a damaged run; a plain file is none.
    """
    try:
        with os.scandir(home.runs) as entries:
            return sorted(
                entry.name for entry in entries if is_run_name(entry.name) and (_is_folder(entry) or entry.is_symlink())
            )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DraftbenchError(
            f"could not list {home.runs}: {error.strerror}",
            "the runs are kept there",
            "correct the folder or its permissions",
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_run_folder(folder: Path) -> bool:
    """Whether the folder has a resolved recipe. Every folder in `runs` is a run; one elsewhere only if this holds."""
    try:
        return (folder / CONFIG).is_file()
    except (OSError, ValueError):
        return False


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
            raise DraftbenchError(f"{path} holds no recipe", "a recipe is a mapping of sections", _NO_RECIPE)
        return parse_recipe(values)


_NO_RECIPE = "restore it, or remove the run with `draftbench runs remove`"
