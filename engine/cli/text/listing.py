"""The list of runs as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.cli.text import console


def runs(rows: Sequence[dict[str, Any]]) -> None:
    """Print a row per run, newest first."""
    columns = ["run", "state", "domain", "loss", "exact"]
    console.table("", columns, [[row[c] for c in columns[:-1]] + [row["exact"].replace(", ", "\n")] for row in rows])
    for row in rows:
        if row["where"]:
            console.paragraph(f"{row['run']}: {row['where']}")
        if row["problem"]:
            console.paragraph(f"{row['run']}: {row['problem']}")
