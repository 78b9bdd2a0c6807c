"""The rows of a user's log files: which are queries, which cannot be read, and what to call each."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.columns import Usage
from engine.data.readers import BadRow, open_source
from engine.data.records import BadRecordError
from engine.errors import DraftbenchError
from engine.logs.pii import Scrubber
from engine.logs.queries import LogSource, Query, queries_of

_SHOWN = 5


@dataclass(frozen=True)
class Log:
    """What was read: queries in order of time, the rows that hold none, and a description of each file."""

    queries: list[Query]
    bad: list[BadRow]
    files: list[dict[str, Any]]

    @property
    def rows(self) -> int:
        return sum(file["rows"] for file in self.files)


def read_logs(sources: Sequence[LogSource], *, every_turn: bool, skip_bad: bool) -> Log:
    """All queries of the files. Raises DraftbenchError if no row is good, and for a bad one unless `skip_bad`."""
    log = Log([], [], [])
    taken: set[str] = set()
    for number, source in enumerate(sources, 1):
        stem = Path(source.path).stem + (f"-{number}" if len(sources) > 1 else "")
        _read_file(source, stem, taken, log, every_turn=every_turn)
    if not log.queries or (log.bad and not skip_bad):
        raise _bad_rows(log.bad, log.rows)
    log.queries.sort(key=lambda query: query.time)
    return log


def ids_of(queries: Sequence[Query], *, keep_pii: bool) -> list[str]:
    """An id for each query, no two alike: the log's own, or one of the place where it has none or a personal one.

    All that follows knows a record by its id: one that came twice would mix up two conversations.
    """
    stays = [q.named and (keep_pii or Scrubber().text(q.prompt.id) == q.prompt.id) for q in queries]
    taken = {query.prompt.id for query, own in zip(queries, stays, strict=True) if own}
    ids = []
    for query, own in zip(queries, stays, strict=True):
        ids.append(query.prompt.id if own else _free(query.fallback_id, taken))
        taken.add(ids[-1])
    return ids


def _read_file(source: LogSource, stem: str, taken: set[str], log: Log, *, every_turn: bool) -> None:
    """Add a file to `log`, and the names that its rows have to `taken`."""
    rows, sha256 = open_source(source, None)
    count = 0
    usage, seen = Usage(source), Counter[str]()
    for row in rows:
        count += 1
        try:
            if row.record is None:
                raise BadRecordError(row.problem)
            usage.see(row.record, row.others)
            fresh = queries_of(row.record, source, f"{stem}-{row.line}", every_turn=every_turn, seen=seen)
            _refuse_taken(fresh, taken)
            log.queries.extend(fresh)
        except BadRecordError as error:
            log.bad.append(BadRow(source.path, row.line, str(error)))
    usage.refuse_unseen()
    mapping = {key: value for key, value in source.model_dump().items() if key.endswith("_column")}
    found = {**usage.told(), **({"translated": dict(+seen)} if +seen else {})}
    log.files.append({"file": Path(source.path).name, "sha256": sha256, "rows": count, "columns": mapping, **found})


def _refuse_taken(queries: Sequence[Query], taken: set[str]) -> None:
    named = [query.prompt.id for query in queries if query.named]
    for name in named:
        if name in taken:
            raise BadRecordError(f"the id {name!r} was used before")
    taken.update(named)


def _free(name: str, taken: Collection[str]) -> str:
    """`name`, or the first of name-b2, name-b3 ... that nobody has."""
    others = (f"{name}-b{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], others) if free not in taken)


def _bad_rows(bad: Sequence[BadRow], rows: int) -> DraftbenchError:
    lines = [f"  {row.file}:{row.line}: {row.reason}" for row in bad[:_SHOWN]]
    lines += [f"  ... and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
    return DraftbenchError(
        "\n".join([f"{len(bad)} of {rows} rows are no conversations:", *lines]),
        "leaving them out silently would change what the draft is trained and measured on",
        "name the columns (--messages-column, --prompt-column, --id-column ...), or go on without these rows: --skip-bad",
    )
