"""Runs whose Slurm job is gone: what became of them, and whether they go on in another job."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from engine.cluster.slurm_jobs import ACTIVE, GONE
from engine.errors import DraftbenchError
from engine.jobs.queue import last_lines
from engine.records.slurm_job import SlurmJob
from engine.records.status import Status
from engine.runs.folder import RunFolder
from engine.runs.process import is_alive, now, this_host

MOST_LOST = 3
_SETTLED_S = 75.0  # NFS shows what another machine wrote after 60 s at the latest: a job may have ended well just now


def look(run: RunFolder, record: SlurmJob, state: str) -> SlurmJob | None:
    """Compare an unfinished run with Slurm's word for its job, and correct its status.

    Returns what to keep of the jobs before if the run is to be submitted again, else None.
    """
    status = run.status()
    if state in ACTIVE:
        _still_there(run, record, state, status)
        return None
    state = state or record.gone_as
    if status.state == "running" and status.host in (None, this_host()):
        if is_alive(status.pid, status.pid_started):  # the work outlived its job, or is a moment from its end
            return None
    elif not _is_settled(run, record, state):
        return None
    if status.state in ("done", "failed", "cancelled"):
        return None
    if record.cancel_asked_at is not None or state == "CANCELLED":
        run.log(f"Slurm job {record.job} was cancelled")
        run.set_status(state="cancelled", ended_at=now())
        return None
    if error := _reason_to_give_up(record, state):
        run.log(error.what)
        run.set_status(state="failed", ended_at=now(), error=error.as_dict())
        return None
    run.log(f"Slurm job {record.job} is gone ({_word(state)}): the run is submitted again")
    return record.model_copy(update={"lost": record.lost + 1})


def _still_there(run: RunFolder, record: SlurmJob, state: str, status: Status) -> None:
    if record.gone_since is not None:
        record.model_copy(update={"gone_since": None, "gone_as": ""}).write(run.path)
    if state in ("PENDING", "REQUEUED") and status.state in ("running", "interrupted"):
        run.log(f"Slurm queued job {record.job} again")
        run.set_status(state="queued")  # its node was lost, or it was ended before its next safe point


def _is_settled(run: RunFolder, record: SlurmJob, state: str) -> bool:
    """Whether the job has been gone for long enough that what it wrote last can be seen here."""
    if record.gone_since is None:
        record.model_copy(update={"gone_since": now(), "gone_as": state}).write(run.path)
        return _SETTLED_S <= 0
    gone = datetime.now(UTC) - datetime.fromisoformat(record.gone_since)
    return gone.total_seconds() >= _SETTLED_S


def _reason_to_give_up(record: SlurmJob, state: str) -> DraftbenchError | None:
    if state == "OUT_OF_MEMORY":
        return DraftbenchError(
            f"Slurm job {record.job} ran out of memory",
            "it may use what resources.memory_gb asks for, or what the site gives by itself",
            "raise resources.memory_gb at the next call of its study, or in the run's config.yaml, then resume",
        )
    if record.began_at is None:
        return DraftbenchError(
            f"Slurm job {record.job} ended before the work began ({_word(state)})",
            _last_lines(record.log) or "it printed nothing: the node may not see the home",
            "correct that, then resume",
        )
    if record.lost >= MOST_LOST:
        return DraftbenchError(
            f"Slurm job {record.job} is gone ({_word(state)})",
            f"so are {MOST_LOST} jobs before it; the last lines: {_last_lines(record.log) or 'none'}",
            "look at the node and at the job's log, then resume: finished work is kept",
        )
    return None


def _word(state: str) -> str:
    return state if state != GONE else "Slurm has no record of it"


def _last_lines(log: str) -> str:
    return last_lines(Path(log), 0) if log else ""
