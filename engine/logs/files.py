"""Read a user's log files into queries, bad rows and ids."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

from engine.data.columns import ColumnUse, Usage
from engine.data.readers import BadRow, open_source, unread_files
from engine.data.records import BadRecordError
from engine.errors import DraftbenchError
from engine.logs.pii import Scrubber
from engine.logs.queries import LogSource, Query, queries_of

_SHOWN = 5


class LogFile(ColumnUse):
    """A log file in `import.json`. `columns`: option -> column, None where an option is not set."""

    file: str
    sha256: str | None
    rows: int
    columns: dict[str, str | None]
    translated: NotRequired[dict[str, int]]
    unread: NotRequired[list[str]]


@dataclass(frozen=True)
class Log:
    """The contents of log files: queries in order of time, bad rows, and a description of each file."""

    queries: list[Query]
    bad: list[BadRow]
    files: list[LogFile]

    @property
    def rows(self) -> int:
        return sum(file["rows"] for file in self.files)


def read_logs(sources: Sequence[LogSource], *, every_turn: bool, skip_bad: bool) -> Log:
    """Read all queries. Raises DraftbenchError if no row is good, and for any bad row unless `skip_bad`."""
    log = Log([], [], [])
    taken: set[str] = set()
    for number, source in enumerate(sources, 1):
        stem = Path(source.path).stem + (f"-{number}" if len(sources) > 1 else "")
        _read_file(source, stem, taken, log, every_turn=every_turn)
    if not log.rows:
        names = ", ".join(source.path for source in sources)
        raise DraftbenchError(f"{names} {'are' if len(sources) > 1 else 'is'} empty", "", "give a log with rows in it")
    if not log.queries or (log.bad and not skip_bad):
        raise _bad_rows(log.bad, log.rows, all_bad=not log.queries)
    log.queries.sort(key=lambda query: query.time)
    return log


def ids_of(queries: Sequence[Query], *, keep_pii: bool) -> list[str]:
    """A unique id per query: the log's own, or one made of its position if it has none or a personal one.

    Everything else knows a record by its id: a repeated id would mix up two conversations.
    """
    keeps_own = [q.named and (keep_pii or Scrubber().text(q.prompt.id) == q.prompt.id) for q in queries]
    taken = {query.prompt.id for query, own in zip(queries, keeps_own, strict=True) if own}
    ids = []
    for query, own in zip(queries, keeps_own, strict=True):
        ids.append(query.prompt.id if own else _free(query.fallback_id, taken))
        taken.add(ids[-1])
    return ids


def _read_file(source: LogSource, stem: str, taken: set[str], log: Log, *, every_turn: bool) -> None:
    """Add a file's rows to `log` and their ids to `taken`."""
    rows, sha256 = open_source(source, None)
    count = 0
    usage, seen = Usage(source), Counter[str]()
    for row in rows:
        count += 1
        try:
            if row.record is None:
                raise BadRecordError(row.problem)
            usage.see(row.record, row.others)
            queries = queries_of(row.record, source, f"{stem}-{row.line}", every_turn=every_turn, seen=seen)
            _refuse_taken(queries, taken)
            log.queries.extend(queries)
        except BadRecordError as error:
            log.bad.append(BadRow(source.path, row.line, str(error)))
    usage.refuse_unseen()
    columns = {key: value for key, value in source.model_dump().items() if key.endswith("_column")}
    name = Path(source.path).name
    file: LogFile = {"file": name, "sha256": sha256, "rows": count, "columns": columns}
    file = {**file, **usage.summary()}
    if +seen:
        file["translated"] = dict(+seen)
    if unread := unread_files(source, None):
        file["unread"] = unread
    log.files.append(file)


def _refuse_taken(queries: Sequence[Query], taken: set[str]) -> None:
    named = [query.prompt.id for query in queries if query.named]
    for name in named:
        if name in taken:
            raise BadRecordError(f"the id {name!r} was used before")
    taken.update(named)


def _free(name: str, taken: Collection[str]) -> str:
    """`name`, or the first of name-b2, name-b3 ... that is not taken."""
    others = (f"{name}-b{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], others) if free not in taken)


def _bad_rows(bad: Sequence[BadRow], rows: int, *, all_bad: bool) -> DraftbenchError:
    lines = [f"  {row.file}:{row.line}: {row.reason}" for row in bad[:_SHOWN]]
    lines += [f"  ... and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
    return DraftbenchError(
        "\n".join([f"{len(bad)} of {rows} rows are not conversations:", *lines]),
        "there is no other row" if all_bad else "leaving them out silently would change the set of prompts",
        "name the columns (--messages-column, --prompt-column, --id-column ...)"
        + ("" if all_bad else ", or leave these rows out: --skip-bad"),
    )
