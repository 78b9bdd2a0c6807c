"""Read the columns of a record, by name or by dotted path, and record which columns were used.

A dot goes into an object, a number into a list: `response.choices.0.message`. A column whose own name contains the
dots comes first. Paths work the same in every format; tables may keep objects as JSON text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from engine.config.schema import PromptSource
from engine.errors import DraftbenchError, did_you_mean
from engine.untrusted import json_text

_ABSENT = object()
# Columns of the project's own records that say nothing about the question. `reference` is read by tuning.
_LABELS = frozenset({"id", "group", "domain", "scenario", "source", "licence", "reference"})
_MAX_LISTED = 20


def at(record: Mapping[str, Any], path: str | None) -> Any:
    """The value at a column or a dotted path; None if it is missing, or NaN, as pandas writes it."""
    value = None if path is None else _at(record, path)
    return None if value is _ABSENT or (isinstance(value, float) and value != value) else value


def _at(record: Mapping[str, Any], path: str) -> Any:
    if path in record:
        return record[path]
    value: Any = record
    for part in path.split("."):
        value = opened_text(value)
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and len(part) < 10 and int(part) < len(value):
            value = value[int(part)]
        else:
            return _ABSENT
    return value


def opened_text(value: Any) -> Any:
    """Decode an object or a list that a table keeps as JSON text; return anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json_text.loads(value)
    except ValueError:
        return value


def head(path: str, present: Sequence[str]) -> str | None:
    """The column of a table that a path starts at; None if it has no such column."""
    names = [path, path.partition(".")[0]]
    return next((name for name in names if name in present), None)


def named_columns(source: PromptSource) -> dict[str, str]:
    """Option -> column for the columns that the user named; the default ones need not exist."""
    fields = type(source).model_fields
    return {
        option: value
        for option, value in source
        if option.endswith("_column") and value is not None and value != fields[option].default
    }


def no_such_column(source: PromptSource, option: str, wrong: str, known: Sequence[str]) -> DraftbenchError:
    """The error for a column that the user named and no row has."""
    return DraftbenchError(
        f"{source.path} has no column {wrong!r}, which {option} names",
        "the column would be left out silently",
        f"{did_you_mean(wrong, known)}; a dot goes into an object, as in request.messages",
    )


class ColumnUse(TypedDict, total=False):
    """How the columns of a source were used. Keys without content are left out."""

    left_aside: list[str]
    """Columns that were not read."""
    missing: dict[str, int]
    """Column that the user named -> rows without a value in it."""


class Usage:
    """Counts how the columns of a source are used, row by row."""

    def __init__(self, source: PromptSource) -> None:
        self.source = source
        self.named = named_columns(source)
        self._paths = source.columns()
        self._rows = 0
        self._without: Counter[str] = Counter()
        self._nowhere: Counter[str] = Counter()
        self._known: dict[str, None] = {}
        self._aside: dict[str, None] = {}

    def see(self, record: Mapping[str, Any], others: Sequence[str] = ()) -> None:
        """Count a record; `others` are columns of a table that were not loaded."""
        self._rows += 1
        for column in self.named.values():
            value = _at(record, column)
            self._without[column] += value is _ABSENT or value is None or value == ""
            self._nowhere[column] += value is _ABSENT
        for name in self._columns(record):
            self._known[name] = None
            if name not in self._paths and not any(path.startswith(f"{name}.") for path in self._paths):
                self._aside[name] = None
        self._aside |= dict.fromkeys(others)

    def _columns(self, record: Mapping[str, Any]) -> list[str]:
        """The columns of a record, and those beside each used one inside an object."""
        names = [str(name) for name in record]
        for path in self._paths:
            parts = path.split(".")
            for depth in range(1, len(parts)) if path not in record else ():
                outer = ".".join(parts[:depth])
                inside = opened_text(_at(record, outer))
                names += [f"{outer}.{name}" for name in inside] if isinstance(inside, Mapping) else []
        return names

    def refuse_unseen(self) -> None:
        """Raise DraftbenchError for a column that the user named and no row has."""
        for option, column in self.named.items():
            if self._rows and self._nowhere[column] == self._rows:
                raise no_such_column(self.source, option, column, [*self._known, *self._aside])

    def summary(self) -> ColumnUse:
        """The columns that were left aside, and missing values in named ones."""
        labels = _LABELS if type(self.source) is PromptSource else {"id"}
        aside = [name for name in self._aside if name not in labels]
        more = [f"and {len(aside) - _MAX_LISTED} more"] if len(aside) > _MAX_LISTED else []
        use: ColumnUse = {"left_aside": aside[:_MAX_LISTED] + more} if aside else {}
        if missing := {column: count for column, count in self._without.items() if count}:
            use["missing"] = missing
        return use


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def remarks(info: Mapping[str, Any]) -> list[str]:
    """Lines about a source: columns left aside, rows without a named column, files that were not read, translations."""
    lines = []
    if aside := info.get("left_aside"):
        lines.append(f"columns that are not used: {', '.join(aside)}")
    lines += [f"{count} rows have no {column!r}" for column, count in info.get("missing", {}).items()]
    if unread := info.get("unread"):
        lines.append(f"files that Datasets takes into no split, and that were not read: {_first(unread)}")
    if translated := info.get("translated"):
        lines.append("read: " + ", ".join(f"{what} ({count})" for what, count in translated.items()))
    return lines
