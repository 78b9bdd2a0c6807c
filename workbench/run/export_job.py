"""Exporting a run from a page, in a separate process whose outcome is read from files in the run's folder.

An export loads the models and takes a minute or more, so it does not run in the server, and it continues
when the browser or the server is closed.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from filelock import FileLock

from engine.errors import DraftbenchError
from engine.export.folder import refuse_among_runs
from engine.export.steps import STEPS, WRITE, reached
from engine.fileio import disk_errors
from engine.jobs import queue
from engine.jobs.detached import start_detached, wait_aside
from engine.paths import Home
from engine.records.record import Part, Real, Record, Text, Whole
from engine.runs.folder import RunFolder
from engine.runs.process import is_alive, now, process_identity
from workbench.run.log import log_part

OUTPUT = "export.txt"


class CheckedRow(Part):
    """Exact acceptance of the run's draft and of the exported folder on the same text, at one temperature."""

    temperature: Real = math.nan
    run: Real = math.nan
    exported: Real = math.nan


class Served(Part):
    """What the export said of its server."""

    command: Text = ""
    gamma: Whole | None = None
    """Tokens per proposal in the command."""


class Report(Record):
    """What `draftbench export --json` printed; empty where it failed."""

    FILE: ClassVar[str] = "export-report.json"

    ok: bool | None = None
    """Whether what was written measures the same as the run's draft."""
    megabytes: Real = math.nan
    checked: list[CheckedRow] = []  # noqa: RUF012  Pydantic copies it
    served: Served = Served()


class Started(Record):
    """`export.json`: the process of the last export of a run."""

    FILE: ClassVar[str] = "export.json"

    out: str = ""
    """The folder that it writes."""
    started_at: str = ""
    pid: int = 0
    pid_started: float = 0.0
    server: Text = ""
    """The server that it is for; empty in those that earlier versions made, which were for none."""
    stop_asked_at: str = ""


@dataclass(frozen=True)
class Export:
    """The last export of a run. `state`: none, running, done (its measurement agrees), differs, failed or stopped."""

    state: str
    started: Started = field(default_factory=Started)
    output: str = ""
    report: Report = field(default_factory=Report)

    @property
    def folder(self) -> str:
        return self.started.out

    @property
    def step(self) -> tuple[int, int, str] | None:
        """Number of the present or last step, number of all, and its words; None before the first."""
        return reached(self.output)

    @property
    def written(self) -> bool:
        """Whether the folder was complete when the work ended."""
        step = self.step
        return step is not None and step[0] > STEPS.index(WRITE) + 1


def default_folder(home: Home, run: RunFolder, server: str) -> Path:
    """The default folder of an export for a server."""
    return home.root.absolute() / "exports" / f"{run.id}-{server}"


def start(
    home: Home, run: RunFolder, server: str, folder: str, *, overwrite: bool, check: bool, more: Sequence[str] = ()
) -> str:
    """Start an export for a server and return a message at once. `more`: options of the command.

    Raises DraftbenchError while this run is already being exported, and while any run is in progress.
    """
    out = destination(home, folder)
    _check_machine_is_free(home)
    command = [sys.executable, "-m", "engine", "export", run.id, "--out", str(out), "--json"]
    command += ["--for", server, *more, *(["--overwrite"] if overwrite else [])]
    command += [] if check else ["--no-check"]
    with disk_errors(run.path), FileLock(run.path / ".export.lock"):
        if read(run).state == "running":
            raise DraftbenchError(
                f"run {run.id} is already being exported", "two exports would write the same files", "wait for it"
            )
        with open(run.path / Report.FILE, "wb") as report, open(run.path / OUTPUT, "wb") as output:
            process = start_detached(home, command, report, output)
        wait_aside(process)
        pid_started = float(process_identity(process.pid)["pid_started"])
        Started(out=str(out), started_at=now(), pid=process.pid, pid_started=pid_started, server=server).write(run.path)
    return f"Writing the draft to {out}."


def stop(run: RunFolder) -> str:
    """Ask the export to stop, which it does within five seconds; a message at once."""
    with disk_errors(run.path), FileLock(run.path / ".export.lock"):
        started = Started.read_or_empty(run.path)
        if not is_alive(started.pid, started.pid_started):
            return "The export has ended by itself."
        started.model_copy(update={"stop_asked_at": now()}).write(run.path)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)  # its session: the program that quantises is one of it
    return "Stopping: the export ends within five seconds and leaves no half folder."


def read(run: RunFolder) -> Export:
    """The state of the last export, according to its files."""
    started = Started.read_or_empty(run.path)
    if not started.out:
        return Export("none")
    alive = is_alive(started.pid, started.pid_started)
    output = log_part(run.path / OUTPUT, 40).text
    if alive:
        return Export("running", started, output)
    report = Report.read_or_empty(run.path)
    failed = "stopped" if started.stop_asked_at else "failed"
    return Export({None: failed, True: "done", False: "differs"}[report.ok], started, output, report)


def _check_machine_is_free(home: Home) -> None:
    """Raise DraftbenchError while a run is in progress: an export loads both models, as a run does."""
    busy = queue.at_work(home)
    if busy is not None:
        raise DraftbenchError(
            f"run {busy.id} is in progress",
            "an export also loads target and draft, and both at once may not fit into memory",
            "export when the run is done, or cancel it first; it can be resumed",
        )


def destination(home: Home, folder: str) -> Path:
    """The folder as an absolute path. Raises DraftbenchError for one among the runs, which would be read as a run."""
    if not folder.strip():
        raise DraftbenchError(
            "no folder is given", "the draft must be written somewhere", "enter a new or empty folder"
        )
    out = Path(folder.strip()).expanduser()
    out = out if out.is_absolute() else home.root.absolute() / out
    refuse_among_runs(home, out)
    return out
