"""The queue: runs wait on disk, and one detached worker starts them one at a time.

A queued run is a run folder whose status says so and when it was queued, so the queue survives
browser, server and machine. The worker is a process of its own that holds `queue.lock` while it
lives and ends when nothing waits; each job is again a process of its own, so that killing the
worker leaves the job at work. `queue.json` names the job that was started last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout

from engine.config.schema import Recipe
from engine.errors import DraftbenchError, first_line
from engine.fileio import disk_errors
from engine.jobs.detached import start_detached, wait_aside
from engine.jobs.executors import LOCAL, Place
from engine.paths import Home
from engine.records.folders import run_names
from engine.records.record import Record, Whole
from engine.records.status import Status
from engine.runs.advice import measures_again
from engine.runs.faults import explain
from engine.runs.folder import RunFolder
from engine.runs.inputs import check_inputs
from engine.runs.process import is_alive, now, process_identity, this_host

OUTPUT = "output.txt"  # what a job wrote to its terminal, in the run's folder
_POLL_S = 1.0
_LAST_LINES = 8
_ENGINE = (sys.executable, "-m", "engine")


def place(address: str) -> Place:
    """This machine's queue, for `engine.jobs.executors`. Raises DraftbenchError if the address names more than it."""
    if address != LOCAL:
        raise DraftbenchError(
            f"there is no place {address!r}", "this machine's queue has no address", f"leave it out, or use {LOCAL}"
        )
    return sys.modules[__name__]  # a module with the functions of a place


def submit(home: Home, recipe: Recipe) -> RunFolder:
    """A new run that waits for its turn."""
    return submit_all(home, [recipe])[0]


def submit_all(home: Home, recipes: Sequence[Recipe]) -> list[RunFolder]:
    """New runs that wait for their turn in the order given: all of them, or none if one cannot be created."""
    runs = enqueue(home, recipes)
    wake(home)
    return runs


def enqueue(home: Home, recipes: Sequence[Recipe], place: str | None = None) -> list[RunFolder]:
    """As `submit_all` at the place of an address (None: this machine), without waking anybody."""
    check_inputs(home, recipes)
    runs: list[RunFolder] = []
    where = {} if place is None else {"place": place}
    with changing(home):  # until all are there, no worker takes one
        try:
            for recipe in recipes:
                runs.append(RunFolder.create(home, recipe, queued_at=now(), **where))
        except BaseException:
            for run in runs:
                shutil.rmtree(run.path, ignore_errors=True)
            raise
    return runs


def resume(home: Home, run: RunFolder) -> RunFolder:
    """Queue a run that stopped, after those that wait already. One that waits or runs is left as it is."""
    requeue(home, run)
    wake(home)
    return run


def requeue(home: Home, run: RunFolder, place: str | None = None) -> None:
    """As `resume` at the place of an address (None: this machine), without waking anybody."""
    with changing(home):
        status = run.status()
        refuse_done(run, status)
        if status.state != "running" and not (status.state == "queued" and status.queued_at):
            run.set_status(state="queued", queued_at=now(), place=place, error=None, ended_at=None)


def refuse_done(run: RunFolder, status: Status) -> None:
    """Raise DraftbenchError if nothing is left to resume."""
    if status.state == "done":
        raise DraftbenchError(
            f"run {run.id} is done",
            "there is nothing left to do",
            f"start another run from its recipe; {measures_again(run)}",
        )


def cancel(home: Home, run: RunFolder) -> str:
    """Take a waiting run out of the queue, or ask a running one to stop; a sentence that says what will happen."""
    with changing(home):
        if run.status().state == "queued":
            run.set_status(state="cancelled", ended_at=now())
            job = _last_job(home)
            if (
                job and job.run == run.id and is_alive(job.pid, job.pid_started)
            ):  # started a moment ago, not yet at work
                with contextlib.suppress(OSError):
                    os.kill(job.pid, signal.SIGTERM)
            return f"Run {run.id} was taken out of the queue. It can be resumed."
    again = run.status().stop_asked_at is not None
    process = run.ask_to_stop()
    if again:
        return f"Process {process} was asked to stop run {run.id} at once. What is finished is kept."
    return (
        f"Run {run.id} is stopping: process {process} ends within five seconds and keeps what is finished, "
        "so it can be resumed. Cancel it once more to stop it at once."
    )


def waiting(home: Home, place: str | None = None) -> list[RunFolder]:
    """The runs that wait for their turn at the place of an address (None: this machine), the next one first."""
    queued = [(status.queued_at or "", run.id, run) for run, status in statuses(home) if _is_waiting(status, place)]
    return [run for _, _, run in sorted(queued, key=lambda item: item[:2])]


def at_work(home: Home) -> RunFolder | None:
    """The run that is being worked on now, by the queue or from a terminal, or whose process is just starting."""
    job = _last_job(home)
    if job and is_alive(job.pid, job.pid_started):
        return RunFolder(home.run(job.run))
    here = (None, this_host())
    running = ((run, status) for run, status in statuses(home) if status.state == "running" and status.place is None)
    return next((run for run, status in running if status.host in here), None)


def wake(home: Home) -> None:
    """Start the worker if runs wait and nobody works on them.

    Cheap enough for every few seconds: it reads each run's status once.
    """
    if not waiting(home) or is_held(home.root / "queue.lock"):
        return
    with disk_errors(home.root), open(home.root / "queue.log", "ab") as log:
        wait_aside(start_detached(home, [*_ENGINE, "work"], log))


def work(home: Home) -> None:
    """Work on what waits, one run after another, until nothing waits. Leaves at once if another worker is there."""
    lock = FileLock(home.root / "queue.lock")
    while waiting(home):  # looked at once more after the lock is free: a submit just before saw it held
        try:
            with lock.acquire(timeout=0):
                _work_off(home)
        except Timeout:
            return


def job_command(run_id: str) -> list[str]:
    """What is started to work on a run."""
    return [*_ENGINE, "run", "--resume", run_id]


def _is_waiting(status: Status, place: str | None = None) -> bool:
    """A run that a terminal is about to work on is 'queued' for a moment too, but was never put into the queue.

    One that waits at another place is not this queue's.
    """
    return status.state == "queued" and bool(status.queued_at) and status.place == place


def statuses(home: Home) -> list[tuple[RunFolder, Status]]:
    """Every run with its status, each read once, by name."""
    return [(run, run.status()) for run in (RunFolder(home.runs / name) for name in run_names(home))]


def _work_off(home: Home) -> None:
    while True:
        while at_work(home) is not None:  # the last job lives where its worker was killed
            time.sleep(_POLL_S)
        _settle(home)
        job = _take(home)
        if job is None:
            return
        job.wait()
        _settle(home, job.returncode)


def _take(home: Home) -> subprocess.Popen[bytes] | None:
    """Start the next run that can be started; None if nothing waits."""
    while True:
        with changing(home):
            queue = waiting(home)
            for run in queue:
                try:
                    if not is_held(run.path / ".lock"):
                        return _start_job(home, run)
                except (DraftbenchError, OSError) as error:  # of this one's folder: the others wait for their turn
                    queue = []
                    _cannot_start(run, error)
        if not queue:
            return None
        time.sleep(_POLL_S)  # the process that worked on it before is just leaving


def _cannot_start(run: RunFolder, error: DraftbenchError | OSError) -> None:
    """Note in the run why no job can be started in its folder. Raises if not even that can be written."""
    explained = explain(error) or DraftbenchError(f"no job could be started: {first_line(error)}")
    run.set_status(state="failed", ended_at=now(), error=explained.as_dict())


def _start_job(home: Home, run: RunFolder) -> subprocess.Popen[bytes]:
    path = run.path / OUTPUT
    if os.path.lexists(path) and not path.is_file():
        raise DraftbenchError(
            f"{path} is not a file", "what the job prints goes there", "remove it, then resume the run"
        )
    start = _size(path)
    with disk_errors(path), open(path, "ab") as output:
        job = start_detached(home, job_command(run.id), output)
    _Job(run=run.id, queued_at=run.status().queued_at or "", output_from=start, **process_identity(job.pid)).write(
        home.root
    )
    return job


def _settle(home: Home, code: int | None = None) -> None:
    """If the last job ended before it could say so, say it: otherwise it would be started again and again."""
    job = _last_job(home)
    if not job:
        return
    with changing(home):
        run = RunFolder(home.run(job.run))
        status = run.status()
        if _is_waiting(status) and status.queued_at == job.queued_at:
            ended = "" if code is None else f" with exit status {code}" if code >= 0 else f" by signal {-code}"
            error = DraftbenchError(
                f"the process ended{ended} before the work began",
                last_lines(run.path / OUTPUT, job.output_from) or "it printed nothing",
                f"correct that, then resume; `draftbench run --resume {run.id}` shows what happens",
            )
            run.set_status(state="failed", ended_at=now(), error=error.as_dict())
        (home.root / _Job.FILE).unlink(missing_ok=True)


class _Job(Record):
    """`queue.json`: the job that was started last and not yet settled."""

    FILE: ClassVar[str] = "queue.json"

    run: str = ""
    queued_at: str = ""
    """Since when its run waited: a run that was queued again meanwhile is another job's."""
    output_from: Whole = 0
    """Bytes that the run's output had before."""
    pid: int = 0
    pid_started: float = 0.0


def _last_job(home: Home) -> _Job | None:
    job = _Job.read_or_empty(home.root)
    return job if job.queued_at and RunFolder.exists(home, job.run) else None


@contextlib.contextmanager
def changing(home: Home) -> Iterator[None]:
    """Be the only one who takes a run out of the queue or puts one back; held for milliseconds."""
    home.root.mkdir(parents=True, exist_ok=True)
    with disk_errors(home.root), FileLock(home.root / ".queue-change.lock"):
        yield


def is_held(path: Path) -> bool:
    """Whether some process holds the lock of that file."""
    if not path.parent.is_dir():
        return False
    try:
        with disk_errors(path), FileLock(path).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def last_lines(path: Path, start: int) -> str:
    """The last lines of a process's output that were written after `start` bytes."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(start, _size(path) - 4000))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    return "\n".join([line for line in lines if line][-_LAST_LINES:])
