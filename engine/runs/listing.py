"""Runs as rows of a list.

Most calls find the index up to date and nothing at work: then neither the documents of runs nor the recipe's schema is
loaded, so `draftbench runs` answers at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import duckdb

from engine.errors import DraftbenchError
from engine.index.changes import differences
from engine.index.connection import IndexDamagedError, reading, was_found_damaged
from engine.numbers import number
from engine.paths import Home
from engine.records.folders import DAMAGED, run_names

if TYPE_CHECKING:
    from engine.index.contents import RunContents

_UNFINISHED = ("queued", "running")
_COLUMNS = ("run_id", "state", "domain", "loss", "created_at", "archived", "problems")  # of the index
_PATIENCE_S = 5.0
_Rows = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]
"""Runs, by `_COLUMNS`, and the exact acceptance of their drafts: run id, value, temperature."""


def list_runs(home: Home) -> list[dict[str, Any]]:
    """A row a run, newest first. A damaged run is listed with what is wrong, never left out.

    Read from the index, which is brought up to date first, so that ten thousand runs are not read one by one; from the
    folders themselves where that is not possible: the home may only be read, or somebody holds the index.
    """
    if not run_names(home):
        return []
    try:
        runs, values = _from_index(home)
    except (DraftbenchError, OSError, duckdb.Error):
        runs, values = _from_folders(home)
    exact: dict[str, list[str]] = {}
    for run_id, value, temperature in values:
        if value is not None and temperature is not None:
            exact.setdefault(run_id, []).append(f"{number(value)} (T={temperature:g})")
    rows = [_row(home, dict(zip(_COLUMNS, one, strict=True)), exact) for one in runs]
    return sorted(rows, key=lambda row: (row["created"], row["run"]), reverse=True)


def _from_index(home: Home) -> _Rows:
    if not was_found_damaged(home.index):
        with contextlib.suppress(IndexDamagedError), reading(home.index, timeout_s=_PATIENCE_S) as con:
            seen = differences(con, home)
            if not seen.changed and not seen.gone:
                return _indexed(con)
    from engine.index.ingest import ingest_all

    ingest_all(home, timeout_s=_PATIENCE_S)
    with reading(home.index, timeout_s=_PATIENCE_S) as con:
        return _indexed(con)


def _indexed(con: duckdb.DuckDBPyConnection) -> _Rows:
    runs = con.execute(f"SELECT {', '.join(_COLUMNS)} FROM runs").fetchall()
    values = con.execute(
        "SELECT run_id, value, temperature FROM metrics"
        " WHERE draft = 'trained' AND metric = 'exact' ORDER BY run_id, temperature"
    ).fetchall()
    return runs, values


def _from_folders(home: Home) -> _Rows:
    contents = [_contents(home, name) for name in run_names(home)]
    runs = [tuple((one.run | {"problems": one.problems}).get(column) for column in _COLUMNS) for one in contents]
    return runs, [(one.run["run_id"], *value) for one in contents for value in _exact(one.metrics)]


def _contents(home: Home, name: str) -> RunContents:
    from engine.index.contents import read_run, unreadable

    folder = home.runs / name
    try:
        return read_run(folder)
    except Exception as error:  # whatever it holds, the others are listed
        return unreadable(folder, error)


def _exact(metrics: Iterable[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    return [(m["value"], m["temperature"]) for m in metrics if m["draft"] == "trained" and m["metric"] == "exact"]


def _row(home: Home, run: Mapping[str, Any], exact: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    state, where = run["state"] or DAMAGED, ""
    if state in _UNFINISHED:  # what is true now
        state, where = _now(home, run["run_id"])
    created = run["created_at"]
    return {
        "run": run["run_id"],
        "state": state,
        "domain": run["domain"] or "",
        "loss": run["loss"] or "",
        "exact": ", ".join(exact.get(run["run_id"], ())),
        "created": created.isoformat(timespec="seconds") if created else "",
        "archived": bool(run["archived"]),
        "where": where,
        "problem": _worst(run["problems"] or ()) if state == DAMAGED else "",
    }


def _now(home: Home, run_id: str) -> tuple[str, str]:
    """The state of an unfinished run, and where it waits or is worked on; empty for this machine."""
    from engine.records.slurm_job import SlurmJob
    from engine.runs.folder import RunFolder

    folder = RunFolder(home.run(run_id))
    status = folder.status()
    if status.place is None:
        return status.state, ""
    from engine.runs.description import whereabouts

    with contextlib.suppress(DraftbenchError):
        return status.state, whereabouts(status, SlurmJob.read(folder.path))
    return status.state, whereabouts(status, None)


def _worst(problems: Sequence[str]) -> str:
    """The problem that makes a run a damaged one: of its recipe, its status or its summary, which are read first."""
    return problems[0] if problems else "status.json: missing"
