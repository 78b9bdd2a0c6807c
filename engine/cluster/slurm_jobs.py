"""Jobs at Slurm: submitting them by submitit, asking which are still there, stopping them. What the jobs do is
`engine.cluster.slurm_work`'s."""

from __future__ import annotations

import contextlib
import getpass
import math
import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from engine.cluster.slurm_address import SITE_FILE, Site
from engine.config.resources import ResourcesSpec
from engine.errors import DraftbenchError, first_line
from engine.fileio import disk_errors
from engine.paths import Home

GONE = ""
"""The state of a job that Slurm does not know any more and has no record of."""
ACTIVE = frozenset(
    [
        "PENDING",
        "CONFIGURING",
        "RUNNING",
        "COMPLETING",
        "SUSPENDED",
        "STOPPED",
        "SIGNALING",
        "STAGE_OUT",
        "RESV_DEL_HOLD",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "SPECIAL_EXIT",
        "RESIZING",
    ]
)
"""States of a job that will work, or is at work."""
_MOST_OF_ARRAY = 1000  # Slurm's MaxArraySize is 1001 unless a site changes it
_ANSWER_S = 60.0
_SIGNAL_DELAY_S, _EARLIER_S = 90, 60  # submitit's default, and what Slurm allows itself
_GRACE_S = 5.0
_NO_LIMIT_MIN = 60 * 24 * 365  # of a local job: submitit would end it after two minutes


@dataclass(frozen=True)
class Submitted:
    """A job's id (of a part of an array: `12_3`) and the file that it writes its errors to."""

    job: str
    log: str


class Jobs(Protocol):
    """A scheduler's jobs."""

    def submit(
        self, work: Sequence[Callable[[], None]], resources: ResourcesSpec, *, name: str, after: str = ""
    ) -> list[Submitted]:
        """A job for each piece of work, in this order; `after`: none begins before that job, or those with `:`
        between them, have ended."""
        ...

    def states(self, jobs: Sequence[str]) -> dict[str, str] | None:
        """Slurm's word for each job, `GONE` where it has none; None if it does not answer now."""
        ...

    def ask_to_stop(self, job: str) -> bool:
        """SIGTERM to the job's processes, and no more: they stop at their next safe point. False if it is not there."""
        ...

    def end(self, job: str) -> bool:
        """Take a waiting job out of the queue; end a running one within seconds. False if it is not there."""
        ...


def jobs_of(home: Home, site: Site) -> Jobs:
    """The jobs of a site, their files in `slurm/` of the home."""
    return _LocalJobs(home) if site.executor == "local" else _SlurmJobs(home, site)


def job_options(resources: ResourcesSpec, site: Site, *, name: str, after: str = "") -> dict[str, Any]:
    """The options of a job for submitit's Slurm executor. Slurm gives whole GPUs, so a fraction becomes one.

    Raises DraftbenchError if the signal before the time limit would leave no time to work.
    """
    warning_s = site.options.get("signal_delay_s", _SIGNAL_DELAY_S)
    if resources.minutes is not None and 60 * resources.minutes <= warning_s + _EARLIER_S:
        raise DraftbenchError(
            f"resources.minutes is {resources.minutes}",
            f"Slurm asks a job to stop {warning_s} s before its time limit and up to {_EARLIER_S} s earlier, so "
            "that no time would be left to work",
            "raise resources.minutes, or lower signal_delay_s in the address of the place",
        )
    options: dict[str, Any] = {
        key: value for key, value in site.options.items() if key not in ("python", *_CONSTRUCTOR)
    }
    options["job_name"] = re.sub(r"[^\w.-]", "-", name)[:60]
    options["time"] = resources.minutes  # None leaves the line out; submitit's own default is five minutes
    options["cpus_per_task"] = resources.cpus
    # since Slurm 22.05 a step does not take its cores over from the job
    options["srun_args"] = [f"--cpus-per-task={resources.cpus}", *site.options.get("srun_args", ())]
    if resources.gpus and "gpu" not in str(site.options.get("gres", "")):
        options["gpus_per_node"] = math.ceil(resources.gpus)
    if resources.memory_gb is not None:
        options["mem"] = f"{math.ceil(resources.memory_gb * 1e9 / 2**20)}M"
    if after:
        options["dependency"] = f"afterany:{after}"  # were it to fail, its runs would say why better than a stuck job
    return options


_CONSTRUCTOR = ("max_num_timeout",)  # ours to count: submitit would stop the work between two safe points


class _SlurmJobs:
    def __init__(self, home: Home, site: Site) -> None:
        self._home, self._site = home, site

    def submit(
        self, work: Sequence[Callable[[], None]], resources: ResourcesSpec, *, name: str, after: str = ""
    ) -> list[Submitted]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        submitted: list[Submitted] = []
        try:
            with disk_errors(self._home.root):
                for first in range(0, len(work), _MOST_OF_ARRAY):
                    part = work[first : first + _MOST_OF_ARRAY]
                    submitted += _submit(self._executor(resources, name, after), part)
        except BaseException as error:
            for one in submitted:
                self.end(one.job)
            if isinstance(error, (FailedJobError, FailedSubmissionError, ValueError, RuntimeError)):
                raise DraftbenchError(
                    "Slurm took no job",
                    _refusal(error),
                    f"correct the address of the place, {SITE_FILE} in the home, or the recipe's section resources",
                ) from error
            raise
        return submitted

    def _executor(self, resources: ResourcesSpec, name: str, after: str) -> Any:
        import submitit

        executor = submitit.SlurmExecutor(_folder(self._home), python=self._site.options.get("python"))
        executor.update_parameters(**job_options(resources, self._site, name=name, after=after))
        return executor

    def states(self, jobs: Sequence[str]) -> dict[str, str] | None:
        known = _table(
            ["squeue", "--noheader", "--array", "--states=all", f"--user={getpass.getuser()}", "--format=%i|%T"]
        )
        if known is None:
            return None
        unknown = sorted({job for job in jobs if job not in known})
        if unknown:  # Slurm forgets a job minutes after its end, and only its accounting still knows it, where it is on
            known |= _table(["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(unknown)]) or {}
        return {job: known.get(job, GONE).split(" ")[0].rstrip("+") for job in jobs}  # 'CANCELLED by 1000'

    def ask_to_stop(self, job: str) -> bool:
        return bool(job) and _run(["scancel", "--signal=TERM", job]) is not None

    def end(self, job: str) -> bool:
        return bool(job) and _run(["scancel", job]) is not None


class _LocalJobs:
    """Jobs as processes of this machine, by submitit's local executor: they share its cores and end with the shell."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def submit(
        self, work: Sequence[Callable[[], None]], resources: ResourcesSpec, *, name: str, after: str = ""
    ) -> list[Submitted]:
        import submitit

        waiting = [_after(after, one) for one in work] if after else list(work)
        executor = submitit.LocalExecutor(_folder(self._home))
        executor.update_parameters(timeout_min=resources.minutes or _NO_LIMIT_MIN, signal_delay_s=10)
        return _submit(executor, waiting)

    def states(self, jobs: Sequence[str]) -> dict[str, str] | None:
        return {job: "RUNNING" if local_controller(job) else GONE for job in jobs}

    def ask_to_stop(self, job: str) -> bool:
        with contextlib.suppress(psutil.Error):
            if controller := local_controller(job):
                controller.send_signal(signal.SIGTERM)  # passes it on to the work
                return True
        return False

    def end(self, job: str) -> bool:
        with contextlib.suppress(psutil.Error):
            if controller := local_controller(job):
                tree = [*controller.children(recursive=True), controller]
                controller.send_signal(signal.SIGTERM)
                for left in psutil.wait_procs(tree, timeout=_GRACE_S)[1]:  # one that waits for its turn does not listen
                    left.kill()
                return True
        return False


def _submit(executor: Any, work: Sequence[Callable[[], None]]) -> list[Submitted]:
    if len(work) == 1:
        jobs = [executor.submit(work[0])]
    else:
        with executor.batch():
            jobs = [executor.submit(one) for one in work]
    return [Submitted(job.job_id, str(job.paths.stderr)) for job in jobs]


def _folder(home: Home) -> Path:
    return home.root / "slurm"


def local_controller(job: str) -> psutil.Process | None:
    """submitit's process of a local job; the id may be another process's by now."""
    with contextlib.suppress(psutil.Error, ValueError):
        process = psutil.Process(int(job))
        if process.status() != psutil.STATUS_ZOMBIE and "submitit.local._local" in process.cmdline():
            return process
    return None


def _after(jobs: str, work: Callable[[], None]) -> Callable[[], None]:
    from engine.cluster.slurm_work import AfterLocalJobs  # which is what this module submits

    return AfterLocalJobs(tuple(jobs.split(":")), work)


def _table(command: Sequence[str]) -> dict[str, str] | None:
    """First column -> second column of what a command prints; None if it fails."""
    printed = _run(command)
    if printed is None:
        return None
    rows = (line.strip().split("|") for line in printed.splitlines())
    return {row[0]: row[1] for row in rows if len(row) >= 2}


def _run(command: Sequence[str]) -> str | None:
    """What a command of Slurm prints; None if it is not there, fails, or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=True, env=_plain_env())
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _plain_env() -> dict[str, str]:
    """Without the user's own choice of columns and filters."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("SQUEUE_", "SACCT_", "SCANCEL_"))}


def _refusal(error: BaseException) -> str:
    """The line of sbatch that says why, out of submitit's report."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line.startswith("sbatch: error:")]
    return "; ".join(line.removeprefix("sbatch: error:").strip() for line in said) or first_line(error)
