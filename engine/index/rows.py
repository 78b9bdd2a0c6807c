"""The contents of a run folder as rows of the index.

Names that stand in the text of a statement are the schema's own; everything that comes from
a folder is bound.
"""

from __future__ import annotations

import contextlib
import glob
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from engine.errors import first_line
from engine.index import schema
from engine.index.contents import RunContents

Casts = Mapping[str, str]  # column of ours -> expression over the columns of a Parquet file

# Without the option a home such as /data/mode=offline/ would add a column `mode`.
_PARQUET = "read_parquet(?, hive_partitioning = false)"


_MOST_ROWS = 20_000_000  # of a table of one run: a small file may claim any number


class FileChangedError(Exception):
    """A file of the measurement was replaced between being checked and being read."""


class NotAlikeError(Exception):
    """Runs that cannot be inserted together: a file of one of them is not as the others are."""


def replace_runs(con: duckdb.DuckDBPyConnection, runs: Sequence[RunContents]) -> None:
    """As `replace_run` for many whole runs at once, in a statement a table: a statement costs as much as 500 rows.

    Rows of `schema.DETAILS` are left for `add_details`; of their files the footers are looked at. Raises NotAlikeError,
    or an error of DuckDB's, if a file of any run is not whole: then take them one by one.
    """
    ids = [contents.run["run_id"] for contents in runs]
    _delete(con, ids, schema.RUN_TABLES)
    for contents in runs:
        contents.run["detailed"] = not any(table in contents.parquet for table in schema.DETAILS)
    _insert(con, "runs", [contents.run for contents in runs])
    for table in ("metrics", "curve"):
        named = ((contents.run["run_id"], getattr(contents, table)) for contents in runs)
        _insert(con, table, [{"run_id": run_id, **row} for run_id, rows in named for row in rows])
    for table in schema.PARQUET_TABLES:
        _insert_alike(con, table, _files(runs, table), footers_only=table in schema.DETAILS)


def add_details(con: duckdb.DuckDBPyConnection, runs: Sequence[RunContents]) -> None:
    """The rows that `replace_runs` has left out. Raises as it does."""
    ids = [contents.run["run_id"] for contents in runs]
    _delete(con, ids, schema.DETAILS)
    for table in schema.DETAILS:
        _insert_alike(con, table, _files(runs, table))
    _fill_answers(con, ids)
    con.execute("UPDATE runs SET detailed = true WHERE run_id IN (SELECT unnest(CAST(? AS VARCHAR[])))", [ids])


def _delete(con: duckdb.DuckDBPyConnection, ids: Sequence[str], tables: Sequence[str]) -> None:
    for table in tables:
        con.execute(f'DELETE FROM "{table}" WHERE run_id IN (SELECT unnest(CAST(? AS VARCHAR[])))', [list(ids)])


def _files(runs: Sequence[RunContents], table: str) -> dict[Path, str]:
    """The table's file of each run that has one, and the run's id."""
    return {c.parquet[table]: c.run["run_id"] for c in runs if table in c.parquet}


def _insert_alike(
    con: duckdb.DuckDBPyConnection, table: str, files: Mapping[Path, str], *, footers_only: bool = False
) -> None:
    """The rows of Parquet files that have all columns of the table, each under the id of its run."""
    if not files:
        return
    literal = [_literal(path) for path in files]
    (most,) = con.execute("SELECT max(num_rows) FROM parquet_file_metadata(?)", [literal]).fetchone() or (0,)
    in_file = defaultdict(set)
    for file, column in con.execute("SELECT file_name, name FROM parquet_schema(?)", [literal]).fetchall():
        in_file[file].add(column)
    wanted = {column: kind for column, kind in schema.columns(con, table).items() if column != "run_id"}
    source = {column: schema.RENAMED.get(column, column) for column in wanted}
    needed = set(source.values()) - schema.ADDED_LATER
    if len(in_file) < len(files) or most > _MOST_ROWS or not all(needed <= columns for columns in in_file.values()):
        raise NotAlikeError(table)
    if footers_only:
        return
    there = set().union(*in_file.values())
    casts = {column: f'CAST("{name}" AS {wanted[column]})' for column, name in source.items() if name in there}
    names = ", ".join(f'"{column}"' for column in casts)
    con.execute(
        f'INSERT INTO "{table}" (run_id, {names}) SELECT (CAST(? AS VARCHAR[]))[CAST(file_index AS BIGINT) + 1],'
        f" {', '.join(casts.values())} FROM read_parquet(?, hive_partitioning = false, union_by_name = true)",
        [list(files.values()), literal],
    )


def replace_run(con: duckdb.DuckDBPyConnection, contents: RunContents, readable: Mapping[str, Casts]) -> None:
    """Delete the run's rows and insert these, within the caller's transaction.

    `readable` is what `check_parquet` gave. Raises FileChangedError if that no longer holds.
    """
    run_id = contents.run["run_id"]
    delete_run(con, run_id)
    _insert(con, "runs", [{**contents.run, "detailed": True}])
    _insert(con, "metrics", [{"run_id": run_id, **row} for row in contents.metrics])
    _insert(con, "curve", [{"run_id": run_id, **row} for row in contents.curve])
    for table, casts in readable.items():
        try:
            _insert_parquet(con, table, run_id, contents.parquet[table], casts)
        except duckdb.Error as error:
            raise FileChangedError(f"{table}.parquet: {error}") from error
    _fill_answers(con, [run_id])


def _fill_answers(con: duckdb.DuckDBPyConnection, ids: Sequence[str]) -> None:
    """Compute `engine.measure.compare.answer_hash` for measurements of earlier versions, which did not write it."""
    con.execute(
        "UPDATE prompts SET answer = known.answer FROM (SELECT run_id, round(temperature, 6) AS near, prompt_id,"
        " md5(string_agg(position || ':' || token_id, ' ' ORDER BY position)) AS answer FROM positions"
        " WHERE draft = 'trained' AND run_id IN (SELECT unnest(CAST(? AS VARCHAR[]))) GROUP BY ALL) AS known"
        " WHERE prompts.answer IS NULL AND prompts.run_id = known.run_id AND prompts.prompt_id = known.prompt_id"
        " AND round(prompts.temperature, 6) = known.near",
        [list(ids)],
    )


def delete_run(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Delete all rows of a run, within the caller's transaction."""
    for table in schema.RUN_TABLES:
        con.execute(f'DELETE FROM "{table}" WHERE run_id = ?', [run_id])


def _insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows given as column -> value; a column that a row lacks is NULL."""
    if not rows:
        return
    types = schema.columns(con, table)
    columns = {
        column: pa.array([row.get(column) for row in rows], _ARROW[kind], from_pandas=True)
        for column, kind in types.items()
    }
    names = ", ".join(f'"{column}"' for column in types)
    incoming = con.from_arrow(pa.table(columns))
    con.register("incoming", incoming)
    try:
        con.execute(f'INSERT INTO "{table}" ({names}) SELECT {names} FROM incoming')
    finally:
        con.unregister("incoming")


_ARROW = {
    "VARCHAR": pa.string(),
    "JSON": pa.string(),
    "DOUBLE": pa.float64(),
    "BIGINT": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR[]": pa.list_(pa.string()),
}


def check_parquet(con: duckdb.DuckDBPyConnection, contents: RunContents) -> dict[str, Casts]:
    """By table how to read its file, for the files that can be read to the end.

    An error inside a transaction would undo all of it, so each file is read through once
    before, on a cursor of its own. What is wrong is added to the run's problems.
    """
    readable = {}
    with contextlib.closing(con.cursor()) as cursor:
        for table, path in contents.parquet.items():
            try:
                _check_rows(cursor, path)
                casts, lacking = _casts(cursor, table, path)
                everything = ", ".join(casts.values())
                cursor.execute(f"SELECT bit_xor(hash({everything})) FROM {_PARQUET}", [_literal(path)]).fetchall()
            except (duckdb.Error, ValueError) as error:
                contents.problems.append(f"{path.name}: {first_line(error)}")
                continue
            if lacking:
                contents.problems.append(f"{path.name}: lacks {', '.join(lacking)}")
            readable[table] = casts
    return readable


def _check_rows(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Refuse more rows than a measurement has."""
    (rows,) = con.execute("SELECT num_rows FROM parquet_file_metadata(?)", [_literal(path)]).fetchone() or (0,)
    if rows > _MOST_ROWS:
        raise ValueError(f"says that it has {rows:,} rows, at most {_MOST_ROWS:,} are read")


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
