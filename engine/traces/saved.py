"""Traces saved from the live view: `traces/<id>.json` in the home."""

from __future__ import annotations

import contextlib
import json
import math
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.decode.events import Alternative, Fate, Round, Token
from engine.errors import DraftbenchError
from engine.fileio import finite, read_json, write_atomic
from engine.paths import Home
from engine.traces.trace import STORED_NAMES, Trace

_FORMAT = 1
_MOST = 1.001  # of a probability: a sum in float32 may round to more than 1
_FIELDS = {stored: name for name, stored in STORED_NAMES.items()}


@dataclass(frozen=True)
class TraceSummary:
    """What a list shows of a saved trace."""

    id: str
    title: str
    saved_at: str
    draft: str = ""


def save_trace(home: Home, trace: Trace) -> str:
    """Write the trace to the home and return its id; one without an id gets one from its title and the time."""
    trace_id = trace.id or new_id(trace.title)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    stored = finite({**trace.as_dict(), "format": _FORMAT, "id": trace_id, "saved_at": now})
    write_atomic(home.trace(trace_id), json.dumps(stored, ensure_ascii=False, separators=(",", ":")))
    return trace_id


def new_id(title: str) -> str:
    """'why-is-blood-red-20261122-101500-3fa2': readable, sortable, and never a path."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower())[:40].strip("-") or "trace"
    return f"{words}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def load_trace(home: Home, trace_id: str) -> Trace:
    """Read a saved trace. Raises DraftbenchError if there is none with that id, or its file is damaged."""
    path = home.trace(trace_id)
    if not path.exists():
        raise DraftbenchError(
            f"there is no saved trace {trace_id!r}", f"no such file in {home.traces}", "choose one from the list"
        )
    return _load(path)


def list_traces(home: Home) -> list[TraceSummary]:
    """Saved traces, newest first, without damaged files. A file is read once, and again if it changes."""
    traces = []
    for path in home.traces.glob("*.json") if home.traces.is_dir() else ():
        with contextlib.suppress(DraftbenchError, OSError):
            traces.append(_summary(path, path.stat().st_mtime_ns))
    return sorted(traces, key=lambda trace: (trace.saved_at, trace.id), reverse=True)


@lru_cache(maxsize=2000)
def _summary(path: Path, changed_ns: int) -> TraceSummary:
    trace = _load(path)
    return TraceSummary(trace.id, trace.title, trace.saved_at, str(trace.settings.get("draft") or ""))


def _load(path: Path) -> Trace:
    stored = read_json(path)
    try:
        written_as = stored["format"]
        if written_as == _FORMAT:
            return _trace(stored, path.stem)
    except (DraftbenchError, KeyError, TypeError, ValueError, AttributeError):
        raise DraftbenchError(
            f"{path} is damaged", "there is no trace in it", "remove it, or save the trace again"
        ) from None
    raise DraftbenchError(
        f"trace {path.stem} has format {written_as}", "another version of Draftbench wrote it", "update Draftbench"
    )


def _trace(stored: Mapping[str, Any], trace_id: str) -> Trace:
    rounds = tuple(_round(item) for item in stored["rounds"])
    if [item.number for item in rounds] != list(range(len(rounds))):
        raise ValueError("a round is missing")
    texts = {key: str(stored[key]) for key in ("title", "prompt", "saved_at")}
    return Trace(id=trace_id, settings=dict(stored["settings"]), rounds=rounds, **texts)


def _round(stored: Mapping[str, Any]) -> Round:
    item = Round(row=0, **{**stored, "tokens": tuple(_token(token) for token in stored["tokens"])})
    if not item.tokens:
        raise ValueError("a round has no tokens")
    _check((item.number, item.num_draft_tokens), int, 0, math.inf)
    _check((item.draft_s, item.verify_s, item.overhead_s), (int, float), 0, math.inf)
    return item


def _token(stored: Mapping[str, Any]) -> Token:
    alternatives = tuple(Alternative(**_named(other)) for other in stored["alternatives"])
    token = Token(**{**_named(stored), "fate": Fate(stored["fate"]), "alternatives": alternatives})
    known = (token.target_prob, token.draft_prob, token.uniform, token.overlap)
    others = [value for other in alternatives for value in (other.target_prob, other.draft_prob)]
    _check([*(value for value in known if value is not None), *others], (int, float), 0, _MOST)
    _check([token.position, token.token_id, *(other.token_id for other in alternatives)], int, 0, math.inf)
    if not all(isinstance(text, str) for text in (token.text, *(other.text for other in alternatives))):
        raise TypeError("a text is missing")
    return token


def _check(values: Iterable[Any], kind: Any, least: float, most: float) -> None:
    """Raise TypeError or ValueError for a value that what shows the trace could not show, or only as nonsense."""
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{value!r} is not a number")
        if not least <= value <= most or value == math.inf:
            raise ValueError(f"{value!r} is out of range")


def _named(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {_FIELDS.get(key, key): value for key, value in stored.items()}
