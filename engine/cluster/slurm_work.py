"""What a Slurm job does: work on one run, or make the captures that several runs share.

The work is done in the job's own process, because Slurm sends its signals to every process of a job. SIGTERM (somebody
cancels, or a job of more importance takes the node) asks for a stop at the next safe point. So does the signal that
submitit has Slurm send before the time limit; after that stop the job queues itself again, and goes on where it was.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from engine.cluster.node import code_hash, differing_build
from engine.errors import Cancelled, DraftbenchError
from engine.paths import Home
from engine.records.files import STATUS
from engine.records.slurm_job import SlurmJob
from engine.runs.folder import RunFolder
from engine.runs.process import now
from engine.stopping import keeping

_TOUCH_S = 30.0


@dataclass(frozen=True)
class RunWork:
    """Work on a run until it is done.

    most_early_ends: how often it may reach the time limit of a job. versions: of the libraries that it was sent from.
    """

    home: str
    cache: str
    run: str
    cpus: int
    most_early_ends: int
    versions: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> None:
        home = _home(self.home)
        run = RunFolder(home.run(self.run))
        if not _is_ours(run, _own_job()):
            return
        here = {"code": code_hash()}  # may be newer than when the job was queued, as the local queue's is
        if self.versions and (differs := differing_build({**self.versions, **here}, os.uname().nodename)):
            run.set_status(state="failed", ended_at=now(), error=differs)
            return
        with _as_job(self.cache, self.cpus) as limit_is_near:
            from engine.runs.execution import execute  # torch, after the number of its threads is set

            try:
                with _sign_of_life(run):
                    execute(home, run, quiet=True)
            except Cancelled:
                self._stopped(run, limit_is_near())

    def _stopped(self, run: RunFolder, at_limit: bool) -> None:
        """After a stop at a safe point: whose wish was it, and does the run go on?"""
        record = SlurmJob.read_or_empty(run.path)
        if record.cancel_asked_at is not None or run.status().state == "done":
            return
        if not at_limit:  # Slurm queues a job again that had to make way; `wake` finds out if it did not
            run.log(f"Slurm stopped job {record.job}")
            run.set_status(state="queued", ended_at=None)
            return
        ended_early = record.ended_early + 1
        if ended_early > self.most_early_ends:
            error = DraftbenchError(
                f"the time limit was reached {ended_early} times",
                f"max_num_timeout of the place is {self.most_early_ends}",
                "raise max_num_timeout, or resources.minutes at the next call of its study or in the run's "
                "config.yaml, then resume: nothing that is finished is lost",
            )
            run.set_status(state="failed", ended_at=now(), error=error.as_dict())
            return
        record.model_copy(update={"ended_early": ended_early}).write(run.path)
        run.log(f"job {record.job} is near its time limit: it queues itself again")
        run.set_status(state="queued", ended_at=None)
        _requeue(ended_early, run.log)


@dataclass(frozen=True)
class CaptureWork:
    """Make the captures of a recipe, given as plain values."""

    home: str
    cache: str
    recipe: dict[str, Any]
    cpus: int

    def __call__(self) -> None:
        home = _home(self.home)
        with _as_job(self.cache, self.cpus) as limit_is_near:
            from engine.config.reading import parse_recipe
            from engine.runs.execution import capture_only

            try:
                capture_only(home, parse_recipe(self.recipe, stored=True))
            except Cancelled:
                if not limit_is_near():
                    raise
                _requeue(0, print)  # what is answered is kept; each job answers more, so this ends


@dataclass(frozen=True)
class AfterLocalJobs:
    """Work that waits for other local jobs: submitit's local executor knows no dependencies."""

    jobs: tuple[str, ...]
    work: Callable[[], None]

    def __call__(self) -> None:
        from engine.cluster.slurm_jobs import local_controller

        while any(local_controller(job) for job in self.jobs):
            time.sleep(0.2)
        self.work()


def _home(folder: str) -> Home:
    """Raises DraftbenchError where the home is not on this machine."""
    if not (Path(folder) / "runs").is_dir():
        raise DraftbenchError(
            f"{folder} is not there on {os.uname().nodename}",
            "jobs work in the home that they were submitted from, on storage that every node sees",
            "set DRAFTBENCH_HOME to a folder on shared storage",
        )
    return Home(Path(folder))


def _own_job() -> str:
    import submitit

    return str(submitit.JobEnvironment().job_id)


def _is_ours(run: RunFolder, job: str) -> bool:
    """Whether this job is the one to work on the run: not if the run ended, was removed, or has a later job."""
    if not run.path.is_dir():
        print(f"run {run.id} was removed")
        return False
    record, state = SlurmJob.read_or_empty(run.path), run.status().state
    if record.job not in ("", job):  # an empty one: whoever submitted it has not written that yet
        print(f"run {run.id} belongs to job {record.job}")
        return False
    if state not in ("queued", "running", "interrupted"):
        print(f"run {run.id} is {state}")
        return False
    record.model_copy(update={"job": job, "began_at": now(), "gone_since": None, "gone_as": ""}).write(run.path)
    return True


@contextlib.contextmanager
def _as_job(cache: str, cpus: int) -> Iterator[Callable[[], bool]]:
    """Be a job with so many cores. Yields whether the time limit is near, which also asks the work to stop."""
    import submitit

    os.environ["DRAFTBENCH_CACHE"] = cache
    os.environ["OMP_NUM_THREADS"] = str(cpus)
    reached: list[int] = []

    def near_limit(number: int, frame: FrameType | None) -> None:
        reached.append(number)
        os.kill(os.getpid(), signal.SIGTERM)  # as `stop_on_signals` knows it

    number = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
    before = signal.signal(number, near_limit)  # submitit's own handler would end the work between two safe points
    try:
        with keeping():  # Slurm leaves time for the next safe point; a process that is ended cannot queue its job again
            yield lambda: bool(reached)
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _sign_of_life(run: RunFolder) -> Iterator[None]:
    """Touch the run's status from time to time: other machines cannot look up the process, and some phases are long
    and silent."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(_TOUCH_S):
            with contextlib.suppress(OSError):
                os.utime(run.path / STATUS)

    threading.Thread(target=touch, daemon=True, name="sign-of-life").start()
    try:
        yield
    finally:
        ended.set()


def _requeue(times: int, note: Callable[[str], None]) -> None:
    """Put this job back into the queue, as submitit does after its own checkpoints; it runs again from the start."""
    import submitit

    try:
        submitit.JobEnvironment()._requeue(times)
    except (OSError, subprocess.SubprocessError) as error:
        note(f"Slurm did not queue the job again ({error}): `draftbench study` does, or `draftbench run --resume`")
