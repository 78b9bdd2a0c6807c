"""Format measured numbers, any of which may be missing: JSON has no NaN, so summaries hold None."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MISSING = "-"


def number(value: Any, digits: int = 3) -> str:
    """'0.412', or '-' if the value is missing or not finite."""
    return f"{value:.{digits}f}" if is_number(value) else MISSING


def share(value: Any) -> str:
    """'76%', or '-' if the value is missing."""
    return f"{value:.0%}" if is_number(value) else MISSING


def bounds(numbers: Mapping[str, Any], digits: int = 3) -> str:
    """'0.390 to 0.433', or '-' if there is no interval, as with a single prompt."""
    low, high = numbers.get("low"), numbers.get("high")
    return f"{number(low, digits)} to {number(high, digits)}" if is_number(low) and is_number(high) else MISSING


def interval(numbers: Mapping[str, Any], digits: int = 3) -> str:
    """'0.412 [0.390, 0.433]', the value alone if there is no interval, or '-' without a value."""
    value, low, high = (numbers.get(key) for key in ("value", "low", "high"))
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
