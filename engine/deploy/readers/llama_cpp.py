"""llama.cpp: `timings` of llama-server's answers, or the lines of its log.

`draft_n` counts proposed and `draft_n_accepted` accepted tokens, without the target's own; both are missing where
nothing was proposed. `predicted_n` counts the answer's tokens. Rounds are in neither: only `/metrics` counts them
(`spec_decode_num_drafts_total`), and the log prints a mean length rounded to two digits. A proposal ends early where
the answer's limit is near and where the draft is less sure than `--spec-draft-p-min`. Source: build 10434,
`tools/server/server-context.cpp` (`print_timings`) and `server-task.cpp` (`result_timings`), looked at on a running
server too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.deploy.readers.reading import (
    Located,
    Reading,
    brief,
    checked,
    contradiction,
    one_of,
    optional_whole,
    part,
    quantity,
    refused,
    seconds,
    the_temperature,
    unsaid,
    whole,
    words,
)
from engine.records.served import RoundTotals, added

_SPECULATION_OFF = (
    "none of the answers has a proposal in it",
    "start llama-server with a draft: -md DRAFT.gguf --spec-type draft-simple",
)
_TORN = "the log is torn there: figures of a part would look like all"
_FIGURES = re.compile(r"draft acceptance(?: rate)? = ")
_LINE = re.compile(
    r"draft acceptance(?: rate)? = +(?P<rate>\S+) \( *(?P<accepted>\S+) accepted / *(?P<proposed>\S+) generated\)"
)
_TASK = re.compile(r"id +(?P<slot>\d+) \| task (?P<task>-?\d+) \|")
_EVAL = re.compile(r"(?<!prompt )eval time = +(?P<ms>\S+) ms / +(?P<tokens>\S+) tokens")
_COUNT, _NUMBER = re.compile(r"[0-9]{1,15}"), re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")
_RATE_DIGITS = 5e-5  # of the rate as it is printed


def claims(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an answer of llama-server."""
    return "predicted_n" in part(value, "timings")


def claims_text(text: str) -> bool:
    """Whether a text is a log of llama-server in which something was proposed."""
    return _LINE.search(text) is not None


def read(values: Sequence[Located]) -> Reading:
    """The figures of some answers; a streamed one is its last chunk. Raises DraftbenchError."""
    reporting = [located for located in values if claims(located.value)]
    requests, speeds = [], []
    for value, where in reporting:
        timings = part(value, "timings")
        emitted = whole(timings, "predicted_n", where)
        if (timings.get("draft_n") is None) != (timings.get("draft_n_accepted") is None):
            raise contradiction(where, "one of draft_n and draft_n_accepted is there", "the other one is not")
        proposed, accepted = (optional_whole(timings, name, where) or 0 for name in ("draft_n", "draft_n_accepted"))
        totals = RoundTotals(requests=1, proposed=proposed, accepted=accepted, emitted=emitted)
        requests.append(checked(totals, where))
        taken = seconds(timings, "predicted_ms", where, per_unit=1e-3)
        if taken and emitted:
            speeds.append((emitted, taken))
    silent = sum(not totals.proposed for totals in requests)
    if silent == len(requests):
        raise refused(f"{reporting[0].where}: no tokens were proposed", *_SPECULATION_OFF)
    temperatures = [quantity(part(value, "generation_settings"), "temperature", where) for value, where in reporting]
    return Reading(
        "llama.cpp",
        "llama-server's answers, timings",
        added(requests),
        tuple(requests),
        temperature=the_temperature(temperatures, reporting[0].where),
        model=one_of([words(value, "model") for value, _ in reporting]),
        version=one_of([words(value, "system_fingerprint") for value, _ in reporting]),
        prompt_tokens=_prompt_tokens(reporting),
        seconds_by_request=tuple(speeds),
        notes=(
            *_left_out(len(values) - len(reporting), len(values)),
            *unsaid(temperatures, "the temperature"),
            *([f"in {silent:,} of {len(requests):,} answers nothing was proposed"] if silent else []),
            "rounds are not in llama-server's answers, so there are no tokens per round and no acceptance by place: "
            "its /metrics has both",
        ),
    )


def read_text(text: str, where: str) -> Reading:
    """The figures of a log. A line of figures belongs to the slot and task that it names. Raises DraftbenchError."""
    requests, speeds, sizes = [], [], {}
    for number, line in enumerate(text.splitlines(), 1):
        here = f"{where}, line {number}"
        task = _TASK.search(line)
        key = (task["slot"], task["task"]) if task else None
        if timed := _EVAL.search(line):
            tokens, ms = _number(timed["tokens"], _COUNT, here), _number(timed["ms"], _NUMBER, here)
            sizes[key] = (int(tokens), ms / 1000)
        if not _FIGURES.search(line):
            continue
        figures = _LINE.search(line)
        if figures is None:
            raise refused(f"{here} breaks off within its figures", _TORN)
        accepted, proposed = (int(_number(figures[name], _COUNT, here)) for name in ("accepted", "proposed"))
        rate = _number(figures["rate"], _NUMBER, here)
        if proposed and abs(accepted / proposed - rate) > _RATE_DIGITS:
            raise contradiction(here, f"a rate of {rate:g}", f"{accepted} accepted of {proposed}")
        emitted, taken = sizes.pop(key, (None, None)) if key else (None, None)
        totals = RoundTotals(requests=1, proposed=proposed, accepted=accepted, emitted=emitted)
        requests.append(checked(totals, here))
        if emitted and taken:
            speeds.append((emitted, taken))
    return Reading(
        "llama.cpp",
        "llama-server's log",
        added(requests),
        tuple(requests),
        seconds_by_request=tuple(speeds),
        notes=("answers in which nothing was proposed leave no line in the log",),
    )


def _left_out(count: int, of: int) -> list[str]:
    return [f"{count:,} of {of:,} records have no timings and are left out"] if count else []


def _number(text: str, pattern: re.Pattern[str], where: str) -> float:
    """A number as the log prints it. Raises DraftbenchError for a torn one."""
    if not pattern.fullmatch(text):
        raise refused(f"{where}: {brief(text)} is not a number", _TORN)
    return float(text)


def _prompt_tokens(values: Sequence[Located]) -> int | None:
    """Tokens of the prompts, those that came from the cache included."""
    total = 0
    for value, where in values:
        counts = [optional_whole(part(value, "timings"), name, where) for name in ("prompt_n", "cache_n")]
        if counts[0] is None or counts[1] is None:
            return None
        total += counts[0] + counts[1]
    return total
