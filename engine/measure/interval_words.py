"""An interval over prompts in words and marks, where there are prompts enough for one.

Comparisons, their report and the command line write intervals by this; the rule itself is `engine.numbers.too_few`,
which the shorter `engine.numbers.interval` follows too. What is stored keeps the bounds as they were computed.
"""

from __future__ import annotations

import dataclasses
import math

from engine.numbers import LEAST_PROMPTS, MISSING, is_number
from engine.records.interval import Interval


def trusted(estimate: Interval) -> Interval:
    """The estimate, without its bounds (NaN) if it rests on fewer than `LEAST_PROMPTS` prompts."""
    if estimate.n_prompts >= LEAST_PROMPTS:
        return estimate
    return dataclasses.replace(estimate, low=math.nan, high=math.nan)


def mark(change: Interval) -> str:
    """'▲' or '▼' where the whole interval is above or below zero, else '≈'; '' where there is no interval to say so."""
    known = trusted(change)
    if not (is_number(known.low) and is_number(known.high)):
        return ""
    return "▲" if known.low > 0 else "▼" if known.high < 0 else "≈"


def bounds_words(estimate: Interval, digits: int = 3, sign: str = "") -> str:
    """'[0.390, 0.433]', or 'n = 2: too few for an interval'; '' without a value. `sign='+'` writes both signs."""
    if not is_number(estimate.value):
        return ""
    if estimate.n_prompts < LEAST_PROMPTS:
        return f"n = {estimate.n_prompts}: too few for an interval"
    if not (is_number(estimate.low) and is_number(estimate.high)):
        return ""
    return f"[{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def stated(estimate: Interval, sign: str = "") -> str:
    """'0.412 [0.390, 0.433]', '-0.024 (n = 2: too few for an interval)', or '-' without a value."""
    if not is_number(estimate.value):
        return MISSING
    words = bounds_words(estimate, sign=sign)
    words = f"({words})" if words.startswith("n") else words
    return f"{estimate.value:{sign}.3f} {words}".rstrip()
