"""Values of files that may be damaged, as text for people, for the index and for the disk. Pure functions."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from engine.fileio import finite


def utc(text: str) -> datetime:
    """Read an ISO 8601 time as UTC without a zone; no zone means UTC. Raises ValueError for anything else."""
    parsed = datetime.fromisoformat(text)
    try:
        return parsed.astimezone(UTC).replace(tzinfo=None) if parsed.tzinfo else parsed
    except OverflowError:
        raise ValueError(f"{text} is not a time in UTC") from None


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
