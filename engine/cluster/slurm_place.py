"""Slurm as a place where runs are worked on: one job per run, and one per group of captures that runs share.

The run folder stays the truth. `slurm.json` beside the status names the run's job; the home is on storage that all
nodes see. Functions as those of the local queue (`engine.jobs.queue`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from engine.cluster.capture_order import CapturesAtHome
from engine.cluster.cards import check_cards
from engine.cluster.shared_captures import capture_groups
from engine.cluster.shared_storage import check_shared
from engine.cluster.slurm_address import SCHEME, read_address, with_site_file
from engine.cluster.slurm_jobs import ACTIVE, Jobs, Submitted, jobs_of
from engine.cluster.slurm_lost import look
from engine.cluster.slurm_work import CaptureWork, RunWork
from engine.config.resources import ResourcesSpec
from engine.config.schema import Recipe
from engine.errors import DraftbenchError, first_line
from engine.fileio import disk_errors
from engine.jobs import queue
from engine.paths import Home, cache_dir
from engine.records.folders import run_names
from engine.records.slurm_job import SlurmJob
from engine.records.status import STATES, Status, StopNote
from engine.runs.folder import RunFolder
from engine.runs.inputs import check_inputs
from engine.runs.process import is_alive, now, this_host
from engine.runs.provenance import versions

_UNSUBMITTED_S = 60.0  # who submits holds the lock, so was killed by now; some disks have no locks, hence a minute
_EARLY_ENDS = 20
ASK_EVERY_S = 10.0  # pages look every few seconds, and many people share a Slurm controller
_ASKED: dict[tuple[str, Path], float] = {}
_UNFINISHED = ("queued", "running", "interrupted")


def place(address: str) -> SlurmPlace:
    """The place of an address; see `engine.cluster.slurm_address`.

    Raises DraftbenchError if it is not valid, or submitit is not installed.
    """
    if importlib.util.find_spec("submitit") is None:
        raise DraftbenchError(
            "submitit is not installed", f"{address} places runs with it", "pip install 'draftbench[cluster]'"
        )
    return SlurmPlace(address)


class SlurmPlace:
    """A Slurm cluster, or a partition of one."""

    def __init__(self, address: str) -> None:
        self.address, self._site = address, read_address(address)

    def submit_all(self, home: Home, recipes: Sequence[Recipe]) -> list[RunFolder]:
        """A run and a job for each recipe: all of them, or none if one cannot be submitted.

        Raises DraftbenchError if Slurm refuses them, the nodes cannot see the home, or a recipe asks for no card.
        """
        for recipe in recipes:
            check_cards(recipe)
        check_inputs(home, recipes)
        jobs = self._jobs_that_find(home)
        runs: list[RunFolder] = []
        with _changing(home):
            try:
                for recipe in recipes:
                    runs.append(RunFolder.create(home, recipe, queued_at=now(), place=self.address))
                self._submit(home, jobs, runs, recipes)
            except BaseException:
                for run in runs:
                    shutil.rmtree(run.path, ignore_errors=True)
                raise
        return runs

    def resume(self, home: Home, run: RunFolder) -> RunFolder:
        """Submit a run that stopped. One that waits or runs is left as it is."""
        jobs = self._jobs_that_find(home)
        self._look(home, jobs)
        with _changing(home):
            status, record = run.status(), SlurmJob.read_or_empty(run.path)
            queue.refuse_done(run, status)
            if status.state in ("queued", "running") and (status.queued_at or status.place):
                return run
            states = jobs.states([record.job] if record.job else [])
            if states is None:
                raise DraftbenchError(
                    "Slurm does not answer",
                    f"job {record.job} may still work on run {run.id}" if record.job else "squeue failed",
                    "resume the run once `squeue` works",
                )
            if status.state == "interrupted" and states.get(record.job) in ACTIVE:
                return run  # its job goes on, only longer silent than most
            self._submit_again(home, jobs, run, SlurmJob())
        return run

    def cancel(self, home: Home, run: RunFolder) -> str:
        """Take a waiting run's job out of Slurm's queue, or ask a running one to stop; a sentence that says which."""
        jobs = jobs_of(home, with_site_file(self._site, home))
        self._look(home, jobs)  # a run whose node was lost may wait again
        with _changing(home):
            status, record = run.status(), SlurmJob.read_or_empty(run.path)
            if status.state not in ("queued", "running"):
                raise DraftbenchError(
                    f"run {run.id} is {status.state}",
                    "only a run that waits or runs can be cancelled",
                    "`draftbench runs` shows the states",
                )
            record.model_copy(update={"cancel_asked_at": now()}).write(run.path)
            if status.state == "queued":
                run.set_status(state="cancelled", ended_at=now())
                jobs.end(record.job)
                if record.after and record.after not in _waited_for(home):
                    jobs.end(record.after)
                return f"Run {run.id} was taken out of Slurm's queue (job {record.job}). It can be resumed."
        is_here = status.host == this_host() and is_alive(status.pid, status.pid_started)
        if is_here and (jobs.states([record.job]) or {}).get(record.job) not in ACTIVE:  # a terminal works on it
            return queue.cancel(home, run)
        again = status.stop_asked_at is not None
        if not (jobs.end(record.job) if again else jobs.ask_to_stop(record.job)):
            raise DraftbenchError(
                f"job {record.job} of run {run.id} could not be asked to stop",
                "Slurm does not answer, or the job has just ended",
                "`squeue --me` shows which; cancel the run again if the job is there",
            )
        if again:
            return f"Slurm ends job {record.job} of run {run.id} at once. What is finished is kept."
        with contextlib.suppress(DraftbenchError, OSError):
            StopNote(pid=status.pid, asked_at=now()).write(run.path)
        return (
            f"Job {record.job} was asked to stop run {run.id}. It stops at its next safe point and keeps what is "
            "finished, so it can be resumed. Cancel it once more to stop it at once."
        )

    def wake(self, home: Home) -> None:
        """Look after the runs of this place: one whose job is gone is submitted again, at most three times.

        Asks Slurm once, whatever the number of runs, and not again within seconds. Does nothing where Slurm does not
        answer: the next call does.
        """
        asked = _ASKED.get((self.address, home.root))
        if asked is None or time.monotonic() - asked > ASK_EVERY_S:
            _ASKED[self.address, home.root] = time.monotonic()
            with contextlib.suppress(Timeout):  # somebody submits or cancels, which looks after the runs too
                self._look(home, jobs_of(home, with_site_file(self._site, home)), wait_s=0)

    work = wake
    """Slurm itself is the driver of its jobs, so there is no more to do than to look after them."""

    def _look(self, home: Home, jobs: Jobs, wait_s: float = -1) -> None:
        mine = [run for run in _runs(home) if run.status().place == self.address]
        if not any(run.status().state in _UNFINISHED for run in mine):
            return
        with _changing(home, wait_s):
            unfinished = [run for run in mine if run.status().state in _UNFINISHED]
            records = {run.id: SlurmJob.read_or_empty(run.path) for run in unfinished}
            states = jobs.states([record.job for record in records.values() if record.job])
            for run in unfinished if states is not None else []:
                record = records[run.id]
                if record.job:
                    kept = look(run, record, (states or {})[record.job])
                else:
                    kept = record if _age_s(run.status()) > _UNSUBMITTED_S else None
                if kept is not None:
                    try:
                        self._submit_again(home, jobs, run, kept)
                    except DraftbenchError as error:  # the next call tries again
                        run.log(f"could not be submitted again: {first_line(error)}")

    def _jobs_that_find(self, home: Home) -> Jobs:
        """The jobs of this place. Raises DraftbenchError if they could not find the home."""
        site = with_site_file(self._site, home)
        if site.executor != "local" and not site.shared:
            check_shared(home, site.options.get("partition"))
        return jobs_of(home, site)

    def _submit(self, home: Home, jobs: Jobs, runs: Sequence[RunFolder], recipes: Sequence[Recipe]) -> None:
        """Jobs for new runs, after those that make the captures that several of them share."""
        submitted: list[str] = []
        makers: dict[int, str] = {}  # group -> the job that makes its captures
        batches: dict[tuple[ResourcesSpec, str], list[RunFolder]] = {}
        try:
            groups = capture_groups(recipes)
            made = CapturesAtHome(home).made() if any(not group.alone for group in groups) else set()
            for number, group in enumerate(groups):
                first = recipes[group.members[0]]
                if not group.alone and not group.captures <= made:
                    before = ":".join(makers[other] for other in group.after if other in makers)
                    values = first.model_dump(mode="json")
                    work = CaptureWork(
                        str(home.root.absolute()), str(cache_dir().absolute()), values, first.resources.cpus
                    )
                    (maker,) = jobs.submit([work], first.resources, name=f"capture-{first.name}", after=before)
                    makers[number] = maker.job
                    submitted.append(maker.job)
                for member in group.members:
                    batches.setdefault((recipes[member].resources, makers.get(number, "")), []).append(runs[member])
            for (resources, after), batch in batches.items():
                name = batch[0].recipe().name if len(batch) == 1 else "draftbench"
                for run, job in zip(
                    batch,
                    jobs.submit([self._work(home, run, resources) for run in batch], resources, name=name, after=after),
                    strict=True,
                ):
                    submitted.append(job.job)
                    _note(run, job, SlurmJob.read_or_empty(run.path), after)
        except BaseException:
            for one in submitted:
                jobs.end(one)
            raise

    def _submit_again(self, home: Home, jobs: Jobs, run: RunFolder, record: SlurmJob) -> None:
        """A new job for a run that has a folder; `record`: what is kept of the jobs before. All or nothing."""
        recipe = run.recipe()
        status, before = run.status(), SlurmJob.read_or_empty(run.path)
        run.set_status(state="queued", queued_at=now(), place=self.address, error=None, ended_at=None)
        nothing = {"job": "", "began_at": None, "gone_since": None, "gone_as": "", "cancel_asked_at": None}
        record = record.model_copy(update=nothing)
        record.write(run.path)
        try:
            (job,) = jobs.submit([self._work(home, run, recipe.resources)], recipe.resources, name=recipe.name)
        except BaseException:
            before.write(run.path)
            state = status.state if status.state in STATES else "cancelled"
            error = status.error and status.error.document()
            run.set_status(state=state, place=status.place, error=error, ended_at=status.ended_at)
            raise
        _note(run, job, record, "")

    def _work(self, home: Home, run: RunFolder, resources: ResourcesSpec) -> RunWork:
        if resources.gpus % 1:
            run.log(f"Slurm gives whole cards: {math.ceil(resources.gpus)} for resources.gpus {resources.gpus:g}")
        most = with_site_file(self._site, home).options.get("max_num_timeout", _EARLY_ENDS)
        paths = str(home.root.absolute()), str(cache_dir().absolute())
        return RunWork(*paths, run.id, resources.cpus, most, versions())


def _note(run: RunFolder, job: Submitted, record: SlurmJob, after: str) -> None:
    """Keep the job in the run, and what the job itself may have noted already."""
    begun = SlurmJob.read_or_empty(run.path)
    began_at = begun.began_at if begun.job == job.job else None
    record.model_copy(update={"job": job.job, "log": job.log, "after": after, "began_at": began_at}).write(run.path)
    run.log(f"Slurm job {job.job}" + (f", after job {after}, which makes the captures" if after else ""))


def _age_s(status: Status) -> float:
    """Seconds since the run was queued."""
    return (datetime.now(UTC) - datetime.fromisoformat(status.queued_at or status.created_at or now())).total_seconds()


def _waited_for(home: Home) -> set[str]:
    """The jobs that waiting runs wait for."""
    return {SlurmJob.read_or_empty(run.path).after for run in _runs(home) if run.status().state == "queued"}


def _runs(home: Home) -> Iterator[RunFolder]:
    """The runs that were sent to Slurm."""
    for name in run_names(home):
        run = RunFolder(home.runs / name)
        if (run.status().place or "").partition("://")[0] == SCHEME:
            yield run


@contextlib.contextmanager
def _changing(home: Home, wait_s: float = -1) -> Iterator[None]:
    """Be the only one who submits runs or takes them out. Raises Timeout after `wait_s`; below zero there is none."""
    home.runs.mkdir(parents=True, exist_ok=True)
    with disk_errors(home.root), FileLock(home.root / ".slurm-change.lock", timeout=wait_s):
        yield
