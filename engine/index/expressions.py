"""Runs by an expression over any setting and any figure: `exact > .3 and domain = "chinese"`.

An expression is a condition of DuckDB's SQL over one table, a row per run. It is evaluated in a database of its own in
memory, which has that table and nothing else and can open no file, so an expression may come from anywhere, an address
included.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
from pyarrow import json as pa_json

from engine.errors import DraftbenchError, did_you_mean
from engine.index.efforts import efforts
from engine.index.ingest import reading_up_to_date
from engine.index.queries import overview
from engine.paths import Home

MOST_CHARACTERS = 2_000
_MOST_S = 5.0  # of an evaluation: what takes longer does not ask about runs
_ALONE = {
    "threads": 1,
    "memory_limit": "512MB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,  # variables of this program are no tables
}
_SEED = "train.seed"
EXAMPLE = 'exact > .3 and domain = "chinese"'
_TEXT = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"")
_DOTTED = re.compile(r"(?<![\w.\"'])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_UNKNOWN = re.compile(r'Referenced column "([^"]+)" not found|Referenced table "([^"]+)" not found')
_NEAR = re.compile(r'syntax error at or near "(.*?)"', re.DOTALL)
_VALUE = re.compile(r"Could not convert string '([^']*)'")
_FUNCTION = re.compile(r"(?:name |function matches .*?name and argument types '|function ')(\w+)(?:\(| does not exist)")
_TABLE = re.compile(r"Table with name (\S+) does not exist")


def runs_where(home: Home, expression: str) -> list[str]:
    """Ids of the runs of a home for which the expression is true, newest first."""
    with reading_up_to_date(home) as con:
        table = wide_table(con)
    return matching_runs(table, expression)


def wide_table(con: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """A row per run, newest first, with every figure and every setting as a column.

    The columns of `engine.index.queries.overview` and `engine.index.efforts`; every setting under its dotted name
    (`train.learning_rate`; lists as JSON); and every measured rate of the trained draft as RATE_T (`argmax_1`,
    `tau_0_7`), NaN or None where a run has none.
    """
    frame = overview(con)
    configs = dict(con.execute("SELECT run_id, config FROM runs").fetchall())
    settings = _settings([configs.get(run_id) for run_id in frame.run_id]).set_axis(frame.index)
    wide = pd.concat([frame, efforts(con, frame.run_id), settings, _rates(con, frame.run_id)], axis="columns")
    return wide.loc[:, ~wide.columns.duplicated()]


def recipe_names(table: pd.DataFrame) -> pd.Series[str]:
    """By run id a name for its settings without the seed: that of the recipe, and where several recipes are called
    so a number. `table`: of `wide_table`."""
    settings = [name for name in table.columns if "." in name and name != _SEED]
    values = table[settings].astype(object)
    keys = [hash(row) for row in values.where(values.notna(), None).itertuples(index=False, name=None)]
    named = pd.DataFrame({"key": keys, "name": table["name"].fillna("unnamed").astype(str)}).set_index(table.run_id)
    first = named.drop_duplicates("key").set_index("key")["name"]  # of the newest run
    numbers = first.groupby(first).cumcount(ascending=False) + 1
    names = first.where(numbers == 1, first + " #" + numbers.astype(str))
    result: pd.Series[str] = named["key"].map(names)
    return result


def matching_runs(table: pd.DataFrame, expression: str) -> list[str]:
    """Ids of the rows of a wide table for which the expression is true, in the table's order.

    Raises DraftbenchError with what is wrong with the expression.
    """
    if len(expression) > MOST_CHARACTERS:
        raise DraftbenchError(f"the expression has more than {MOST_CHARACTERS:,} characters", "", "shorten it")
    if not expression.strip():
        raise _wrong(expression, "it is empty", f"write a condition, as in {EXAMPLE}")
    condition = _as_sql(expression, table.columns)
    rows = table.drop(columns=["tags", "problems"], errors="ignore").assign(_place=range(len(table)))
    with duckdb.connect(":memory:", config=_ALONE) as con:
        con.register("rows", rows)
        con.execute("CREATE TABLE runs AS SELECT * FROM rows")
        con.unregister("rows")
        con.execute("SET enable_external_access = false; SET lock_configuration = true")
        try:
            statements = con.extract_statements(f"SELECT run_id FROM runs WHERE ({condition}\n) ORDER BY _place")
            if len(statements) != 1:
                raise _wrong(expression, "it is more than one condition", "join conditions by AND and OR")
            with _limited(con):
                return [str(run_id) for (run_id,) in con.execute(statements[0]).fetchall()]
        except duckdb.InterruptException:
            raise _wrong(expression, f"it takes longer than {_MOST_S:g} s", f"write it as in {EXAMPLE}") from None
        except duckdb.Error as error:
            raise _explained(expression, error, table) from None


@contextlib.contextmanager
def _limited(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    timer = threading.Timer(_MOST_S, con.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _as_sql(expression: str, columns: pd.Index) -> str:
    """The expression with dotted names quoted, and texts in double quotes as texts unless they name a column."""
    known = set(columns)

    def text(match: re.Match[str]) -> str:
        inner = match[0][1:-1]
        return match[0] if match[0][0] == "'" or inner in known else "'" + inner.replace("'", "''") + "'"

    parts, end = [], 0
    for match in _TEXT.finditer(expression):
        parts += [_quoted(expression[end : match.start()], known), text(match)]
        end = match.end()
    return "".join([*parts, _quoted(expression[end:], known)])


def _quoted(part: str, known: set[str]) -> str:
    return _DOTTED.sub(lambda match: f'"{match[0]}"' if match[0] in known else match[0], part)


def _explained(expression: str, error: duckdb.Error, table: pd.DataFrame) -> DraftbenchError:
    """What is wrong with the expression, in our words: the database's name its own statement and its functions."""
    text, example = str(error), f"write it as in {EXAMPLE}"
    unknown, near = _UNKNOWN.search(text), _NEAR.search(text)
    if unknown:
        name = unknown[1] or unknown[2]
        return _unknown(expression, name, table)
    if isinstance(error, duckdb.ConversionException):
        value = _VALUE.search(text)
        why = f"{value[1]!r} is a text, and a number or yes or no is needed there" if value else "its kinds do not fit"
        return _wrong(expression, why, "compare texts with texts, in quotes, and numbers with numbers")
    if "end of input" in text or (near and near[1] in (")", "ORDER")):  # the bracket and the order are not theirs
        return _wrong(expression, _unfinished(expression), example)
    if near:
        return _wrong(expression, f"it cannot be read at {near[1]!r}", example)
    if isinstance(error, duckdb.ParserException):
        return _wrong(expression, "it cannot be read: a quote or bracket is not closed", example)
    if isinstance(error, duckdb.PermissionException):
        return _wrong(expression, "a condition can open no file", f"use settings and figures only, as in {EXAMPLE}")
    if other := _TABLE.search(text):
        return _wrong(expression, f"there is no table {other[1]!r}", f"use settings and figures only, as in {EXAMPLE}")
    if function := _FUNCTION.search(text):
        return _wrong(expression, f"there is no function {function[1]!r} for such values", example)
    if "aggregate" in text:
        return _wrong(expression, "a sum or mean covers several runs; a condition is asked of each run", example)
    return _wrong(expression, "it is not a condition that can be evaluated for each run", example)


def _unfinished(expression: str) -> str:
    """Why reading stopped at the end of the expression, or at a bracket."""
    bare = _TEXT.sub("", expression)
    if bare.count("(") != bare.count(")"):
        return "its brackets do not match"
    return f"it is not complete: something is missing {'before a bracket' if ')' in bare else 'at its end'}"


def _unknown(expression: str, name: str, table: pd.DataFrame) -> DraftbenchError:
    dotted = next((match[0] for match in _DOTTED.finditer(expression) if match[0].startswith(f"{name}.")), name)
    why = f"no run has a setting or figure {dotted!r}"
    column = next((column for column in table.columns if _holds(table[column], dotted)), None)
    if column is not None:
        return _wrong(expression, f"{why}; it is a value of {column!r}", f'write "{dotted}" in quotes: it is a text')
    near = did_you_mean(dotted, table.columns).partition("? ")
    hint = f"{near[0]}? " if near[1] else ""
    return _wrong(expression, why, f"{hint}text must be in quotes")


def _holds(column: pd.Series[Any], value: str) -> bool:
    """Whether the column is one of texts, and some run has this one."""
    return not pd.api.types.is_numeric_dtype(column) and any(
        isinstance(one, str) and one.casefold() == value.casefold() for one in column
    )


def _wrong(expression: str, why: str, fix: str) -> DraftbenchError:
    return DraftbenchError(f"the expression {expression!r} cannot be evaluated", why, fix)


def _settings(configs: Sequence[Any]) -> pd.DataFrame:
    """A row per recipe with a column for each setting, by its dotted name.

    Arrow reads ten thousand recipes in a tenth of the time that Python takes; one that it cannot read as the others,
    because a setting is a number in one and a text in another, or that it would read as a time, is left to Python.
    """
    texts = [text if isinstance(text, str) else "{}" for text in configs]
    with contextlib.suppress(pa.ArrowInvalid):
        raw = "\n".join(texts).encode()
        table = pa_json.read_json(
            pa.BufferReader(raw),
            pa_json.ReadOptions(use_threads=False, block_size=len(raw) + 1),
            pa_json.ParseOptions(newlines_in_values=True),
        )
        while any(pa.types.is_struct(kind) for kind in table.schema.types):
            table = table.flatten()
        if table.num_rows == len(texts) and not any(pa.types.is_temporal(kind) for kind in table.schema.types):
            return pd.DataFrame({name: _column(table[name]) for name in table.column_names})
    return pd.DataFrame([dict(_leaves(_object(text))) for text in texts]).infer_objects()


def _column(values: pa.ChunkedArray) -> pd.Series[Any]:
    if pa.types.is_list(values.type):
        return pd.Series([None if one is None else json.dumps(one) for one in values.to_pylist()], dtype=object)
    column: pd.Series[Any] = values.to_pandas()
    return column


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    return value if isinstance(value, dict) else {}


def _leaves(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", json.dumps(value) if isinstance(value, list) else value


def _rates(con: duckdb.DuckDBPyConnection, run_ids: pd.Series[str]) -> pd.DataFrame:
    rows = con.execute("SELECT run_id, metric, temperature, value FROM metrics WHERE draft = 'trained'").df()
    temperatures = {value: f"_{value:g}".replace(".", "_") for value in rows.temperature.unique()}
    rows["name"] = rows.metric.str.replace(".", "_") + rows.temperature.map(temperatures)
    wide = rows.drop_duplicates(["run_id", "name"]).set_index(["run_id", "name"])["value"].unstack()
    aligned: pd.DataFrame = wide.reindex(run_ids).set_axis(run_ids.index)
    return aligned
