"""Deleting a run, whatever its folder holds."""

from __future__ import annotations

import os
import shutil

from filelock import FileLock, Timeout

from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.index.ingest import remove_missing
from engine.paths import Home
from engine.runs.folder import RunFolder


def remove_run(home: Home, run: RunFolder) -> None:
    """Delete the run's folder, or the link in its place, and forget it in the index.

    Raises DraftbenchError if a process works on it.
    """
    if run.path.is_symlink():
        with disk_errors(run.path):
            run.path.unlink()  # never what it leads to
    else:
        _refuse_if_at_work(run)
        hidden = run.path.with_name(f".{run.path.name}.removed-{os.getpid()}")
        with disk_errors(run.path):
            run.path.rename(hidden)  # at once for everybody, however long the deleting takes
            shutil.rmtree(hidden)
    remove_missing(home)


def _refuse_if_at_work(run: RunFolder) -> None:
    at_work = run.status().state == "running"
    lock = run.path / ".lock"
    if not at_work and lock.is_file():
        try:
            with FileLock(lock).acquire(timeout=0):
                pass
        except Timeout:
            at_work = True
    if at_work:
        raise DraftbenchError(
            f"run {run.id} is being worked on",
            "its process would go on writing",
            f"stop it first with `draftbench runs cancel {run.id}`",
        )
