"""The folders of runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from engine.errors import DraftbenchError
from engine.paths import Home, is_run_name
from engine.records.files import CONFIG

DAMAGED: Final = "damaged"  # the state of a run whose documents cannot be read


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
