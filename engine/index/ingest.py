"""Run folders into tables of the index.

Each run is one transaction, made under the index's lock from what the folder holds at that
moment: of two processes that index the same run, the later one wins with the later content.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import psutil

from engine.errors import DraftbenchError
from engine.index import rows
from engine.index.changes import differences, fingerprint, gone_runs
from engine.index.connection import (
    TIMEOUT_S,
    IndexDamagedError,
    damage_mark,
    exclusive,
    is_of_the_index,
    open_private,
    open_writer,
    reading,
    set_aside,
    was_found_damaged,
)
from engine.index.contents import RunContents, read_run, unreadable
from engine.index.rows import FileChangedError, check_parquet, delete_run, replace_run, replace_runs
from engine.index.transaction import transaction
from engine.paths import Home, run_id_of
from engine.records.files import CONFIG
from engine.records.folders import DAMAGED, is_run_folder, run_names
from engine.records.values import encodable

_TRIES = 3
# How long ingest_all holds the lock before it lets others in: about what a page takes to draw.
_HOLD_S = 0.5
_AT_ONCE = 100  # runs that are written in one transaction: about half a second
_log = logging.getLogger("draftbench")


@dataclass
class IngestReport:
    """Run ids that were written, left alone and removed, and those that could not be read, with the reason."""

    written: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)  # their folders are gone
    repaired: str = ""  # what was wrong with the index that was set aside, and where it is now


class RunUnreadableError(DraftbenchError):
    """This folder cannot be indexed now; others can."""


def ingest_run(index: Path, run_folder: Path) -> bool:
    """Bring the rows of one run up to date; True if they were written, False if nothing had changed.

    Damaged parts of the folder end up in `runs.problems`, never in an exception. Raises
    RunUnreadableError if the folder is no run or keeps changing, DraftbenchError if the index is
    busy or damaged.
    """
    folder = run_folder.absolute()  # not resolved: a run may be a link, and its id is the link's name
    _require_run(folder)
    with reading(index) as con:
        if _known(con, run_id_of(folder.name)) == fingerprint(folder):
            return False
    with open_writer(index) as con:
        return _write_if_changed(con, folder, index.absolute().parent)


def ingest_all(home: Home, timeout_s: float = TIMEOUT_S, *, quick: bool = False) -> IngestReport:
    """Make the index what the run folders of `home` are, letting others at the index in between.

    `quick`: see `engine.index.changes.differences`.

    A run that is damaged is written with what is wrong with it. An index that cannot be opened is set aside and made
    again; `IngestReport.repaired` then says so.
    """
    try:
        return _ingest_all(home, timeout_s, quick=quick)
    except IndexDamagedError as error:
        return _repair(home, error, timeout_s)


@contextlib.contextmanager
def reading_up_to_date(home: Home, timeout_s: float = TIMEOUT_S) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the index, brought up to date; where that is impossible, to one made in memory for this alone.

    The home may only be read, its disk may be full, a newer version may have written its index.
    """
    try:
        ingest_all(home, timeout_s)
    except (DraftbenchError, OSError):
        with open_private(Path(":memory:")) as con:
            _ingest_runs(con, home)
            yield con
        return
    with reading(home.index, timeout_s) as con:
        yield con


def _ingest_all(home: Home, timeout_s: float, *, quick: bool = False) -> IngestReport:
    if was_found_damaged(home.index):
        raise IndexDamagedError(f"the index {home.index} was damaged when it was read")
    with reading(home.index, timeout_s) as con:
        seen = differences(con, home, quick=quick)
    report = IngestReport(unchanged=seen.unchanged)
    changed = [home.runs.absolute() / name for name in seen.changed]
    while changed:
        with open_writer(home.index, timeout_s) as con:
            until = time.monotonic() + _HOLD_S
            while changed and time.monotonic() < until:
                _ingest_into(con, changed[:_AT_ONCE], home, report)
                del changed[:_AT_ONCE]
    if seen.gone:
        report.removed = forget(home, seen.gone, timeout_s)
    return report


def _repair(home: Home, damage: IndexDamagedError, timeout_s: float) -> IngestReport:
    """Set the index aside and make it again from the run folders; of several processes one does it."""
    message = ""
    with exclusive(home.index, timeout_s):
        if _is_damaged(home):  # else another process was quicker
            aside = set_aside(home.index)
            message = f"{damage.what}; it was moved to {aside} and made again from the run folders"
            _log.warning("%s", message)
    report = _ingest_all(home, timeout_s)
    report.repaired = message
    return report


def _is_damaged(home: Home) -> bool:
    if was_found_damaged(home.index):
        return True
    try:
        with open_private(home.index.absolute()):
            return False
    except IndexDamagedError:
        return True


def rebuild(home: Home) -> IngestReport:
    """Make the index anew beside the old one, then put it in its place; works over a damaged one.

    Readers and writers go on with the old index meanwhile. What changed in the run folders
    in that time is caught up under the lock, so that no ingest of another process is lost.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(home)
    temporary = home.root / f".{home.index.name}.rebuild-{os.getpid()}-{time.monotonic_ns()}"
    try:
        report = _ingest_private(temporary, home)
        with exclusive(home.index):
            caught_up = _ingest_private(temporary, home)
            if home.index.is_dir() or _wal(home.index).is_dir():
                set_aside(home.index)
            _remove(_wal(home.index), damage_mark(home.index))  # a log would be applied to the new one
            os.replace(temporary, home.index)
    finally:
        _remove(temporary, _wal(temporary))
    report.written += [run_id for run_id in caught_up.written if run_id not in report.written]
    report.failed |= caught_up.failed
    return report


def add_details(home: Home, run_ids: Sequence[str] | None = None) -> None:
    """Write the rows of positions, rounds and tokens of these runs, or of all, where the index does not have them yet.

    `ingest_all` leaves them out: call this before asking for any. A run whose files turn out to be damaged is read
    again with care, and its problems are noted.
    """
    condition = "NOT detailed AND (? IS NULL OR run_id IN (SELECT unnest(CAST(? AS VARCHAR[]))))"
    wanted = None if run_ids is None else list(run_ids)
    with reading(home.index) as con:
        undetailed = con.execute(
            f"SELECT run_id FROM runs WHERE {condition} ORDER BY run_id", [wanted, wanted]
        ).fetchall()
    lacking = [run_id for (run_id,) in undetailed]
    while lacking:
        with open_writer(home.index) as con:
            until = time.monotonic() + _HOLD_S
            while lacking and time.monotonic() < until:
                _detail(con, [home.run(run_id).absolute() for run_id in lacking[:_AT_ONCE]], home)
                del lacking[:_AT_ONCE]


def _detail(con: duckdb.DuckDBPyConnection, folders: Sequence[Path], home: Home) -> None:
    try:
        runs = [read_run(folder) for folder in folders]
        with transaction(con):
            rows.add_details(con, runs)
    except Exception:
        if len(folders) > 1:
            half = len(folders) // 2
            _detail(con, folders[:half], home)
            _detail(con, folders[half:], home)
            return
        con.execute("UPDATE runs SET fingerprint = NULL WHERE run_id = ?", [run_id_of(folders[0].name)])
        _ingest_one(con, folders[0], home.root.absolute(), IngestReport())
        # what could not be read is not asked for again before it changes
        con.execute("UPDATE runs SET detailed = true WHERE run_id = ?", [run_id_of(folders[0].name)])


def damaged_runs(home: Home) -> dict[str, str]:
    """Why each damaged run of the index is one, by run id."""
    with reading(home.index) as con:
        damaged = con.execute(
            "SELECT run_id, coalesce(problems[1], '') FROM runs WHERE coalesce(state, ?) = ? ORDER BY run_id",
            [DAMAGED, DAMAGED],
        ).fetchall()
    return dict(damaged)


def forget(home: Home, run_ids: Sequence[str], timeout_s: float = TIMEOUT_S) -> list[str]:
    """Delete the rows of these runs, of those whose folder is gone; returns their ids."""
    with open_writer(home.index, timeout_s) as con, transaction(con):
        gone = [run_id for run_id in gone_runs(con, home) if run_id in run_ids]
        for run_id in gone:
            delete_run(con, run_id)
    return gone


def _ingest_private(database: Path, home: Home) -> IngestReport:
    """Bring a database that no one else knows up to date with all run folders."""
    with open_private(database) as con:
        report = _ingest_runs(con, home)
        con.execute("CHECKPOINT")  # closing would do it too, but without a word if it fails
    return report


def _ingest_runs(con: duckdb.DuckDBPyConnection, home: Home) -> IngestReport:
    report = IngestReport()
    folders = [home.runs.absolute() / name for name in run_names(home)]
    for start in range(0, len(folders), _AT_ONCE):
        _ingest_into(con, folders[start : start + _AT_ONCE], home, report)
    return report


def _ingest_into(con: duckdb.DuckDBPyConnection, folders: Sequence[Path], home: Home, report: IngestReport) -> None:
    """Some runs of many: one that cannot be read is reported and does not stop the others."""
    root = home.root.absolute()
    if len(folders) == 1:
        _ingest_one(con, folders[0], root, report)
        return
    try:
        _write_together(con, folders, root, report)
    except Exception:  # of one of them: sought by halves, and explained when it is alone
        half = len(folders) // 2
        for part in (folders[:half], folders[half:]):
            _ingest_into(con, part, home, report)


def _ingest_one(con: duckdb.DuckDBPyConnection, folder: Path, root: Path, report: IngestReport) -> None:
    """Index one run; what makes that impossible is written in its place if the run is at fault."""
    run_id = run_id_of(folder.name)
    try:
        written = _write_if_changed(con, folder, root)
    except (RunUnreadableError, OSError) as error:  # perhaps only now: tried again at the next time
        report.failed[run_id] = str(error)
        if _known(con, run_id) is None:
            _write_unreadable(con, folder, root, error, mark=None)
    except Exception as error:
        if isinstance(error, duckdb.Error) and is_of_the_index(error):
            raise
        _write_unreadable(con, folder, root, error, mark=fingerprint(folder))
        report.written.append(run_id)
    else:
        (report.written if written else report.unchanged).append(run_id)


def _write_together(con: duckdb.DuckDBPyConnection, folders: Sequence[Path], root: Path, report: IngestReport) -> None:
    """Replace the rows of runs, all in one transaction; raises if any of them is not whole."""
    marks = {folder: fingerprint(folder) for folder in folders}
    ids = [run_id_of(folder.name) for folder in folders]
    condition = "run_id IN (SELECT unnest(CAST(? AS VARCHAR[])))"
    known = dict(con.execute(f"SELECT run_id, fingerprint FROM runs WHERE {condition}", [ids]).fetchall())
    new = [folder for folder in folders if known.get(run_id_of(folder.name)) != marks[folder]]
    runs = [_stored(read_run(folder), folder, root, marks[folder]) for folder in new]
    if runs:
        with transaction(con):
            replace_runs(con, runs)
    written = {contents.run["run_id"] for contents in runs}
    for run_id in ids:
        (report.written if run_id in written else report.unchanged).append(run_id)


def _stored(contents: RunContents, folder: Path, root: Path, mark: str | None) -> RunContents:
    contents.run |= {"fingerprint": mark, "folder": _stored_folder(folder, root), "problems": contents.problems}
    return contents


def _write_unreadable(
    con: duckdb.DuckDBPyConnection, folder: Path, root: Path, error: Exception, mark: str | None
) -> None:
    with transaction(con):
        replace_run(con, _stored(unreadable(folder, error), folder, root, mark), {})


def _write_if_changed(con: duckdb.DuckDBPyConnection, folder: Path, root: Path) -> bool:
    """Replace the rows of the run by what its folder holds now, in one transaction."""
    reason = ""
    for _ in range(_TRIES):
        # Taken before reading: a change while reading makes the next ingest read again.
        mark = fingerprint(folder)
        if _known(con, run_id_of(folder.name)) == mark:
            return False
        contents = _stored(read_run(folder), folder, root, mark)
        readable = check_parquet(con, contents)
        try:
            with transaction(con):
                replace_run(con, contents, readable)
        except FileChangedError as error:
            reason = str(error)
        else:
            return True
    raise RunUnreadableError(
        f"run {run_id_of(folder.name)} cannot be indexed: its measurement changes while it is read",
        reason,
        "index it again when the measurement has ended",
    )


def _known(con: duckdb.DuckDBPyConnection, run_id: str) -> str | None:
    """Fingerprint of what the index holds of the run; None if it holds nothing."""
    row = con.execute("SELECT fingerprint FROM runs WHERE run_id = ?", [run_id]).fetchone()
    return row[0] if row else None


def _stored_folder(folder: Path, root: Path) -> str:
    """Relative to the home where it is inside, so that a home can be moved; for people, runs are known by their ids."""
    return encodable(str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder))


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
