"""How far a run is in its present phase, from its status file. Nothing here knows Streamlit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from engine.progress import TIMING
from engine.records.status import Status
from workbench.run.training_curve import Now

_REDRAW_WHILE_TIMING_S = 20  # `benchmarks/watch_cost.py` measures what an open page costs


@dataclass(frozen=True)
class Stage:
    """The progress of the current phase."""

    share: float | None  # 0 to 1; None if unknown
    text: str
    left_s: float | None  # an estimate


def stage(status: Status, present: Now) -> Stage:
    """The current phase and its progress according to the status file; implausible values count as unknown."""
    progress = status.progress
    if progress is None:
        return Stage(None, status.phase or "getting ready", None)
    done, total, spent = progress.done, progress.total, progress.phase_s
    phase = progress.phase or "working"
    if math.isnan(done) or not total > 0:
        return Stage(None, phase, None)
    text = f"{phase}: {done:,.0f} of {total:,.0f} {progress.unit}".rstrip()
    pace = present.s_per_step if progress.unit == "steps" else (spent / done if spent > 0 and done > 0 else None)
    return Stage(min(1.0, max(0.0, done / total)), text, None if pace is None else pace * max(0.0, total - done))


def redraw_every(status: Status, usual_s: float) -> float:
    """Seconds between two redraws of an unfinished run; more while its speed is measured, as drawing uses cores."""
    return _REDRAW_WHILE_TIMING_S if is_timing(status) else usual_s


def is_timing(status: Status) -> bool:
    """Whether the run is measuring its speed."""
    return status.state == "running" and status.phase == TIMING


def since(stamp: object, at: datetime | None = None) -> float | None:
    """Seconds since an ISO 8601 time; None if it is not one."""
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
