"""The curve of a run in training, read from its growing `events.jsonl`. Nothing here knows Streamlit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from engine.index.curves import (
    CurvePoint,
    curve_points,
    skipped_steps,
    streamed_queries,
)
from engine.records.events import Event, StreamedQuery, parse_events, replay

_RECENT = 20  # steps from which throughput and time left are computed
_CURVE_COLUMNS = ("run_id", "step", "kind", "temperature", "value", "tokens_seen", "seconds")


class EventTail:
    """A reader of a growing `events.jsonl`; each call reads only what was appended since the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._events: list[Event] = []
        self._points: list[CurvePoint] = []
        self._stream: list[StreamedQuery] = []
        self._skipped = 0

    def points(self) -> list[CurvePoint]:
        """The curve so far, as if the run had never been interrupted."""
        self._follow()
        return self._points

    def stream(self) -> list[StreamedQuery]:
        """The queries of an online run's stream so far, each once; empty for other runs."""
        self._follow()
        return self._stream

    def skipped(self) -> int:
        """The number of optimizer steps so far that had nothing to learn from."""
        self._follow()
        return self._skipped

    def _follow(self) -> None:
        if self._read():
            whole = replay(self._events)
            self._points, self._stream = curve_points(whole), streamed_queries(whole)
            self._skipped = skipped_steps(whole)

    def _read(self) -> bool:
        """Read new complete lines; a file that has become shorter is read again from its beginning."""
        try:
            size = self.path.stat().st_size
            if size < self._offset:
                self._offset, self._events, self._points, self._stream, self._skipped = 0, [], [], [], 0
            if size == self._offset:
                return False
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                raw = file.read(size - self._offset)
        except OSError:
            return False
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = parse_events(whole).events
        self._events += events
        return bool(events)


def curve_frame(run_id: str, points: Sequence[CurvePoint], most: int = 600) -> pd.DataFrame:
    """The points with the columns of `queries.curve`; a long training curve keeps evenly spaced points and the last."""
    train = [point for point in points if point.kind == "train"]
    step = -(-len(train) // most) or 1
    kept = train[::step] + ([train[-1]] if train and (len(train) - 1) % step else [])
    kept += [point for point in points if point.kind != "train"]
    rows = [{"run_id": run_id, **asdict(point)} for point in kept]
    return pd.DataFrame(rows, columns=list(_CURVE_COLUMNS))


@dataclass(frozen=True)
class Now:
    """The newest values of a training; None where there is none yet."""

    step: int | None = None
    loss: float | None = None
    acceptance: tuple[tuple[float | None, float], ...] = ()  # temperature, exact acceptance of the watched prompts
    evaluated_at: int | None = None
    tokens_per_s: float | None = None
    s_per_step: float | None = None


def newest(points: Sequence[CurvePoint]) -> Now:
    """The newest values. Throughput is over the last steps, without the evaluations between them."""
    train = [point for point in points if point.kind == "train"]
    watched = [point for point in points if point.kind == "eval"]
    last_step = max((point.step for point in watched), default=None)
    latest = tuple((p.temperature, p.value) for p in watched if p.step == last_step and p.value is not None)
    tokens, pace = _pace(train[-_RECENT - 1 :])
    if not train:
        return Now(acceptance=latest, evaluated_at=last_step)
    return Now(train[-1].step, train[-1].value, latest, last_step, tokens, pace)


def _pace(train: Sequence[CurvePoint]) -> tuple[float | None, float | None]:
    """Tokens per second and seconds per step between the first and the last point."""
    if len(train) < 2:
        return None, None
    first, last = train[0], train[-1]
    if first.seconds is None or last.seconds is None or last.seconds <= first.seconds or last.step <= first.step:
        return None, None
    seconds = last.seconds - first.seconds
    tokens = None if first.tokens_seen is None or last.tokens_seen is None else last.tokens_seen - first.tokens_seen
    return (None if tokens is None else tokens / seconds), seconds / (last.step - first.step)
