"""Tables of the index, as numbered migrations.

A migration is never edited once released; a change is a new one at the end. The columns
that ingest fills are asked of the database, so they are written down here and nowhere else.
Times are UTC without a zone. A rate is a fraction, an interval is of 95%, `_s` is seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from engine.errors import DraftbenchError
from engine.index.transaction import transaction

_FIRST = """
CREATE TABLE runs (
    run_id VARCHAR PRIMARY KEY,
    name VARCHAR, state VARCHAR, phase VARCHAR,
    domain VARCHAR, scenario VARCHAR, mode VARCHAR, supervision VARCHAR, loss VARCHAR,
    target VARCHAR, draft_init VARCHAR, seed BIGINT,
    created_at TIMESTAMP, updated_at TIMESTAMP,
    tags VARCHAR[], notes VARCHAR,
    config JSON, provenance JSON,
    folder VARCHAR,          -- relative to the index's folder when inside it, else absolute
    fingerprint VARCHAR,     -- of the files that the rows were made from
    problems VARCHAR[]       -- what of the folder could not be read
);
CREATE TABLE metrics (
    run_id VARCHAR, draft VARCHAR, temperature DOUBLE, metric VARCHAR,
    value DOUBLE, low DOUBLE, high DOUBLE, n_prompts BIGINT, n_tokens BIGINT,
    num_draft_tokens BIGINT, dtype VARCHAR, device VARCHAR, heldout_hash VARCHAR, acceptance_rule VARCHAR
);
CREATE TABLE curve (
    run_id VARCHAR, step BIGINT, kind VARCHAR, temperature DOUBLE,
    value DOUBLE,            -- loss of kind 'train', exact acceptance of kind 'eval'
    tokens_seen BIGINT, seconds DOUBLE
);
CREATE TABLE prompts (
    run_id VARCHAR, draft VARCHAR, temperature DOUBLE, prompt_id VARCHAR,
    prompt_group VARCHAR,    -- 'group' in the file, which is a word of SQL
    exact_sum DOUBLE, agree_sum DOUBLE, n_positions BIGINT,
    drafted BIGINT, accepted BIGINT, rejected BIGINT, discarded BIGINT, emitted BIGINT, rounds BIGINT
);
CREATE TABLE positions (
    run_id VARCHAR, draft VARCHAR, temperature DOUBLE, prompt_id VARCHAR,
    position BIGINT, token_id BIGINT, overlap DOUBLE, agree BOOLEAN, p DOUBLE, q DOUBLE
);
CREATE TABLE rounds (
    run_id VARCHAR, draft VARCHAR, temperature DOUBLE, prompt_id VARCHAR,
    round BIGINT, num_draft_tokens BIGINT, accepted BIGINT, emitted BIGINT,
    draft_s DOUBLE, verify_s DOUBLE, overhead_s DOUBLE
);
CREATE TABLE tokens (
    run_id VARCHAR, draft VARCHAR, temperature DOUBLE, prompt_id VARCHAR,
    round BIGINT, slot BIGINT, position BIGINT, token_id BIGINT, text VARCHAR, fate VARCHAR,
    p DOUBLE, q DOUBLE, u DOUBLE, overlap DOUBLE
);
"""

# For the pages: labels that people gave, what a leaderboard shows, and the rest of the measurement whole.
_LABELS_AND_SUMMARY = """
ALTER TABLE runs ADD COLUMN title VARCHAR;
ALTER TABLE runs ADD COLUMN pinned BOOLEAN;
ALTER TABLE runs ADD COLUMN archived BOOLEAN;
ALTER TABLE runs ADD COLUMN baseline BOOLEAN;
ALTER TABLE runs ADD COLUMN certificate BOOLEAN;   -- passed; NULL before it is measured
ALTER TABLE runs ADD COLUMN speedup DOUBLE;        -- over plain decoding, measured in pairs
ALTER TABLE runs ADD COLUMN speedup_low DOUBLE;
ALTER TABLE runs ADD COLUMN speedup_high DOUBLE;
ALTER TABLE runs ADD COLUMN summary JSON;          -- measure/summary.json without its metrics
ALTER TABLE runs ADD COLUMN training JSON;         -- training.json
ALTER TABLE prompts ADD COLUMN text VARCHAR;       -- what the user asked, for people
UPDATE runs SET fingerprint = NULL;                -- so that the next ingest fills the new columns
"""

# Nine tenths of a run's rows are of its positions and tokens, and most runs are listed without ever being opened.
_DETAILS_LATER = """
ALTER TABLE runs ADD COLUMN detailed BOOLEAN;      -- false: its rows of DETAILS are not here yet
UPDATE runs SET fingerprint = NULL;
"""

# Two measurements are paired where the target's answers are the same.
_ANSWERS = """
ALTER TABLE prompts ADD COLUMN answer VARCHAR;     -- see `engine.measure.compare.answer_hash`
UPDATE runs SET fingerprint = NULL;
"""

# No page asks the index for tokens: a trace is read from its Parquet file. What a run's documents say is read again,
# through their models.
_WITHOUT_TOKENS = """
DROP TABLE tokens;
UPDATE runs SET fingerprint = NULL;
"""

_ARGMAX = """
ALTER TABLE prompts ADD COLUMN argmax_sum DOUBLE;
ALTER TABLE positions ADD COLUMN argmax_prob DOUBLE;  -- p(argmax q)
ALTER TABLE positions ADD COLUMN hit BOOLEAN;         -- the token written is argmax q
UPDATE runs SET fingerprint = NULL;
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, _LABELS_AND_SUMMARY, _DETAILS_LATER, _ANSWERS, _WITHOUT_TOKENS, _ARGMAX)
CURRENT = len(MIGRATIONS)

PARQUET_TABLES = ("prompts", "positions", "rounds")  # each from measure/<name>.parquet
DETAILS = ("positions", "rounds")  # of PARQUET_TABLES, written when they are first asked for
RUN_TABLES = ("runs", "metrics", "curve", *PARQUET_TABLES)  # all rows of a run lie in these
RENAMED = {"prompt_group": "group"}  # column of the database -> column of the Parquet file
# a measurement by an earlier version lacks these and is whole
ADDED_LATER = frozenset({"text", "answer", "argmax_sum", "argmax_prob", "hit"})


def version(con: duckdb.DuckDBPyConnection) -> int:
    """Number of migrations that the database has; 0 for a new one."""
    try:
        row = con.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    except duckdb.CatalogException:
        return 0
    return int(row[0]) if row else 0


def migrate(con: duckdb.DuckDBPyConnection, migrations: Sequence[str] = MIGRATIONS) -> int:
    """Apply the missing migrations in one transaction and return the version reached.

    Raises DraftbenchError for an index that a newer version of the program has written.
    """
    have = version(con)
    if have > len(migrations):
        raise DraftbenchError(
            f"the index has schema version {have}; this version of Draftbench knows {len(migrations)}",
            "a newer Draftbench wrote it",
            "update Draftbench, or make the index again with `draftbench index --rebuild`",
        )
    if have == len(migrations):
        return have
    with transaction(con):
        con.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER)")
        for number, statements in enumerate(migrations[have:], start=have + 1):
            con.execute(statements)
            con.execute("INSERT INTO schema_version VALUES (?)", [number])
    return len(migrations)


def columns(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Column -> SQL type of one of our tables, in the order of its definition."""
    rows = con.execute(f'DESCRIBE "{table}"').fetchall()
    return {row[0]: row[1] for row in rows}
