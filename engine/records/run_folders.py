"""The documents of a run folder, read so that no damage to one of them goes further than that run.

Everything that reads run folders comes here: the list of runs, the index, the queue, labels, studies, estimates and the
pages. What cannot be read is a DraftbenchError or a sentence in `problems`, never another exception, and nothing waits
for a pipe or fills the memory. Nothing here knows DuckDB.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_bounded
from engine.paths import Home, is_run_name

CONFIG = "config.yaml"
RECIPE_BYTES = 500_000  # most of a config.yaml
_DEEPEST = 50  # brackets of a recipe: ours have two


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
        raw = read_bounded(path, RECIPE_BYTES)
    except FileNotFoundError:
        raise DraftbenchError(f"{path} is missing", "it says what the run is made from", _NO_RECIPE) from None
    with boundary(f"{path} is not valid", _NO_RECIPE, "the file is damaged"):
        text = raw.decode("utf-8")
        values = yaml.load(text, _QuickLoader if _is_plain(text) else _Loader)
        if not isinstance(values, dict):
            raise DraftbenchError(f"{path} holds no recipe", "a recipe is a mapping of sections", _NO_RECIPE)
        return parse_recipe(values)


_NO_RECIPE = "restore it, or remove the run with `draftbench runs remove`"


class _Strict:
    """Refuses a key that is there twice (the last one would win without a word) and aliases, which a resolved recipe
    has none of and which can make a gigabyte of a few lines."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep)  # type: ignore[misc]
        if len(found) < len(node.value):
            raise ConstructorError(None, None, "a key is there twice", node.start_mark)
        return found

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # type: ignore[attr-defined]
            raise ConstructorError(None, None, "an alias", self.peek_event().start_mark)  # type: ignore[attr-defined]
        return super().compose_node(parent, index)  # type: ignore[misc]


class _Loader(_Strict, yaml.SafeLoader):
    """In Python: whatever is nested too deep is an exception, brackets before they are all looked at."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > _DEEPEST:
            raise ConstructorError(None, None, "brackets nested too deep", self.get_mark())
        super().fetch_flow_collection_start(token)


class _QuickLoader(_Strict, yaml.CSafeLoader):
    """In C, seven times faster: but values that are nested some thousand deep end the process."""


_NESTED = re.compile(r"(?:[-?:] ){8}|^ {40}", re.MULTILINE)


def _is_plain(text: str) -> bool:
    """Whether YAML is like that of `dump_recipe`: without aliases, and not nested so deep that the loader in C fails."""
    return "&" not in text and "*" not in text and text.count("[") + text.count("{") < 500 and not _NESTED.search(text)
