"""The index as data frames, for pages and the command line.

Values are always bound, never written into the statement. A frame without rows still has
its columns. Temperatures are compared with a tolerance: 0.7 may have been stored as float32.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import pandas as pd

from engine.errors import DraftbenchError, did_you_mean
from engine.records.provenance import Provenance
from engine.records.record import Record
from engine.records.summary import Summary
from engine.records.training import Training

_RECORDS: dict[str, type[Record]] = {"provenance": Provenance, "summary": Summary, "training": Training}
# A run of which nothing can be read has no lists, and pandas has three words for nothing.
_LISTS = "REPLACE (coalesce(tags, []) AS tags, coalesce(problems, []) AS problems)"


@dataclass(frozen=True)
class Run:
    """One run as indexed. Times are UTC without a zone; `folder` is relative to the home if inside it.

    A field is None (an empty list, mapping or record) where the folder does not say;
    `problems` says what could not be read.
    """

    run_id: str
    name: str | None
    state: str | None
    phase: str | None
    domain: str | None
    scenario: str | None
    mode: str | None
    supervision: str | None
    loss: str | None
    target: str | None
    draft_init: str | None
    seed: int | None
    created_at: datetime | None
    updated_at: datetime | None
    tags: list[str]
    notes: str
    config: dict[str, Any]
    provenance: Provenance
    folder: str
    fingerprint: str | None
    problems: list[str]
    title: str | None
    pinned: bool
    archived: bool
    baseline: bool
    certificate: bool | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    summary: Summary
    """Without its metrics, which have a table."""
    training: Training


def overview(con: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """One row per run, newest first, with its headline: the trained draft's exact acceptance at its lowest temperature.

    Every column of `runs` but config, provenance, fingerprint, summary and training; and temperature, exact,
    exact_low, exact_high, n_prompts, n_tokens, num_draft_tokens, dtype, device, heldout_hash, acceptance_rule and
    initial (the untrained draft's exact acceptance) and speedup_prompts, NaN where not measured; n_train and
    steps_done (training queries and optimiser steps), NaN where not known; and text_settings, the settings that decide
    which text of the target was measured on, as one string.
    """
    return _frame(
        con,
        "WITH exact AS (SELECT *, row_number() OVER (PARTITION BY run_id, draft ORDER BY temperature) AS place"
        " FROM metrics WHERE metric = 'exact'),"
        " trained AS (SELECT * FROM exact WHERE draft = 'trained' AND place = 1),"
        " initial AS (SELECT run_id, value FROM exact WHERE draft = 'initial' AND place = 1)"
        f" SELECT r.* EXCLUDE (config, provenance, fingerprint, summary, training, detailed) {_LISTS},"
        " t.temperature, t.value AS exact, t.low AS exact_low, t.high AS exact_high, t.n_prompts, t.n_tokens,"
        " t.num_draft_tokens, t.dtype, t.device, t.heldout_hash, t.acceptance_rule, i.value AS initial,"
        " TRY_CAST(r.summary->>'$.speed.speedup.n_prompts' AS BIGINT) AS speedup_prompts,"
        " CAST(json_extract_string(r.summary, ['$.conditions.max_new_tokens', '$.conditions.top_p',"
        " '$.conditions.top_k', '$.conditions.seed']) AS VARCHAR) AS text_settings,"
        " TRY_CAST(r.provenance->>'$.prompts.train' AS DOUBLE) AS n_train,"
        " TRY_CAST(r.training->>'$.steps_done' AS DOUBLE) AS steps_done"
        " FROM runs r LEFT JOIN trained t USING (run_id) LEFT JOIN initial i USING (run_id)"
        " ORDER BY r.created_at DESC NULLS LAST, r.run_id",
    )


def get_run(con: duckdb.DuckDBPyConnection, run_id: str) -> Run:
    """One run with its whole configuration. Raises DraftbenchError naming the nearest known id."""
    cursor = con.execute("SELECT * EXCLUDE (detailed) FROM runs WHERE run_id = ?", [run_id])
    names = [column[0] for column in cursor.description]
    row = cursor.fetchone()
    if row is None:
        known = [known_id for (known_id,) in con.execute("SELECT run_id FROM runs").fetchall()]
        raise DraftbenchError(
            f"there is no run {run_id!r} in the index",
            "it was never started here, or is not indexed yet",
            did_you_mean(run_id, known) if known else "start one with `draftbench run`",
        )
    values = dict(zip(names, row, strict=True))
    values["config"] = json.loads(values["config"]) if values["config"] else {}
    values |= {key: kind.of_json(values[key]) for key, kind in _RECORDS.items()}
    values |= {key: bool(values[key]) for key in ("pinned", "archived", "baseline")}
    values |= {key: values[key] or [] for key in ("tags", "problems")}
    return Run(**{**values, "notes": values["notes"] or ""})


def metrics(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> pd.DataFrame:
    """All measured values of the runs with their intervals and conditions, one row a value."""
    return _frame(
        con,
        "SELECT * FROM metrics WHERE run_id IN (SELECT unnest(CAST(? AS VARCHAR[])))"
        " ORDER BY run_id, draft, temperature, metric",
        [list(run_ids)],
    )


def curve(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> pd.DataFrame:
    """Training curves of the runs: loss of kind `train`, exact acceptance of kind `eval`, by step."""
    return _frame(
        con,
        "SELECT * FROM curve WHERE run_id IN (SELECT unnest(CAST(? AS VARCHAR[])))"
        " ORDER BY run_id, kind, temperature, step",
        [list(run_ids)],
    )


def studied(con: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """What decides which runs may be compared, newest first: run_id, title, state, archived, certificate, created_at,
    tags, config as a mapping, and `Provenance` and `Training` in provenance and training (empty where not known)."""
    frame = _frame(
        con,
        "SELECT run_id, title, state, archived, certificate, created_at, coalesce(tags, []) AS tags, config,"
        " provenance, training FROM runs"
        " ORDER BY created_at DESC NULLS LAST, run_id",
    )
    frame["config"] = [json.loads(value) if isinstance(value, str) else {} for value in frame["config"]]
    for column in ("provenance", "training"):
        texts = [value if isinstance(value, str) else None for value in frame[column]]
        frame[column] = pd.Series([_RECORDS[column].of_json(text) for text in texts], frame.index, dtype=object)
    return frame


def prompt_sums(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> pd.DataFrame:
    """Expected acceptance per held-out prompt of many runs at once: run_id, draft, temperature, prompt_id, exact_sum,
    argmax_sum (None of an earlier version's), n_positions and `answer`, equal for equal answers of the target and None
    where its tokens are not known.

    For a measurement of an earlier version the answers are known once `add_details` has read its tokens."""
    return _frame(
        con,
        "SELECT run_id, draft, temperature, prompt_id, exact_sum, argmax_sum, n_positions, answer FROM prompts"
        " WHERE run_id IN (SELECT unnest(CAST(? AS VARCHAR[])))"
        " ORDER BY run_id, draft, temperature, prompt_id",  # a sum depends on its order, in the last bit
        [list(run_ids)],
    )


def exact_values(con: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Exact acceptance of every trained draft by temperature: run_id, temperature, value, low, high, n_prompts."""
    return _frame(
        con,
        "SELECT run_id, temperature, value, low, high, n_prompts FROM metrics"
        " WHERE metric = 'exact' AND draft = 'trained' ORDER BY run_id, temperature",
    )


def prompts_of(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], temperature: float) -> pd.DataFrame:
    """Rows of `prompts` of the runs' trained drafts at one temperature, in the order of their measurements.

    An interval depends on that order: in it, that of a part of the prompts is the one that `draftbench slices` prints.
    """
    return _of_runs(con, "SELECT * FROM prompts", "ORDER BY run_id, rowid", run_ids, temperature)


def rounds_of(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], temperature: float) -> pd.DataFrame:
    """Counts of every round of the runs' traces at one temperature."""
    select = "SELECT run_id, prompt_id, num_draft_tokens, accepted, emitted FROM rounds"
    return _of_runs(con, select, "ORDER BY run_id, prompt_id, round", run_ids, temperature)


def agreement_of(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], temperature: float) -> pd.DataFrame:
    """Greedy agreement per token of the target's text at one temperature: run_id, prompt_id, position, agree."""
    select = "SELECT run_id, prompt_id, position, agree FROM positions"
    return _of_runs(con, select, "ORDER BY run_id, prompt_id, position", run_ids, temperature)


def _of_runs(
    con: duckdb.DuckDBPyConnection, select: str, end: str, run_ids: Sequence[str], temperature: float
) -> pd.DataFrame:
    where = (
        "WHERE run_id IN (SELECT unnest(CAST(? AS VARCHAR[]))) AND draft = 'trained' AND abs(temperature - ?) < 1e-6"
    )
    return _frame(con, f"{select} {where} {end}", [list(run_ids), temperature])


def _frame(con: duckdb.DuckDBPyConnection, statement: str, values: Sequence[Any] = ()) -> pd.DataFrame:
    frame: pd.DataFrame = con.execute(statement, list(values)).df()
    return frame
