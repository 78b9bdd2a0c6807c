"""Exporting a run from a page: a process of its own, whose outcome is read from files in the run's folder.

It loads the models and takes a minute or more, so it must not run in the server, and it goes on
when the browser or the server is closed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from engine.errors import DraftbenchError
from engine.fileio import disk_errors, write_json
from engine.jobs import queue
from engine.jobs.detached import identity, start_detached, wait_aside
from engine.paths import Home
from engine.records.documents import whole_or_empty
from engine.runs.folder import RunFolder
from engine.runs.status import is_alive, now
from workbench.run.files import log_part

STARTED, REPORT, OUTPUT = "export.json", "export-report.json", "export.txt"


@dataclass(frozen=True)
class Export:
    """The last export of a run. `state`: none, running, done (what was written measures the same), differs or failed."""

    state: str
    folder: str = ""
    started_at: str = ""
    output: str = ""
    report: dict[str, Any] = field(default_factory=dict)


def default_folder(home: Home, run: RunFolder) -> Path:
    """Where a run is exported to if nobody says otherwise."""
    return home.root.absolute() / "exports" / run.id


def start(home: Home, run: RunFolder, folder: str, *, overwrite: bool, check: bool) -> str:
    """Start the export and return at once with a sentence.

    Refused while this run is being exported already, and while any run is being worked on.
    """
    out = _destination(home, folder)
    _check_machine_is_free(home)
    command = [sys.executable, "-m", "engine", "export", run.id, "--out", str(out), "--json"]
    command += ["--overwrite"] if overwrite else []
    command += [] if check else ["--no-check"]
    with disk_errors(run.path), FileLock(run.path / ".export.lock"):
        if read(run).state == "running":
            raise DraftbenchError(
                f"run {run.id} is being exported already", "two exports would write the same files", "wait for it"
            )
        with open(run.path / REPORT, "wb") as report, open(run.path / OUTPUT, "wb") as output:
            process = start_detached(home, command, report, output)
        wait_aside(process)
        write_json(run.path / STARTED, {"out": str(out), "started_at": now(), **identity(process.pid)})
    return f"Writing the draft to {out}."


def read(run: RunFolder) -> Export:
    """How the last export stands, told by its files alone."""
    begun = whole_or_empty(run.path / STARTED)
    if not begun:
        return Export("none")
    told = Export(
        "running", str(begun.get("out", "")), str(begun.get("started_at", "")), log_part(run.path / OUTPUT, 12).text
    )
    if is_alive(begun):
        return told
    report = whole_or_empty(run.path / REPORT)
    state = "failed" if "ok" not in report else "done" if report["ok"] is True else "differs"
    return Export(state, told.folder, told.started_at, log_part(run.path / OUTPUT, 12).text, report)


def _check_machine_is_free(home: Home) -> None:
    """One thing at a time is worked on: an export loads both models, as a run does."""
    busy = queue.at_work(home)
    if busy is not None:
        raise DraftbenchError(
            f"run {busy.id} is being worked on",
            "an export loads target and draft too, and both at once may not fit into memory",
            "export when it is done, or cancel it first: it can be resumed",
        )


def _destination(home: Home, folder: str) -> Path:
    """The folder as an absolute path; one among the runs would be taken for a run."""
    if not folder.strip():
        raise DraftbenchError(
            "no folder is named", "the draft must be written somewhere", "name an empty or new folder"
        )
    out = Path(folder.strip()).expanduser()
    out = out if out.is_absolute() else home.root.absolute() / out
    if out.resolve().is_relative_to(home.runs.resolve()):
        raise DraftbenchError(f"{out} lies among the runs", "it would be taken for a run", "choose a folder elsewhere")
    return out
