"""A folder of results that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from engine.errors import DraftbenchError
from engine.fileio import content_hash, disk_errors
from engine.paths import cache_dir

_OLD = "old"


def refuse_existing(folder: Path, marker: str, *, overwrite: bool) -> None:
    """Raises DraftbenchError if `folder` is there, unless `overwrite` and it holds `marker`: then it is one of ours."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / marker).exists():
        raise DraftbenchError(
            f"{folder} exists and is no folder that this command wrote (it has no {marker})",
            "what it holds would be lost",
            "give another --out",
        )
    if not overwrite:
        raise DraftbenchError(
            f"{folder} exists", "its prompts may be those of a run", "give another --out, or --overwrite to replace it"
        )


@contextmanager
def whole_folder(folder: Path, marker: str, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder to write into; it becomes `folder` at the end, and nothing is left of it if the work breaks.

    Processes that write the same folder wait for each other. What a killed one left is taken
    away, or put back if it was the former `folder`. Raises as `refuse_existing`.
    """
    folder = folder.absolute()
    with disk_errors(folder):
        lock = cache_dir() / "locks" / f"{content_hash(str(folder))[:16]}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            _mend(folder)
            refuse_existing(folder, marker, overwrite=overwrite)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_prefix(folder)) as room:
                made = Path(room) / "new"
                made.mkdir()
                yield made
                _put(made, folder)


def _prefix(folder: Path) -> str:
    return f".{folder.name}-making-"


def _put(made: Path, folder: Path) -> None:
    try:
        os.rename(made, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        os.rename(folder, made.parent / _OLD)  # a kill before the next line leaves it to `_mend`
        os.rename(made, folder)


def _mend(folder: Path) -> None:
    """After a kill: the former folder goes back to its place, everything else goes. The caller holds the lock."""
    for left in folder.parent.glob(_prefix(folder) + "*"):
        if not folder.exists() and (left / _OLD).exists():
            os.rename(left / _OLD, folder)
        shutil.rmtree(left, ignore_errors=True)
