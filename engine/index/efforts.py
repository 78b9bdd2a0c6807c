"""What a run took and what its draft costs, as columns of the wide table: training, size, cost of a step, machine."""

from __future__ import annotations

import duckdb
import pandas as pd

# column -> where the documents in the index say it
_COLUMNS = {
    "train_s": "TRY_CAST(training->>'$.seconds' AS DOUBLE)",
    "tokens_seen": "TRY_CAST(training->>'$.tokens_seen' AS DOUBLE)",
    "draft_parameters": "TRY_CAST(provenance->>'$.draft_parameters.total' AS DOUBLE)",
    "cost_ratio": "TRY_CAST(summary->>'$.speed.cost_ratio' AS DOUBLE)",
    "speedup_transformers": "TRY_CAST(summary->>'$.speed.speedup_over_transformers.value' AS DOUBLE)",
    "watched": "TRY_CAST(provenance->>'$.prompts.watched' AS DOUBLE)",
    "threads": "TRY_CAST(summary->>'$.conditions.threads' AS DOUBLE)",
    "quantize": "summary->>'$.conditions.quantize'",
    "processor": "coalesce(provenance->>'$.measurement.machine.processor', provenance->>'$.machine.processor')",
}


def efforts(con: duckdb.DuckDBPyConnection, run_ids: pd.Series[str]) -> pd.DataFrame:
    """A row per id, with its index: train_s (seconds), tokens_seen (of the target's text), draft_parameters,
    cost_ratio (c), speedup_transformers, watched (prompts), and threads, quantize and processor of the measurement;
    NaN or None where not known."""
    columns = ", ".join(f"{where} AS {name}" for name, where in _COLUMNS.items())
    rows = con.execute(f"SELECT run_id, {columns} FROM runs").df().set_index("run_id")
    aligned: pd.DataFrame = rows.reindex(run_ids).set_axis(run_ids.index)
    return aligned
