"""JSON as strangers write it: what Python's reader lets through, or dies of, is a `ValueError` in words here.

Python reads an object with a key twice and keeps the last value, and raises one class for bad syntax, another
for an integer of 4,400 digits and a third for deep nesting. Reasons are verb phrases: "is not valid JSON: ...".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_MOST_LEVELS = 200


class Spoilt:
    """In place of a value that must not be used: `reason` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def loads(text: str | bytes) -> Any:
    """The value in `text`. Raises ValueError with a reason fit to be shown; nothing else, whatever the text."""
    try:
        value, spoilt = loads_leniently(text)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if spoilt:
        raise ValueError(spoilt[0].reason)
    return value


def loads_leniently(text: str | bytes) -> tuple[Any, list[Spoilt]]:
    """The value in `text` with a `Spoilt` at each place that must not be used, and a list of them.

    For files of many records, of which one is spoilt. Raises ValueError where it is no JSON at all
    (UnicodeDecodeError, which is one, for bytes that are no UTF-8).
    """
    spoilt: list[Spoilt] = []

    def mark(reason: str) -> Spoilt:
        spoilt.append(Spoilt(reason))
        return spoilt[-1]

    def integer(digits: str) -> int | Spoilt:
        try:
            return int(digits)
        except ValueError:  # Python's own limit, against numbers that take minutes to convert
            return mark(f"holds an integer of {len(digits.lstrip('-')):,} digits")

    def members(pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        return mark(f"has the key {twice!r} twice")

    try:
        read = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(read, parse_int=integer, object_pairs_hook=members)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"is not valid JSON: {error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    return value, spoilt


def reason_in(value: Any) -> str:
    """Why a part of a leniently read value must not be used; "" if all of it may."""
    return next((inner.reason for inner in walk(value) if isinstance(inner, Spoilt)), "")


def walk(value: Any) -> Iterator[Any]:
    """`value` and everything in it, without recursion: no nesting is too deep. Keys are not part of it."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        yield current
        if isinstance(current, Mapping):
            waiting.extend(current.values())
        elif isinstance(current, list | tuple):
            waiting.extend(current)


def is_deeper(value: Any, levels: int) -> bool:
    """Whether containers are nested more than `levels` deep, which would break what goes through them by recursion."""
    level = [value]
    for _ in range(levels):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += [part for part in item.values() if isinstance(part, (dict, list))]
            elif isinstance(item, list):
                inner += [part for part in item if isinstance(part, (dict, list))]
        if not inner:
            return False
        level = inner
    return True


def too_deep(value: Any) -> bool:
    """Whether a value is nested deeper than any chat is, so that functions that recurse would break on it."""
    return is_deeper(value, _MOST_LEVELS)
