"""`status.json`: what a run is doing, replaced whenever that changes and every few seconds while it is at work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field

from engine.errors import DraftbenchError
from engine.paths import run_id_of
from engine.records import files
from engine.records.record import Part, Real, Record, Text, Time

StoredState = Literal["queued", "running", "done", "failed", "cancelled"]
"""The states that a status file may name."""
State = Literal[StoredState, "interrupted", "damaged", "unknown"]
"""Those, and what becomes of one whose process is gone, whose file cannot be read, or that names no state."""
STATES: tuple[StoredState, ...] = get_args(StoredState)
_LARGEST_PID = 2**31 - 1


class PhaseProgress(Part):
    """How far the present phase is, as `engine.progress.Progress` counts it."""

    phase: Text = ""
    """'capture', 'train', 'measure', 'speed', 'certificate'."""
    done: Real = 0.0
    """Units finished, those of earlier sessions included."""
    total: Real = 0.0
    """Units in all; 0 where that is not known."""
    unit: Text = ""
    """What is counted: 'prompts', 'steps', 'checks', ..."""
    phase_s: Real = 0.0
    """Seconds since the phase began in this session."""
    loss: Real = math.nan
    """Per position, of the last training step."""
    tokens: Real = math.nan
    """Tokens so far: written by the target in a capture, learnt from in training."""
    left_s: Real = math.nan
    """Seconds that the whole run will still take, not this phase alone."""
    left_unknown: Text = ""
    """Why that is not known."""
    tokens_per_s: Real = math.nan
    """Tokens written by the target in a capture, positions trained on in training."""


class Failure(Part):
    """Why a run failed: the three parts of a DraftbenchError, or `what` alone for a defect."""

    what: Text = ""
    why: Text = ""
    fix: Text = ""


class Status(Record):
    """The state of a run, and the process that works on it."""

    FILE: ClassVar[str] = files.STATUS
    ESSENTIAL: ClassVar[frozenset[str]] = frozenset({"state"})
    FIX: ClassVar[str] = "`draftbench run --resume` writes it again"

    state: State = "unknown"
    """What the run is doing. In the file one of `STATES`."""
    phase: Text = ""
    """The last phase that was begun."""
    created_at: Time | None = None
    updated_at: Time | None = None
    """When the file was last written: the heartbeat of a run at work."""
    queued_at: Time | None = None
    """Since when it waits for its turn; None for a run that a terminal has begun at once."""
    ended_at: Time | None = None
    stop_asked_at: Time | None = None
    """Since when its process has been asked to stop: from `stop.json`, never in the file."""
    run_id: Text | None = None
    """The run that this status was written for; another one in a copy of a folder. None in older runs."""
    pid: Annotated[int, Field(gt=0, le=_LARGEST_PID)] | None = None
    """The process that works on the run, or did last."""
    pid_started: float | None = None
    """Start of that process in seconds since the epoch: it tells the process from a later one of the same id."""
    host: Text | None = None
    """Name of the machine that `pid` is a process of; None in older runs, and then this one."""
    place: Text | None = None
    """Where the run waits or is worked on, an address as `--on` takes it; None for this machine."""
    progress: PhaseProgress | None = None
    error: Failure | None = None

    @classmethod
    def load(cls, folder: Path) -> tuple[Self | None, list[str]]:
        status, left_out = super().load(folder)
        if status is not None and "state" in status.model_fields_set and status.state not in STATES:
            raise DraftbenchError(
                f"{folder / cls.FILE} is damaged: state is {status.state!r}", "no file says so", cls.FIX
            )
        return status, left_out

    @property
    def is_timing(self) -> bool:
        """Whether the run is measuring its speed, which any other work on the machine would spoil."""
        from engine.progress import TIMING  # with tqdm, which a list of states does without

        return self.state == "running" and self.phase == TIMING

    def belongs_to(self, folder: Path) -> bool:
        """Whether it was written in this folder. In a copy of a folder it was not: the process that it names works on
        the original."""
        return self.run_id in (None, run_id_of(folder.name))


class StopNote(Record):
    """`stop.json`: that the process at work was asked to stop. Removed when it has."""

    FILE: ClassVar[str] = files.STOP

    pid: int | None = None
    """The process that was asked: a note for an earlier one does not count."""
    asked_at: Time | None = None
    at_once: bool = False
    """Asked twice: not to wait for the next safe point."""
