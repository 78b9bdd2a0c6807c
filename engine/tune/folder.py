"""The folder of a domain target: what may lie in it, and one process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.models.adapter import CONFIG, WEIGHTS
from engine.tune.training import CHECKPOINT

TUNING = "tuning.json"
STATE = ".tuning-state.json"  # what a folder without its tuning.json was begun with
CURVE = "curve.jsonl"
_LOCK = ".lock"
_OURS = {TUNING, STATE, CURVE, CHECKPOINT, CONFIG, WEIGHTS, _LOCK, "README.md"}


@contextlib.contextmanager
def working(folder: Path) -> Iterator[None]:
    """Be the one process that makes this target. Raises DraftbenchError for a folder that holds something else."""
    check_ours(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        with disk_errors(folder):
            lock.acquire(timeout=0)
    except Timeout:
        raise DraftbenchError(
            f"another process is tuning into {folder}",
            "two processes would overwrite each other's checkpoints",
            "wait for it, or choose another folder with --out",
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_ours(folder: Path) -> None:
    """Raise DraftbenchError unless the folder is new, empty, or holds nothing but a target's files."""
    if folder.exists() and not folder.is_dir():
        raise DraftbenchError(f"{folder} is a file", "a target is a folder of files", "choose another one with --out")
    strange = sorted(p.name for p in folder.iterdir() if not _is_ours(p.name)) if folder.exists() else []
    if strange:
        raise DraftbenchError(
            f"{folder} holds {strange[0]}" + (f" and {len(strange) - 1} more" if len(strange) > 1 else ""),
            "a target's folder holds the adapter and its record alone: its hash identifies the target",
            "choose another folder with --out",
        )


def _is_ours(name: str) -> bool:
    """Our files, and what a kill left of one that was being replaced."""
    return name in _OURS or any(name.startswith(f".{ours}.") for ours in _OURS)


def sweep(folder: Path) -> None:
    """Remove what only an unfinished target needs."""
    for path in folder.iterdir():
        if path.name in (CHECKPOINT, STATE) or any(path.name.startswith(f".{ours}.") for ours in _OURS):
            path.unlink(missing_ok=True)
