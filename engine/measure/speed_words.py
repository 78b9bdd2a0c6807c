"""A timing in words: faster or slower only where the interval says so, and where it was measured.

One place for every report, card and page, so that none calls 1.07 [0.97, 1.18] faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.numbers import MISSING, bounds, is_number, number

_LEAST_PROMPTS = 6  # of fewer, intervals cover less than they say (benchmarks/coverage.py): 50% of two, 88% of four
_WAYS = (("speedup", "plain decoding"), ("speedup_over_transformers", "Transformers' own generate"))


def verdict(ratio: Mapping[str, Any] | None) -> str:
    """'faster', 'slower' or 'not clearly faster': whether the whole interval of a ratio is above 1, or below.

    `ratio`: `value`, `low`, `high` and `n_prompts` if known. 'not known to be faster' without an interval, and with
    one of so few prompts that it does not hold what it says.
    """
    value, low, high = (_number((ratio or {}).get(key)) for key in ("value", "low", "high"))
    few = _number((ratio or {}).get("n_prompts")) < _LEAST_PROMPTS
    if few or math.isnan(value) or math.isnan(low) or math.isnan(high):
        return "not known to be faster"
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "not clearly faster"


def is_faster(speed: Mapping[str, Any]) -> bool:
    """Whether speculative decoding beat every other way that was timed, each by more than its interval."""
    timed = [speed[key] for key, _ in _WAYS if speed.get(key)]
    return bool(timed) and all(verdict(ratio) == "faster" for ratio in timed)


def told(speed: Mapping[str, Any]) -> str:
    """Each way that was timed and how speculative decoding compares with it; '' if nothing was timed.

    For example: '1.07x plain decoding [1.02, 1.13]: faster; 1.02x Transformers' own generate [0.98, 1.07]: not
    clearly faster'.
    """
    return "; ".join(_told(speed[key], name) for key, name in _WAYS if speed.get(key))


def _told(ratio: Mapping[str, Any], name: str) -> str:
    within = "" if bounds(ratio) == MISSING else f" [{number(ratio['low'], 2)}, {number(ratio['high'], 2)}]"
    return f"{number(ratio.get('value'), 2)}x {name}{within}: {verdict(ratio)}"


def measured_where(summary: Mapping[str, Any], provenance: Mapping[str, Any] | None) -> str:
    """The machine a measurement was made on: 'AMD EPYC, 2 cores, 2 threads, bfloat16 on cpu'.

    `summary`: of the measurement; `provenance`: of the run, whose `measurement` part is newer than its training.
    What is not on record is left out; '' if nothing is.
    """
    origin = provenance or {}
    machine = (origin.get("measurement") or {}).get("machine") or origin.get("machine") or {}
    conditions, speed = summary.get("conditions") or {}, summary.get("speed") or {}
    device, dtype = conditions.get("device"), conditions.get("dtype")
    threads = speed.get("threads") or conditions.get("threads") or machine.get("threads")
    cards = machine.get("cuda") if device == "cuda" else None
    parts: list[Any] = (
        [", ".join(dict.fromkeys(cards))] if cards else [machine.get("processor"), _count(machine.get("cores"), "core")]
    )
    if device != "cuda":
        parts.append(_count(threads, "thread"))
    parts.append(f"{dtype} on {device}" if dtype and device else dtype or device)
    return ", ".join(str(part) for part in parts if part)


def _count(number: Any, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}" if number else ""


def _number(value: Any) -> float:
    return float(value) if is_number(value) else math.nan
