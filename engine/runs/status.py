"""What a run is doing, told by its status file and believed only while its process lives."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import psutil

STATES = ("queued", "running", "done", "failed", "cancelled")


def now() -> str:
    """UTC time as ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat()


def this_process() -> dict[str, Any]:
    """Process id and start time: the pair tells a process from a later one with the same id."""
    return {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}


def is_alive(status: dict[str, Any]) -> bool:
    """Whether the process that wrote the status still runs; a zombie does not."""
    try:
        process = psutil.Process(int(status["pid"]))
        same = abs(process.create_time() - float(status["pid_started"])) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (LookupError, TypeError, ValueError, ArithmeticError, psutil.Error):  # also of a number that is no process
        return False


def effective_state(status: dict[str, Any]) -> str:
    """The state in the file, or 'interrupted' for a running one whose process is gone."""
    state = str(status.get("state", "unknown"))
    return "interrupted" if state == "running" and not is_alive(status) else state
