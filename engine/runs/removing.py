"""Removing a run, whatever its folder holds: into the trash, where it waits a day, or for good."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
from filelock import FileLock, Timeout

from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.index.connection import reading
from engine.index.ingest import forget
from engine.paths import Home
from engine.records.study_tag import STUDY_TAG
from engine.runs import trash
from engine.runs.folder import RunFolder
from engine.runs.labels import read_labels


@dataclass(frozen=True)
class Removal:
    """What removing a run would free on the disk, and what else depends on it, a sentence each."""

    files: int
    frees_bytes: int
    """Of files that no other folder shares."""
    remarks: tuple[str, ...]


def removal_of(home: Home, run: RunFolder) -> Removal:
    """What to say before the run is removed. Raises DraftbenchError if it is at work, or waits for its turn."""
    files, size = 0, 0
    if not run.path.is_symlink():
        _refuse_if_at_work(run, run.status().state == "running")
        for stat in _files(run.path):
            files += 1
            size += stat.st_blocks * 512 if stat.st_nlink == 1 else 0
    return Removal(files, size, tuple(_remarks(home, run)))


def remove_run(home: Home, run: RunFolder, *, for_good: bool = False) -> None:
    """Move the run's folder, or the link in its place, to the trash, and forget it in the index.

    `for_good`: delete it at once. Raises DraftbenchError if a process works on it or it waits for one.
    """
    with _held(run), disk_errors(run.path):
        removed = trash.put(home, run.path)  # by one renaming: at once for everybody, and it needs no room on the disk
    if for_good:
        trash.delete(removed)
    with contextlib.suppress(DraftbenchError):  # a busy index forgets it when it is next looked at
        forget(home, [run.id])
    trash.sweep(home)


@contextlib.contextmanager
def _held(run: RunFolder) -> Iterator[None]:
    """Keep others from beginning work on the run meanwhile. Raises DraftbenchError if somebody has begun."""
    if run.path.is_symlink():  # what it leads to is not touched
        yield
        return
    with contextlib.ExitStack() as stack:
        lock, at_work = run.path / ".lock", run.status().state == "running"
        try:
            if lock.is_file():
                stack.enter_context(FileLock(lock).acquire(timeout=0))
        except Timeout:
            at_work = True
        _refuse_if_at_work(run, at_work)
        yield


def _refuse_if_at_work(run: RunFolder, at_work: bool) -> None:
    status = run.status()
    if status.state == "queued" and status.queued_at:  # without that time nobody has put it into a queue
        raise DraftbenchError(
            f"run {run.id} waits in a queue",
            "it would be started without its folder",
            f"take it out first with `draftbench runs cancel {run.id}`",
        )
    if at_work:
        raise DraftbenchError(
            f"run {run.id} is being worked on",
            "its process would continue to write",
            f"stop it first with `draftbench runs cancel {run.id}`",
        )


def _remarks(home: Home, run: RunFolder) -> Iterator[str]:
    with contextlib.suppress(DraftbenchError, OSError):
        labels = read_labels(run)
        if labels.baseline:
            yield "It is the baseline that others are compared with."
        studies = [tag.removeprefix(STUDY_TAG) for tag in labels.tags if tag.startswith(STUDY_TAG)]
        yield from (
            f"It is a cell of the study {study}, whose findings are then drawn without it." for study in studies
        )
    if (run.path / "export.json").is_file():
        yield "It was exported: the exported folder stays, but can no longer be checked against the run."
    starting = _that_start_from(home, run)
    if starting:
        more = f" and {len(starting) - 3} more" if len(starting) > 3 else ""
        yield f"{', '.join(starting[:3])}{more} started from its draft, and could not be trained again."


def _that_start_from(home: Home, run: RunFolder) -> list[str]:
    """Ids of the runs whose recipes name this run, or a folder in it, as the draft to start from."""
    with contextlib.suppress(DraftbenchError, OSError, duckdb.Error), reading(home.index, timeout_s=5) as con:
        rows = con.execute(
            "SELECT run_id FROM (SELECT run_id, config->>'$.draft.checkpoint' AS source FROM runs)"
            " WHERE source = ? OR starts_with(source, ?) ORDER BY run_id",
            [run.id, f"{run.path.absolute()}/"],
        ).fetchall()
        return [str(run_id) for (run_id,) in rows if run_id != run.id]
    return []


def _files(folder: Path) -> Iterator[os.stat_result]:
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(place, name))
