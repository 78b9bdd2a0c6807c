"""Values of files that may be damaged, as the index holds them. Pure functions.

What is missing or undefined becomes None; what makes no sense is a ValueError, so that the
caller can leave out that part and say so.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from engine.fileio import finite


def number(value: Any) -> float | None:
    """`value` as a float; NaN is None. Raises ValueError for anything but a finite number."""
    if value is None or (type(value) is float and math.isfinite(value)):  # nearly always
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is not a number")
    try:
        real = float(value)
    except OverflowError:
        raise ValueError("a number too large") from None
    if math.isinf(real):
        raise ValueError("not a finite number")
    return None if math.isnan(real) else real


def integer(value: Any) -> int | None:
    """`value` as an integer of 64 bits. Raises ValueError for anything else."""
    if type(value) is int and abs(value) < 2**63:  # nearly always
        return value
    real = number(value)
    if real is None:
        return None
    if real != int(value) or abs(int(value)) >= 2**63:
        raise ValueError(f"{shown(value)} is not a whole number of 64 bits")
    return int(value)


def text(value: Any) -> str | None:
    """`value` as text that UTF-8 can encode. Raises ValueError for a list or a mapping."""
    if value is None:
        return None
    if isinstance(value, list | dict):
        raise ValueError(f"{shown(value)} is not a text")
    return encodable(str(value))


def timestamp(value: Any) -> datetime | None:
    """An ISO 8601 text as UTC without a zone; one without a zone is taken as UTC."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not a time in ISO 8601")
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{shown(value)} is not a time in ISO 8601") from None
    try:
        return parsed.astimezone(UTC).replace(tzinfo=None) if parsed.tzinfo else parsed
    except OverflowError:
        raise ValueError(f"{shown(value)} is no time in UTC") from None


def json_text(value: Any) -> str:
    """`value` as strict JSON, with null for NaN and the infinities."""
    try:
        return encodable(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except ValueError:
        return encodable(json.dumps(finite(value), ensure_ascii=False, allow_nan=False))


def encodable(value: str) -> str:
    """`value` with '?' for half surrogates, which JSON may carry and no file can."""
    return value.encode("utf-8", "replace").decode("utf-8")


def shown(value: Any) -> str:
    """A value that makes no sense, in a few characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
