"""The documents of a run folder, read so that no damage to one of them goes further than that run.

Everything that reads run folders comes here: the list of runs, the index, the queue, labels, studies, estimates and the
pages. What cannot be read is a DraftbenchError or a sentence in `problems`, never another exception, and nothing waits
for a pipe or fills the memory. Nothing here knows DuckDB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_bounded, read_json
from engine.numbers import is_number
from engine.paths import Home, is_run_name, run_id_of
from engine.records.values import shown
from engine.untrusted.yaml_text import MAX_BYTES, parse_yaml

CONFIG, STATUS = "config.yaml", "status.json"
STATES = ("queued", "running", "done", "failed", "cancelled")  # that a status file may name
DAMAGED = "damaged"  # the state of a run whose recipe, status or measurement cannot be read

_SMALL, _LARGE = 1_000_000, 16_000_000  # most bytes of a document
_MOST = {"provenance.json": _LARGE, "summary.json": _LARGE}
EVENTS_BYTES = 32_000_000  # of a run: some 200,000 optimiser steps
_TEXT = 20_000  # characters of a text in a status
_LARGEST_PID = 2**31 - 1


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


def mapping(path: Path) -> dict[str, Any]:
    """The JSON object in a document of a run; empty if there is no such file.

    Raises DraftbenchError for a file that is not whole, not regular or too large.
    """
    try:
        found = read_json(path, _MOST.get(path.name, _SMALL))
    except FileNotFoundError:
        if path.is_symlink():
            raise DraftbenchError(f"{path} is a link that leads nowhere", "", "remove it") from None
        return {}
    if not isinstance(found, dict):
        raise DraftbenchError(f"{path} is not a JSON object", "the file is damaged", "restore it or remove it")
    return found


def whole_or_empty(path: Path) -> dict[str, Any]:
    """As `mapping`, and empty for a damaged document too: for places beside one that says what is wrong with the run."""
    try:
        return mapping(path)
    except DraftbenchError:
        return {}


def read_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run. Raises DraftbenchError if it is missing or not whole."""
    path = folder / CONFIG
    try:
        raw = read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        raise DraftbenchError(f"{path} is missing", "it says what the run is made from", _NO_RECIPE) from None
    with boundary(f"{path} is not valid", _NO_RECIPE, "the file is damaged"):
        values = parse_yaml(raw.decode("utf-8"), str(path), _NO_RECIPE)
        if not isinstance(values, dict):
            raise DraftbenchError(f"{path} holds no recipe", "a recipe is a mapping of sections", _NO_RECIPE)
        return parse_recipe(values)


_NO_RECIPE = "restore it, or remove the run with `draftbench runs remove`"


def read_status(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What the status file says, as far as it makes sense, and what does not; without a file, nothing.

    Raises DraftbenchError if the file is not whole, or does not name a state that there is.
    """
    raw = mapping(folder / STATUS)
    if raw and ("state" in raw) and raw["state"] not in STATES:
        said = shown(raw["state"])
        raise DraftbenchError(f"{folder / STATUS} is damaged: state is {said}", "no run is in that state", _REWRITTEN)
    known, problems = dict(raw), []
    for key, usable in _STATUS.items():
        if known.get(key) is not None and not usable(known[key]):
            problems.append(f"{STATUS}: {key}: {shown(known.pop(key))} makes no sense")
    return known, problems


_REWRITTEN = "`draftbench run --resume` writes it again"


def belongs_to(status: Mapping[str, Any], folder: Path) -> bool:
    """Whether the status was written in this folder. In a copy of a folder it was not: the process that it names works
    on the original. A status of an earlier version does not say."""
    return status.get("run_id") in (None, run_id_of(folder.name))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _TEXT


def _is_process(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_PID


def _is_progress(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_number(inner) if isinstance(inner, (int, float)) else inner is None or _is_text(inner)
        for inner in value.values()
    )


def _is_error(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(inner) for inner in value.values())


_STATUS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("phase", "created_at", "updated_at", "ended_at", "queued_at", "run_id"), _is_text),
    "pid": _is_process,
    "pid_started": is_number,
    "progress": _is_progress,
    "error": _is_error,
}
