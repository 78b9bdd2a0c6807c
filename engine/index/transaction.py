"""All or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import duckdb


@contextlib.contextmanager
def transaction(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit what happens inside, or roll all of it back and let the exception through."""
    con.execute("BEGIN")
    try:
        yield
    except BaseException:
        # After a fatal error DuckDB refuses even this; what went wrong first is what counts.
        with contextlib.suppress(duckdb.Error):
            con.execute("ROLLBACK")
        raise
    con.execute("COMMIT")
