"""Measured numbers as text, where any of them may be missing: NaN, or None for what JSON holds in its place."""

from __future__ import annotations

import math
from typing import Any, Protocol

MISSING = "-"
LEAST_PROMPTS = 6  # of fewer, intervals cover less than they say (benchmarks/coverage.py): 50% of two, 88% of four


def too_few(n: Any) -> bool:
    """Whether an interval over so many prompts covers less than it says; no where the number is not known (0)."""
    return n is not None and bool(0 < n < LEAST_PROMPTS)


def number(value: Any, digits: int = 3) -> str:
    """'0.412', or '-' if the value is missing or not finite."""
    return f"{value:.{digits}f}" if is_number(value) else MISSING


def share(value: Any) -> str:
    """'76%', or '-' if the value is missing."""
    return f"{value:.0%}" if is_number(value) else MISSING


class Estimate(Protocol):
    """A value with an interval around it, as `engine.records.interval.Interval`; NaN is what could not be had.

    Where it has `n_prompts`, these decide whether the interval is shown: see `too_few`.
    """

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def bounds(estimate: Estimate, digits: int = 3) -> str:
    """'0.390 to 0.433', or '-' where there is no interval, as of a few prompts."""
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}" if has_bounds(estimate) else MISSING


def interval(estimate: Estimate, digits: int = 3) -> str:
    """'0.412 [0.390, 0.433]', '0.412 (n = 2)' of too few prompts, the value alone without bounds, '-' without one."""
    return f"{number(estimate.value, digits)} {within(estimate, digits)}".rstrip()


def times(estimate: Estimate, what: str = "") -> str:
    """'1.28x [1.25, 1.30]', '1.28x (n = 2)' of too few prompts; `what` follows the x: '1.28x plain [1.25, 1.30]'."""
    digits = ratio_digits(estimate)
    return " ".join(part for part in (f"{number(estimate.value, digits)}x", what, within(estimate, digits)) if part)


def ratio(estimate: Estimate) -> str:
    """`times` without the x."""
    return interval(estimate, ratio_digits(estimate))


def ratio_digits(estimate: Estimate) -> int:
    """Decimals of a ratio such as a speed-up: two, or more where its interval leaves out 1 and two would not show it.

    '1.00x [1.00, 1.00]: faster' contradicts itself.
    """
    low, high = (end if is_number(end) else 1.0 for end in (estimate.low, estimate.high))
    return next((d for d in (2, 3) if (round(low, d) > 1) == (low > 1) and (round(high, d) < 1) == (high < 1)), 4)


def within(estimate: Estimate, digits: int = 3) -> str:
    """'[0.390, 0.433]', '(n = 2)' of too few prompts, '' without a value or without bounds."""
    if not is_number(estimate.value):
        return ""
    if too_few(n := getattr(estimate, "n_prompts", None)):
        return f"(n = {n:.0f})"
    return f"[{number(estimate.low, digits)}, {number(estimate.high, digits)}]" if has_bounds(estimate) else ""


def has_bounds(estimate: Estimate) -> bool:
    """Whether the interval of an estimate is there and rests on prompts enough."""
    return is_number(estimate.low) and is_number(estimate.high) and not too_few(getattr(estimate, "n_prompts", None))


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
