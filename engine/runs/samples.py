"""The finished runs that come with Draftbench, laid into a user's home so that no page is empty on the first day.

They are copies like any other run: they can be labelled, archived or removed, and what was
removed does not come back. `DRAFTBENCH_SAMPLES=0` leaves them out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from engine.errors import DraftbenchError
from engine.fileio import disk_errors, read_json, write_json
from engine.paths import PROJECT_ROOT, Home
from engine.records.folders import is_run_folder

SAMPLES = PROJECT_ROOT / "sample_data" / "runs"
_NOTE = "samples.json"  # ids that were laid out before


def sample_folders(source: Path = SAMPLES) -> list[Path]:
    """The runs that come with this version."""
    return sorted(path for path in source.iterdir() if is_run_folder(path)) if source.is_dir() else []


def laid_out(home: Home) -> set[str]:
    """Ids of the samples that this home has had."""
    note = home.root / _NOTE
    try:
        names = read_json(note)
    except FileNotFoundError:
        return set()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DraftbenchError(f"{note} is damaged", "it says which samples this home has had", "remove it")
    return set(names)


def lay_out_samples(home: Home, source: Path = SAMPLES, *, asked: bool = False) -> list[str]:
    """Copy the sample runs that this home has never had; returns their ids.

    `asked`: somebody wants them now, also those that were removed, whatever `DRAFTBENCH_SAMPLES` says of a start.
    """
    if os.environ.get("DRAFTBENCH_SAMPLES") == "0" and not asked:
        return []
    had = laid_out(home)
    added = []
    for folder in sample_folders(source):
        if folder.name in had and not asked:
            continue
        if not os.path.lexists(home.run(folder.name)):
            _copy(folder, home.run(folder.name))
            added.append(folder.name)
        had.add(folder.name)
        write_json(
            home.root / _NOTE, sorted(had)
        )  # after each: what is there and noted is not brought back when removed
    return added


def _copy(folder: Path, place: Path) -> None:
    """A whole copy or none; another process that lays out the same sample at once does no harm."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    with disk_errors(place):
        try:
            shutil.copytree(folder, temporary)
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                if not place.exists():
                    temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
