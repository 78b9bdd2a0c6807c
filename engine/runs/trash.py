"""Removed runs, which wait a day to be restored: `runs/.removed/`, a folder or link each, as `TIME~NAME`.

A run is put there and restored by one renaming within one file system: a kill leaves it in one place or the other, and
a full disk does not keep anybody from making room. Whoever opens the home deletes what has waited longer. An entry
whose name is not of this form was not put there by Draftbench and is never touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock

from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import disk_errors
from engine.paths import Home, is_run_name, run_id_of

KEPT = timedelta(hours=24)
_TIME = "%Y%m%dT%H%M%S.%f"
_ENTRY = re.compile(r"(\d{8}T\d{6}\.\d{6})~(.+)", re.DOTALL)
_DELETING = ".deleting~"  # begins the name of what is being deleted: no longer listed, and finished by the next sweep


@dataclass(frozen=True)
class Removed:
    """A run in the trash."""

    run_id: str
    path: Path
    removed_at: datetime

    @property
    def until(self) -> datetime:
        """When it may be deleted."""
        return self.removed_at + KEPT


def folder(home: Home) -> Path:
    """The trash: beside the runs, hidden, so on their file system even where `runs` is a link to a larger disk."""
    return home.runs / ".removed"


def put(home: Home, run: Path) -> Removed:
    """Move a run's folder, or the link in its place, to the trash."""
    now = datetime.now(UTC)
    folder(home).mkdir(exist_ok=True)
    place = folder(home) / f"{now.strftime(_TIME)}~{run.name}"
    try:
        run.rename(place)
    except OSError as error:
        raise _not_moved(run, error) from error
    return Removed(run_id_of(run.name), place, now)


def removed_runs(home: Home) -> list[Removed]:
    """What the trash holds, the one removed last first."""
    try:
        names = os.listdir(folder(home))
    except OSError:  # nothing was ever removed
        return []
    entries = [entry for name in names if (entry := _entry(home, name)) is not None]
    return sorted(entries, key=lambda entry: entry.removed_at, reverse=True)


def restore(home: Home, run_id: str, removed_at: datetime | None = None) -> Path:
    """Put back the run of that id, or the only one whose id begins so, that was removed last or at that time; its
    folder.

    Raises DraftbenchError if the trash holds none, or if there is a run of that name again.
    """
    with disk_errors(home.runs), FileLock(home.runs / ".removed.lock"):  # two may restore at once
        entries = removed_runs(home)
        meant = _meant(entries, run_id)
        entry = next((entry for entry in meant if removed_at in (None, entry.removed_at)), None)
        if entry is None:
            known = [entry.run_id for entry in entries]
            hint = did_you_mean(run_id, known) if known else "nothing was removed in the last 24 hours"
            raise DraftbenchError(f"no removed run {run_id!r}", "the trash keeps runs for a day", hint)
        place = home.run(entry.run_id)
        if os.path.lexists(place):
            raise DraftbenchError(
                f"there is a run {entry.run_id} again",
                "restoring the removed one would replace it",
                f"remove or rename {place}, then restore",
            )
        entry.path.rename(place)
    return place


def _meant(entries: Sequence[Removed], name: str) -> list[Removed]:
    """The entries of that id; else those whose ids begin so, if all are of one run."""
    begun = [entry for entry in entries if name and entry.run_id.startswith(name)]
    whole = [entry for entry in begun if entry.run_id == name]
    return whole or (begun if len({entry.run_id for entry in begun}) == 1 else [])


def delete(entry: Removed) -> None:
    """Delete a removed run for good; of a link only the link."""
    doomed = entry.path.with_name(_DELETING + entry.path.name)
    try:
        with disk_errors(entry.path):
            entry.path.rename(doomed)
            _delete(doomed)
    except OSError as error:
        raise DraftbenchError(
            f"run {entry.run_id} is removed, but not all of it could be deleted: {error.strerror}",
            f"what is left is in {doomed}",
            "delete it yourself",
        ) from error


def sweep(home: Home, now: datetime | None = None) -> list[str]:
    """Delete what has waited longer than a day, and what an earlier deletion has left; ids of the runs deleted.

    What cannot be deleted stays for the next sweep.
    """
    moment = now or datetime.now(UTC)
    gone = []
    for entry in removed_runs(home):
        if entry.until <= moment:
            with contextlib.suppress(DraftbenchError, OSError):  # another process sweeps too
                delete(entry)
                gone.append(entry.run_id)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder(home)):
            if name.startswith(_DELETING):
                with contextlib.suppress(OSError):
                    _delete(folder(home) / name)
    return gone


def _delete(path: Path) -> None:
    """Delete a folder, or a link; what another process deletes meanwhile is no error."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    while os.path.lexists(path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


def _entry(home: Home, name: str) -> Removed | None:
    match = _ENTRY.fullmatch(name)
    if match is None or not is_run_name(match[2]):
        return None
    with contextlib.suppress(ValueError):  # a 13th month
        moment = datetime.strptime(match[1], _TIME).replace(tzinfo=UTC)
        return Removed(run_id_of(match[2]), folder(home) / name, moment)
    return None


def _not_moved(run: Path, error: OSError) -> DraftbenchError | OSError:
    if error.errno == errno.ENAMETOOLONG:
        return DraftbenchError(f"the name of {run} is too long for the trash", "", "shorten it, then remove the run")
    if error.errno in (errno.EXDEV, errno.EBUSY):
        return DraftbenchError(
            f"{run} is a disk of its own", "it cannot be moved to the trash in one step", "unmount it, or delete it"
        )
    return error
