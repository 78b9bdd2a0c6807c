"""What differs between the run folders and the index, found without reading any of them."""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import duckdb

from engine.index.schema import PARQUET_TABLES
from engine.paths import Home, run_id_of
from engine.records import files
from engine.records.folders import is_run_folder, run_names

# Their order belongs to the fingerprints that indexes hold.
_FILES = (
    files.CONFIG,
    files.EVENTS,
    *(files.STATUS, files.PROVENANCE, files.LABELS, files.TRAINING, files.SUMMARY),
    *(f"measure/{table}.parquet" for table in (*PARQUET_TABLES, "tokens")),
)


_UNFINISHED = (None, "queued", "running")  # states of runs whose files may grow in place
_SETTLED_NS = 2_000_000_000  # age from which a folder's time tells every later change, whatever the clock's tick
_TURNS = 30  # looks in which each run is once looked at file by file; pages look every four seconds
_Stamp = tuple[int, ...]


@dataclass
class _Seen:
    """What earlier quick looks of this process at one home have seen, by the name of the folder."""

    stamps: dict[str, tuple[str | None, _Stamp]] = field(default_factory=dict)  # fingerprint, and stamp at that time
    looks: int = 0


_seen: dict[str, _Seen] = {}


@dataclass
class Differences:
    """The runs of a home beside those of its index."""

    changed: list[str] = field(default_factory=list)  # names of the folders that the index does not hold as they are
    unchanged: list[str] = field(default_factory=list)  # ids of the runs that it does
    gone: list[str] = field(default_factory=list)  # ids of the runs in the index whose folder is gone


def differences(con: duckdb.DuckDBPyConnection, home: Home, *, quick: bool = False) -> Differences:
    """Compare the index with the run folders.

    `quick`: for pages, which look every few seconds. A finished run whose folder and measurement have the times that
    they had when all its files were last looked at counts as unchanged: files are replaced, which changes their
    folder's time. What was edited in place is seen within 30 looks.
    """
    rows = con.execute("SELECT run_id, fingerprint, state, folder FROM runs ORDER BY run_id").fetchall()
    known = {run_id: (mark, state) for run_id, mark, state, _ in rows}
    runs = str(home.runs.absolute())
    seen = _seen.setdefault(runs, _Seen())
    seen.looks += quick
    now = time.time_ns()
    result, inside = Differences(), set()
    for place, name in enumerate(run_names(home)):
        run_id, folder = _id_of(name), f"{runs}/{name}"
        inside.add(run_id)
        mark, state = known.get(run_id, (None, None))
        stamp = _stamp(folder) if quick and state not in _UNFINISHED else None
        due = (place + seen.looks) % _TURNS == 0
        if stamp is not None and not due and seen.stamps.get(name) == (mark, stamp):
            result.unchanged.append(run_id)
        elif mark is not None and mark == fingerprint(folder):
            result.unchanged.append(run_id)
            if stamp is not None and now - max(stamp[:4]) > _SETTLED_NS:
                seen.stamps[name] = (mark, stamp)
        else:
            result.changed.append(name)
    result.gone = _gone(home, ((row[0], row[3]) for row in rows), inside)
    return result


_id_of = lru_cache(maxsize=100_000)(run_id_of)


def gone_runs(con: duckdb.DuckDBPyConnection, home: Home) -> list[str]:
    """`Differences.gone` alone."""
    rows = con.execute("SELECT run_id, folder FROM runs ORDER BY run_id").fetchall()
    return _gone(home, rows, {run_id_of(name) for name in run_names(home)})


def _gone(home: Home, indexed: Iterable[tuple[str, str | None]], inside: Container[str]) -> list[str]:
    """Runs that are not in the home's `runs`, unless they were indexed from a folder elsewhere that is still one."""
    outside = ((run_id, folder) for run_id, folder in indexed if run_id not in inside)
    return [run_id for run_id, folder in outside if folder is None or not is_run_folder(home.root / folder)]


def _stamp(folder: str) -> _Stamp | None:
    """Times and numbers of the folder and of its measurement's; None where there is no whole folder."""
    try:
        outer, inner = os.stat(folder), os.stat(f"{folder}/measure")
    except OSError:
        return None
    return (
        *(outer.st_mtime_ns, outer.st_ctime_ns, inner.st_mtime_ns, inner.st_ctime_ns),
        *(outer.st_ino, inner.st_ino),
    )


def fingerprint(folder: Path | str) -> str:
    """16 hex digits that change whenever a file that the index reads is written, replaced or removed.

    Ten thousand runs are looked at for every page, so it asks for the files by their known names and reads none.
    Inode and time of the last change of any kind belong to it: they tell a file that was replaced by one of the same
    size within one tick of the clock, or with its old time.
    """
    stats: list[int] = []
    for name in _FILES:
        try:
            stat = os.stat(f"{folder}/{name}")
        except OSError as error:
            stats.append(error.errno or -1)
        else:
            stats += (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    return f"{hash(tuple(stats)) % 2**64:016x}"  # of integers alone: the same in every process
