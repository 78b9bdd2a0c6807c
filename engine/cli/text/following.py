"""Following a run that is worked on elsewhere: a line whenever its state or phase changes, and why it waits."""

from __future__ import annotations

import re
import time

import typer

from engine.cli.text import console
from engine.errors import DraftbenchError
from engine.jobs.executors import place_of
from engine.paths import Home
from engine.records.status import Status
from engine.runs.folder import RunFolder

_POLL_S = 1.0
_WAKE_S = 15.0  # a driver that was killed is missed after this
_LOG, _TIME = "log.txt", re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def follow(home: Home, run: RunFolder) -> None:
    """Wait until the run is done. Raises DraftbenchError if it ends otherwise; Ctrl-C leaves it at work."""
    said, woken, log = "", time.monotonic(), NewLines()
    try:
        while (status := run.status()).state in ("queued", "running"):
            if (words := _words(status)) != said:
                console.err.print(words, markup=False)
                said = words
            written = log.read(run)
            for line in written if status.state == "queued" else ():  # such as that no node has what it asks for
                console.err.print(line, markup=False)
            if time.monotonic() - woken > _WAKE_S:
                place_of(run).wake(home)
                woken = time.monotonic()
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        console.err.print(f"run {run.id} goes on; `draftbench runs cancel {run.id}` stops it", markup=False)
        raise typer.Exit(130) from None
    if status.state != "done":
        error = status.error
        raise DraftbenchError(
            error.what if error and error.what else f"run {run.id} is {status.state}",
            error.why if error else "",
            error.fix if error and error.fix else f"`draftbench show {run.id}` shows what happened",
        )


class NewLines:
    """What is written into the logs of runs while they are looked at, without the times."""

    def __init__(self) -> None:
        self._read: dict[str, int] = {}  # run -> bytes

    def read(self, run: RunFolder) -> list[str]:
        """The whole lines since the last look at the run; none at the first one."""
        size = _size(run)
        begin = self._read.setdefault(run.id, size)
        if size <= begin:
            return []
        with open(run.path / _LOG, "rb") as file:
            file.seek(begin)
            lines, end, _ = file.read().rpartition(b"\n")
        self._read[run.id] = begin + len(lines + end)
        return [_TIME.sub("", line) for line in lines.decode("utf-8", "replace").splitlines()]

    def forget(self, run: RunFolder) -> None:
        """Let the next look at the run be the first one."""
        self._read.pop(run.id, None)


def _size(run: RunFolder) -> int:
    try:
        return (run.path / _LOG).stat().st_size
    except OSError:
        return 0


def _words(status: Status) -> str:
    if status.state == "queued":
        return f"waiting at {status.place or 'this machine'}"
    return f"{status.phase or 'starting'} on {status.host or 'this machine'}"
