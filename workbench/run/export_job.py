"""Exporting a run from a page: a process of its own, whose outcome is read from files in the run's folder.

It loads the models and takes a minute or more, so it must not run in the server, and it goes on
when the browser or the server is closed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from engine.errors import DraftbenchError
from engine.fileio import disk_errors, read_json, write_json
from engine.paths import PROJECT_ROOT, Home, cache_dir
from engine.runs.folder import RunFolder
from engine.runs.status import is_alive, now
from workbench.run.run_files import log_part

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
    """Start the export and return at once with a sentence; a second one of the same run is refused while one is under way."""
    out = _destination(home, folder)
    command = [sys.executable, "-m", "engine", "export", run.id, "--out", str(out), "--json"]
    command += ["--overwrite"] if overwrite else []
    command += [] if check else ["--no-check"]
    with disk_errors(run.path), FileLock(run.path / ".export.lock"):
        if read(run).state == "running":
            raise DraftbenchError(
                f"run {run.id} is being exported already", "two exports would write the same files", "wait for it"
            )
        with open(run.path / REPORT, "wb") as report, open(run.path / OUTPUT, "wb") as output:
            process = _detached(home, command, report, output)
        write_json(run.path / STARTED, {"out": str(out), "started_at": now(), **_identity(process.pid)})
    return f"Writing the draft to {out}."


def read(run: RunFolder) -> Export:
    """How the last export stands, told by its files alone."""
    begun = _mapping(run.path / STARTED)
    if not begun:
        return Export("none")
    told = Export(
        "running", str(begun.get("out", "")), str(begun.get("started_at", "")), log_part(run.path / OUTPUT, 12).text
    )
    if is_alive(begun):
        return told
    report = _mapping(run.path / REPORT)
    state = "failed" if "ok" not in report else "done" if report["ok"] is True else "differs"
    return Export(state, told.folder, told.started_at, log_part(run.path / OUTPUT, 12).text, report)


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


def _detached(home: Home, command: list[str], report: Any, output: Any) -> subprocess.Popen[bytes]:
    places = {"DRAFTBENCH_HOME": str(home.root.absolute()), "DRAFTBENCH_CACHE": str(cache_dir().absolute())}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=report, stderr=output, cwd=PROJECT_ROOT,
        env={**os.environ, **places}, start_new_session=True,
    )  # fmt: skip
    # Somebody must wait for a child that ends, or it stays behind as a zombie while the server lives.
    threading.Thread(target=process.wait, daemon=True, name="export").start()
    return process


def _identity(pid: int) -> dict[str, Any]:
    try:
        return {"pid": pid, "pid_started": psutil.Process(pid).create_time()}
    except psutil.Error:
        return {"pid": pid, "pid_started": 0.0}


def _mapping(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError, DraftbenchError):
        return {}
    return found if isinstance(found, dict) else {}
