"""Asking from a page whether a server would take a run's pair: a process of its own, since it reads both tokenizers.

What it printed is kept in the run's folder, one folder for each server.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from filelock import FileLock

from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.jobs.detached import start_detached, wait_aside
from engine.paths import Home
from engine.records.record import Part, Record, Text, Whole
from engine.runs.folder import RunFolder
from engine.runs.process import is_alive, now, process_identity
from workbench.run.export_job import destination
from workbench.run.log import log_part

OUTPUT = "output.txt"


class Finding(Part):
    """What the server would say to the pair."""

    level: Text = ""
    what: Text = ""
    reason: Text = ""
    fix: Text = ""


class Failure(Part):
    """Why the pair could not be looked at."""

    what: Text = ""
    why: Text = ""
    fix: Text = ""


class Report(Record):
    """What `draftbench export --for SERVER --preflight --json` printed; empty where it printed nothing."""

    FILE: ClassVar[str] = "report.json"

    server: Text = ""
    command: Text = ""
    gamma: Whole | None = None
    """Tokens per proposal in the command."""
    preflight: list[Finding] = []  # noqa: RUF012  Pydantic copies it
    folder: Finding | None = None
    """What keeps the export from being written to its folder."""
    notes: list[Text] = []  # noqa: RUF012
    error: Failure = Failure()


class Started(Record):
    """The process that looks at the pair."""

    FILE: ClassVar[str] = "started.json"

    started_at: Text = ""
    pid: int = 0
    pid_started: float = 0.0
    out: Text = ""
    """The folder of the export that was looked at; nothing is written there."""
    options: list[Text] = []  # noqa: RUF012  Pydantic copies it
    """What was chosen of it, as options of the command."""


@dataclass(frozen=True)
class Preflight:
    """The last look at the pair. `state`: none, running, done or failed."""

    state: str
    report: Report = field(default_factory=Report)
    output: str = ""
    started: Started = field(default_factory=Started)

    @property
    def error(self) -> Failure:
        return self.report.error


def place(run: RunFolder, server: str) -> Path:
    """The folder with what was found for a server."""
    return run.path / "preflight" / server


def start(
    home: Home, run: RunFolder, server: str, out: str, options: Sequence[str] = (), *, overwrite: bool = False
) -> str:
    """Start the look at an export to `out` with these options of the command, and return a message at once.

    Raises DraftbenchError while one is at work, and for a folder that no export could be written to.
    """
    folder, written = place(run, server), str(destination(home, out))
    command = [sys.executable, "-m", "engine", "export", run.id, "--out", written, "--json", "--for", server, *options]
    command += ["--preflight", *(["--overwrite"] if overwrite else [])]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if read(run, server).state == "running":
                raise DraftbenchError(
                    f"the pair is already being checked for {server}", "one check is enough", "wait for it"
                )
            with open(folder / Report.FILE, "wb") as report, open(folder / OUTPUT, "wb") as output:
                process = start_detached(home, command, report, output)
            wait_aside(process)
            pid_started = float(process_identity(process.pid)["pid_started"])
            started = Started(
                started_at=now(), pid=process.pid, pid_started=pid_started, out=written, options=list(options)
            )
            started.write(folder)
    return f"Checking the pair for {server}."


def read(run: RunFolder, server: str) -> Preflight:
    """What was found last, according to its files."""
    folder = place(run, server)
    started = Started.read_or_empty(folder)
    if not started.pid:
        return Preflight("none")
    output = log_part(folder / OUTPUT, 12).text
    if is_alive(started.pid, started.pid_started):
        return Preflight("running", output=output, started=started)
    report = Report.read_or_empty(folder)
    return Preflight("done" if report.server == server else "failed", report, output, started)
