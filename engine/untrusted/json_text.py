"""Parse JSON from strangers strictly: whatever is wrong with it is a `ValueError` with a reason that can be shown.

Python's parser keeps the last value of a key that comes twice, and raises one class for bad syntax, another for an
integer of 4,400 digits and a third for deep nesting. Reasons are verb phrases: "is not valid JSON: ...".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_MAX_LEVELS = 200
NO_JSON = "is not valid JSON"  # how the reason begins where the text is none, whatever it says


class Spoilt:
    """A placeholder for a value that must not be used, with the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def loads(text: str | bytes) -> Any:
    """Parse `text`. Raises ValueError with a reason that can be shown, and nothing else, whatever the text."""
    try:
        value, spoilt = loads_leniently(text)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if spoilt:
        raise ValueError(spoilt[0].reason)
    return value


def loads_leniently(text: str | bytes) -> tuple[Any, list[Spoilt]]:
    """Parse `text` with a `Spoilt` in place of each value that must not be used; also return a list of them.

    For files of many records, of which a few are unusable. Raises ValueError if it is not JSON at all
    (UnicodeDecodeError, a subclass, for bytes that are not UTF-8).
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
        members_by_name = dict(pairs)
        if len(members_by_name) == len(pairs):
            return members_by_name
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        return mark(f"has the key {twice!r} twice")

    try:
        read = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(read, parse_int=integer, object_pairs_hook=members)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"{NO_JSON}: {error.msg.removesuffix(' at')} at {line}column {error.colno}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    return value, spoilt


def reason_in(value: Any) -> str:
    """Why a part of a leniently parsed value must not be used; "" if all of it may be."""
    return next((inner.reason for inner in walk(value) if isinstance(inner, Spoilt)), "")


def walk(value: Any) -> Iterator[Any]:
    """Yield `value` and every value in it, without recursion, so that no nesting is too deep."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        yield current
        if isinstance(current, Mapping):
            waiting.extend(current.values())
        elif isinstance(current, list | tuple):
            waiting.extend(current)


def is_deeper(value: Any, levels: int) -> bool:
    """Whether containers are nested more than `levels` deep, so that recursive functions would fail."""
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
    """Whether a value is nested deeper than any chat is, so that recursive functions would fail."""
    return is_deeper(value, _MAX_LEVELS)
