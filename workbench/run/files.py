"""What a run's own files tell while it is at work: events, progress, log and sizes. Nothing here knows Streamlit.

The index is told of a run when it ends; a page that watches reads the folder.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from engine.index.curves import (
    CurvePoint,
    curve_points,
    skipped_steps,
    streamed_queries,
)
from engine.progress import TIMING
from engine.records.events import Event, StreamedQuery, parse_events, replay
from engine.records.status import Status

LOGS = {"log.txt": "what the run did, a line a step", "output.txt": "what its process printed"}
_SEARCHED_BYTES = 1_000_000
_WHILE_TIMING_S = 20  # between two drawings of a page while speed is timed
_RECENT = 20  # steps that throughput and time left are told by
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CURVE_COLUMNS = ("run_id", "step", "kind", "temperature", "value", "tokens_seen", "seconds")


class EventTail:
    """The events of a growing `events.jsonl`; each look reads only what was appended since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._events: list[Event] = []
        self._points: list[CurvePoint] = []
        self._stream: list[StreamedQuery] = []
        self._skipped = 0

    def points(self) -> list[CurvePoint]:
        """The curve so far, as if the run had never been broken off."""
        self._follow()
        return self._points

    def stream(self) -> list[StreamedQuery]:
        """The queries of an online run's stream so far, each once; empty for other runs."""
        self._follow()
        return self._stream

    def skipped(self) -> int:
        """Optimiser steps so far that had nothing to learn from."""
        self._follow()
        return self._skipped

    def _follow(self) -> None:
        if self._read():
            whole = replay(self._events)
            self._points, self._stream = curve_points(whole), streamed_queries(whole)
            self._skipped = skipped_steps(whole)

    def _read(self) -> bool:
        """Take in the whole lines that are new; a file that became shorter is another one."""
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
    """The points as `queries.curve` has them; of a long training curve evenly spaced points and the last."""
    train = [point for point in points if point.kind == "train"]
    step = -(-len(train) // most) or 1
    kept = train[::step] + ([train[-1]] if train and (len(train) - 1) % step else [])
    kept += [point for point in points if point.kind != "train"]
    rows = [{"run_id": run_id, **asdict(point)} for point in kept]
    return pd.DataFrame(rows, columns=list(_CURVE_COLUMNS))


@dataclass(frozen=True)
class Now:
    """How the training stands: the newest values; None where nothing is known yet."""

    step: int | None = None
    loss: float | None = None
    acceptance: tuple[tuple[float | None, float], ...] = ()  # temperature, exact acceptance of the watched prompts
    evaluated_at: int | None = None
    tokens_per_s: float | None = None
    s_per_step: float | None = None


def newest(points: Sequence[CurvePoint]) -> Now:
    """The newest values; tokens/s over the last steps, evaluations in between included in neither tokens nor seconds."""
    train = [point for point in points if point.kind == "train"]
    watched = [point for point in points if point.kind == "eval"]
    last_step = max((point.step for point in watched), default=None)
    latest = tuple((p.temperature, p.value) for p in watched if p.step == last_step and p.value is not None)
    tokens, pace = _pace(train[-_RECENT - 1 :])
    if not train:
        return Now(acceptance=latest, evaluated_at=last_step)
    return Now(train[-1].step, train[-1].value, latest, last_step, tokens, pace)


def _pace(train: Sequence[CurvePoint]) -> tuple[float | None, float | None]:
    """Tokens a second and seconds a step between the first and the last of the points."""
    if len(train) < 2:
        return None, None
    first, last = train[0], train[-1]
    if first.seconds is None or last.seconds is None or last.seconds <= first.seconds or last.step <= first.step:
        return None, None
    seconds = last.seconds - first.seconds
    tokens = None if first.tokens_seen is None or last.tokens_seen is None else last.tokens_seen - first.tokens_seen
    return (None if tokens is None else tokens / seconds), seconds / (last.step - first.step)


@dataclass(frozen=True)
class Stage:
    """How far the present phase is: share between 0 and 1 (None if unknown), in words, and seconds left (a guess)."""

    share: float | None
    words: str
    left_s: float | None


def stage(status: Status, present: Now) -> Stage:
    """The phase and its progress as the status file tells them; anything odd in it counts as not told."""
    progress = status.progress
    if progress is None:
        return Stage(None, status.phase or "getting ready", None)
    done, total, spent = progress.done, progress.total, progress.phase_s
    phase = progress.phase or "working"
    if math.isnan(done) or not total > 0:
        return Stage(None, phase, None)
    words = f"{phase}: {done:,.0f} of {total:,.0f} {progress.unit}".rstrip()
    pace = present.s_per_step if progress.unit == "steps" else (spent / done if spent > 0 and done > 0 else None)
    return Stage(min(1.0, max(0.0, done / total)), words, None if pace is None else pace * max(0.0, total - done))


def redraw_every(status: Status, usual_s: float) -> float:
    """Seconds between two drawings of a run that is at work: seldom while speed is timed, since drawing takes its cores."""
    return _WHILE_TIMING_S if is_timing(status) else usual_s


def is_timing(status: Status) -> bool:
    """Whether the run is measuring its speed now."""
    return status.state == "running" and status.phase == TIMING


def since(stamp: object, at: datetime | None = None) -> float | None:
    """Seconds since an ISO 8601 time of a status file; None if it is none."""
    try:
        then = datetime.fromisoformat(str(stamp))
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, ((at or datetime.now(UTC)) - then).total_seconds())


def duration(seconds: float | None) -> str:
    """'45 s', '3 min 20 s', '2 h 5 min'."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass(frozen=True)
class LogPart:
    """The end of a log: the text, how many lines it has, how many fitted, and whether there is more before."""

    text: str
    shown: int
    found: int
    cut: bool


def log_part(path: Path, lines: int, search: str = "") -> LogPart:
    """The last lines that hold the search text (any case), from the end of the file; harmless to show."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            file.seek(max(0, size - _SEARCHED_BYTES))
            raw = file.read()
    except OSError:
        return LogPart("", 0, 0, False)
    cut = size > _SEARCHED_BYTES
    if cut:
        raw = raw[raw.find(b"\n") + 1 :]
    every = [clean_line(line) for line in raw.decode("utf-8", "replace").removesuffix("\n").split("\n")] if raw else []
    fitting = [line for line in every if search.casefold() in line.casefold()]
    return LogPart("\n".join(fitting[-lines:]), min(lines, len(fitting)), len(fitting), cut)


def clean_line(line: str) -> str:
    """A line as a terminal would leave it: a bar that redraws itself shows its last state, control characters do not show."""
    drawn = [part for part in _ANSI.sub("", line).split("\r") if part.strip()]
    last = drawn[-1] if drawn else ""
    return "".join(c for c in last if c == "\t" or unicodedata.category(c) not in ("Cc", "Cf"))


def weights(folder: Path, best_step: object = None) -> pd.DataFrame:
    """Checkpoints and drafts of the run: what, step, size in MB, time of writing (UTC)."""
    rows = []
    for path in sorted(folder.glob("checkpoints/step-*")):
        digits = path.name.removeprefix("step-")
        rows.append(
            {"what": "checkpoint to resume from", "step": int(digits) if digits.isdigit() else None, **_measured(path)}
        )
    for name, words in (("best", "best draft: what is measured and exported"), ("last", "draft after the last step")):
        path = folder / "draft" / name
        if path.is_dir():
            rows.append({"what": words, "step": best_step if name == "best" else None, **_measured(path)})
    return pd.DataFrame(rows, columns=["what", "step", "megabytes", "written", "folder"])


def files(folder: Path, most: int = 200) -> pd.DataFrame:
    """The files of the run with size in kB and time of writing (UTC); hidden ones and links are left out."""
    rows = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_symlink() or not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        stat = path.stat()
        rows.append({"file": inside.as_posix(), "kilobytes": stat.st_size / 1e3, "written": _time(stat.st_mtime)})
        if len(rows) == most:
            break
    return pd.DataFrame(rows, columns=["file", "kilobytes", "written"])


def _measured(folder: Path) -> dict[str, Any]:
    stats = [path.stat() for path in folder.iterdir() if path.is_file()]
    written = _time(max(stat.st_mtime for stat in stats)) if stats else None
    return {"megabytes": sum(stat.st_size for stat in stats) / 1e6, "written": written, "folder": folder.name}


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """A nested mapping as rows of dotted name and text."""
    if isinstance(value, Mapping):
        return [row for key, inner in value.items() for row in flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and not any(isinstance(item, (Mapping, list)) for item in value):
        return [(name, " ".join(str(item) for item in value))]
    if isinstance(value, list):
        return [row for place, inner in enumerate(value) for row in flat(inner, f"{name}[{place}]")]
    return [(name, "" if value is None else str(value))]


def _time(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC).replace(tzinfo=None)
