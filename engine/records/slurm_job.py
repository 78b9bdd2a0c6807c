"""`slurm.json`: the Slurm job that works on a run, and what became of the jobs before it."""

from __future__ import annotations

from typing import ClassVar

from engine.records import files
from engine.records.record import Record, Text, Time, Whole


class SlurmJob(Record):
    """The job of a run that was sent to Slurm. The place that submits writes it, and so does the job itself."""

    FILE: ClassVar[str] = files.SLURM_JOB
    FIX: ClassVar[str] = "remove it, then resume the run: it is submitted again"

    job: Text = ""
    """The job's id, with its index in an array after `_`; empty until it was submitted."""
    log: Text = ""
    """What the job prints on its error stream: a file."""
    after: Text = ""
    """The job that makes the captures of this run first; empty if the run makes its own."""
    began_at: Time | None = None
    """When the job last began to work on the run."""
    gone_since: Time | None = None
    """Since when Slurm knows the job no more though the run is not finished."""
    gone_as: Text = ""
    """What Slurm called the job then; it forgets that soon."""
    cancel_asked_at: Time | None = None
    """Since when a person wants the run to stop: it is not submitted again then."""
    ended_early: Whole = 0
    """Jobs that reached their time limit before the run was finished."""
    lost: Whole = 0
    """Jobs that ended without a word: killed, or their node was lost."""
