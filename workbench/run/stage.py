"""How far a run is in its present phase, from its status file. Nothing here knows Streamlit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from engine import progress
from engine.records.status import Status
from workbench.run.training_curve import Now


@dataclass(frozen=True)
class Stage:
    """The progress of the current phase."""

    share: float | None  # 0 to 1; None if unknown
    text: str
    left_s: float | None  # of this phase, an estimate
    run_left_s: float | None = None  # of the whole run, an estimate
    left_unknown: str = ""  # why that is not known

    @property
    def left(self) -> str:
        """', about 4 min left in all'; of the phase, and why no more is known; '' where nothing is."""
        if self.run_left_s is not None:
            return f", about {rounded(self.run_left_s)} left in all"
        phase = "" if self.left_s is None else f", about {rounded(self.left_s)} left in this phase"
        return phase + (f"; left in all: not known, {self.left_unknown}" if self.left_unknown else "")


def stage(status: Status, present: Now) -> Stage:
    """The current phase and its progress according to the status file; implausible values count as unknown."""
    told = status.progress
    if told is None:
        return Stage(None, status.phase or "getting ready", None)
    done, total, spent = told.done, told.total, told.phase_s
    phase = told.phase or "working"
    if math.isnan(done) or not total > 0:
        return Stage(None, phase, None)
    text = f"{phase}: {done:,.0f} of {total:,.0f} {told.unit}".rstrip()
    if not math.isnan(told.tokens):
        text += f", {told.tokens:,.0f} tokens"
    pace = present.s_per_step if told.unit == "steps" else (spent / done if spent > 0 and done > 0 else None)
    left_s = None if pace is None else pace * max(0.0, total - done)
    of_run = None if math.isnan(told.left_s) else max(0.0, told.left_s - (since(status.updated_at) or 0.0))
    return Stage(min(1.0, max(0.0, done / total)), text, left_s, of_run, told.left_unknown)


def since(stamp: object) -> float | None:
    """Seconds since an ISO 8601 time; None if it is not one."""
    try:
        then = datetime.fromisoformat(str(stamp))
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (datetime.now(UTC) - then).total_seconds())


def rounded(seconds: float) -> str:
    """A time as precise as an estimate: '40 s', '7 min', '2.5 h'."""
    return progress.duration(10 * max(1, round(seconds / 10)) if seconds < 60 else seconds)


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
