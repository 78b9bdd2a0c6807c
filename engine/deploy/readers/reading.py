"""What a reader makes of a server's figures, and the checks that every reader's counts pass.

A count that contradicts another one is refused with both values: nobody could say which of them is right.
"""

from __future__ import annotations

import itertools
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from engine.errors import DraftbenchError, boundary
from engine.numbers import is_number
from engine.records.served import RoundTotals

MOST_PLACES = 1_000  # tokens of one proposal: more is no speculation
_MOST = 2**53  # JSON numbers are exact up to here
_MOST_SECONDS, _MOST_TOKENS = 1e9, 2**31  # of one answer
_CLOSE = 1e-3  # between a rate as printed and the same from its counts
_PLACE = re.compile(r"0|[1-9][0-9]{0,3}")  # one spelling for each number, so that no two keys are the same place
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring = 2, 60
_Setting = TypeVar("_Setting", int, float)


class Located(NamedTuple):
    """A JSON object and where it stands, for messages: 'answers.jsonl, line 3'."""

    value: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Reading:
    """The figures of some files of one form. `seconds_by_request`: emitted tokens and seconds, where both are known."""

    server: str
    source: str
    totals: RoundTotals
    per_request: tuple[RoundTotals, ...] = ()
    gamma: int | None = None
    temperature: float | None = None
    model: str | None = None
    version: str | None = None
    prompt_tokens: int | None = None
    concurrency: int | None = None
    tokens_per_s: float | None = None
    seconds_by_request: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()


def refused(what: str, why: str, fix: str = "take the figures from the server again") -> DraftbenchError:
    """The error for figures that cannot be used."""
    return DraftbenchError(what, why, fix)


def foreign(where: str) -> AbstractContextManager[None]:
    """The boundary around a reader: what it does not expect of a document is refused, and never a traceback."""
    return boundary(
        f"{where} cannot be read",
        "take the figures from the server again, or import another form of them",
        "its figures are not of the documented form",
    )


def whole(values: Mapping[str, Any], name: str, where: str) -> int:
    """A count of a JSON object. Raises DraftbenchError if it is missing, negative, or no whole number."""
    if name not in values:
        raise missing(where, name)
    return as_whole(values[name], f"{where}: {name}")


def optional_whole(values: Mapping[str, Any], name: str, where: str) -> int | None:
    """The same, None where the count is missing or null."""
    return None if values.get(name) is None else whole(values, name, where)


def as_whole(value: Any, named: str) -> int:
    """A number of JSON or of Prometheus as a count. Raises DraftbenchError for anything else."""
    if not is_number(value) or value != int(value) or not 0 <= value <= _MOST:
        raise refused(f"{named} is {brief(value)}", "a count is a whole number from 0 on")
    return int(value)


def draft_tokens(values: Mapping[str, Any], where: str) -> int | None:
    """gamma, as vLLM's JSON names it; None where it is missing or null. Raises DraftbenchError for what none can be."""
    count = optional_whole(values, "num_spec_tokens", where)
    if count is not None and not 1 <= count <= MOST_PLACES:
        raise refused(f"{where}: num_spec_tokens is {count}", f"a proposal has 1 to {MOST_PLACES:,} tokens")
    return count


def place(text: str, named: str) -> int:
    """The number of a place in a proposal, as it stands in a key or a label: '0', '3'."""
    if not _PLACE.fullmatch(text) or int(text) > MOST_PLACES:
        raise refused(f"{named} is {brief(text)}", f"it must be a whole number from 0 to {MOST_PLACES:,}")
    return int(text)


def quantity(values: Mapping[str, Any], name: str, where: str, most: float = math.inf) -> float | None:
    """A number of a JSON object from 0 on; None where it is missing or null. Raises DraftbenchError."""
    value = values.get(name)
    if value is None:
        return None
    if not is_number(value) or not 0 <= value <= most:
        upper = f"from 0 to {most:g}" if math.isfinite(most) else "from 0 on"
        raise refused(f"{where}: {name} is {brief(value)}", f"it must be a number {upper}")
    return float(value)


def seconds(values: Mapping[str, Any], name: str, where: str, *, per_unit: float = 1.0) -> float | None:
    """A duration of a JSON object in seconds; None where it is missing or null."""
    taken = quantity(values, name, where, _MOST_SECONDS / per_unit)
    return None if taken is None else taken * per_unit


def words(values: Mapping[str, Any], name: str) -> str | None:
    """A short text of a JSON object, None where there is none."""
    value = values.get(name)
    return value[:200] if isinstance(value, str) and value else None


def part(values: Any, *names: str) -> Mapping[str, Any]:
    """The object under some nested names; empty where there is none."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def choices(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The choices of a chat completion; empty where it has none."""
    listed = value.get("choices")
    return [choice for choice in listed if isinstance(choice, Mapping)] if isinstance(listed, list) else []


def counts_list(value: Any, named: str, most: int = MOST_PLACES) -> list[int]:
    """A list of counts. Raises DraftbenchError if it is none, or longer than a proposal or `most`."""
    if not isinstance(value, list) or not 0 < len(value) <= most:
        raise refused(f"{named} is {brief(value)}", f"it must be a list of 1 to {most:,} counts")
    return [as_whole(item, f"{named}[{number}]") for number, item in enumerate(value)]


def by_place(histogram: Sequence[int]) -> list[int]:
    """Rounds with 0, 1, ... accepted tokens -> rounds in which the first, second, ... token was accepted.

    >>> by_place([39, 1, 0, 3])
    [4, 3, 3]
    """
    return [sum(histogram[place:]) for place in range(1, len(histogram))]


def of_histogram(histogram: Sequence[int], rounds: int, accepted: int, where: str) -> list[int]:
    """`by_place`, after comparing the histogram with the counts beside it."""
    if sum(histogram) != rounds:
        raise contradiction(where, f"the histogram has {sum(histogram):,} rounds", f"{rounds:,} are reported")
    total = sum(place * count for place, count in enumerate(histogram))
    if total != accepted:
        raise contradiction(where, f"the histogram has {total:,} accepted tokens", f"{accepted:,} are reported")
    return by_place(histogram)


def missing(where: str, name: str) -> DraftbenchError:
    """The error for a figure without which the others say nothing."""
    return refused(
        f"{where} has no {name}",
        "the figures are those of another version of the server, or a part of them is missing",
        "see `draftbench served import --help` for the forms that can be read",
    )


def contradiction(where: str, one: str, other: str) -> DraftbenchError:
    """The error for two figures of which one must be wrong."""
    return refused(f"{where}: {one}, {other}", "the figures contradict each other, so none of them can be trusted")


def checked(totals: RoundTotals, where: str, gamma: int | None = None) -> RoundTotals:
    """The totals, if no count of them contradicts another. Raises DraftbenchError."""
    proposed, accepted, rounds = totals.proposed, totals.accepted, totals.rounds
    most = max(proposed or 0, rounds or 0, totals.emitted or 0)
    if totals.requests is not None and most > _MOST_TOKENS * max(totals.requests, 1):
        raise contradiction(where, f"{most:,} tokens or rounds", f"{totals.requests:,} answers")
    if proposed is not None and accepted is not None and accepted > proposed:
        raise contradiction(where, f"{accepted:,} tokens were accepted", f"{proposed:,} proposed")
    if rounds is not None:
        limit = MOST_PLACES if gamma is None else gamma
        for name, count in (("proposed", proposed), ("accepted", accepted)):
            if count is not None and count > limit * rounds:
                raise contradiction(where, f"{count:,} tokens {name} in {rounds:,} rounds", f"at most {limit} in each")
    places = totals.accepted_at
    if places is not None:
        _check_places(places, rounds, accepted, where)
    return totals


def _check_places(places: Sequence[int], rounds: int | None, accepted: int | None, where: str) -> None:
    if any(later > earlier for earlier, later in itertools.pairwise(places)):
        raise contradiction(
            where, f"tokens accepted by place {list(places)[:12]}", "but a later one needs all before it"
        )
    if accepted is not None and sum(places) != accepted:
        raise contradiction(where, f"{sum(places):,} tokens accepted by place", f"{accepted:,} in all")
    if rounds is not None and places and places[0] > rounds:
        raise contradiction(where, f"the first token was accepted {places[0]:,} times", f"in {rounds:,} rounds")


def check_rate(reported: Any, part: int, whole: int, named: str, *, scale: float = 1.0, plus: float = 0.0) -> None:
    """Compare a reported rate with the counts it is of. Nothing to compare where it is missing or null."""
    if reported is None or not whole:
        return
    expected = plus + scale * part / whole
    if not is_number(reported) or not math.isclose(reported, expected, rel_tol=_CLOSE, abs_tol=_CLOSE * scale):
        raise contradiction(named, f"reported as {brief(reported)}", f"its counts give {expected:.4f}")


def unread(values: Mapping[str, Any], known: set[str], what: str) -> list[str]:
    """A sentence on the keys of an object that no reader of this version knows; none where there are none."""
    names = sorted(name for name in values if name not in known)
    if not names:
        return []
    shown = ", ".join(brief(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return [f"not read of {what}: {shown}"]


def without_figures(count: int, of: int) -> list[str]:
    """A sentence on records without figures of speculation; none where all have them."""
    return [f"{count:,} of {of:,} records have no figures of speculation and are left out"] if count else []


def one_of(values: Sequence[str | None]) -> str | None:
    """The one word that all have, or those that some have, joined."""
    seen = list(dict.fromkeys(value for value in values if value))
    return ", ".join(seen[:4])[:200] or None


def the_gamma(values: Sequence[int | None], where: str) -> int | None:
    """The one gamma of some records; None if none says. Raises DraftbenchError if they differ."""
    why = "acceptance falls with the length of a proposal, so their mean says nothing of either"
    return _the_one(values, where, "proposals of {} tokens at most", why)


def the_temperature(values: Sequence[float | None], where: str) -> float | None:
    """The one temperature of some records; None if none says. Raises DraftbenchError if they differ."""
    why = "acceptance depends on the temperature, so their mean says nothing of either"
    return _the_one(values, where, "answers at temperatures {}", why)


def _the_one(values: Sequence[_Setting | None], where: str, several: str, why: str) -> _Setting | None:
    seen = sorted({value for value in values if value is not None})
    if len(seen) > 1:
        shown = several.format(", ".join(f"{value:g}" for value in seen[:6]))
        raise refused(f"{where}: {shown}", why, "import the answers of each setting on its own")
    return seen[0] if seen else None


def unsaid(values: Sequence[float | None], what: str) -> list[str]:
    """A sentence on records that do not state a setting which others state; none where all or none do."""
    silent = sum(value is None for value in values)
    if silent in (0, len(values)):
        return []
    return [f"{silent:,} of {len(values):,} records do not state {what}: taken to be that of the others"]


def brief(value: Any) -> str:
    """A stranger's value for a message: at most 60 characters of it, whatever its size."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
