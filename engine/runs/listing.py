"""Runs as rows of a list and as records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb

from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.index.connection import reading
from engine.index.contents import RunContents, read_run, unreadable
from engine.index.ingest import ingest_all, remove_missing
from engine.numbers import number
from engine.paths import Home
from engine.records.folders import run_names
from engine.records.provenance import Provenance
from engine.records.record import Record
from engine.records.status import DAMAGED, Status
from engine.records.summary import Summary
from engine.records.training import Training
from engine.records.values import encodable
from engine.runs.folder import RunFolder

_T = TypeVar("_T")
_UNFINISHED = ("queued", "running")
_COLUMNS = ("run_id", "state", "domain", "loss", "created_at", "problems")  # of the index


def list_runs(home: Home) -> list[dict[str, Any]]:
    """A row a run, newest first. A damaged run is listed with what is wrong, never left out.

    Read from the index, which is brought up to date first, so that ten thousand runs are not read one by one; from the
    folders themselves where that is not possible: the home may only be read, or somebody holds the index.
    """
    if not run_names(home):
        return []
    try:
        ingest_all(home, timeout_s=_PATIENCE_S)
        remove_missing(home, timeout_s=_PATIENCE_S)
        with reading(home.index, timeout_s=_PATIENCE_S) as con:
            runs = con.execute(f"SELECT {', '.join(_COLUMNS)} FROM runs").fetchall()
            values = con.execute(
                "SELECT run_id, value, temperature FROM metrics"
                " WHERE draft = 'trained' AND metric = 'exact' ORDER BY run_id, temperature"
            ).fetchall()
    except (DraftbenchError, OSError, duckdb.Error):
        contents = [_contents(home, name) for name in run_names(home)]
        runs = [tuple((one.run | {"problems": one.problems}).get(column) for column in _COLUMNS) for one in contents]
        values = [(one.run["run_id"], *value) for one in contents for value in _exact(one.metrics)]
    exact: dict[str, list[str]] = {}
    for run_id, value, temperature in values:
        if value is not None and temperature is not None:
            exact.setdefault(run_id, []).append(f"{number(value)} (T={temperature:g})")
    rows = [_row(home, dict(zip(_COLUMNS, one, strict=True)), exact) for one in runs]
    return sorted(rows, key=lambda row: (row["created"], row["run"]), reverse=True)


_PATIENCE_S = 5.0


def _contents(home: Home, name: str) -> RunContents:
    folder = home.runs / name
    try:
        return read_run(folder)
    except Exception as error:  # whatever it holds, the others are listed
        return unreadable(folder, error)


def _exact(metrics: Iterable[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    return [(m["value"], m["temperature"]) for m in metrics if m["draft"] == "trained" and m["metric"] == "exact"]


def _row(home: Home, run: Mapping[str, Any], exact: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    state = run["state"] or DAMAGED
    if state in _UNFINISHED:  # what is true now
        state = RunFolder(home.run(run["run_id"])).status().state
    created = run["created_at"]
    return {
        "run": run["run_id"],
        "state": state,
        "domain": run["domain"] or "",
        "loss": run["loss"] or "",
        "exact": ", ".join(exact.get(run["run_id"], ())),
        "created": created.isoformat(timespec="seconds") if created else "",
        "problem": _worst(run["problems"] or ()) if state == DAMAGED else "",
    }


def _worst(problems: Sequence[str]) -> str:
    """The problem that makes a run a damaged one: of its recipe, its status or its summary, which are read first."""
    return problems[0] if problems else "status.json: missing"


@dataclass(frozen=True)
class Description:
    """Everything about one run that is not a table. What is None is not there yet, or `problem` says what is wrong."""

    run: str
    folder: str
    status: Status
    recipe: Recipe | None
    training: Training | None
    provenance: Provenance | None
    summary: Summary | None
    problem: str

    def document(self) -> dict[str, Any]:
        """The JSON that `draftbench show --json` prints."""
        records = {
            key: record and record.document() for key, record in vars(self).items() if isinstance(record, Record)
        }
        return {**vars(self), "recipe": self.recipe and self.recipe.model_dump(mode="json"), **records}


def describe(run: RunFolder) -> Description:
    """One run, as far as its files can be read."""
    problems: list[str] = []

    def read(reader: Callable[[], _T]) -> _T | None:
        try:
            return reader()
        except DraftbenchError as error:
            problems.append(f"{error.what}: {error.fix}" if error.fix else error.what)
            return None

    return Description(
        run.id,
        encodable(str(run.path)),
        run.status(),
        recipe=read(run.recipe),
        training=read(lambda: Training.read(run.path)),
        provenance=read(lambda: Provenance.read(run.path)),
        summary=read(run.summary) if run.summary_path.exists() else None,
        problem="; ".join(problems),
    )
