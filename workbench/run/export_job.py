"""Exporting a run from a page, in a separate process whose outcome is read from files in the run's folder.

An export loads the models and takes a minute or more, so it does not run in the server, and it continues
when the browser or the server is closed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from filelock import FileLock

from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.jobs import queue
from engine.jobs.detached import start_detached, wait_aside
from engine.paths import Home
from engine.records.record import Part, Real, Record
from engine.runs.folder import RunFolder
from engine.runs.process import is_alive, now, process_identity
from workbench.run.log import log_part

OUTPUT = "export.txt"


class CheckedRow(Part):
    """Exact acceptance of the run's draft and of the exported folder on the same text, at one temperature."""

    temperature: Real = math.nan
    run: Real = math.nan
    exported: Real = math.nan


class Report(Record):
    """What `draftbench export --json` printed; empty where it failed."""

    FILE: ClassVar[str] = "export-report.json"

    ok: bool | None = None
    """Whether what was written measures the same as the run's draft."""
    megabytes: Real = math.nan
    checked: list[CheckedRow] = []  # noqa: RUF012  Pydantic copies it


class Started(Record):
    """`export.json`: the process of the last export of a run."""

    FILE: ClassVar[str] = "export.json"

    out: str = ""
    """The folder that it writes."""
    started_at: str = ""
    pid: int = 0
    pid_started: float = 0.0


@dataclass(frozen=True)
class Export:
    """The last export of a run. `state`: none, running, done (its measurement agrees), differs or failed."""

    state: str
    folder: str = ""
    started_at: str = ""
    output: str = ""
    report: Report = field(default_factory=Report)


def default_folder(home: Home, run: RunFolder, server: str = "") -> Path:
    """The default folder of an export, or of one for a server."""
    return home.root.absolute() / "exports" / (f"{run.id}-{server}" if server else run.id)


def start(home: Home, run: RunFolder, folder: str, *, overwrite: bool, check: bool, more: Sequence[str] = ()) -> str:
    """Start an export and return a message at once. `more`: options of the command.

    Raises DraftbenchError while this run is already being exported, and while any run is in progress.
    """
    out = _destination(home, folder)
    _check_machine_is_free(home)
    command = [sys.executable, "-m", "engine", "export", run.id, "--out", str(out), "--json"]
    command += [*more, *(["--overwrite"] if overwrite else [])]
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
        Started(out=str(out), started_at=now(), pid=process.pid, pid_started=pid_started).write(run.path)
    return f"Writing the draft to {out}."


def read(run: RunFolder) -> Export:
    """The state of the last export, according to its files."""
    started = Started.read_or_empty(run.path)
    if not started.out:
        return Export("none")
    alive = is_alive(started.pid, started.pid_started)
    output = log_part(run.path / OUTPUT, 12).text
    if alive:
        return Export("running", started.out, started.started_at, output)
    report = Report.read_or_empty(run.path)
    state = {None: "failed", True: "done", False: "differs"}[report.ok]
    return Export(state, started.out, started.started_at, output, report)


def _check_machine_is_free(home: Home) -> None:
    """Raise DraftbenchError while a run is in progress: an export loads both models, as a run does."""
    busy = queue.at_work(home)
    if busy is not None:
        raise DraftbenchError(
            f"run {busy.id} is in progress",
            "an export also loads target and draft, and both at once may not fit into memory",
            "export when the run is done, or cancel it first; it can be resumed",
        )


def _destination(home: Home, folder: str) -> Path:
    """The folder as an absolute path. Raises DraftbenchError for one among the runs, which would be read as a run."""
    if not folder.strip():
        raise DraftbenchError(
            "no folder is given", "the draft must be written somewhere", "enter a new or empty folder"
        )
    out = Path(folder.strip()).expanduser()
    out = out if out.is_absolute() else home.root.absolute() / out
    if out.resolve().is_relative_to(home.runs.resolve()):
        raise DraftbenchError(f"{out} is inside the runs folder", "it would be read as a run", "choose another folder")
    return out
