"""The process that works on a run: named in the run's status, which is believed only while that process lives.

A process of another machine cannot be looked up here. What says that such a run goes on is its status file, which is
written every few seconds: by the process itself, or by the driver of the place that works on the run.
"""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final, TypedDict

import psutil

from engine.records.files import LOCK, STATUS
from engine.records.status import State, Status

HEARD_S: Final = 180.0  # a run on another machine that was not heard of for longer is 'interrupted'


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


@cache
def this_host() -> str:
    """The name of this machine."""
    return platform.node()


def present_state(status: Status, folder: Path) -> State:
    """The state in the file, or 'interrupted' for a running one whose process is gone.

    `folder` is the run's. One that a place or another machine works on is running while its status file is written:
    the time of the file counts, which is that of the disk it lies on, not of a machine whose clock may be wrong.
    """
    if status.state != "running":
        return status.state
    is_here = status.host in (None, this_host())
    if is_here and (is_alive(status.pid, status.pid_started) or _works_in(status.pid, folder)):
        return "running"
    elsewhere = status.place is not None or not is_here
    return "running" if elsewhere and _silent_s(folder) < HEARD_S else "interrupted"


def _works_in(pid: int | None, folder: Path) -> bool:
    """Whether the process has the lock file of the run's folder open, as the one that works on the run does.

    Start times are counted from the machine's clock: when that is set, a process seems to be another one.
    """
    try:
        lock = os.path.realpath(folder / LOCK)
        return any(file.path == lock for file in psutil.Process(pid).open_files()) if pid else False
    except (psutil.Error, OSError):
        return False


def _silent_s(folder: Path) -> float:
    """Seconds since the status file was written."""
    try:
        return time.time() - os.stat(f"{folder}/{STATUS}").st_mtime
    except OSError:
        return float("inf")
