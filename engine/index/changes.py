"""Which run folders the index does not hold as they are now, found without reading any of them."""

from __future__ import annotations

import os
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


def changed_runs(con: duckdb.DuckDBPyConnection, home: Home) -> tuple[list[str], list[str]]:
    """Names of the folders that the index does not hold as they are now, and ids of the runs that it does."""
    known = dict(con.execute("SELECT run_id, fingerprint FROM runs").fetchall())
    runs = str(home.runs.absolute())
    changed, unchanged = [], []
    for name in run_names(home):
        run_id = run_id_of(name)
        if known.get(run_id) == fingerprint(f"{runs}/{name}"):
            unchanged.append(run_id)
        else:
            changed.append(name)
    return changed, unchanged


def missing_runs(con: duckdb.DuckDBPyConnection, home: Home) -> list[str]:
    """Ids of the runs in the index whose folder is gone."""
    indexed = con.execute("SELECT run_id, folder FROM runs ORDER BY run_id").fetchall()
    inside = {run_id_of(name) for name in run_names(home)}
    return [
        run_id
        for run_id, folder in indexed
        if run_id not in inside and (folder is None or not is_run_folder(home.root / folder))
    ]


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
