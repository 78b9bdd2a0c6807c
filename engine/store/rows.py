"""The contents of a run folder as rows of the index.

Names that stand in the text of a statement are the schema's own; everything that comes from
a folder is bound.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from engine.store import schema
from engine.store.run_folder import RunContents

Casts = Mapping[str, str]  # column of ours -> expression over the columns of a Parquet file

# Without the option a home such as /data/mode=offline/ would add a column `mode`.
_PARQUET = "read_parquet(?, hive_partitioning = false)"


class FileChangedError(Exception):
    """A file of the measurement was replaced between being checked and being read."""


def replace_run(con: duckdb.DuckDBPyConnection, contents: RunContents, readable: Mapping[str, Casts]) -> None:
    """Delete the run's rows and insert these, within the caller's transaction.

    `readable` is what `check_parquet` gave. Raises FileChangedError if that no longer holds.
    """
    run_id = contents.run["run_id"]
    delete_run(con, run_id)
    _insert(con, "runs", [contents.run])
    _insert(con, "metrics", [{"run_id": run_id, **row} for row in contents.metrics])
    _insert(con, "curve", [{"run_id": run_id, **row} for row in contents.curve])
    for table, casts in readable.items():
        try:
            _insert_parquet(con, table, run_id, contents.parquet[table], casts)
        except duckdb.Error as error:
            raise FileChangedError(f"{table}.parquet: {error}") from error


def delete_run(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Delete all rows of a run, within the caller's transaction."""
    for table in schema.RUN_TABLES:
        con.execute(f'DELETE FROM "{table}" WHERE run_id = ?', [run_id])


def _insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows given as column -> value; a column that a row lacks is NULL.

    One list a column is bound, and DuckDB takes them apart: 100 times faster than executemany.
    """
    if not rows:
        return
    types = schema.columns(con, table)
    lists = [[row.get(column) for row in rows] for column in types]
    names = ", ".join(f'"{column}"' for column in types)
    values = ", ".join(f"unnest(CAST(? AS {kind}[]))" for kind in types.values())
    con.execute(f'INSERT INTO "{table}" ({names}) SELECT {values}', lists)


def check_parquet(con: duckdb.DuckDBPyConnection, contents: RunContents) -> dict[str, Casts]:
    """By table how to read its file, for the files that can be read to the end.

    An error inside a transaction would undo all of it, so each file is read through once
    before, on a cursor of its own. What is wrong is added to the run's problems.
    """
    readable = {}
    with contextlib.closing(con.cursor()) as cursor:
        for table, path in contents.parquet.items():
            try:
                casts, lacking = _casts(cursor, table, path)
                everything = ", ".join(casts.values())
                cursor.execute(f"SELECT bit_xor(hash({everything})) FROM {_PARQUET}", [_literal(path)]).fetchall()
            except (duckdb.Error, ValueError) as error:
                contents.problems.append(f"{path.name}: {str(error).splitlines()[0]}")
                continue
            if lacking:
                contents.problems.append(f"{path.name}: lacks {', '.join(lacking)}")
            readable[table] = casts
    return readable


def _casts(con: duckdb.DuckDBPyConnection, table: str, path: Path) -> tuple[Casts, list[str]]:
    """How to read the file, and the columns that it lacks; columns we do not know are left out."""
    described = con.execute(f"DESCRIBE SELECT * FROM {_PARQUET}", [_literal(path)]).fetchall()
    in_file = {row[0] for row in described}
    wanted = {column: kind for column, kind in schema.columns(con, table).items() if column != "run_id"}
    source = {column: schema.RENAMED.get(column, column) for column in wanted}
    casts = {
        column: f'CAST("{source[column]}" AS {kind})' for column, kind in wanted.items() if source[column] in in_file
    }
    if not casts:
        raise ValueError("has none of the expected columns")
    lacking = [source[column] for column in wanted if column not in casts and column not in schema.ADDED_LATER]
    return casts, lacking


def _insert_parquet(con: duckdb.DuckDBPyConnection, table: str, run_id: str, path: Path, casts: Casts) -> None:
    names = ", ".join(f'"{column}"' for column in casts)
    con.execute(
        f'INSERT INTO "{table}" (run_id, {names}) SELECT ?, {", ".join(casts.values())} FROM {_PARQUET}',
        [run_id, _literal(path)],
    )


def _literal(path: Path) -> str:
    """The path as a pattern that matches it alone: read_parquet takes *, ? and [ as wildcards."""
    return glob.escape(str(path))
