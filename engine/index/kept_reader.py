"""One DuckDB instance for the readers of a moment.

To open the index takes 16 ms of processor time, nearly all of it DuckDB's own start, and a page opens it up to ten
times while it is drawn. As long as one connection of a process is open, the next one to the same file takes 1 ms. So
the workbench keeps one open for a moment. It holds up nobody for longer than that: a writer of this process lets go of
it first, a writer of another process waits for it as for any reader, and no reader enters meanwhile.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb

_seconds = 0.0
_lock = threading.Lock()
_kept: dict[Path, duckdb.DuckDBPyConnection] = {}


def share_readers(seconds: float) -> None:
    """From now on, keep a reader of each index open for that long after it was opened; 0: do not."""
    global _seconds
    _seconds = seconds


def keep(path: Path, connect: Callable[[], duckdb.DuckDBPyConnection]) -> None:
    """Keep a reader from `connect` while one of this index is open, unless one is kept already."""
    if not _seconds:
        return
    with _lock:
        if path in _kept:
            return
        _kept[path] = connect()  # no cursor of the other reader, with which it would be closed
    timer = threading.Timer(_seconds, let_go, [path])
    timer.daemon = True
    timer.start()


def let_go(path: Path) -> None:
    """Close what is kept of an index, so that a writer can open it."""
    with _lock:
        kept = _kept.pop(path, None)
    if kept is not None:
        kept.close()


@atexit.register
def _let_all_go() -> None:
    for path in list(_kept):
        let_go(path)
