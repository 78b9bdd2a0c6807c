"""Where the parts of a record are: columns by name or by dotted path, which of them were there, and what was left aside.

A dot goes into an object, a number into a list: `response.choices.0.message`. A column whose name
holds the dots itself comes first. It is the same in every format; tables may keep objects as JSON text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from engine.config.schema import PromptSource
from engine.errors import DraftbenchError, did_you_mean
from engine.untrusted import json_text

_ABSENT = object()
# Of the project's own records: what they are, not what is asked. `reference` is read by tuning.
_LABELS = frozenset({"id", "group", "domain", "scenario", "source", "licence", "reference"})
_SHOWN = 20


def at(record: Mapping[str, Any], path: str | None) -> Any:
    """The value under a column or a dotted path; None where there is none, or what pandas writes for none."""
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
    """An object or a list that a table keeps as JSON text; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json_text.loads(value)
    except ValueError:
        return value


def head(path: str, present: Sequence[str]) -> str | None:
    """The column of a table that holds a path; None if it has no such column."""
    names = [path, path.partition(".")[0]]
    return next((name for name in names if name in present), None)


def named_columns(source: PromptSource) -> dict[str, str]:
    """Option -> column for those that the user named: the usual ones need not be there."""
    fields = type(source).model_fields
    return {
        option: value
        for option, value in source
        if option.endswith("_column") and value is not None and value != fields[option].default
    }


def no_such_column(source: PromptSource, option: str, wrong: str, known: Sequence[str]) -> DraftbenchError:
    """The error for a column that was named and is nowhere."""
    return DraftbenchError(
        f"{source.path} has no column {wrong!r}, which {option} names",
        "what was named would be left out silently",
        f"{did_you_mean(wrong, known)}; a dot goes into an object, as in request.messages",
    )


class Usage:
    """What of a source's columns was used, row by row."""

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
        for name in self._places(record):
            self._known[name] = None
            if name not in self._paths and not any(path.startswith(f"{name}.") for path in self._paths):
                self._aside[name] = None
        self._aside |= dict.fromkeys(others)

    def _places(self, record: Mapping[str, Any]) -> list[str]:
        """The columns of a record, and those beside each one that stands in an object."""
        names = [str(name) for name in record]
        for path in self._paths:
            parts = path.split(".")
            for depth in range(1, len(parts)) if path not in record else ():
                outer = ".".join(parts[:depth])
                inside = opened_text(_at(record, outer))
                names += [f"{outer}.{name}" for name in inside] if isinstance(inside, Mapping) else []
        return names

    def refuse_unseen(self) -> None:
        """Raises DraftbenchError for a column that was named and is in no row."""
        for option, column in self.named.items():
            if self._rows and self._nowhere[column] == self._rows:
                raise no_such_column(self.source, option, column, [*self._known, *self._aside])

    def told(self) -> dict[str, Any]:
        """For the report: `left_aside`, names of columns, and `missing`, rows without a value in a named column."""
        aside = [name for name in self._aside if name not in (_LABELS if type(self.source) is PromptSource else {"id"})]
        missing = {column: count for column, count in self._without.items() if count}
        return {
            **(
                {"left_aside": aside[:_SHOWN] + ([f"and {len(aside) - _SHOWN} more"] if len(aside) > _SHOWN else [])}
                if aside
                else {}
            ),
            **({"missing": missing} if missing else {}),
        }


def remarks(info: Mapping[str, Any]) -> list[str]:
    """What a reader should know of a source: columns left aside, rows without a named one, forms that were translated."""
    found = []
    if aside := info.get("left_aside"):
        found.append(f"left aside: {', '.join(aside)}")
    found += [f"{count} rows have no {column!r}" for column, count in info.get("missing", {}).items()]
    if translated := info.get("translated"):
        found.append("read: " + ", ".join(f"{what} ({count})" for what, count in translated.items()))
    return found
