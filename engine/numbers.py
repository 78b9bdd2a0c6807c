"""Measured numbers as text, where any of them may be missing: NaN, or None for what JSON holds in its place."""

from __future__ import annotations

import math
from typing import Any, Protocol

MISSING = "-"


def number(value: Any, digits: int = 3) -> str:
    """'0.412', or '-' if the value is missing or not finite."""
    return f"{value:.{digits}f}" if is_number(value) else MISSING


def share(value: Any) -> str:
    """'76%', or '-' if the value is missing."""
    return f"{value:.0%}" if is_number(value) else MISSING


class Estimate(Protocol):
    """A value with an interval around it, as `engine.records.interval.Interval`; NaN is what could not be had."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def bounds(estimate: Estimate, digits: int = 3) -> str:
    """'0.390 to 0.433', or '-' where no interval could be made, as of a single prompt."""
    low, high = estimate.low, estimate.high
    return f"{number(low, digits)} to {number(high, digits)}" if is_number(low) and is_number(high) else MISSING


def interval(estimate: Estimate, digits: int = 3) -> str:
    """'0.412 [0.390, 0.433]', the value alone where no interval could be made, or '-' without a value."""
    value, low, high = estimate.value, estimate.low, estimate.high
    if not is_number(value) or not (is_number(low) and is_number(high)):
        return number(value, digits)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def readable_bytes(count: int) -> str:
    """'18.4 kB', '43.3 MB': a size for people."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
