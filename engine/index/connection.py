"""One writer or many readers of the index, across threads and processes.

DuckDB lets one process write a file and locks every other process out meanwhile, readers
included. A turnstile makes that invisible: one file lock, `index.duckdb.lock`, which a
writer holds from before it opens the database until it has closed it, and a reader only
for the instant of opening. So readers read side by side, a writer waits for the few that
are inside but never for those that come later, and nobody sees DuckDB's own lock error.

DuckDB's own lock belongs to the process, and closing *any* handle on the file drops it. The
connections of one process share one handle and are safe; to ATTACH the index from a second
instance, or to open the file to copy or hash it while a reader is inside, is not.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import filelock

from engine.errors import DraftbenchError, first_line
from engine.fileio import disk_errors
from engine.index import kept_reader, schema
from engine.index.transaction import transaction

TIMEOUT_S = 30.0
# Waiters poll the file lock. 20 ms is below what a person notices, and a crowd of waiters
# that polls more often takes the processor from whoever holds the lock.
_POLL_S = 0.02
_REBUILD = "draftbench index --rebuild"
# Connections of one process to one file share a DuckDB instance and must be configured
# alike. No extension may be fetched while a page is drawn: the needed ones are built in.
_CONFIG = {
    "threads": min(4, os.cpu_count() or 1),
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


class IndexDamagedError(DraftbenchError):
    """The index cannot be opened or read, and nobody else's hand is the reason: it has to be made again."""


@contextlib.contextmanager
def reading(index: Path, timeout_s: float = TIMEOUT_S) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection to a consistent state of the index.

    Where there is no index yet, the connection is to an empty one in memory, with all
    tables, and nothing is created on disk. An index with an older schema is migrated first.
    Read and leave: a writer waits until the last reader that entered before it has left.
    Opening a writer inside waits for itself until the timeout.

    Raises DraftbenchError if the index is busy for `timeout_s`, damaged, or too new.
    """
    path = _resolved(index)
    deadline = time.monotonic() + timeout_s
    with _explained(path):
        con = _open_reader(path, deadline)
        try:
            yield con
        finally:
            con.close()


@contextlib.contextmanager
def writing(index: Path, timeout_s: float = TIMEOUT_S) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection inside one transaction: committed at the end, rolled back by any exception.

    Creates and migrates the index where needed. Raises DraftbenchError if the index is busy
    for `timeout_s`, damaged or too new, or if the disk is full.
    """
    with open_writer(index, timeout_s) as con, transaction(con):
        yield con


@contextlib.contextmanager
def open_writer(index: Path, timeout_s: float = TIMEOUT_S) -> Iterator[duckdb.DuckDBPyConnection]:
    """As `writing`, for a caller that sets its own `transaction`s; everyone waits meanwhile."""
    path = _resolved(index)
    deadline = time.monotonic() + timeout_s
    with _turnstile(path, deadline), open_private(path, deadline) as con:
        yield con


@contextlib.contextmanager
def open_private(path: Path, deadline: float = 0.0) -> Iterator[duckdb.DuckDBPyConnection]:
    """A migrated writer without the turnstile: for a file that no one else knows, or under it."""
    with _explained(path):
        con = _connect(path, deadline, read_only=False)
        try:
            schema.migrate(con)
            yield con
        finally:
            con.close()


@contextlib.contextmanager
def exclusive(index: Path, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Hold the index with no reader or writer inside and no connection open, to replace the file.

    A damaged index counts as empty of readers: it cannot be opened at all.
    """
    path = _resolved(index)
    deadline = time.monotonic() + timeout_s
    with _turnstile(path, deadline):
        if path.is_file():
            # Opening for writing succeeds once the last reader has left. Without this, readers
            # of this very process would go on to share the replaced file's instance.
            with contextlib.suppress(duckdb.Error, IndexDamagedError):
                _connect(path, deadline, read_only=False).close()
        yield


def _open_reader(path: Path, deadline: float) -> duckdb.DuckDBPyConnection:
    """A read-only connection with the current schema, after migrating an older one."""
    if not os.path.lexists(path):
        con = duckdb.connect(":memory:", config=_CONFIG)
        schema.migrate(con)
        return con
    con = _connect_reader(path, deadline)
    if schema.version(con) == schema.CURRENT:
        return con
    con.close()
    with open_writer(path, max(0.0, deadline - time.monotonic())):
        pass  # opening migrates, or says that the index is too new
    return _connect_reader(path, deadline)


def _connect_reader(path: Path, deadline: float) -> duckdb.DuckDBPyConnection:
    with _turnstile(path, deadline) if _can_lock(path) else contextlib.nullcontext():
        con = _connect(path, deadline, read_only=True)
        # Within the turnstile: a writer that holds it waits for what is kept.
        kept_reader.keep(path, lambda: _connect(path, deadline, read_only=True))
        return con


def _connect(path: Path, deadline: float, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Connect as soon as those inside let go; raises DraftbenchError after the deadline."""
    if os.path.lexists(path) and not path.is_file():  # DuckDB would wait for a pipe
        raise _damaged(path, "it is not a file")
    while True:
        if not read_only:
            kept_reader.let_go(path)
        try:
            return duckdb.connect(str(path), read_only=read_only, config=_CONFIG)
        except duckdb.Error as error:
            if not _is_busy(error):
                raise
            if time.monotonic() >= deadline:
                raise _busy(path, str(error).splitlines()[0]) from None
        time.sleep(_POLL_S / 4)


def _is_busy(error: duckdb.Error) -> bool:
    """Another process holds the file, or another thread of this one holds it in the other mode.

    DuckDB has no error class of its own for either, so the texts are what there is to go by;
    test_connection.py provokes both with the installed version.
    """
    text = str(error)
    return "Could not set lock on file" in text or "different configuration than existing" in text


@contextlib.contextmanager
def _turnstile(path: Path, deadline: float) -> Iterator[None]:
    """The file lock beside the index; a new lock object each time, so that threads exclude each other."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Kept on release: with one file for ever there is no moment with two locks of one name.
        lock = filelock.FileLock(_lock_file(path), poll_interval=_POLL_S, preserve_lock_file=True)
        try:
            lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
        except filelock.Timeout:
            raise _busy(path, f"the lock {_lock_file(path)} was not given up in time") from None
    try:
        yield
    finally:
        lock.release()


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _can_lock(path: Path) -> bool:
    """False in a folder that may only be read (a shared or packaged home): nobody writes there."""
    lock = _lock_file(path)
    return os.access(lock if lock.exists() else path.parent, os.W_OK)


def _busy(path: Path, why: str) -> DraftbenchError:
    return DraftbenchError(
        f"the index {path} is in use",
        why,
        "try again; if it stays so, end the process that holds it (also a DuckDB shell opened on that file)",
    )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn DuckDB's errors about the file itself into ones a user can act on; let the rest pass."""
    try:
        yield
    except duckdb.Error as error:
        explained = _explain(path, error)
        if explained is None:
            raise
        if isinstance(explained, IndexDamagedError):
            with contextlib.suppress(OSError):
                damage_mark(path).touch()
        raise explained from error


def is_of_the_index(error: duckdb.Error) -> bool:
    """Whether an error, met while a run was written, is about the index and not about what the run holds."""
    return _explain(Path(), error) is not None


def _explain(path: Path, error: duckdb.Error) -> DraftbenchError | None:
    text = str(error)
    first = first_line(error)
    if "No space left" in text or "quota exceeded" in text.lower():
        return DraftbenchError(
            f"the disk is full: could not write {path}",
            "the index is as it was before; the run folders are not touched",
            "free some space, then repeat",
        )
    if any(said in text for said in ("Permission denied", "Read-only file system", "Operation not permitted")):
        return DraftbenchError(
            f"not allowed to open {path}", first, "correct its permissions, or choose another DRAFTBENCH_HOME"
        )
    if "Too many open files" in text:
        return DraftbenchError(f"could not open {path}: too many open files", first, "close some programs, then repeat")
    damaged = isinstance(error, duckdb.IOException | duckdb.SerializationException | duckdb.FatalException)
    corrupt = text.startswith("Corrupt database file") or "replaying WAL" in text or "WAL file" in text
    return _damaged(path, first) if damaged or isinstance(error, duckdb.InternalException) or corrupt else None


def _damaged(path: Path, why: str) -> IndexDamagedError:
    return IndexDamagedError(
        f"the index {path} cannot be read: {why}",
        "the file is damaged or of another DuckDB version; the runs themselves are safe in their folders",
        f"make it again with `{_REBUILD}`",
    )


def damage_mark(index: Path) -> Path:
    """A file that stands beside an index in which damage was met: not all of it shows when the index is opened."""
    return index.with_name(index.name + ".damaged")


def was_found_damaged(index: Path) -> bool:
    """Whether a reader or writer has met damage since the index was made."""
    return damage_mark(index).exists()


def set_aside(index: Path) -> Path:
    """Move a damaged index and its log to names of their own, under the lock of `exclusive`; where the index is now."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    with disk_errors(index):
        for end in ("", ".wal"):
            part = index.with_name(index.name + end)
            if os.path.lexists(part):
                os.replace(part, index.with_name(f"{index.name}.damaged-{now}{end}"))
        damage_mark(index).unlink(missing_ok=True)
    return index.with_name(f"{index.name}.damaged-{now}")


def _resolved(index: Path) -> Path:
    """The file that a link leads to; a link to itself stays as it is."""
    try:
        return index.resolve()
    except (OSError, RuntimeError):
        return index.absolute()
