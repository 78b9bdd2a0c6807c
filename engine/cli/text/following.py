"""Following a run that is worked on elsewhere: a line whenever its state or phase changes."""

from __future__ import annotations

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


def follow(home: Home, run: RunFolder) -> None:
    """Wait until the run is done. Raises DraftbenchError if it ends otherwise; Ctrl-C leaves it at work."""
    said, woken = "", time.monotonic()
    try:
        while (status := run.status()).state in ("queued", "running"):
            if (words := _words(status)) != said:
                console.err.print(words, markup=False)
                said = words
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


def _words(status: Status) -> str:
    if status.state == "queued":
        return f"waiting at {status.place or 'this machine'}"
    return f"{status.phase or 'starting'} on {status.host or 'this machine'}"
