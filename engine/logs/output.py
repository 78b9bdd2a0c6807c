"""The folder that an import writes: it appears complete or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from engine.errors import DraftbenchError
from engine.fileio import atomic_folder, content_hash, disk_errors
from engine.paths import cache_dir


def refuse_existing(folder: Path, marker: str, *, overwrite: bool) -> None:
    """Raise DraftbenchError if `folder` exists, unless `overwrite` and it holds `marker`: then it is one of ours."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / marker).exists():
        raise DraftbenchError(
            f"{folder} exists and was not written by this command (it has no {marker})",
            "its contents would be lost",
            "give another --out",
        )
    if not overwrite:
        raise DraftbenchError(
            f"{folder} exists", "a run may use its prompts", "give another --out, or --overwrite to replace it"
        )


@contextmanager
def output_folder(folder: Path, marker: str, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder to write into, which becomes `folder` at the end.

    Processes that write the same folder wait for each other. Raises as `refuse_existing`.
    """
    folder = folder.absolute()
    with disk_errors(folder):
        lock = cache_dir() / "locks" / f"{content_hash(str(folder))[:16]}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock), atomic_folder(folder) as new:
            refuse_existing(folder, marker, overwrite=overwrite)
            yield new
