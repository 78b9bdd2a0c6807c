"""The process that works on a run: named in the run's status, which is believed only while that process lives."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TypedDict

import psutil

from engine.records.status import State, Status


def now() -> str:
    """UTC time as ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat()


class ProcessIdentity(TypedDict):
    """What tells a process from a later one with the same id."""

    pid: int
    pid_started: float


def process_identity(pid: int | None = None) -> ProcessIdentity:
    """Id and start time of a process (default: this one): the pair tells it from a later one with the same id."""
    try:
        return {"pid": pid or os.getpid(), "pid_started": psutil.Process(pid).create_time()}
    except psutil.Error:
        return {"pid": pid or os.getpid(), "pid_started": 0.0}


def is_alive(pid: int | None, pid_started: float | None) -> bool:
    """Whether that very process still runs; a zombie does not."""
    if pid is None or pid_started is None:
        return False
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - pid_started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def present_state(status: Status) -> State:
    """The state in the file, or 'interrupted' for a running one whose process is gone."""
    return "interrupted" if status.state == "running" and not is_alive(status.pid, status.pid_started) else status.state
