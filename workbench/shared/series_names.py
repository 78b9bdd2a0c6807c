"""Short names for the series of a figure: what they share is left out, what differs between them never is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

_BREAK = re.compile(r", |: | · |; | – ")  # between the parts of a title
_WORD = re.compile(r"[\s,:;·/_=-]")
LONGEST = 46


def series_names(titles: Sequence[str], longest: int = LONGEST) -> list[str]:
    """Titles without the parts that all of them begin with: 'online forward_kl' of 'biology, 200: online forward_kl'.

    One title alone, or equal ones, stay. What is still too long is shortened by `fitting`.
    """
    different = list(dict.fromkeys(titles))
    start = _common_parts(different) if len(different) > 1 else 0
    return fitting([title[start:] for title in titles], longest)


def fitting(names: Sequence[str], longest: int) -> list[str]:
    """Names of which those that are too long lose, for an ellipsis, what all begin or end with, at a word's edge.

    A name stays longer than `longest` rather than lose what differs; one alone, or equal ones, are cut in the middle.
    """
    different = list(dict.fromkeys(names))
    if len(different) < 2:
        return [name if len(name) <= longest else f"{name[: longest - 9]}…{name[-8:]}" for name in names]
    first = _alike(different)
    last = _alike([name[first:][::-1] for name in different])
    begin, end = different[0][:first], different[0][len(different[0]) - last :]
    first = max((edge.end() for edge in _WORD.finditer(begin)), default=0)
    last = max((len(end) - edge.start() for edge in _WORD.finditer(end)), default=0)
    return [name if len(name) <= longest else _between(name, first, last) for name in names]


def _between(name: str, first: int, last: int) -> str:
    """The name without so many letters at its beginning and end."""
    begin, end = "…" if first > 1 else name[:first], "…" if last > 1 else name[len(name) - last :]
    return begin + name[first : len(name) - last] + end


def _common_parts(names: Sequence[str]) -> int:
    """Letters of the parts that all names begin with; something is left of every name."""
    shared = names[0][: _alike(names)]
    ends = [found.end() for found in _BREAK.finditer(shared)]
    return max((end for end in ends if all(len(name) > end for name in names)), default=0)


def _alike(names: Sequence[str]) -> int:
    """How many letters all names begin with."""
    columns = zip(*names, strict=False)  # up to the end of the shortest
    return sum(1 for _ in itertools.takewhile(lambda letters: len(set(letters)) == 1, columns))
