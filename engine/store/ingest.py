"""Run folders into tables of the index.

Each run is one transaction, made under the index's lock from what the folder holds at that
moment: of two processes that index the same run, the later one wins with the later content.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import psutil

from engine.errors import DraftbenchError
from engine.paths import Home
from engine.store.connection import TIMEOUT_S, exclusive, open_private, open_writer, reading
from engine.store.rows import FileChangedError, check_parquet, delete_run, replace_run
from engine.store.run_folder import CONFIG, fingerprint, is_run_folder, read_run
from engine.store.transaction import transaction

_TRIES = 3
# How long ingest_all holds the lock before it lets others in: about what a page takes to draw.
_HOLD_S = 0.5


@dataclass
class IngestReport:
    """Run ids that were written and left alone, and those that could not be read, with the reason."""

    written: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class RunUnreadableError(DraftbenchError):
    """This folder cannot be indexed now; others can."""


def ingest_run(index: Path, run_folder: Path, timeout_s: float = TIMEOUT_S) -> bool:
    """Bring the rows of one run up to date; True if they were written, False if nothing had changed.

    Damaged parts of the folder end up in `runs.problems`, never in an exception. Raises
    RunUnreadableError if the folder is no run or keeps changing, DraftbenchError if the index is
    busy or damaged.
    """
    folder = run_folder.absolute()  # not resolved: a run may be a link, and its id is the link's name
    _require_run(folder)
    with reading(index, timeout_s) as con:
        if _known(con, folder.name) == fingerprint(folder):
            return False
    with open_writer(index, timeout_s) as con:
        return _write_if_changed(con, folder, index.absolute().parent)


def ingest_all(home: Home, timeout_s: float = TIMEOUT_S) -> IngestReport:
    """Bring every run folder of `home` up to date, letting others at the index in between."""
    report = IngestReport()
    with reading(home.index, timeout_s) as con:
        known = dict(con.execute("SELECT run_id, fingerprint FROM runs").fetchall())
    changed = []
    for folder in run_folders(home):
        if known.get(folder.name) == fingerprint(folder):
            report.unchanged.append(folder.name)
        else:
            changed.append(folder)
    while changed:
        with open_writer(home.index, timeout_s) as con:
            until = time.monotonic() + _HOLD_S
            while changed and time.monotonic() < until:
                _ingest_into(con, changed.pop(0), home, report)
    return report


def rebuild(home: Home, timeout_s: float = TIMEOUT_S) -> IngestReport:
    """Make the index anew beside the old one, then put it in its place; works over a damaged one.

    Readers and writers go on with the old index meanwhile. What changed in the run folders
    in that time is caught up under the lock, so that no ingest of another process is lost.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(home)
    temporary = home.root / f".{home.index.name}.rebuild-{os.getpid()}-{time.monotonic_ns()}"
    try:
        report = _ingest_private(temporary, home)
        with exclusive(home.index, timeout_s):
            caught_up = _ingest_private(temporary, home)
            _remove(_wal(home.index))  # of a damaged index: it would be applied to the new one
            os.replace(temporary, home.index)
    finally:
        _remove(temporary, _wal(temporary))
    report.written += [run_id for run_id in caught_up.written if run_id not in report.written]
    report.failed |= caught_up.failed
    return report


def remove_missing(home: Home, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Forget the runs whose folder is gone; returns their ids."""
    with reading(home.index, timeout_s) as con:
        if not _missing(con, home):
            return []
    with open_writer(home.index, timeout_s) as con, transaction(con):
        gone = _missing(con, home)
        for run_id in gone:
            delete_run(con, run_id)
    return gone


def run_folders(home: Home) -> list[Path]:
    """The run folders of `home`, by name; what cannot be the name of a run is not one."""
    if not home.runs.is_dir():
        return []
    found = []
    for folder in sorted(home.runs.iterdir()):
        with contextlib.suppress(DraftbenchError):
            if is_run_folder(home.run(folder.name)):
                found.append(folder.absolute())
    return found


def _ingest_private(database: Path, home: Home) -> IngestReport:
    """Bring a database that no one else knows up to date with all run folders."""
    report = IngestReport()
    with open_private(database) as con:
        for folder in run_folders(home):
            _ingest_into(con, folder, home, report)
        con.execute("CHECKPOINT")  # closing would do it too, but without a word if it fails
    return report


def _ingest_into(con: duckdb.DuckDBPyConnection, folder: Path, home: Home, report: IngestReport) -> None:
    """One run of many: a folder that cannot be read is reported and does not stop the others."""
    try:
        written = _write_if_changed(con, folder, home.root.absolute())
    except (RunUnreadableError, OSError) as error:
        report.failed[folder.name] = str(error)
    else:
        (report.written if written else report.unchanged).append(folder.name)


def _write_if_changed(con: duckdb.DuckDBPyConnection, folder: Path, root: Path) -> bool:
    """Replace the rows of the run by what its folder holds now, in one transaction."""
    reason = ""
    for _ in range(_TRIES):
        _require_run(folder)
        # Taken before reading: a change while reading makes the next ingest read again.
        mark = fingerprint(folder)
        if _known(con, folder.name) == mark:
            return False
        contents = read_run(folder)
        readable = check_parquet(con, contents)
        contents.run |= {"fingerprint": mark, "folder": _stored_folder(folder, root), "problems": contents.problems}
        try:
            with transaction(con):
                replace_run(con, contents, readable)
        except FileChangedError as error:
            reason = str(error)
        else:
            return True
    raise RunUnreadableError(
        f"run {folder.name} cannot be indexed: its measurement changes while it is read",
        reason,
        "index it again when the measurement has ended",
    )


def _known(con: duckdb.DuckDBPyConnection, run_id: str) -> str | None:
    """Fingerprint of what the index holds of the run; None if it holds nothing."""
    row = con.execute("SELECT fingerprint FROM runs WHERE run_id = ?", [run_id]).fetchone()
    return row[0] if row else None


def _missing(con: duckdb.DuckDBPyConnection, home: Home) -> list[str]:
    rows = con.execute("SELECT run_id, folder FROM runs ORDER BY run_id").fetchall()
    return [run_id for run_id, folder in rows if not is_run_folder(home.root / folder)]


def _stored_folder(folder: Path, root: Path) -> str:
    """Relative to the home where it lies inside, so that a home can be moved."""
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


def _require_run(folder: Path) -> None:
    if not is_run_folder(folder):
        raise RunUnreadableError(
            f"{folder} is not a run folder", f"it has no {CONFIG}", "`draftbench runs` lists the runs"
        )


def _wal(database: Path) -> Path:
    return database.with_name(database.name + ".wal")


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _remove_leftovers(home: Home) -> None:
    """Delete what a killed rebuild has left, unless its process is still at it."""
    for path in home.root.glob(f".{home.index.name}.rebuild-*"):
        process = re.search(r"\.rebuild-(\d+)-", path.name)
        if process and not psutil.pid_exists(int(process[1])):
            _remove(path)
